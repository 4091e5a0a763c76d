"""Writes a small Generic Object Decoding release with bdpy: SubjectN.h5 in the real layout of columns, and pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = [1518878.005958, 1518878.01491, 1639765.052902, 2690373.000099, 3379051.008496, 4572121.003262, 4572121.9]
TEST = [1443537.022563, 1677366.018182, 2416519.012793]
REPETITIONS, IMAGERY = 5, 2
NUM_VOXELS = 9
ROIS = {'ROI_VC': range(9), 'ROI_V1': range(3), 'ROI_V2': (2, 3), 'ROI_hV4': (7,)}


def write_subject(path: Path, number: int, **changes) -> dict[str, np.ndarray]:
  """Writes SubjectN.h5; `changes` replaces a column. Gives the columns as they stand in the file."""
  rng = np.random.default_rng(number)
  shown = [rng.permutation(TRAIN)] + [rng.permutation(TEST) for _ in range(REPETITIONS + IMAGERY)]
  lengths = [len(part) for part in shown]
  kinds = [1] + [2] * REPETITIONS + [3] * IMAGERY
  stimulus = np.concatenate(shown)
  columns = {
    'VoxelData': 5 + rng.standard_normal((len(stimulus), NUM_VOXELS)),
    'DataType': np.repeat(kinds, lengths).astype(float),
    'Run': np.repeat(np.arange(len(shown)) + 1.0, lengths),
    'stimulus_id': stimulus,
    'category_index': np.unique(np.floor(stimulus), return_inverse=True)[1] + 1.0,
    'image_index': np.unique(stimulus, return_inverse=True)[1] + 1.0,
  } | changes
  _save(path, columns, ROIS)
  return columns


def _save(path: Path, columns: dict[str, np.ndarray | None], rois: dict, names: dict[float, str] | None = None) -> None:
  import bdpy

  data = bdpy.BData()
  for name, values in columns.items():
    if values is not None:
      data.add(np.asarray(values, float), name)
  num_voxels = columns['VoxelData'].shape[1]
  for name, voxels in rois.items():
    flags = np.full(num_voxels, np.nan)
    flags[list(voxels)] = 1
    data.add_metadata(name, flags, f'1 = ROI {name}', where='VoxelData')
  data.add_metadata('voxel_x', np.arange(num_voxels), 'Voxel x coordinate', where='VoxelData')
  if names:
    data.add_vmap('stimulus_name', names)
  path.parent.mkdir(parents=True, exist_ok=True)
  data.save(str(path))


def write_fmriprep(
  folder: Path, subject: str = 'sub-01', num_voxels: int = NUM_VOXELS + 3, **names: str
) -> dict[str, dict[str, np.ndarray]]:
  """Writes the two files of a subject of the release that fMRIPrep made; gives the columns of each.

  Training pictures are shown twice, test pictures REPETITIONS times. The last voxels are in no ROI. `names` replaces the
  name of the first training picture (`first`).
  """
  tables = {}
  for seed, (part, stimuli, times) in enumerate((('Training', TRAIN, 2), ('Test', TEST, REPETITIONS))):
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(stimuli)) for _ in range(times)])
    numbers = 100.0 + np.arange(len(stimuli))  # what stands in the column stimulus_name
    texts = [name_of(stimulus).removesuffix('.JPEG') for stimulus in stimuli]
    if part == 'Training' and 'first' in names:
      texts[0] = names['first']
    tables[part] = {
      'VoxelData': 5 + rng.standard_normal((len(order), num_voxels)),
      'Run': np.repeat(np.arange(times) + 1.0, len(stimuli)),
      **({'Block': np.arange(len(order)) + 1.0} if part == 'Test' else {}),  # the files have different columns
      'stimulus_name': numbers[order],
    }
    path = folder / f'{subject}_ImageNet{part}_fmriprep_volume_native.h5'
    _save(path, tables[part], ROIS, dict(zip(numbers.tolist(), texts, strict=True)))
  return tables


def name_of(stimulus: float) -> str:
  """n01518878_5958.JPEG"""
  wordnet, picture = f'{stimulus:.6f}'.split('.')
  return f'n{int(wordnet):08d}_{int(picture)}.JPEG'


def write(folder: Path, subjects: tuple[int, ...] = (1, 3)) -> dict[int, dict[str, np.ndarray]]:
  """The whole release; pictures in images/training/<category>/ and images/test/, a single grey level each."""
  for split, stimuli in (('training', TRAIN), ('test', TEST)):
    for place, stimulus in enumerate(stimuli):
      path = folder / 'images' / split / name_of(stimulus)[:9] / name_of(stimulus)
      path.parent.mkdir(parents=True, exist_ok=True)
      level = 20 * place + (10 if split == 'test' else 0)
      Image.new('RGB', (40, 30), (level, level, level)).save(path, format='PNG')
  return {number: write_subject(folder / f'Subject{number}.h5', number) for number in subjects}
