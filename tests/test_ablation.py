"""The ablation command: stages are shared, nothing runs twice, and the numbers are those of the runs."""

import json

import numpy as np
import pytest
from scipy import stats

from benchmarks import ablation, tokens
from benchmarks.ablation import Arm, Scores


def scores(arm, values, seed):
  items = {arm: {'pcc': (np.array(values), np.zeros(len(values)))}}
  return Scores({arm: {'pcc': float(np.mean(values))}}, items, np.arange(len(values)) + seed)


def test_differences_are_paired_within_a_seed_and_the_interval_over_seeds_is_students():
  rng = np.random.default_rng(0)
  ours = {seed: rng.random(9) + seed for seed in range(3)}  # seeds differ far more than arms
  shifts = {0: 0.1, 1: 0.2, 2: 0.4}
  results = ablation.collect({
    'full': {seed: scores('full', x, seed) for seed, x in ours.items()},
    'no_attend': {seed: scores('no_attend', x - shifts[seed], seed) for seed, x in ours.items()},
  })  # fmt: skip
  assert results['arms']['no_attend']['pcc']['2'] == pytest.approx(ours[2].mean() - 0.4)
  entry = results['full_minus_arm']['no_attend']['pcc']
  shift = np.array(list(shifts.values()))
  expected = stats.ttest_1samp(shift, 0).confidence_interval(0.95)
  assert entry['difference'] == pytest.approx(shift.mean())
  assert entry['over_seeds'] == pytest.approx(list(expected))
  assert entry['over_stimuli'] == pytest.approx([shift.mean()] * 2)  # all items of a seed differ by the same
  assert entry['seeds'] == [0, 1, 2]


def test_the_interval_over_stimuli_is_that_of_all_stimuli_together():
  rng = np.random.default_rng(1)
  a, b = ({seed: rng.normal(size=50) for seed in range(4)} for _ in range(2))
  results = ablation.collect({
    'full': {seed: scores('full', x, seed) for seed, x in a.items()},
    'no_attend': {seed: scores('no_attend', x, seed) for seed, x in b.items()},
  })  # fmt: skip
  differences = np.concatenate([a[seed] - b[seed] for seed in a])
  low, high = results['full_minus_arm']['no_attend']['pcc']['over_stimuli']
  assert high - low == pytest.approx(2 * 1.96 * differences.std() / np.sqrt(len(differences)), rel=0.1)


def test_other_pictures_are_not_compared():
  with pytest.raises(ablation.UserError, match='other pictures with seed 0'):
    ablation.collect({
      'full': {0: scores('full', [1.0, 2.0], 0)}, 'no_attend': {0: scores('no_attend', [1.0, 2.0], 1)}
    })  # fmt: skip


def test_an_arm_is_compared_with_the_whole_method_at_its_size():
  results = ablation.collect({
    f'{name}_{count}': {0: scores(f'{name}_{count}', [value, value], 0)}
    for name, count, value in (('full', 75, 3.0), ('full', 150, 7.0), ('no_pretraining', 75, 1.0))
  })  # fmt: skip
  assert results['full_minus_arm'].keys() == {'no_pretraining_75'}
  assert results['full_minus_arm']['no_pretraining_75']['pcc']['difference'] == pytest.approx(2.0)


def test_ridge_of_tokens_is_that_of_scikit_learn():
  from sklearn.linear_model import Ridge

  rng = np.random.default_rng(0)
  x, y, new = rng.normal(size=(40, 7)) + 3, rng.normal(size=(40, 2)), rng.normal(size=(9, 7))
  unit = np.square(x - x.mean(0)).sum() / len(x)
  expected = Ridge(alpha=0.1 * unit).fit(x, y).predict(new)
  np.testing.assert_allclose(tokens.Ridge(x).predict(y, new, 0.1), expected, rtol=1e-6)


def test_effective_rank_counts_equal_directions():
  x = np.kron(np.eye(5), np.ones((4, 1))) * np.sqrt(2)  # 5 groups: 4 directions after centring
  assert tokens.Ridge(x).effective_rank() == pytest.approx(4)


def test_an_unknown_arm_is_refused(capsys):
  assert ablation.main(['--arms=no_attend,typo']) == 2
  assert 'typo; the arms of --set=main are full, no_contrast' in capsys.readouterr().err


def test_every_field_that_an_arm_changes_exists():
  for arms in ablation.SETS.values():
    for arm in arms.values():
      for changes in (arm.changes, *arm.of_stage.values()):
        ablation.load_config('configs/god_sbj3.py').update_from_flattened_dict(dict(changes))
  config = ablation.load_config('configs/god_sbj3.py')
  assert {f'released.{quirk}' for quirk in config.released} < ablation.MORE['released'].changes.keys()


def test_a_change_of_one_stage_reaches_no_other(tmp_path, monkeypatch):
  seen = {}
  monkeypatch.setattr(ablation.pipeline, 'run', lambda config, workdir, group, asked: seen.update({group[0]: config}))
  arm = ablation.SETS['sheet']['full_150']
  ablation.run_arm(ablation.load_config('configs/demo.py'), arm, tmp_path)
  assert {name: config.data.other_subjects for name, config in seen.items()} == {
    'contrast': (), 'attend': ('sbj_2', 'sbj_3'), 'diffuse': ()
  }  # fmt: skip
  assert [seen[name].data.target_train_proportion for name in ('contrast', 'attend', 'diffuse')] == [1, 0.125, 0.125]


@pytest.mark.slow
def test_arms_share_stages_and_nothing_runs_twice(tmp_path, monkeypatch):
  monkeypatch.setattr(
    ablation, 'SETS', {'main': {name: ablation.SETS['main'][name] for name in ('full', 'no_attend', 'no_pretraining')}}
  )
  command = ['--config=configs/tiny.py', '--seeds=3', f'--out={tmp_path}/runs', f'--results={tmp_path}/results']
  assert ablation.main(command) == 0
  results = json.loads((tmp_path / 'results' / 'ablation.json').read_text())
  assert results['arms'].keys() == {'full', 'no_attend', 'no_pretraining', 'ridge'}
  folders = sorted(path.name.split('-')[0] for path in (tmp_path / 'runs').iterdir())
  assert folders == ['attend', 'contrast', 'data', 'diffuse', 'diffuse', 'diffuse']
  written = {
    json.loads(path.read_text())['scores']['pairwise_pcc']['mean_of_samples']['value']
    for path in (tmp_path / 'runs').glob('diffuse-*/scores.json')
  }
  assert {results['arms'][arm]['pcc']['3'] for arm in ('full', 'no_attend', 'no_pretraining')} == written
  assert (tmp_path / 'results' / 'ablation.png').stat().st_size > 10_000

  def no_run(*args, **kwargs):
    raise AssertionError('ran again')

  monkeypatch.setattr(ablation.pipeline, 'run', no_run)
  assert ablation.main(command) == 0
  config = ablation.load_config('configs/tiny.py')
  config.seed = config.simulate.seed = 3
  with pytest.raises(AssertionError, match='ran again'):
    ablation.run_arm(config, Arm({'contrast.mask_ratio': 0.5}), tmp_path / 'runs')
