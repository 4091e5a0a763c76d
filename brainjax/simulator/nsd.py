"""Writes a simulated Natural Scenes Dataset with the files of the published one, and those that MindEye2 makes of them.

Sessions have 750 trials, as the real ones; their number, that of voxels and repetitions, and the size of the pictures are free.
A tenth of a subject's pictures are shared by all subjects.
"""

import dataclasses
import gzip
import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from brainjax import files
from brainjax.errors import UserError
from brainjax.raw_layout import (
  MIND_EYE_BETAS,
  MIND_EYE_INDICES,
  MIND_EYE_SHARED,
  MIND_EYE_STIMULI,
  NSD_DESIGN,
  NSD_RESPONSES,
  NSD_STIMULI,
  NSD_TRIALS,
  NSD_UNIT,
)
from brainjax.simulator import cortex, stimuli, vision

NUM_VOXELS = 15724  # of nsdgeneral of subj01
VERSION = 'betas_fithrf_GLMdenoise_RR'
MEAN, DEVIATION = 0.8, 1.6  # of the betas, per cent
# ROI file -> area of the simulated cortex -> its labels, which divide it.
_LABELS = {
  'prf-visualrois': {'V1': (1, 2), 'V2': (3, 4), 'V3': (5, 6), 'V4': (7,)},
  'floc-faces': {'FFA': (2, 3)},
  'floc-places': {'PPA': (2,)},
  'streams': {'V1': (1,), 'V2': (1,), 'V3': (1,), 'LOC': (6,), 'FFA': (5,), 'PPA': (5,)},
}
_FIRST_IMAGE_SEED = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What was shown.

  Attributes:
    order: N, number of a trial's picture among those of a subject, from 1 (masterordering).
    images: subjects K, the pictures of each subject, from 1 (subjectim); the shared ones come first.
    shared: the shared pictures, from 1 (sharedix).
    pictures: P S S 3 uint8, all pictures.
    features: of all pictures.
  """

  order: np.ndarray
  images: np.ndarray
  shared: np.ndarray
  pictures: np.ndarray
  features: vision.Features

  def shown(self, number: int) -> np.ndarray:
    """The picture of each trial of subject 1, 2, ..., from 0: N."""
    return self.images[number - 1][self.order - 1] - 1


def need(name: str) -> ModuleType:
  """Imports an optional package.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"the files of NSD need the package {name} ({error}); run: pip install 'brainjax[neuroimaging]'"
    ) from None


def make_experiment(subjects: int, sessions: int, seed: int, image_size: int, repetitions: int = 3) -> Experiment:
  """Draws pictures and order: each picture is shown up to `repetitions` times, in any sessions."""
  rng = np.random.default_rng([seed, 9])
  trials = sessions * NSD_TRIALS
  each = math.ceil(trials / repetitions)
  num_shared = each // 10
  total = num_shared + subjects * (each - num_shared)
  order = rng.permutation(np.tile(np.arange(1, each + 1), repetitions))[:trials]
  numbers = rng.permutation(total) + 1
  shared, own = np.sort(numbers[:num_shared]), np.sort(numbers[num_shared:].reshape(subjects, -1), axis=1)
  images = np.concatenate([np.tile(shared, (subjects, 1)), own], axis=1)
  attributes = stimuli.random_attributes(rng, total)
  scenes = stimuli.sample_scenes(attributes, _FIRST_IMAGE_SEED + seed * total + np.arange(total))
  pictures = stimuli.draw(scenes, image_size)
  return Experiment(order, images, shared, pictures, vision.extract_features(pictures, scenes))


def write_shared(nsd: Path, mind_eye: Path, shown: Experiment) -> None:
  """Writes the design and the pictures in both formats."""
  h5py = need('h5py')
  from scipy.io import savemat

  with files.atomic_write(nsd / 'nsddata/experiments/nsd' / NSD_DESIGN) as path:
    savemat(
      path,
      {'masterordering': shown.order[None], 'subjectim': shown.images, 'sharedix': shown.shared[None]},
      appendmat=False,
    )
  with files.atomic_write(nsd / 'nsddata_stimuli/stimuli/nsd' / NSD_STIMULI) as path, h5py.File(path, 'w') as file:
    file['imgBrick'] = shown.pictures
  with files.atomic_write(mind_eye / MIND_EYE_STIMULI) as path, h5py.File(path, 'w') as file:
    file['images'] = np.moveaxis(shown.pictures, 3, 1).astype(np.float16) / np.float16(255)
  with files.atomic_write(mind_eye / MIND_EYE_INDICES) as path, h5py.File(path, 'w') as file:
    for number in range(1, len(shown.images) + 1):
      file[subject_name(number)] = shown.shown(number)
  with files.atomic_write(mind_eye / MIND_EYE_SHARED) as path:
    np.save(path, np.isin(np.arange(1, len(shown.pictures) + 1), shown.shared))


