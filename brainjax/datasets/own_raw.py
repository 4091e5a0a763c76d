"""Reads your own fMRI: betas (.npy, or NIfTI with masks), an events table naming each trial's picture, the pictures."""

import csv
import dataclasses
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from brainjax.datasets import neuroimaging, raw
from brainjax.errors import UserError
from brainjax.files import sha256

NIFTI = ('.nii', '.nii.gz')
SPLITS = ('train', 'test')
IMAGE_COLUMNS = ('image', 'stim_file')  # the second is the word of BIDS
MAX_IMAGE_SIZE = 512  # larger pictures are reduced to this side
ALL = 'VC'  # name of the ROI of all voxels, what configs ask for


@dataclasses.dataclass(frozen=True)
class Source:
  """The files of one subject."""

  betas: Path
  events: Path
  images: Path
  masks: tuple[Path, ...] = ()

  def all_files(self) -> dict[str, Path]:
    """Every file that the result depends on, by a name for it."""
    named = {'betas': self.betas, 'events': self.events} | {f'mask {mask.name}': mask for mask in self.masks}
    for path in named.values():
      raw.check_file(path)
    events = read_events(self.events)
    return named | {f'images/{name}': find_picture(self.images, name) for name in dict.fromkeys(events.images)}


@dataclasses.dataclass
class Events:
  """The table: one row a trial, in the order of the betas."""

  images: list[str]  # N
  splits: list[str]  # N, 'train' or 'test'
  categories: dict[str, str]  # picture -> its category, where the table has one

  def pictures(self, split: str) -> list[str]:
    """The different pictures of a split, sorted."""
    return sorted({name for name, other in zip(self.images, self.splits, strict=True) if other == split})


def ending(path: Path) -> str:
  """.npy, .npz, .nii or .nii.gz."""
  return '.nii.gz' if path.name.endswith('.nii.gz') else path.suffix


def read_events(path: Path) -> Events:
  """Columns image (or stim_file), split, and perhaps category; others, such as onset and duration, are not used."""
  text = raw.read_text(path)
  if '\0' in text:
    raise UserError(f'{path}: not a table of text; expected tab-separated columns image and split')
  rows = csv.DictReader(io.StringIO(text), delimiter='\t', quoting=csv.QUOTE_NONE)
  try:
    columns, lines = list(rows.fieldnames or []), list(rows)
  except csv.Error as error:
    raise UserError(f'{path}: no table of tab-separated columns ({raw.say(error)}); expected image and split') from None
  image_column = next((name for name in IMAGE_COLUMNS if name in columns), None)
  if image_column is None or 'split' not in columns or len(set(columns)) != len(columns):
    raise UserError(
      f'{path}: columns {[name[:40] for name in columns[:10]]}; expected tab-separated columns image and split, each once'
    )
  images, splits, categories = [], [], {}
  for number, row in enumerate(lines, 1):
    if None in row or None in row.values():
      raise UserError(f'{path}: row {number} has not {len(columns)} entries, as the first line has')
    name, split = row[image_column].strip(), row['split'].strip()
    if split not in SPLITS:
      raise UserError(f'{path}: row {number} has split {split[:40]!r}; expected train or test')
    if not name or name == 'n/a':
      raise UserError(f'{path}: row {number} names no picture; leave trials without one out, in the betas too')
    images.append(name)
    splits.append(split)
    category = (row.get('category') or '').strip()
    if category and category != 'n/a' and categories.setdefault(name, category) != category:
      raise UserError(
        f'{path}: row {number} has category {category[:40]!r} for picture {name[:80]!r}, an earlier row '
        f'{categories[name][:40]!r}; a picture has one category'
      )
  split_of = dict(zip(images, splits, strict=True))
  for number, (name, split) in enumerate(zip(images, splits, strict=True), 1):
    if split_of[name] != split:
      raise UserError(
        f'{path}: picture {name[:80]!r} is in both splits (row {number}); a picture belongs to train or to test'
      )
  if set(splits) != set(SPLITS):
    raise UserError(
      f'{path}: {len(images)} trials, of the splits {sorted(set(splits))}; expected some of train and test'
    )
  return Events(images, splits, categories)


