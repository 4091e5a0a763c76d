"""Your own fMRI of pictures: TFDS builder, one config a subject, and the loader; docs/your_data.md is a worked example.

source = own_raw.Source(Path('betas.npy'), Path('events.tsv'), Path('images'))
own.prepare(source, 'data/prepared', 'sub-01')    # or: python -m brainjax.prepare own --betas=... --events=... ...
train = own.load('data/prepared', ['sub-01'], roi='VC', split='train', image_size=256)
"""

import functools
import os
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import data_set, masks, own_raw, paired, paired_rows, pictures, store
from brainjax.errors import UserError


class Own(paired.Builder):
  """TFDS data set `own/<subject>`: train (single trials), test (means over repetitions), test_trials."""

  VERSION = tfds.core.Version('1.2.0')  # 1.1.0 did not turn pictures by EXIF
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'Betas, events and pictures, see docs/your_data.md.'
  DESCRIPTION = (
    'fMRI responses of one subject to pictures, on their raw scale. `name` is the category of the picture where the '
    'events table has one, else its file; `class_index` numbers the categories in sorted order and is -1 without one.'
  )
  HOMEPAGE = 'https://bids.neuroimaging.io'
  source: own_raw.Source | None = None  # what to prepare from

  def raw_files(self, raw_dir):
    """Betas, masks, events and the pictures that the events name."""
    return self.source.all_files()

  def read(self, raw_dir):
    """Betas, events and pictures, checked against each other."""
    fmri, rois, where = own_raw.read(self.source)
    events, files = self.source.table, self.source.pictures
    number = {name: i for i, name in enumerate(sorted(set(events.categories.values())))}

    def label(picture: str) -> paired.Label:
      category = events.categories.get(picture)
      return paired.Label(number[category], '', category) if category else paired.Label(paired.NO_CLASS, '', picture)

    def picture(name: str) -> np.ndarray:
      file = files[name]
      return pictures.read_square(file, own_raw.MAX_IMAGE_SIZE, str(file), self.source.background)

    train, test = events.pictures('train'), events.pictures('test')
    facts = pictures.survey([files[name] for name in (*train, *test)]) | where
    return paired.Trials(fmri, events.images, rois, train, test, picture, label, sessions=events.sessions, facts=facts)


def prepare(source: own_raw.Source, prepared_dir: str | os.PathLike, subject: str = 'sub-01') -> tuple[str, list[str]]:
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
  mask: tuple[masks.Mask, ...] = (),
  subject: str = 'sub-01',
  scale: float | None = None,
  background: str | None = None,
) -> store.States:
  """`prepare`, from the arguments of the command."""
  source = own_raw.Source(Path(betas), Path(events), Path(images), mask, scale, background)
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
      masks.parse_masks,
    ),
    data_set.Argument('scale', 'the file holds betas times this number, such as 300 (NSD)', 'NUMBER', float),
    data_set.Argument('background', 'colour behind transparent pictures, such as white', 'COLOR'),
    data_set.Argument('subject', 'name of the subject; default: sub-01', 'NAME'),
  ),
)
load = functools.partial(paired_rows.load, DATA_SET)
