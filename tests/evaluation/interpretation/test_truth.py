"""Maps of a trained model against the simulated cortex that made its data. Slow: it trains the demo.

BRAINJAX_DEMO=WORKDIR uses a finished run of configs/demo.py instead.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from brainjax import interpret, launch
from brainjax.evaluation.interpretation import lesions, stage, truth
from brainjax.simulator import cortex

EARLY, HIGHER = 'V1+V2+V3+V4', 'LOC+FFA+PPA'


def test_agreement_tells_signal_from_noise():
  rng = np.random.default_rng(0)
  explained = np.concatenate([rng.uniform(0.1, 0.8, 90), np.zeros(10)])
  perfect = rng.choice([-1, 1], (5, 100)) * np.sqrt(explained)
  found = truth.agreement(perfect, explained)
  assert found == {'signal_correlation': pytest.approx(1), 'noise_ratio': 0, 'noise_auc': 1}
  blind = [truth.agreement(rng.normal(size=(5, 100)), explained) for _ in range(30)]
  assert abs(np.mean([each['signal_correlation'] for each in blind])) < 0.1
  assert np.mean([each['noise_auc'] for each in blind]) == pytest.approx(0.5, abs=0.1)


def test_a_moved_stimulus_moves_the_response_to_other_fields():
  subject = cortex.Subject(cortex.CortexConfig(num_voxels=300), 0, 0, 1)
  moved = truth.moved_responses(subject, 5, 0)
  early = len(subject.fields)
  # Energy of the object: relative to the mean over both places.
  mean = sum(moved.values()) / 2
  x = [truth.centre(np.maximum(moved[place] - mean, 0)[:, :early], subject.fields)[:, 0] for place in truth.PLACES]
  assert (x[0] < x[1]).all()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = Path(os.environ.get('BRAINJAX_DEMO') or tmp_path_factory.mktemp('demo') / 'run')
  if not workdir.exists():
    launch.main(['--config=demo', f'--workdir={workdir}'])
  config = interpret.read_run(workdir, {'areas': (EARLY, HIGHER), 'num_steps': 10, 'num_bootstrap': 4000})
  return stage.Run.open(config, workdir)


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
