"""ROI masks as users write them: files of 0 and 1, or atlases of labels of which the user names some.

--mask=V1.nii.gz,V2.nii.gz               0/1 masks; the ROIs are named like the files
--mask=ROI.nii.gz:1,2=V1,3,4=V2          labels 1 and 2 of an atlas are V1, labels 3 and 4 are V2
--mask=sub-01_desc-V1.nii.gz=V1          a 0/1 mask with another name
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brainjax.errors import UserError

WHOLE = 'VC'  # the ROI of all voxels, the default of configs
_FILE = re.compile(r'(?P<path>.+?\.(?:npy|nii\.gz|nii))(?::(?P<rois>.+)|=(?P<name>[^,=]+))?', re.IGNORECASE)
_ROI = r'(-?\d+(?:,-?\d+)*)(?:=([^,=]+))?'
_NEXT_FILE = re.compile(r',(?!-?\d+(?:[,=]|$))')  # a comma that no label follows


@dataclasses.dataclass(frozen=True)
class Mask:
  """One ROI: a file of 0 and 1, or the voxels of some labels of a file.

  Attributes:
    path: .npy, .nii or .nii.gz.
    labels: values that belong to the ROI; none for a file of 0 and 1.
    name: of the ROI; by default the file's name without suffix.
  """

  path: Path
  labels: tuple[int, ...] = ()
  name: str = ''

  def __post_init__(self):
    object.__setattr__(self, 'name', self.name or self.path.name.removesuffix(suffix_of(self.path, original=True)))

  def select(self, values: np.ndarray) -> np.ndarray:
    """Which voxels belong to the ROI: array of numbers -> bool of the same shape.

    Raises:
      UserError: no voxel belongs to it, or the values do not say which do.
    """
    distinct = np.unique(values)
    if not self.labels:
      if not np.isin(distinct, (0, 1)).all():
        raise UserError(f'{self.path}: a mask of values {_list(distinct)}; expected 0 and 1. {self._remedy(distinct)}')
      if not (distinct == 1).any():
        raise UserError(f'{self.path}: the mask holds no voxel: all its values are 0')
      return values == 1
    if not _is_whole(distinct):
      raise UserError(
        f'{self.path}: an atlas of values {_list(distinct)}; expected whole numbers. {self._remedy(distinct)}'
      )
    if missing := [label for label in self.labels if label not in distinct]:
      raise UserError(f'{self.path}: no voxel has label {_list(missing)}; the labels there are {_list(distinct)}')
    return np.isin(values, self.labels)

  def _remedy(self, distinct: np.ndarray) -> str:
    if _is_whole(distinct):
      return f'If these are labels, name those of the ROI: --mask={self.path.name}:{_example(distinct)}=NAME'
    return (
      'If it is a probability map, threshold it; if it was resampled, do it again with nearest-neighbour '
      'interpolation; if values outside the brain are NaN, set them to 0'
    )


def _is_whole(values: np.ndarray) -> bool:
  return bool(np.isfinite(values).all() and (values == np.round(values)).all())


def _example(values: np.ndarray) -> int:
  return int(next((value for value in values if value > 0), values[0]))


def _list(values: Sequence) -> str:
  shown = [f'{np.float64(value):.9g}' for value in (values if len(values) <= 8 else [*values[:6], values[-1]])]
  return ', '.join(shown) if len(values) <= 8 else f'{", ".join(shown[:-1])}, ... {shown[-1]} ({len(values)} values)'


def parse_masks(text: str) -> tuple[Mask, ...]:
  """The value of --mask, see the top of this file.

  Raises:
    UserError: it cannot be read.
  """
  masks = []
  for item in _NEXT_FILE.split(text):
    match = _FILE.fullmatch(item)
    if not match or match['rois'] and not re.fullmatch(f'{_ROI}(,{_ROI})*', match['rois']):
      raise UserError(
        f'--mask: cannot read {item!r}; expected FILE.nii.gz (or .nii, .npy), or labels of an atlas with names of ROIs: '
        'FILE.nii.gz:1,2=V1,3,4=V2'
      )
    path = Path(match['path'])
    if not match['rois']:
      masks.append(Mask(path, (), match['name'] or ''))
    for labels, name in re.findall(_ROI, match['rois'] or ''):
      masks.append(Mask(path, tuple(map(int, labels.split(','))), name))
  return tuple(masks)


def check_names(masks: Sequence[Mask]) -> None:
  """Checks that all ROI names differ and can stand in a config.

  Raises:
    UserError: one does not.
  """
  names = [mask.name for mask in masks]
  for name in names:
    if not re.fullmatch(r'[\w.-]+', name) or names.count(name) > 1 or name == WHOLE:
      raise UserError(
        f'mask {name!r}: expected different names of letters, digits, _ . -, and none {WHOLE}; '
        'give a name with --mask=FILE=NAME'
      )


def suffix_of(path: Path, original: bool = False) -> str:
  """The suffix in lower case, or as written; .nii.gz is one suffix."""
  name = path.name
  suffix = name[-7:] if name.lower().endswith('.nii.gz') else path.suffix
  return suffix if original else suffix.lower()
