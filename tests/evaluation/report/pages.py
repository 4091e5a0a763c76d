"""A page of the report with everything on it."""

from pathlib import Path

import numpy as np

from brainjax import evaluate
from brainjax.evaluation import report

ZERO_SHOT = {
  'matched_by': 'WordNet id',
  'num_test_categories': 7,
  'num_training_categories': 150,
  'num_test_categories_in_training': 1,
  'test_categories_in_training': ['red <disc>'],
  'note': 'training of the fMRI models',
}
CEILING = {
  'repetitions': [24, 35],
  'voxels': {'description': '', 'median': 0.62, 'quartiles': [0.5, 0.7]},
  'split_half_identification': {'description': '', 'value': 0.91, 'interval': [0.88, 0.94], 'chance': 0.5},
}
CATEGORIES = ['red disc', 'blue ring', 'red star', 'green <b>cube</b> & co', 'blue disc', 'striped ring', 'red ring']


def make_page(folder: Path, size: int = 16) -> report.Page:
  """A page with everything on it, from real scores of random pictures."""
  rng = np.random.default_rng(1)
  stimuli = rng.integers(0, 256, (7, size, size, 3), dtype=np.uint8)
  samples = np.clip(
    stimuli[:, None] + rng.normal(0, rng.uniform(20, 150, (7, 3, 1, 1, 1)), (7, 3, size, size, 3)), 0, 255
  )
  images = evaluate.Images(stimuli, samples.astype(np.uint8), np.arange(7), np.full(7, -1), np.array(CATEGORIES))
  training = rng.integers(0, 256, (8, size, size, 3), dtype=np.uint8)
  ridge = rng.integers(0, 256, stimuli.shape, dtype=np.uint8)
  seen = np.arange(7) < 3
  scores = evaluate.evaluate(
    images,
    None,
    None,
    num_ways=(5,),
    num_bootstrap=200,
    out=folder,
    baselines={'ridge': ridge},
    subsets={'seen': seen, 'unseen': ~seen},
    training_images=training,
    features={'rows': lambda pictures: pictures.mean(axis=(2, 3))},
    facts={
      'zero_shot': ZERO_SHOT,
      'noise_ceiling': {'sbj_1': CEILING, 'sbj_2': {'missing': 'one trial each'}},
      'about_baselines': {'ridge': {'method': 'ridge <regression>'}},
    },
  )
  with np.load(folder / 'scores_items.npz') as archive:
    items = dict(archive)
  steps = np.arange(50)
  return report.Page(
    title='What <subject> 1 saw',
    images=images,
    scores=scores,
    items=items,
    summary='7 stimuli & 3 samples',
    subject=np.array(['sbj_1', 'sbj_2'])[np.arange(7) % 2],
    baselines={'ridge': ridge},
    nearest=training[items['nearest_training/row']],
    nearest_names=np.array([f'training <{i}>' for i in range(8)])[items['nearest_training/row']],
    curves={'contrast': {'loss': {'train': (steps, 1 / (steps + 1)), 'validation': (steps[::9], steps[::9] / 50)}}},
    traces={'attend': [report.Trace(rng.normal(size=40), rng.normal(size=40), rng.random(40) < 0.5, 'r = <0.5>')]},
    denoising=report.Strip([f'step {i}' for i in range(4)], {'noisy': stimuli[:4], 'expected': stimuli[3:]}),
    provenance={'Config': {'seed': 0, 'note': '</script><script>alert(1)</script>'}},
  )
