"""Reads the voxels of a mask out of 4-D files of any size, a block at a time: NIfTI `X Y Z N`, and HDF5 as MATLAB writes it."""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.datasets import neuroimaging, raw
from brainjax.datasets.masks import suffix_of
from brainjax.errors import UserError, as_user_error

NIFTI = ('.nii', '.nii.gz')
BLOCK_BYTES = 64 << 20  # read at a time, unless the chunks of a file are larger


def read(path: Path, mask: np.ndarray, image: Any, max_trials: int) -> tuple[np.ndarray, bool]:
  """The voxels of a mask in every trial.

  Args:
    path: .nii or .nii.gz with axes X Y Z N, or .hdf5 with `betas`, axes N Z Y X as Python sees them.
    mask: X Y Z bool.
    image: nibabel image on the grid of the mask.
    max_trials: a file with more is refused before it is read.

  Returns:
    `N V` in the type of the file, voxels in the order of `np.flatnonzero(mask)`; and whether its header scaled them.

  Raises:
    UserError: the file is damaged, has too many trials, or another grid than the mask.
  """
  if suffix_of(path) in NIFTI:
    return _read_nifti(path, mask, image, max_trials)
  return _read_hdf5(path, mask, max_trials), False


def _check_shape(path: Path, grid: tuple[int, ...], mask: np.ndarray, trials: int, max_trials: int) -> None:
  if grid != mask.shape:
    raise UserError(
      f'{path}: volumes of shape {grid}, but the masks have {mask.shape}; betas and masks must be of one subject and one space'
    )
  if not 0 < trials <= max_trials:
    raise UserError(f'{path}: {trials} trials; expected {max_trials}')


def _read_hdf5(path: Path, mask: np.ndarray, max_trials: int) -> np.ndarray:
  with neuroimaging.open_hdf5(path, ('betas',)) as (_, item):
    if item.ndim != 4:
      raise UserError(f'{path}: betas has shape {item.shape}; expected 4 axes: trials, Z, Y, X')
    _check_shape(path, item.shape[:0:-1], mask, len(item), max_trials)
    trials, planes = _block(item)
    if (size := raw.num_bytes((trials, planes, *item.shape[2:]), item.dtype)) > neuroimaging.MAX_VOLUME_BYTES:
      raise UserError(
        f'{path}: its chunks {item.chunks} need {size / 2**30:.1f} GiB at a time; at most 1 GiB is accepted'
      )
    column = np.full(mask.shape, -1)
    column[mask] = np.arange(mask.sum())
    result = np.empty((len(item), mask.sum()), item.dtype.newbyteorder('='))
    for z in range(0, mask.shape[2], planes):
      inside = mask[:, :, z : z + planes]
      if not inside.any():
        continue
      columns = column[:, :, z : z + planes][inside]
      for t in range(0, len(item), trials):
        volumes = item[t : t + trials, z : z + planes]  # t Z Y X -> t X Y Z
        result[t : t + trials, columns] = volumes.transpose(0, 3, 2, 1)[:, inside]
  return result


def _block(item: Any) -> tuple[int, int]:
  """How many trials and planes of an array `N Z Y X` to read at a time: whole chunks, so that each is read once."""
  trials, planes = item.chunks[:2] if item.chunks else (1, 1)
  size = trials * planes * math.prod(item.shape[2:]) * item.dtype.itemsize
  trials *= max(1, BLOCK_BYTES // size)
  return min(trials, len(item)), min(planes, item.shape[1])


def _read_nifti(path: Path, mask: np.ndarray, image: Any, max_trials: int) -> tuple[np.ndarray, bool]:
  with as_user_error(f'{path}: damaged or not a NIfTI file', raw.AGAIN):
    volumes = neuroimaging.open_nifti(path)
    if len(volumes.shape) != 4:
      raise UserError(f'{path}: shape {volumes.shape}; expected 4 axes, the last one trials')
    *grid, count = volumes.shape
    _check_shape(path, tuple(grid), mask, count, max_trials)
    neuroimaging.check_same_place(path, volumes, image)
    dtype = volumes.get_data_dtype()
    if dtype.kind not in 'fiu':
      raise UserError(f'{path}: values of type {dtype}; expected floating-point or integer numbers')
    size = math.prod(grid) * dtype.itemsize
    place = np.ravel_multi_index(np.nonzero(mask), mask.shape, order='F')  # NIfTI has X fastest
    result = np.empty((count, len(place)), dtype.newbyteorder('='))
    with gzip.open(path) if path.suffix.lower() == '.gz' else open(path, 'rb') as stream:
      stream.seek(volumes.dataobj.offset)
      step = max(1, BLOCK_BYTES // size)
      for t in range(0, count, step):
        block = stream.read(min(step, count - t) * size)
        if len(block) < min(step, count - t) * size:
          raise UserError(f'{path}: ends after {t} of its {count} trials; {raw.AGAIN}')
        result[t : t + step] = np.frombuffer(block, dtype).reshape(-1, math.prod(grid))[:, place]
      while stream.read(1 << 20):  # the check sum of a .gz file stands at its end
        pass
    slope, inter = volumes.dataobj.slope, volumes.dataobj.inter
  if (slope, inter) == (1, 0):
    return result, False
  return (result * np.float32(slope) + np.float32(inter)).astype(np.float32), True
