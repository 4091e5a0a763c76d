"""Writes simulated data in the format of MOSAIC: an HDF5 file a subject, stimuli, split and stiminfo.

The simulated areas lie in Glasser parcels; other grayordinates are 0. Subjects see different training pictures and the same test
pictures, those of the simulated GOD, and belong to two data sets.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from brainjax import files
from brainjax.simulator import cortex, god, stimuli, vision

PARCELS = {  # of each simulated area
  'V1': ('V1',),
  'V2': ('V2',),
  'V3': ('V3',),
  'V4': ('V4',),
  'LOC': ('LO1', 'LO2', 'LO3', 'PIT'),
  'FFA': ('FFC',),
  'PPA': ('VMV1', 'VMV2', 'VMV3'),
}
NUM_GRAYORDINATES = 91282
DATA_SETS = ('GOD', 'THINGS')
BETAS = Path('hdf5_files', 'single_subject')
RAW, STIMINFO = Path('stimuli', 'raw'), Path('stimuli', 'datasets_stiminfo')


def subject_name(number: int) -> str:
  """Subject 1, 2, 3, ... -> sub-01_GOD, sub-01_THINGS, sub-02_GOD, ..."""
  person, data_set = divmod(number - 1, len(DATA_SETS))
  return f'sub-{person + 1:02d}_{DATA_SETS[data_set]}'


def configure(columns: Mapping[str, np.ndarray], config: cortex.CortexConfig) -> tuple[cortex.CortexConfig, np.ndarray]:
  """The same cortex with as many voxels in each area as its parcels have; and the grayordinate of each voxel.

  Args:
    columns: parcel -> its grayordinates.
    config: noise and jitter.
  """
  of_area = {area: np.concatenate([columns[parcel] for parcel in parcels]) for area, parcels in PARCELS.items()}
  places = np.concatenate([of_area[area] for area in cortex.ROIS])
  shares = tuple((area, float(len(of_area[area]))) for area in cortex.ROIS)
  return dataclasses.replace(config, num_voxels=len(places), roi_shares=shares), places


def draw_trials(seed: int, number: int, num_train: int, trials: int) -> np.ndarray:
  """The training pictures that subject 1, 2, ... sees once each, in order: `trials`."""
  return np.random.default_rng([seed, 11, number]).permutation(num_train)[:trials]


def file_name(shown: god.Pictures, picture: int) -> str:
  """n90000001_3.JPEG."""
  return f'{stimuli.categories().wordnet_ids[shown.class_index[picture]]}_{shown.instance[picture]}.JPEG'


def _keys(subject: str, shown: god.Pictures, pictures: Sequence[int], repetitions: int) -> list[tuple[str, int, int]]:
  """Key, picture and repetition of each trial: test pictures, then the training pictures in order."""
  test = range(shown.num_train, len(shown.images))
  trials = [(picture, 'test', k) for picture in test for k in range(repetitions)]
  trials += [(picture, 'train', 0) for picture in pictures]
  return [
    (f'{subject}_stimulus-{Path(file_name(shown, picture)).stem}_phase-{phase}_rep-{k}', picture, k)
    for picture, phase, k in trials
  ]


def write_lists(folder: Path, shown: god.Pictures, seed: int, subjects: int, trials: int, repetitions: int) -> None:
  """Writes the pictures that somebody sees, the split over all data sets, and the table of each data set."""
  seen = {
    subject_name(number): draw_trials(seed, number, shown.num_train, trials).tolist()
    for number in range(1, subjects + 1)
  }
  split: dict[str, dict[str, dict[str, dict[str, list[str]]]]] = {'train': {}, 'test': {}}
  for subject, pictures in seen.items():
    for key, picture, _ in _keys(subject, shown, pictures, repetitions):
      part, name = 'train' if picture < shown.num_train else 'test', file_name(shown, picture)
      of_set = split[part].setdefault(name, {}).setdefault(subject.split('_')[1], {})
      of_set.setdefault(subject, []).append(f'{key}.npz')
  for picture in range(len(shown.images)):
    name = file_name(shown, picture)
    if name in split['train'] or name in split['test']:
      with files.atomic_write(folder / RAW / name) as path:
        Image.fromarray(shown.images[picture]).save(path, format='JPEG', quality=95, subsampling=0)
  for data_set in sorted({subject.split('_')[1] for subject in seen}):
    people = [subject for subject in seen if subject.endswith(f'_{data_set}')]
    lines = [['filename', 'alias', 'source', 'test_train', *(f'{each.split("_")[0]}_reps' for each in people)]]
    for part, names in split.items():
      for name, of_sets in names.items():
        if data_set in of_sets:
          counts = [str(len(of_sets[data_set].get(each, ()))) for each in people]
          lines.append([name, name, 'simulated', part, *counts])
    with files.atomic_write(folder / STIMINFO / f'{data_set.lower()}_stiminfo.tsv') as path:
      path.write_text('\n'.join('\t'.join(line) for line in lines) + '\n')
  for part, names in split.items():
    files.write_json(folder / f'{part}.json', names)


def write_subject(
  folder: Path,
  number: int,
  config: cortex.CortexConfig,
  places: np.ndarray,
  seed: int,
  shown: god.Pictures,
  features: vision.Features,
  trials: int,
  repetitions: int,
) -> None:
  """Writes the betas of subject 1, 2, ..., normalised by those of its training trials.

  Args:
    folder: of the data set.
    number: of the subject.
    config, places: see `configure`.
    seed: of the simulation.
    shown, features: the pictures.
    trials: training trials.
    repetitions: of each test picture.
  """
  import h5py

  name = subject_name(number)
  subject = cortex.Subject(config, seed, group=3, number=number)
  keys = _keys(name, shown, draw_trials(seed, number, shown.num_train, trials).tolist(), repetitions)
  pictures = np.array([picture for _, picture, _ in keys])
  betas = subject.signal(features)[pictures] + subject.noise(np.random.default_rng([seed, 12, number]), len(keys))
  training = betas[pictures < shown.num_train]
  betas = (betas - training.mean(0)) / training.std(0)
  with files.atomic_write(folder / BETAS / f'{name}.hdf5') as path, h5py.File(path, 'w') as file:
    file.attrs.update(
      {'subjectID': name.split('_')[0], 'dataset_name': name.split('_')[1], 'beta_pipeline': 'simulated'}
    )
    ceiling = np.zeros(NUM_GRAYORDINATES)
    ceiling[places] = 100 * subject.explainable_variance
    item = file.create_group('noiseceilings').create_dataset(f'{name}_phase-test_n-1', data=ceiling, compression=1)
    item.attrs.update({'n': '1', 'phase': 'test', 'nan_indices': np.zeros(0, int)})
    group = file.create_group('betas', track_order=True)
    for (key, picture, repetition), row in zip(keys, betas, strict=True):
      values = np.zeros(NUM_GRAYORDINATES)
      values[places] = row
      item = group.create_dataset(key, data=values, compression=1)
      item.attrs['nan_indices'] = np.zeros(0, int)
      item.attrs['phase'] = 'train' if picture < shown.num_train else 'test'
      item.attrs['repetition'] = repetition
      item.attrs['presented_stimulus_filename'] = file_name(shown, picture)
    file['nan_indices_all'] = np.zeros(0, int)
