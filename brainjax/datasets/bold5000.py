"""BOLD5000 (Chang et al. 2019, GLMsingle betas of 2021): TFDS builder, one config a subject, and the loader.

bold5000.prepare('data/BOLD5000', 'data/prepared')    # or: python -m brainjax.prepare bold5000 --raw=... --out=...
train = bold5000.load('data/prepared', ['CSI1'], roi='VC', split='train', image_size=256)
"""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from brainjax.datasets import bold5000_raw, paired, paired_rows

IMAGENET = re.compile(r'(n\d{8})_\d+\.jpe?g', re.IGNORECASE)  # n01440764_10110.JPEG


def label(picture: str) -> paired.Label:
  """Pictures of ImageNet have a WordNet id in their name; what those of COCO and SUN show is not told."""
  match = IMAGENET.fullmatch(picture)
  return paired.Label(paired.NO_CLASS, match[1].lower() if match else '', picture)


class Bold5000(paired.Builder):
  """TFDS data set `bold5000/CSIk`: train (pictures shown once), test (means over repeated pictures), test_trials."""

  VERSION = tfds.core.Version('1.1.0')  # 1.0.0 had no WordNet ids
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f'CSI{k}') for k in range(1, 5)]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'The folder with BOLD5000_GLMsingle_ROI_betas and BOLD5000_Stimuli, see data/README.md.'
  )
  ARGUMENTS = 'bold5000 --raw=DIR'
  DESCRIPTION = 'fMRI betas of one subject for pictures of scenes, COCO and ImageNet. `name` is the picture file.'
  HOMEPAGE = 'https://bold5000-dataset.github.io/website/'
  CITATION = """@article{chang2019bold5000,
  title = {{BOLD5000}, a public {fMRI} dataset while viewing 5000 visual images},
  author = {Chang, Nadine and Pyles, John A. and Marcus, Austin and Gupta, Abhinav and others},
  journal = {Scientific Data}, volume = {6}, pages = {49}, year = {2019}
}"""

  def raw_files(self, raw):
    """The files that this subject's data depend on."""
    return bold5000_raw.files_of(Path(raw), self.builder_config.name)

  def _split_generators(self, dl_manager):
    folder, name = Path(dl_manager.manual_dir), self.builder_config.name
    subject = bold5000_raw.read_subject(folder, name)
    stimuli = bold5000_raw.read_stimuli(folder, subject)
    trials = paired.Trials(subject.fmri, subject.names, subject.rois, stimuli.train, stimuli.test)
    return paired.splits_of_trials(self.info.metadata, name, trials, stimuli.picture, label)


def prepare(
  raw_dir: str | os.PathLike, prepared_dir: str | os.PathLike, subjects: Sequence[str] | None = None
) -> dict[str, tuple[str, list[str]]]:
  """Writes the data sets of `subjects` (default: all); subject -> ('kept', 'built' or 'rebuilt', changed files)."""
  folder = Path(raw_dir)
  return Bold5000.prepare(folder, prepared_dir, bold5000_raw.subjects_in(folder), subjects)


load = functools.partial(paired_rows.load, Bold5000)
