"""Your own fMRI of pictures: TFDS builder, one config a subject, and the loader; docs/your_data.md is a worked example.

source = own.Source(Path('betas.npy'), Path('events.tsv'), Path('images'))
own.prepare(source, 'data/prepared', 'sub-01')    # or: brainjax prepare own --betas=... --events=... ...
train = own.load('data/prepared', ['sub-01'], roi='VC', split='train', image_size=256)
"""

import contextlib
import dataclasses
import functools
import os
import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import data_set, own_betas, paired, paired_rows, pictures, raw, store
from brainjax.datasets.events import FALLBACK, Events, read_events
from brainjax.datasets.masks import WHOLE, Mask, check_names, parse_masks
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
    """Every file that the result depends on. Its name says how it is read, so that another way makes other data.

    Raises:
      UserError: betas, events or a mask cannot be read, or a picture is missing.
    """
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
    """The trials that the events file names.

    Raises:
      UserError: as `events.read_events`.
    """
    return read_events(self.events)

  @functools.cached_property
  def pictures(self) -> dict[str, Path]:
    """The file of each picture that the events name, in their order.

    Raises:
      UserError: one is missing.
    """
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


def read_source(source: Source) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, list[int]]]:
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


class Own(paired.Builder):
  """TFDS data set `own/<subject>`: train (single trials), test (means over repetitions), test_trials."""

  VERSION = tfds.core.Version('1.2.0')  # 1.1.0 did not turn pictures by EXIF
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'Betas, events and pictures, see docs/your_data.md.'
  DESCRIPTION = (
    'fMRI responses of one subject to pictures, on their raw scale. `name` is the category of the picture where the '
    'events table has one, else its file; `class_index` numbers the categories in sorted order and is -1 without one.'
  )
  HOMEPAGE = 'https://bids.neuroimaging.io'
  source: Source | None = None  # what to prepare from

  def raw_files(self, raw_dir):
    """Betas, masks, events and the pictures that the events name."""
    return self.source.all_files()

  def read(self, raw_dir):
    """Betas, events and pictures, checked against each other."""
    fmri, rois, where = read_source(self.source)
    events, files = self.source.table, self.source.pictures
    number = {name: i for i, name in enumerate(sorted(set(events.categories.values())))}

    def label(picture: str) -> paired.Label:
      category = events.categories.get(picture)
      return paired.Label(number[category], '', category) if category else paired.Label(paired.NO_CLASS, '', picture)

    def picture(name: str) -> np.ndarray:
      file = files[name]
      return pictures.read_square(file, MAX_IMAGE_SIZE, str(file), self.source.background)

    train, test = events.pictures('train'), events.pictures('test')
    facts = pictures.survey([files[name] for name in (*train, *test)]) | where
    return paired.Trials(fmri, events.images, rois, train, test, picture, label, sessions=events.sessions, facts=facts)


def prepare(source: Source, prepared_dir: str | os.PathLike, subject: str = 'sub-01') -> tuple[str, list[str]]:
  """Writes one subject's data set; ('kept', 'built' or 'rebuilt', changed files).

  Raises:
    UserError: a file cannot be read, or the files do not fit together.
  """
  if not source.images.is_dir():
    kind = 'not a folder' if source.images.exists() else 'no such folder'
    raise UserError(f'{source.images}: {kind}; expected the folder of the pictures')

  def builder(out: str) -> Own:
    builder = Own.of(out, subject)
    builder.source = source
    return builder

  return store.prepare(builder, source.images, prepared_dir)


def prepare_files(
  betas: str,
  events: str,
  images: str,
  out: str | os.PathLike,
  mask: tuple[Mask, ...] = (),
  subject: str = 'sub-01',
  scale: float | None = None,
  background: str | None = None,
) -> store.States:
  """`prepare`, from the arguments of the command.

  Raises:
    UserError: as `prepare`, or `subject` cannot be the name of a folder.
  """
  source = Source(Path(betas), Path(events), Path(images), mask, scale, background)
  return {f'own/{subject}': prepare(source, out, subject)}


DATA_SET = data_set.DataSet(
  name='own',
  title='your own fMRI of pictures, see docs/your_data.md',
  builder=Own,
  has_raw=lambda folder: False,  # the user names its files
  prepare=prepare_files,
  arguments=(
    data_set.Argument('betas', '.npy (trials, voxels), 4-D .nii/.nii.gz, or GLMsingle', 'FILE', required=True),
    data_set.Argument(
      'events', '.tsv, one row per trial: image, split (train or test), category', 'FILE', required=True
    ),
    data_set.Argument('images', 'folder of the pictures', required=True),
    data_set.Argument(
      'mask',
      '0/1 masks V1.nii.gz,V2.nii.gz, or labels of an atlas ROI.nii.gz:1,2=V1,3,4=V2',
      'FILES',
      parse_masks,
    ),
    data_set.Argument('scale', 'the file holds betas times this number, such as 300 (NSD)', 'NUMBER', float),
    data_set.Argument('background', 'colour behind transparent pictures, such as white', 'COLOR'),
    data_set.Argument('subject', 'name of the subject; default: sub-01', 'NAME'),
  ),
)
load = functools.partial(paired_rows.load, DATA_SET)
