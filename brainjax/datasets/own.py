"""Your own fMRI of pictures: TFDS builder, one config a subject, and the loader; docs/your_data.md is a worked example.

source = own_raw.Source(Path('betas.npy'), Path('events.tsv'), Path('images'))
own.prepare(source, 'data/prepared', 'sub-01')    # or: python -m brainjax.prepare own --betas=... --events=... ...
train = own.load('data/prepared', ['sub-01'], roi='VC', split='train', image_size=256)
"""

import functools
import os

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import own_raw, paired, paired_rows, raw, store
from brainjax.errors import UserError


class Own(paired.Builder):
  """TFDS data set `own/<subject>`: train (single trials), test (means over repetitions), test_trials."""

  VERSION = tfds.core.Version('1.1.0')  # 1.0.0 made a category of each file name
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'Betas, events and pictures, see docs/your_data.md.'
  ARGUMENTS = 'own --betas=FILE --events=FILE --images=DIR'
  DESCRIPTION = (
    'fMRI responses of one subject to pictures, on their raw scale. `name` is the category of the picture where the '
    'events table has one, else its file; `class_index` numbers the categories in sorted order and is -1 without one.'
  )
  HOMEPAGE = 'https://bids.neuroimaging.io'
  source: own_raw.Source | None = None  # what to prepare from

  def raw_files(self, raw):
    """Betas, masks, events and the pictures that the events name."""
    return self.source.all_files()

  def _split_generators(self, dl_manager):
    trials, events, files = own_raw.read(self.source)
    number = {name: i for i, name in enumerate(sorted(set(events.categories.values())))}

    def label(picture: str) -> paired.Label:
      category = events.categories.get(picture)
      return paired.Label(number[category], '', category) if category else paired.Label(paired.NO_CLASS, '', picture)

    def read(picture: str) -> np.ndarray:
      return raw.square_picture(files[picture], own_raw.MAX_IMAGE_SIZE, str(files[picture]))

    return paired.splits_of_trials(self.info.metadata, self.builder_config.name, trials, read, label)


def prepare(source: own_raw.Source, prepared_dir: str | os.PathLike, subject: str = 'sub-01') -> tuple[str, list[str]]:
  """Writes one subject's data set; ('kept', 'built' or 'rebuilt', changed files)."""
  if not source.images.is_dir():
    raise UserError(f'{source.images}: no such folder; expected that of the pictures')

  def builder(out: str) -> Own:
    made = Own.of(out, subject)
    made.source = source
    return made

  return store.prepare(builder, source.images, prepared_dir)


load = functools.partial(paired_rows.load, Own)