def subject_name(number: int) -> str:
  """subj01, ..."""
  return f'subj{number:02d}'


def place_voxels(num_voxels: int) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray]:
  """A grid of unequal sides whose inner third holds the voxels.

  Returns:
    X Y Z; the flat index of each voxel, whose order is that of the simulated cortex from back to front; and the distance of
    each place of the grid from the middle, X Y Z.
  """
  side = math.ceil((3 * num_voxels) ** (1 / 3))
  grid = side + 1, side + 2, side
  axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in grid), indexing='ij')
  distance = np.sqrt(sum(axis**2 for axis in axes))
  nearest = np.argsort(distance.ravel(), kind='stable')[:num_voxels]
  return grid, nearest[np.argsort(axes[1].ravel()[nearest], kind='stable')], distance


def write_subject(
  nsd: Path, mind_eye: Path, number: int, config: cortex.CortexConfig, seed: int, shown: Experiment
) -> None:
  """Writes ROIs, betas and responses of subject 1, 2, ..., and the betas as MindEye2 z-scores them."""
  name = subject_name(number)
  subject = cortex.Subject(config, seed, group=2, number=number)
  grid, places, distance = place_voxels(config.num_voxels)
  _write_rois(nsd / 'nsddata/ppdata' / name / 'func1pt8mm/roi', subject, grid, places, distance)
  pictures = shown.shown(number)
  with files.atomic_write(nsd / 'nsddata/ppdata' / name / 'behav' / NSD_RESPONSES) as path:
    path.write_text(_responses(number, pictures))
  signal = subject.signal(shown.features)
  rng = np.random.default_rng([seed, 10, number])
  is_train = ~np.isin(pictures + 1, shown.shared)
  h5py, folder = need('h5py'), nsd / 'nsddata_betas/ppdata' / name / 'func1pt8mm' / VERSION
  order = np.argsort(places)  # as the mask has them
  with files.atomic_write(mind_eye / MIND_EYE_BETAS.format(name)) as joined, h5py.File(joined, 'w') as both:
    rows = both.create_dataset('betas', (len(pictures), config.num_voxels), np.float32)
    for start in range(0, len(pictures), NSD_TRIALS):
      trials = slice(start, start + NSD_TRIALS)
      responses = signal[pictures[trials]] + subject.noise(rng, NSD_TRIALS)
      responses += config.session_drift * rng.standard_normal(config.num_voxels, np.float32)
      stored = np.clip(np.round(NSD_UNIT * (MEAN + DEVIATION * responses)), -32768, 32767).astype(np.int16)
      volumes = np.zeros((NSD_TRIALS, math.prod(grid)), np.int16)
      volumes[:, places] = stored
      file_name = f'betas_session{start // NSD_TRIALS + 1:02d}.hdf5'
      with files.atomic_write(folder / file_name) as path, h5py.File(path, 'w') as file:
        file['betas'] = volumes.reshape(NSD_TRIALS, *grid).transpose(0, 3, 2, 1)  # MATLAB reverses the axes
      train = stored[is_train[trials]].astype(np.float32)
      rows[trials] = ((stored - train.mean(0)) / train.std(0))[:, order]


def _write_rois(
  folder: Path, subject: cortex.Subject, grid: tuple[int, ...], places: np.ndarray, distance: Any
) -> None:
  """Writes nsdgeneral and the files of `_LABELS`: -1 outside a ball that is cortex, 0 in no area."""
  outside = np.where(distance > distance.ravel()[places].max() + 1, -1, 0).astype(np.int16).ravel()
  general = outside.copy()
  general[places] = 1
  volumes = {'nsdgeneral': general}
  for file, areas in _LABELS.items():
    volumes[file] = outside.copy()
    for area, labels in areas.items():
      if area in subject.slices:
        for label, part in zip(labels, np.array_split(places[subject.slices[area]], len(labels)), strict=True):
          volumes[file][part] = label
  nibabel = need('nibabel')
  affine = np.diag([1.8, 1.8, 1.8, 1.0])
  affine[:3, 3] = [-0.9 * (n - 1) for n in grid]
  for file, values in volumes.items():
    with files.atomic_write(folder / f'{file}.nii.gz') as path:
      path.write_bytes(gzip.compress(nibabel.Nifti1Image(values.reshape(grid), affine).to_bytes(), mtime=0))


def _responses(number: int, pictures: np.ndarray) -> str:
  lines = ['SUBJECT\tSESSION\tRUN\tTRIAL\t73KID']
  for trial, picture in enumerate(pictures.tolist()):
    session, place = divmod(trial, NSD_TRIALS)
    lines.append(f'{number}\t{session + 1}\t{1 + place // 63}\t{1 + place % 63}\t{picture + 1}')
  return '\n'.join(lines) + '\n'