def find_picture(folder: Path, name: str) -> Path:
  """The picture's file below `folder`; never one outside."""
  parts = PurePosixPath(name)
  if parts.is_absolute() or '..' in parts.parts or '\\' in name or ':' in name:
    raise UserError(f'{folder}: picture {name[:80]!r} is no path below this folder; give paths relative to it')
  for form in ('NFC', 'NFD'):  # the same letters, written differently by different systems
    path = folder / unicodedata.normalize(form, name)
    try:
      if path.is_file():
        return path
    except OSError:
      break
  raise UserError(f'{folder}: no picture {name[:80]!r} there, but the events name it')


def read(source: Source) -> tuple[np.ndarray, dict[str, np.ndarray], Events, dict[str, Path]]:
  """Betas `N V`, ROI masks `V`, events, and picture -> file, checked against each other."""
  events = read_events(source.events)
  files = {name: find_picture(source.images, name) for name in dict.fromkeys(events.images)}
  _refuse_same_pictures(events, files)
  fmri, rois = _read_betas(source)
  if len(fmri) != len(events.images):
    raise UserError(
      f'{source.betas}: {len(fmri)} trials, but {source.events} has {len(events.images)} rows; expected one row a trial'
    )
  fmri = raw.check_fmri(fmri, str(source.betas))
  rois = {ALL: np.ones(fmri.shape[1], bool)} | rois
  return fmri, rois, events, files


def _refuse_same_pictures(events: Events, files: dict[str, Path]) -> None:
  split_of = dict(zip(events.images, events.splits, strict=True))
  seen: dict[str, str] = {}
  for name, path in files.items():
    other = seen.setdefault(sha256(path), name)
    if split_of[other] != split_of[name]:
      raise UserError(f'{path}: the same picture as {other!r}, which is in the other split; test pictures must be new')


def _read_betas(source: Source) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  kinds = {ending(mask) for mask in source.masks}
  if ending(source.betas) in NIFTI:
    if not source.masks or not kinds <= set(NIFTI):
      raise UserError(f'{source.betas}: NIfTI betas need one or more NIfTI masks: --mask=V1.nii.gz,V2.nii.gz')
    return neuroimaging.read_masked(source.betas, dict(zip(roi_names(source.masks), source.masks, strict=True)))
  if ending(source.betas) != '.npy' or not kinds <= {'.npy'}:
    raise UserError(
      f'{source.betas}: expected .npy betas with .npy masks, or .nii/.nii.gz betas with .nii/.nii.gz masks; '
      f'found {", ".join(sorted({ending(source.betas), *kinds}))}'
    )
  fmri = raw.read_npy(source.betas, ndim=2, kinds='f')
  rois = {}
  for name, path in zip(roi_names(source.masks), source.masks, strict=True):
    mask = raw.read_npy(path, ndim=1, kinds='biu')
    if len(mask) != fmri.shape[1] or not np.isin(mask, (0, 1)).all() or not mask.any():
      raise UserError(f'{path}: {len(mask)} values, {int((mask != 0).sum())} not 0; expected {fmri.shape[1]} of 0 or 1')
    rois[name] = mask.astype(bool)
  if not rois:
    return fmri, {}
  union = np.logical_or.reduce(list(rois.values()))
  return np.ascontiguousarray(fmri[:, union]), {name: mask[union] for name, mask in rois.items()}


def roi_names(masks: Sequence[Path]) -> list[str]:
  """The masks' file names without ending: the names of the ROIs."""
  names = [path.name.removesuffix(ending(path)) for path in masks]
  for name in names:
    if not re.fullmatch(r'[\w.-]+', name) or names.count(name) > 1 or name == ALL:
      raise UserError(f'mask {name!r}: expected different file names of letters, digits, _ . -, and none {ALL}')
  return names
