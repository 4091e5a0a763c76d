"""Maps against the simulated cortex that made the data: of a model whose saliency is known, and of a trained one.

The slow tests train the demo; BRAINJAX_DEMO=WORKDIR uses a finished run of configs/demo.py instead.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from brainjax import interpret, launch
from brainjax.evaluation.interpretation import lesions, truth
from brainjax.evaluation.interpretation.run import Run
from brainjax.simulator import cortex
from tests.evaluation.interpretation import handmade

EARLY, HIGHER = 'V1+V2+V3+V4', 'LOC+FFA+PPA'


def test_agreement_tells_signal_from_noise():
  rng = np.random.default_rng(0)
  explained = np.concatenate([rng.uniform(0.1, 0.8, 90), np.zeros(10)])
  maps = np.stack([np.sqrt(explained), rng.random(100), np.ones(100)])
  found = truth.agreement(maps, explained)
  expected = [stats.spearmanr(x[:90], explained[:90]).statistic for x in maps[:2]]
  np.testing.assert_allclose(found['signal_correlation'], [*expected, 0], atol=1e-12)
  chance = np.mean(maps[1, :90, None] > maps[1, None, 90:])
  np.testing.assert_allclose(found['noise_auc'], [1, chance, 0.5])
  np.testing.assert_allclose(found['noise_ratio'], [0, maps[1, 90:].mean() / maps[1, :90].mean(), 1])
  assert set(truth.agreement(maps[:, :90], explained[:90])) == {'signal_correlation'}


@pytest.fixture(scope='module')
def made():
  run, subject = handmade.make()
  found = run.saliency_of(run.fmri, run.uninformative, run.reconstructor)
  maps = {f'latent/{method}': x[:, 0] for method, x in found.maps.items()}
  return run, subject, maps, truth.compare(run, {'sbj_1': maps})['sbj_1']


def expected_gradient(subject, change):
  """Of the hand-made model at each level, for fMRI minus baseline N V: N V times a number."""
  kernel = handmade.kernel(subject)
  way = change @ kernel
  return (way / np.linalg.norm(way, axis=1, keepdims=True)) @ kernel.T


def test_saliency_of_a_known_model_is_known(made):
  run, subject, maps, found = made
  expected = expected_gradient(subject, run.fmri)
  for level in maps['latent/gradient']:
    scale = np.linalg.norm(level) / np.linalg.norm(expected)
    np.testing.assert_allclose(level, scale * expected, atol=1e-4 * scale)
  entry = found['maps']['latent/gradient'][1]
  assert entry['noise_ratio']['value'] == pytest.approx(0, abs=1e-6)
  responds = subject.explainable_variance > 0
  correlations = [stats.spearmanr(x[responds], subject.explainable_variance[responds]).statistic for x in abs(expected)]
  assert entry['signal_correlation']['value'] == pytest.approx(np.mean(correlations), abs=1e-4)
  low, high = entry['signal_correlation']['interval']
  assert 0 < low < high


def test_a_shuffled_model_tells_nothing(made):
  *_, found = made
  trained, shuffled = (found[name]['latent/gradient'][1] for name in ('maps', 'shuffled'))
  low, high = shuffled['noise_auc']['range']
  assert low > 0.3 and high < 0.7 < trained['noise_auc']['interval'][0]
  assert abs(shuffled['signal_correlation']['mean']) < 0.1 < trained['signal_correlation']['value']
  assert abs(shuffled['similarity']['mean']) < 0.1


def test_a_moved_stimulus_moves_its_saliency(made):
  run, subject, _, found = made
  # The same by hand.
  moved = truth.moved_responses(subject, truth.CONTROL_ITEMS, run.config.seed)
  early = len(subject.fields)
  transform = run.reconstructor.transforms['sbj_1']
  x = []
  for place in truth.PLACES:
    seen, hidden = moved[place]
    np.testing.assert_array_equal(seen[:, early:], hidden[:, early:])  # higher areas see the same
    weight = np.abs(expected_gradient(subject, (seen - hidden) / transform.std))[:, :early]
    x.append((weight * subject.fields[:, 0]).sum(axis=1) / weight.sum(axis=1))
  for entry in found['moved']['gradient']:
    assert entry['value'] == pytest.approx(np.mean(x[1] - x[0]), abs=1e-3)
    assert entry['interval'][0] > 0
  for entry in found['moved']['shuffled/gradient']:
    assert abs(entry['value']) < 0.3 * np.mean(x[1] - x[0])


def test_a_moved_stimulus_moves_the_response_to_other_fields():
  subject = cortex.Subject(cortex.CortexConfig(num_voxels=300), 0, 0, 1)
  moved = truth.moved_responses(subject, 5, 0)
  early = len(subject.fields)
  x = []
  for place in truth.PLACES:
    seen, hidden = moved[place]
    x.append(truth.centre((seen - hidden)[:, :early], subject.fields)[:, 0])
  assert (x[0] < x[1]).all()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = Path(os.environ.get('BRAINJAX_DEMO') or tmp_path_factory.mktemp('demo') / 'run')
  if not workdir.exists():
    launch.main(['--config=demo', f'--workdir={workdir}'])
  config = interpret.read_run(workdir, {'areas': (EARLY, HIGHER), 'num_steps': 10, 'num_bootstrap': 4000})
  return Run.open(config, workdir)


@pytest.mark.slow
def test_early_areas_carry_layout_and_higher_areas_the_category(run):
  inputs = {'intact': run.fmri}
  for name in (EARLY, HIGHER):
    inputs[name] = lesions.replace(run.fmri, run.uninformative, run.areas, run.subject, name)
  _, scores = lesions.measure(run.sample, run.judge, inputs)
  changed = {name: scores[name] for name in (EARLY, HIGHER)}
  found = lesions.compare(scores['intact'], changed, run.judge.stimulus, 4000, 0)
  early, higher = found[EARLY], found[HIGHER]
  for name in ('ssim', 'pairwise_pcc'):
    assert early[name]['interval'][1] < 0 and early[name]['difference'] < higher[name]['difference']
  assert higher['class_50way_top1']['interval'][1] < 0
  assert higher['class_50way_top1']['difference'] < early['class_50way_top1']['difference']
  assert higher['attribute_shape']['interval'][1] < 0 and early['attribute_background']['interval'][1] < 0


@pytest.mark.slow
def test_saliency_of_a_trained_model_against_its_cortex(run):
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.interpret.update({'num_points': 2, 'levels': (0.5,)})
  few = Run.open(config, run.workdir, range(12))
  saliency = few.saliency_of(few.fmri, few.uninformative, few.reconstructor)
  voxels = {f'latent/{method}': few.areas[0].to_voxels(x[:, 0]) for method, x in saliency.maps.items()}
  found = truth.compare(few, {'sbj_1': voxels})['sbj_1']
  shuffled = {name: levels[0] for name, levels in found['shuffled'].items()}
  gradient = found['maps']['latent/gradient'][0]
  assert gradient['signal_correlation']['interval'][0] > max(
    0, shuffled['latent/gradient']['signal_correlation']['range'][1]
  )
  assert gradient['noise_ratio']['interval'][1] < 1
  # Integrated gradients contain the response: the shuffled model has them too (docs/interpretation.md).
  assert shuffled['latent/integrated']['noise_auc']['range'][0] > 0.6
  for name in ('integrated', 'shuffled/integrated'):
    assert found['moved'][name][0]['interval'][0] > 0.2
  assert abs(found['moved']['gradient'][0]['value']) < 0.1
