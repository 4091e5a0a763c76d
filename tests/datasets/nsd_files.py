"""A simulated Natural Scenes Dataset of two sessions, read with h5py, nibabel and scipy alone as the tests' truth."""

import gzip
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import scipy.io

from brainjax.simulator import cortex, nsd

VOXELS, SESSIONS = 80, 2
DESIGN = 'nsddata/experiments/nsd/nsd_expdesign.mat'
STIMULI = 'nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5'


def roi(subject: str, name: str = 'nsdgeneral') -> str:
  return f'nsddata/ppdata/{subject}/func1pt8mm/roi/{name}.nii.gz'


def session(subject: str, number: int) -> str:
  return f'nsddata_betas/ppdata/{subject}/func1pt8mm/{nsd.VERSION}/betas_session{number:02d}.hdf5'


def responses(subject: str) -> str:
  return f'nsddata/ppdata/{subject}/behav/responses.tsv'


def mind_eye(subject: str) -> str:
  return f'betas_all_{subject}_fp32_renorm.hdf5'


def write(folder: Path) -> Path:
  """Two subjects; `folder`/NSD and `folder`/MindEye2."""
  shown = nsd.make_experiment(subjects=2, sessions=SESSIONS, seed=3, image_size=64, repetitions=25)
  nsd.write_shared(folder / 'NSD', folder / 'MindEye2', shown)
  for number in (1, 2):
    config = cortex.CortexConfig(num_voxels=VOXELS, session_drift=1.0)
    nsd.write_subject(folder / 'NSD', folder / 'MindEye2', number, config, 3, shown)
  return folder


def copy(folder: Path, target: Path, *names: str, subject: str = 'subj01') -> Path:
  """Links to all files of one subject; those named are copied, to be changed."""
  for path in folder.rglob('*'):
    place = path.relative_to(folder)
    other = 'subj02' if subject == 'subj01' else 'subj01'
    if path.is_dir() or other in place.parts or other in path.name:
      continue
    (target / place).parent.mkdir(parents=True, exist_ok=True)
    if str(place) in names:
      shutil.copy(path, target / place)
    else:
      (target / place).symlink_to(path)
  return target


def shown(raw: Path, subject: str) -> tuple[np.ndarray, np.ndarray]:
  """The picture of each trial, and the shared pictures, from 0."""
  design = scipy.io.loadmat(raw / DESIGN)
  images = design['subjectim'][int(subject[-1]) - 1]
  return images[design['masterordering'][0] - 1] - 1, design['sharedix'][0] - 1


def labels(raw: Path, subject: str, name: str) -> np.ndarray:
  return np.asarray(nibabel.load(raw / roi(subject, name)).dataobj)


def betas(raw: Path, subject: str, mask: np.ndarray) -> np.ndarray:
  """Per cent signal change of all trials in the voxels of a mask X Y Z."""
  parts = []
  for number in range(1, SESSIONS + 1):
    with h5py.File(raw / session(subject, number)) as file:
      volumes = file['betas'][:].transpose(3, 2, 1, 0)  # X Y Z trials
    parts.append(volumes[mask].T / 300)
  return np.concatenate(parts)


def picture(raw: Path, number: int) -> np.ndarray:
  with h5py.File(raw / STIMULI) as file:
    return file['imgBrick'][number]


def as_nifti(copy, number, dtype=np.int16, suffix='.nii.gz', scale=1, affine=None, slope=None):
  """A session as NIfTI in place of HDF5; returns its path."""
  path = copy / session('subj01', number)
  with h5py.File(path) as file:
    values = file['betas'][:].T
  path.unlink()
  mask = nibabel.load(copy / roi('subj01'))
  image = nibabel.Nifti1Image((values * scale).astype(dtype), mask.affine if affine is None else affine)
  if slope:
    image.header.set_slope_inter(slope, 0)
  path = path.with_name(path.name.replace('.hdf5', suffix))
  data = image.to_bytes()
  path.write_bytes(gzip.compress(data, 1) if suffix.endswith('gz') else data)
  return path
