"""A page of the report with everything on it."""

from pathlib import Path

import numpy as np

from brainjax import evaluate
from brainjax.evaluation import report
from brainjax.evaluation.interpretation import results

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

AREAS = ('V1', 'V<2>')


def explained(count=5, size=16, seed=0):
  """What a finished interpretation holds."""
  rng = np.random.default_rng(seed)
  plain = {
    'format': results.FORMAT,
    'stimulus': list(range(count)),
    'names': [f'thing <{n}>' for n in range(count)],
    'areas': {'sbj_1': {area: 4 for area in AREAS}},
  }

  def entry(difference, p):
    return {
      'value': 0.7 + difference, 'intact': 0.7, 'difference': difference, 'interval': [difference - 0.1, difference + 0.1],
      'p_value': p, 'p_corrected': p, 'higher_is_better': True, 'unit': 'fraction',
    }  # fmt: skip

  scores = {'V1': {'pairwise_pcc': entry(-0.3, 0.01)}, 'V<2>': {'pairwise_pcc': entry(0.02, 0.6)}}
  plain['lesion'] = {'mean': scores, 'swap': scores}
  plain['alone'] = scores
  magnitude = {'gradient': {area: [1.5, 0.5] for area in AREAS}}
  plain['saliency'] = {'noise': [0.9, 0.4], 'mean_magnitude': {'sbj_1': {'latent': magnitude}}}
  layers = ['input_2/transformer/block_0/attn2', 'middle_transformer/block_0/attn2']
  plain['attention'] = {
    'layers': layers,
    'resolutions': [4, 2],
    'steps_done': [2, 10],
    'relative_entropy': [[0.9, 0.8]] * 2,
  }
  plain['encoding'] = {'num_stimuli': {'sbj_1': 7}, 'mean': {'sbj_1': {'latents': {area: 0.3 for area in AREAS}}}}
  known = {key: {'value': 0.6, 'interval': [0.5, 0.7]} for key in ('signal_correlation', 'noise_auc')}
  nothing = {key: {'mean': 0.1, 'range': [-0.1, 0.2]} for key in known}
  plain['truth'] = {
    'sbj_1': {
      'maps': {'latent/gradient': [known] * 2, 'class/gradient': [{}] * 2},
      'shuffled': {'latent/gradient': [nothing] * 2},
      'moved': {'gradient': [{'value': 0.2, 'interval': [0.1, 0.3]}] * 2},
    }
  }
  arrays = {'items/stimuli': rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)}
  for key in ('lesion/intact', *(f'lesion/{kind}/{area}' for kind in ('mean', 'swap') for area in AREAS)):
    arrays[key] = rng.integers(0, 256, (count, 1, size, size, 3), dtype=np.uint8)
  return plain, arrays


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
