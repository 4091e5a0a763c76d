"""The scores of published tables of fMRI-to-image reconstruction, as MindEye computes them.

Source: `src/Reconstruction_Metrics.py` of MedARC-AI/fMRI-reconstruction-NSD (MindEye, Scotti et al. 2023) and
`src/final_evaluations.ipynb` of MedARC-AI/MindEyeV2 (Scotti et al. 2024), which agree. docs/published_results.md says
where ours differ.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from brainjax.evaluation.scores import identification, pixels
from brainjax.evaluation.scores.correlation import correlation_table
from brainjax.evaluation.scores.measures import Measure, Network, Score

BLOCK = 64  # pictures whose features are in memory besides those of the stimuli
CANDIDATES = 300  # of a retrieval
PIXCORR, CLIP, COSINE = 'pixcorr', 'clip', 'clip_cosine'
RETRIEVALS = ('retrieval_image', 'retrieval_brain')


class Column(NamedTuple):
  """One column of a published table.

  Attributes:
    title: as papers print it.
    text: what it is, for a reader.
    higher_is_better: direction.
    percent: printed as a percentage.
  """

  title: str
  text: str
  higher_is_better: bool = True
  percent: bool = True


def _two_way(title: str, of: str) -> Column:
  return Column(title, f'two-way identification by correlation of {of}')


def _distance(title: str, of: str) -> Column:
  return Column(title, f'1 - correlation of {of}', False, False)


COLUMNS = {
  PIXCORR: Column('PixCorr', 'Pearson correlation of pixels, pictures enlarged to 425 pixels', percent=False),
  pixels.PUBLISHED_SSIM: Column(
    'SSIM', 'structural similarity of grey pictures of 425 pixels, Gaussian window', percent=False
  ),
  'alexnet2': _two_way('AlexNet(2)', 'AlexNet after its second convolution'),
  'alexnet5': _two_way('AlexNet(5)', 'AlexNet after its fifth convolution'),
  'inception': _two_way('Inception', 'pooled features of Inception v3'),
  CLIP: _two_way('CLIP', 'image embeddings of CLIP ViT-L/14'),
  'effnet': _distance('EffNet-B', 'pooled features of EfficientNet-B1'),
  'swav': _distance('SwAV', 'pooled features of the ResNet-50 of SwAV'),
  'retrieval_image': Column('Image retrieval', 'the stimulus is nearest to the reconstruction by CLIP'),
  'retrieval_brain': Column('Brain retrieval', 'the reconstruction is nearest to the stimulus by CLIP'),
}


class Compared(NamedTuple):
  """A network that takes any number of pictures, and its features of the stimuli: U D."""

  network: Network
  targets: np.ndarray


def measure(samples: np.ndarray, stimuli: np.ndarray, networks: Mapping[str, Compared]) -> dict[str, Measure]:
  """Measures every sample against every stimulus by each network.

  Args:
    samples: N S H W 3 uint8.
    stimuli: U H W 3 uint8.
    networks: by name in `COLUMNS`. Features of 'pixcorr' are the enlarged pixels; SSIM comes with it.
  """
  measures = {}
  flat = samples.reshape(-1, *samples.shape[2:])  # N S H W 3 -> N*S H W 3
  for name, (network, targets) in networks.items():
    tables = {name: correlation_table} | ({COSINE: cosine_table} if name == CLIP else {})
    parts = {each: [] for each in tables}
    for start in range(0, len(flat), BLOCK):
      values = network(flat[start : start + BLOCK])
      for each, compare in tables.items():
        parts[each].append(compare(values, targets, BLOCK))
    for each, rows in parts.items():
      measures[each] = Measure(np.concatenate(rows).reshape(*samples.shape[:2], len(stimuli)), True)
  if PIXCORR in networks:
    measures[pixels.PUBLISHED_SSIM] = Measure(pixels.table(pixels.PUBLISHED_SSIM, samples, stimuli), True)
  return measures


def cosine_table(a: np.ndarray, b: np.ndarray, block: int = 0) -> np.ndarray:
  """Cosines of every row of `a: N D` with every row of `b: U D` -> N U; 0 for a row of zeros. `block` is not used."""
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
  return unit(a) @ unit(b).T


def scores(measures: Mapping[str, Measure], stimulus: np.ndarray | None) -> dict[str, Score]:
  """The score of each column that was measured, in the order of `COLUMNS`.

  Args:
    measures: of `measure`.
    stimulus: N, the stimulus of each item. Brain retrieval is left out where a stimulus has several items.
  """
  result = {}
  for name, (_, text, higher, percent) in COLUMNS.items():
    if name not in measures:
      continue
    found = measures[name]
    if not higher:
      result[name] = Score(1 - found.table, False, None, text)
    elif not percent:
      result[name] = Score(found.table, True, None, text)
    elif found.table.shape[-1] > 1:
      result[name] = _identification(found, 2, text)
  if COSINE in measures and measures[COSINE].table.shape[-1] > 1:
    result |= _retrievals(measures[COSINE], stimulus)
  return result


def _identification(found: Measure, num_ways: int, text: str) -> Score:
  expected = identification.expected_n_way(identification.num_rivals(found.table, True), num_ways)
  return Score(expected, True, 1 / num_ways, text, 'fraction', found, num_ways)


def _retrievals(found: Measure, stimulus: np.ndarray | None) -> dict[str, Score]:
  """Top-1 of 300 drawn candidates, the right one among them: the expectation over all draws, in closed form."""
  num_stimuli = found.table.shape[-1]
  num_ways = min(CANDIDATES, num_stimuli)
  image, brain = (f'{COLUMNS[name].text}, top-1 of {num_ways}, expected over all draws' for name in RETRIEVALS)
  result = {RETRIEVALS[0]: _identification(found, num_ways, image)}
  if stimulus is not None and np.array_equal(np.sort(stimulus), np.arange(num_stimuli)):
    # For each picture all reconstructions are candidates: the table with the two sides exchanged, U S U.
    exchanged = found.table[np.argsort(stimulus)].swapaxes(0, 2)
    expected = identification.expected_n_way(identification.num_rivals(exchanged, True), num_ways)
    of_item = Measure(exchanged[stimulus], True)
    table = expected.swapaxes(0, 2)[stimulus]
    result[RETRIEVALS[1]] = Score(table, True, 1 / num_ways, brain, 'fraction', of_item, num_ways)
  return result
