"""Reads your own fMRI: betas, masks, an events table that names the picture of each trial, and the pictures."""

import contextlib
import dataclasses
import functools
import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np

from brainjax.datasets import own_betas, pictures, raw, store
from brainjax.datasets.events import FALLBACK, Events, read_events
from brainjax.datasets.masks import WHOLE, Mask, check_names
from brainjax.errors import UserError

MAX_IMAGE_SIZE = 512  # larger pictures are reduced to this side


@dataclasses.dataclass(frozen=True)
class Source:
  """The files of one subject, and how to read them.

  Attributes:
    betas: see `own_betas.read_betas`.
    events: see `events.read_events`.
    images: folder of the pictures.
    masks: of the ROIs.
    scale: the file holds betas times this.
    background: colour behind transparent pictures.
  """

  betas: Path
  events: Path
  images: Path
  masks: tuple[Mask, ...] = ()
  scale: float | None = None
  background: str | None = None

  def __post_init__(self):
    check_names(self.masks)
    if self.scale is not None and not 0 < self.scale < float('inf'):
      raise UserError(f'--scale={self.scale:g}; expected a positive number, such as 300')
    if self.background is not None:
      pictures.check_background(self.background)

  def all_files(self) -> dict[str, Path]:
    """Every file that the result depends on. Its name says how it is read, so that another way makes other data."""
    scale = '' if self.scale is None else f' / {self.scale:g}'
    named = {f'betas{scale}': self.betas, 'events': self.events}
    for mask in self.masks:
      labels = ''.join(f' {label}' for label in mask.labels)
      is_plain = mask == Mask(mask.path)
      named[f'mask {mask.path.name}' if is_plain else f'mask {mask.name}: {mask.path.name}{labels}'] = mask.path
    for path in named.values():
      raw.check_file(path)
    behind = f' on {self.background}' if self.background else ''
    return named | {f'images/{name}{behind}': path for name, path in self.pictures.items()}

  @functools.cached_property
  def table(self) -> Events:
    """The trials that the events file names."""
    return read_events(self.events)

  @functools.cached_property
  def pictures(self) -> dict[str, Path]:
    """The file of each picture that the events name, in their order."""
    return {name: find_picture(self.images, name) for name in dict.fromkeys(self.table.images)}


def find_picture(folder: Path, name: str) -> Path:
  """The file of a picture below `folder`, never one outside.

  Raises:
    UserError: there is no such file.
  """
  parts = PurePosixPath(name)
  if parts.is_absolute() or '..' in parts.parts or ':' in name or '\\' in name:
    raise UserError(
      f'{folder}: picture {name[:80]!r} is no path below this folder; give paths relative to it, with / between names'
    )
  with contextlib.suppress(OSError):  # a name that is too long
    for form in ('NFC', 'NFD'):  # the same letters, written differently by different systems
      if (path := folder / unicodedata.normalize(form, name)).is_file():
        return path
  raise UserError(f'{folder}: no picture {name[:80]!r} there, but the events name it')


def read(source: Source) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, list[int]]]:
  """Betas `N V`, ROI masks `V` and where the voxels are (see `read_betas`), checked against the events and the pictures.

  Raises:
    UserError: a file cannot be read, or they do not fit together.
  """
  events = source.table
  if events.encoding == FALLBACK:
    print(f'{source.events}: not UTF-8, so it is read as Windows-1252 (Latin-1); save it as UTF-8 if names look wrong')
  split_of = dict(zip(events.images, events.splits, strict=True))
  seen: dict[str, str] = {}
  for name, path in source.pictures.items():
    other = seen.setdefault(store.file_digest(path), name)
    if split_of[other] != split_of[name]:
      raise UserError(f'{path}: the same picture as {other!r}, which is in the other split; test pictures must be new')
  fmri, rois, where = own_betas.read_betas(source.betas, source.masks, len(events.images), source.events, source.scale)
  return fmri, {WHOLE: np.ones(fmri.shape[1], bool)} | rois, where
