"""ROIs of the Natural Scenes Dataset: files of labels on a subject's volumes, in which -1 is outside cortex and 0 in no area.

Which voxels are stored: areas, files (all their areas) and labels, joined by +, such as nsdgeneral, V1+V2 or HCP_MMP1:1.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainjax.datasets import neuroimaging
from brainjax.datasets.masks import WHOLE, Mask
from brainjax.errors import UserError

DEFAULT = 'nsdgeneral'
# File -> its areas; label k is the k-th.
AREAS = {
  'prf-visualrois': ('V1v', 'V1d', 'V2v', 'V2d', 'V3v', 'V3d', 'hV4'),
  'floc-bodies': ('EBA', 'FBA-1', 'FBA-2', 'mTL-bodies'),
  'floc-faces': ('OFA', 'FFA-1', 'FFA-2', 'mTL-faces', 'aTL-faces'),
  'floc-places': ('OPA', 'PPA', 'RSC'),
  'floc-words': ('OWFA', 'VWFA-1', 'VWFA-2', 'mfs-words', 'mTL-words'),
  'streams': ('early', 'midventral', 'midlateral', 'midparietal', 'ventral', 'lateral', 'parietal'),
}
UNIONS = {'V1': (1, 2), 'V2': (3, 4), 'V3': (5, 6)}  # labels of prf-visualrois
_LABELS = {area: (file, (k,)) for file, areas in AREAS.items() for k, area in enumerate(areas, 1)} | {
  name: ('prf-visualrois', labels) for name, labels in UNIONS.items()
}  # area -> file and labels
_ITEM = re.compile(r'([\w.-]+?)(?::(\d+))?')


class Chosen(NamedTuple):
  """The voxels to store.

  Attributes:
    mask: X Y Z bool.
    image: nibabel image on their grid.
    rois: name -> bool over the voxels of the mask, in the order of `np.flatnonzero(mask)`.
  """

  mask: np.ndarray
  image: Any
  rois: dict[str, np.ndarray]

  @property
  def where(self) -> dict[str, Any]:
    """Entries of the metadata, from which brain maps are drawn."""
    places = np.flatnonzero(self.mask).tolist()
    return {'grid': list(self.mask.shape), 'places': places, 'affine': self.image.affine.tolist()}

  def within(self, mask: np.ndarray) -> 'Chosen':
    """Without the voxels outside another mask X Y Z."""
    kept = mask[self.mask]
    return Chosen(self.mask & mask, self.image, {name: roi[kept] for name, roi in self.rois.items() if roi[kept].any()})


def choose(files: Mapping[str, Path], wanted: str, where: str) -> Chosen:
  """Reads the wanted ROIs, and all areas of `AREAS` in their voxels.

  Args:
    files: name such as 'nsdgeneral' -> file, those of one subject.
    wanted: see the top of this file.
    where: begins the message of an error.

  Raises:
    UserError: a name is unknown, its file is missing or damaged, its label does not occur, or two files have other grids.
  """
  items = [(name, *_locate(name, files, where)) for name in wanted.split('+')]
  reference = files[items[0][1]]
  image = neuroimaging.open_mask(reference)
  needed = {file for _, file, _ in items} | {file for file in AREAS if file in files}
  values = {file: neuroimaging.read_mask(files[file], image.shape, image, reference) for file in sorted(needed)}
  masks = {}
  for name, file, labels in items:
    present = labels or tuple(int(value) for value in np.unique(values[file]) if value >= 1)
    if not present:
      raise UserError(f'{files[file]}: no voxel of {name}: no value is 1 or more')
    masks[name.replace(':', '-')] = Mask(files[file], present, name).select(values[file])
  mask = np.logical_or.reduce(list(masks.values()))
  for area, (file, labels) in _LABELS.items():
    if file in values and area not in masks:
      masks[area] = np.isin(values[file], labels)
  rois = {WHOLE: np.ones(mask.sum(), bool)} | {name: area[mask] for name, area in masks.items() if area[mask].any()}
  return Chosen(mask, image, rois)


def _locate(name: str, files: Mapping[str, Path], where: str) -> tuple[str, tuple[int, ...]]:
  """The file of an area, and its labels in it; none for all."""
  match = _ITEM.fullmatch(name)
  file, labels = _LABELS.get(name) or ((match[1], (int(match[2]),) if match[2] else ()) if match else ('', ()))
  if file not in files:
    known = f'areas {", ".join(_LABELS)}; files {", ".join(sorted(files)) or "(none)"}'
    if name in _LABELS or file == DEFAULT or file in AREAS:
      raise UserError(
        f'{where}: no {file}.nii.gz there, which {name} needs; it is in nsddata/ppdata/<subject>/func1pt8mm/roi of NSD'
      )
    raise UserError(f'{where}: no ROI named {name or "(nothing)"}; known are {known}, and labels such as Kastner2015:1')
  return file, (1,) if name == DEFAULT else labels
