"""Your own fMRI of pictures: TFDS builder, one config a subject, and the loader; docs/your_data.md is a worked example.

source = own_raw.Source(Path('betas.npy'), Path('events.tsv'), Path('images'))
own.prepare(source, 'data/prepared', 'sub-01')    # or: python -m brainjax.prepare own --betas=... --events=... ...
train = own.load('data/prepared', ['sub-01'], roi='VC', split='train', image_size=256)
"""

import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import arrays, own_raw, paired, raw, store
from brainjax.errors import UserError

SUBJECT = re.compile(r'[A-Za-z][A-Za-z0-9_-]{0,63}')


class Own(store.Builder):
  """TFDS data set `own/<subject>`: train (single trials), test (means over repetitions), test_trials."""

  VERSION = tfds.core.Version('1.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'Betas, events and pictures, see docs/your_data.md.'
  source: own_raw.Source | None = None  # what to prepare from

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        'fMRI responses of one subject to pictures, on their raw scale. `name` is the category of the picture where the '
        'events table has one, else its file; `class_index` numbers these names in sorted order.'
      ),
      features=paired.features(),
      supervised_keys=('fmri', 'image'),
      homepage='https://bids.neuroimaging.io',
      metadata=store.Metadata(),
      disable_shuffling=True,
    )

  def raw_files(self, raw):
    """Betas, masks, events and the pictures that the events name."""
    return self.source.all_files()

  def _split_generators(self, dl_manager):
    trials, events, files = own_raw.read(self.source)
    number = {name: i for i, name in enumerate(sorted(set(events.categories.values())))}

    def label(picture: str) -> paired.Label:
      category = events.categories[picture]
      return paired.Label(number[category], '', category)

    def read(picture: str) -> np.ndarray:
      return raw.square_picture(files[picture], own_raw.MAX_IMAGE_SIZE, str(files[picture]))

    return paired.splits_of_trials(self.info.metadata, self.builder_config.name, trials, read, label)


def builder(prepared_dir: str | os.PathLike, subject: str, source: own_raw.Source | None = None) -> Own:
  """The TFDS builder of one subject; `source` is needed to prepare only."""
  if not SUBJECT.fullmatch(subject):
    raise UserError(f'subject {subject[:70]!r}: expected a letter, then letters, digits, _ or -, such as sub-01')

  class OwnSubject(Own, skip_registration=True):
    name = 'own'
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=subject)]  # a config that the class does not list is warned of

  made = OwnSubject(data_dir=os.fspath(prepared_dir), config=subject)
  made.source = source
  return made


def prepare(source: own_raw.Source, prepared_dir: str | os.PathLike, subject: str = 'sub-01') -> tuple[str, list[str]]:
  """Writes one subject's data set; ('kept', 'built' or 'rebuilt', changed files)."""
  if not source.images.is_dir():
    raise UserError(f'{source.images}: no such folder; expected that of the pictures')
  return store.prepare(lambda out: builder(out, subject, source), source.images, prepared_dir)


def load(
  prepared_dir: str | os.PathLike,
  subjects: Sequence[str],
  roi: str | Sequence[str] = own_raw.ALL,
  split: str = 'train',
  **options,
) -> arrays.ArrayDataset:
  """Training-ready rows of one split; the options are those of `paired.load`."""

  def opened(subject):
    return store.open_prepared(lambda folder: builder(folder, subject), prepared_dir, 'own --betas=FILE --events=FILE --images=DIR')

  return paired.load(opened, subjects, roi, split, **options)
