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

from brainjax.datasets import data_set, own_raw, paired, paired_rows, raw, store
from brainjax.errors import UserError


class Own(paired.Builder):
  """TFDS data set `own/<subject>`: train (single trials), test (means over repetitions), test_trials."""

  VERSION = tfds.core.Version('1.1.0')  # 1.0.0 made a category of each file name
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
    fmri, rois, events, files = own_raw.read(self.source)
    number = {name: i for i, name in enumerate(sorted(set(events.categories.values())))}

    def label(picture: str) -> paired.Label:
      category = events.categories.get(picture)
      return paired.Label(number[category], '', category) if category else paired.Label(paired.NO_CLASS, '', picture)

    def picture(name: str) -> np.ndarray:
      return raw.square_picture(files[name], own_raw.MAX_IMAGE_SIZE, str(files[name]))

    return paired.Trials(fmri, events.images, rois, events.pictures('train'), events.pictures('test'), picture, label)


def prepare(source: own_raw.Source, prepared_dir: str | os.PathLike, subject: str = 'sub-01') -> tuple[str, list[str]]:
  """Writes one subject's data set; ('kept', 'built' or 'rebuilt', changed files)."""
  if not source.images.is_dir():
    raise UserError(f'{source.images}: no such folder; expected that of the pictures')

  def builder(out: str) -> Own:
    made = Own.of(out, subject)
    made.source = source
    return made

  return store.prepare(builder, source.images, prepared_dir)


def prepare_files(
  betas: str, events: str, images: str, out: str | os.PathLike, mask: str = '', subject: str = 'sub-01'
) -> store.States:
  """`prepare`, from the arguments of the command."""
  masks = tuple(Path(path) for path in mask.split(',')) if mask else ()
  source = own_raw.Source(Path(betas), Path(events), Path(images), masks)
  return {f'own/{subject}': prepare(source, out, subject)}


DATA_SET = data_set.DataSet(
  name='own',
  title='your own fMRI of pictures, see docs/your_data.md',
  builder=Own,
  has_raw=lambda folder: False,  # the user names its files
  prepare=prepare_files,
  arguments=(
    data_set.Argument('betas', '.npy (trials, voxels), or 4-D .nii/.nii.gz', 'FILE', required=True),
    data_set.Argument('events', '.tsv, one row a trial: image, split (train or test), category', 'FILE', required=True),
    data_set.Argument('images', 'folder of the pictures', required=True),
    data_set.Argument('mask', 'one or more, comma-separated; each is an ROI named like its file', 'FILES'),
    data_set.Argument('subject', 'name of the subject; default: sub-01', 'NAME'),
  ),
)
load = functools.partial(paired_rows.load, DATA_SET)
