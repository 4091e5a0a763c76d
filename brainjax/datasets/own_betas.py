"""Betas of one subject, in the voxels that its masks choose."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brainjax import unpickle
from brainjax.datasets import neuroimaging, raw
from brainjax.datasets.masks import Mask, suffix_of
from brainjax.errors import UserError

NIFTI = ('.nii', '.nii.gz')
HDF5 = ('.h5', '.hdf5', '.mat')
GLMSINGLE = 'betasmd'  # the betas `X Y Z N` in results of GLMsingle, Python version
# Name of the betas in an HDF5 file -> whether MATLAB wrote it, which reverses the order of the axes: GLMsingle in Python
# and in MATLAB, Natural Scenes Dataset.
HDF5_NAMES = {GLMSINGLE: False, 'modelmd': True, 'betas': True}


def read_betas(
  path: Path, masks: Sequence[Mask], num_trials: int, events: Path, scale: float | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, list[int]]]:
  """Responses of the voxels in any of the masks, or of all voxels if there are no masks.

  Args:
    path: an array `N V`, `V N`, `N X Y Z` or `X Y Z N` (.npy), where the number of trials shows which axis holds them; results of
      GLMsingle (.npy, .hdf5, .mat of version 7.3); betas of the Natural Scenes Dataset (.hdf5); or NIfTI `X Y Z N`.
    masks: over the voxels `V` or `X Y Z`.
    num_trials: N.
    events: the file that names N trials, for messages.
    scale: the file holds betas times this. Whole numbers need it, unless the header of a NIfTI file scales them.

  Returns:
    `N V` float32; each ROI over these voxels: name -> `V` bool; and where masks chose voxels, `grid` (the shape of a mask)
    and `places` (their flat indices in it, `V`), with NIfTI masks also `affine` (4 4, from indices to millimetres).

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
    values, axis = _read_array(path, masks, num_trials)
  check_scale(values, scale, str(path))
  values = np.moveaxis(values, axis, 0)
  if len(values) != num_trials:
    raise UserError(f'{path}: {len(values)} trials, but {events} has {num_trials} rows; expected one row per trial')
  if not masks:
    return raw.check_fmri(to_float32(values, scale), str(path)), {}, {}
  chosen = {mask.name: mask.select(_read_mask(mask.path, values.shape[1:], image, path)) for mask in masks}
  union = np.logical_or.reduce(list(chosen.values()))
  rows = raw.check_fmri(to_float32(values[:, union], scale), f'{path} inside the masks', places=np.argwhere(union))
  where = {'grid': list(union.shape), 'places': np.flatnonzero(union).tolist()}
  if suffix_of(masks[0].path) in NIFTI:
    where['affine'] = neuroimaging.read_affine(masks[0].path if image is None else path)
  return rows, {name: mask[union] for name, mask in chosen.items()}, where


def _read_array(path: Path, masks: Sequence[Mask], num_trials: int) -> tuple[np.ndarray, int]:
  """Betas of a file that is not NIfTI, on 2 or 4 axes, and which axis is that of the trials."""
  suffixes = {suffix_of(mask.path) for mask in masks}
  if suffix_of(path) in HDF5:
    values, axis = _read_hdf5(path)
  elif suffix_of(path) != '.npy':
    raise UserError(
      f'{path}: expected .npy betas with .npy masks, or .nii/.nii.gz betas with .nii/.nii.gz masks, or .hdf5 of GLMsingle; '
      f'found {", ".join(sorted({suffix_of(path), *suffixes}))}'
    )
  elif unpickle.is_pickled_npy(path):
    values, axis = _read_glmsingle(path), -1
  else:
    values, axis = raw.read_npy(path, ndim=(2, 4), kinds='fiu'), None
  if values.ndim == 4 and values.shape[1:3] == (1, 1):  # as GLMsingle stores voxels without a grid
    values = values[:, 0, 0]
  if values.ndim == 2 and not suffixes <= {'.npy'}:
    raise UserError(
      f'{path}: expected .npy betas with .npy masks, because this array of shape {values.shape} has no volumes; '
      f'found {", ".join(sorted(suffixes))}'
    )
  if values.ndim == 4 and not masks:
    raise UserError(f'{path}: volumes of shape {values.shape} need one or more masks: --mask=V1.nii.gz,V2.nii.gz')
  return values, axis or _find_trials(path, values.shape, num_trials)


def check_scale(values: np.ndarray, scale: float | None, where: str) -> None:
  """Raises a `UserError` for whole numbers without the number that the betas were multiplied by.

  A NIfTI file whose header scales its whole numbers is read as floating-point numbers: its scale is known.
  """
  if values.dtype.kind in 'iu' and scale is None:
    raise UserError(
      f'{where}: whole numbers ({values.dtype}), so betas were stored times some number; name it, such as --scale=300 for '
      'the Natural Scenes Dataset, or --scale=1 if the numbers are the betas (in Python, from_betas(..., scale=300))'
    )


def _read_glmsingle(path: Path) -> np.ndarray:
  results = unpickle.read_pickled_npy(path)
  if not isinstance(results, dict) or GLMSINGLE not in results:
    held = (
      f'a dictionary of {", ".join(map(str, list(results)[:10]))}' if isinstance(results, dict) else 'Python objects'
    )
    raise UserError(f'{path}: {held}; expected an array of numbers, or results of GLMsingle with {GLMSINGLE}')
  values = results[GLMSINGLE]
  if not isinstance(values, np.ndarray) or values.ndim not in (2, 4) or values.dtype.kind not in 'fiu':
    kind = getattr(values, 'dtype', type(values).__name__)
    raise UserError(f'{path}: {GLMSINGLE} is {kind} of shape {np.shape(values)}; expected numbers on axes X Y Z trials')
  return values


def _read_hdf5(path: Path) -> tuple[np.ndarray, int | None]:
  name, values = neuroimaging.read_hdf5(path, HDF5_NAMES)
  if HDF5_NAMES[name]:
    values = values.T
  if values.ndim not in (2, 4):
    raise UserError(f'{path}: {name} has shape {values.shape}; expected axes X Y Z trials')
  if name == 'betas' and values.ndim == 4 and values.shape[0] == values.shape[2]:
    raise UserError(
      f'{path}: {name} has shape {values.shape[::-1]}, in which X and Z cannot be distinguished: MATLAB (as for the Natural '
      'Scenes Dataset) stores Z before X, Python X before Z; save it as .npy (trials, X, Y, Z)'
    )
  if name == 'betas' and values.ndim == 2:  # of any program
    return values, None
  print(f'{path}: {name} is read as {"X Y Z" if values.ndim == 4 else "voxels"}, trials = {values.shape}')
  return values, -1


def _find_trials(path: Path, shape: tuple[int, ...], num_trials: int) -> int:
  """The axis of trials: the first or the last."""
  last = len(shape) - 1
  axes = [axis for axis in (0, last) if shape[axis] == num_trials]
  if len(axes) == 2:
    raise UserError(
      f'{path}: shape {shape}, and the events name {num_trials} trials, so either axis could be the trials; save '
      'volumes as NIfTI, or leave a voxel out of the array, so that only one axis has this length'
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


def to_float32(rows: np.ndarray, scale: float | None) -> np.ndarray:
  """Betas of stored numbers: float32, divided by `scale`."""
  with np.errstate(over='ignore'):  # infinite then, which is refused later
    rows = np.ascontiguousarray(rows, np.float32)
    return rows if scale is None else rows / np.float32(scale)
