"""BOLD5000 (Chang et al. 2019, GLMsingle betas of 2021): TFDS builder, one config a subject, and the loader.

bold5000.prepare('data/BOLD5000', 'data/prepared')    # or: python -m brainjax.prepare bold5000 --raw=... --out=...
train = bold5000.load('data/prepared', ['CSI1'], roi='VC', split='train', image_size=256)
"""

import os
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from brainjax.datasets import arrays, bold5000_raw, paired, store
from brainjax.errors import UserError

CITATION = """@article{chang2019bold5000,
  title = {{BOLD5000}, a public {fMRI} dataset while viewing 5000 visual images},
  author = {Chang, Nadine and Pyles, John A. and Marcus, Austin and Gupta, Abhinav and others},
  journal = {Scientific Data}, volume = {6}, pages = {49}, year = {2019}
}"""
NO_CLASS = -1  # BOLD5000 pictures carry no ImageNet class


class Bold5000(store.Builder):
  """TFDS data set `bold5000/CSIk`: train (pictures shown once), test (means over repeated pictures), test_trials."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f'CSI{k}') for k in range(1, 5)]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'The folder with BOLD5000_GLMsingle_ROI_betas and BOLD5000_Stimuli, see data/README.md.'
  )

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description='fMRI betas of one subject for pictures of scenes, COCO and ImageNet. `name` is the picture file.',
      features=paired.features(),
      supervised_keys=('fmri', 'image'),
      homepage='https://bold5000-dataset.github.io/website/',
      citation=CITATION,
      metadata=store.Metadata(),
      disable_shuffling=True,
    )

  def raw_files(self, raw):
    """The files that this subject's data depend on."""
    return bold5000_raw.files_of(Path(raw), self.builder_config.name)

  def _split_generators(self, dl_manager):
    folder, name = Path(dl_manager.manual_dir), self.builder_config.name
    subject = bold5000_raw.read_subject(folder, name)
    stimuli = bold5000_raw.read_stimuli(folder, subject)
    trials = paired.Trials(subject.fmri, subject.names, subject.rois, stimuli.train, stimuli.test)
    return paired.splits_of_trials(
      self.info.metadata, name, trials, stimuli.picture, lambda picture: paired.Label(NO_CLASS, '', picture)
    )


def builder(prepared_dir: str | os.PathLike, subject: str) -> Bold5000:
  """The TFDS builder of one subject."""
  config = Bold5000.builder_configs.get(subject) or tfds.core.BuilderConfig(name=subject)
  return Bold5000(data_dir=os.fspath(prepared_dir), config=config)


def prepare(
  raw_dir: str | os.PathLike, prepared_dir: str | os.PathLike, subjects: Sequence[str] | None = None
) -> dict[str, tuple[str, list[str]]]:
  """Writes the data sets of `subjects` (default: all); subject -> ('kept', 'built' or 'rebuilt', changed files)."""
  folder = Path(raw_dir)
  known = bold5000_raw.subjects_in(folder)
  unknown = [name for name in subjects or [] if name not in known]
  if unknown:
    raise UserError(f'{folder}: no betas of subject {", ".join(unknown)}; those that exist: {", ".join(known)}')
  return {
    name: store.prepare(lambda out, name=name: builder(out, name), folder, prepared_dir) for name in subjects or known
  }


def load(
  prepared_dir: str | os.PathLike,
  subjects: Sequence[str],
  roi: str | Sequence[str] = 'VC',
  split: str = 'train',
  **options,
) -> arrays.ArrayDataset:
  """Training-ready rows of one split; the options are those of `paired.load`."""

  def opened(subject):
    return store.open_prepared(lambda folder: builder(folder, subject), prepared_dir, 'bold5000 --raw=DIR')

  return paired.load(opened, subjects, roi, split, **options)
