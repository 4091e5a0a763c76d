"""Betas of one subject, in the voxels that its masks choose."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brainjax.datasets import neuroimaging, raw
from brainjax.datasets.masks import Mask, suffix_of
from brainjax.errors import UserError

NIFTI = ('.nii', '.nii.gz')


def read_betas(
  path: Path, masks: Sequence[Mask], num_trials: int, events: Path, scale: float | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Responses of the voxels in any of the masks, or of all voxels if there are no masks.

  Args:
    path: an array `N V`, `V N`, `N X Y Z` or `X Y Z N` (.npy), or NIfTI `X Y Z N`. Where two axes could be the trials,
      the number of trials decides.
    masks: over the voxels `V` or `X Y Z`.
    num_trials: N.
    events: file that says so.
    scale: the file holds betas times this. Arrays of whole numbers need it.

  Returns:
    `N V` float32, and each ROI over these voxels: name -> `V` bool.

  Raises:
    UserError: a file cannot be read, or betas, masks and number of trials do not fit together.
  """
  image = None
  if suffix_of(path) in NIFTI:
    if not masks or any(suffix_of(mask.path) not in NIFTI for mask in masks):
      raise UserError(f'{path}: NIfTI betas need one or more NIfTI masks: --mask=V1.nii.gz,V2.nii.gz')
    values, image = neuroimaging.read_volumes(path)
    axis = 3
  else:
    values = _read_array(path, masks, scale)
    axis = _find_trials(path, values.shape, masks, num_trials)
  values = np.moveaxis(values, axis, 0)
  if len(values) != num_trials:
    raise UserError(f'{path}: {len(values)} trials, but {events} has {num_trials} rows; expected one row a trial')
  if not masks:
    return _to_float32(values, scale), {}
  chosen = {mask.name: mask.select(_read_mask(mask.path, values.shape[1:], image, path)) for mask in masks}
  union = np.logical_or.reduce(list(chosen.values()))
  rows = _to_float32(values[:, union], scale)
  _check_finite(path, rows, union)
  return rows, {name: mask[union] for name, mask in chosen.items()}


def _read_array(path: Path, masks: Sequence[Mask], scale: float | None) -> np.ndarray:
  suffixes = {suffix_of(mask.path) for mask in masks}
  if suffix_of(path) != '.npy':
    raise UserError(
      f'{path}: expected .npy betas with .npy masks, or .nii/.nii.gz betas with .nii/.nii.gz masks; '
      f'found {", ".join(sorted({suffix_of(path), *suffixes}))}'
    )
  values = raw.read_npy(path, ndim=(2, 4), kinds='fiu')
  if values.ndim == 2 and not suffixes <= {'.npy'}:
    raise UserError(
      f'{path}: expected .npy betas with .npy masks, because this array of shape {values.shape} has no volumes; '
      f'found {", ".join(sorted(suffixes))}'
    )
  if values.ndim == 4 and not masks:
    raise UserError(f'{path}: volumes of shape {values.shape} need one or more masks: --mask=V1.nii.gz,V2.nii.gz')
  if values.dtype.kind in 'iu' and scale is None:
    raise UserError(
      f'{path}: whole numbers ({values.dtype}), so betas were stored times some number; name it, such as --scale=300 for '
      'the Natural Scenes Dataset, or --scale=1 if the numbers are the betas'
    )
  return values


def _find_trials(path: Path, shape: tuple[int, ...], masks: Sequence[Mask], num_trials: int) -> int:
  """The axis of trials: the first or the last."""
  last = len(shape) - 1
  axes = [axis for axis in (0, last) if shape[axis] == num_trials]
  if len(axes) == 2:
    raise UserError(
      f'{path}: shape {shape}, and the events name {num_trials} trials, so either axis could be the trials; leave a voxel '
      'out, or save a slice less, so that only one has this length'
    )
  if axes == [last]:
    print(f'{path}: the last of its axes {shape} is read as trials, because the events name {num_trials}')
  return axes[0] if axes else 0


def _read_mask(path: Path, grid: tuple[int, ...], image, betas: Path) -> np.ndarray:
  """Values of a mask file on the grid of the betas."""
  if suffix_of(path) in NIFTI:
    return neuroimaging.read_mask(path, grid, image, betas)
  values = raw.read_npy(path, ndim=(1, 2, 3, 4), kinds='biuf')
  if values.squeeze().shape != tuple(length for length in grid if length > 1):
    raise UserError(f'{path}: shape {values.shape}; expected {grid}, one value for each voxel of {betas.name}')
  return values.reshape(grid)


def _to_float32(rows: np.ndarray, scale: float | None) -> np.ndarray:
  with np.errstate(over='ignore'):  # infinite then, which is refused later
    rows = np.ascontiguousarray(rows, np.float32)
    return rows if scale is None else rows / np.float32(scale)


def _check_finite(path: Path, rows: np.ndarray, union: np.ndarray) -> None:
  """Refuses NaN and infinity in `N V`, and names the voxel of the grid."""
  bad = ~np.isfinite(rows)
  if bad.any():
    trial, place = np.argwhere(bad)[0]
    voxel = tuple(np.argwhere(union)[place].tolist())
    raise UserError(
      f'{path}: {int(bad.sum())} NaN or infinite values inside the masks, the first in trial {trial}, voxel '
      f'{voxel if len(voxel) > 1 else voxel[0]}; leave those voxels out of the masks or those trials out, or interpolate them'
    )
