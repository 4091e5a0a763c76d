"""BOLD5000 (Chang et al. 2019, GLMsingle betas of 2021): TFDS builder, one config a subject, and the loader.

bold5000.prepare('data/BOLD5000', 'data/prepared')    # or: python -m brainjax.prepare bold5000 --raw=... --out=...
train = bold5000.load('data/prepared', ['CSI1'], roi='VC', split='train', image_size=256)
"""

import functools
import re

import tensorflow_datasets as tfds

from brainjax.datasets import bold5000_raw, data_set, paired, paired_rows, pictures

IMAGENET = re.compile(r'(n\d{8})_\d+\.jpe?g', re.IGNORECASE)  # n01440764_10110.JPEG


def label(picture: str) -> paired.Label:
  """Pictures of ImageNet have a WordNet id in their name; nothing says what those of COCO and SUN show."""
  match = IMAGENET.fullmatch(picture)
  return paired.Label(paired.NO_CLASS, match[1].lower() if match else '', picture)


class Bold5000(paired.Builder):
  """TFDS data set `bold5000/CSIk`: train (pictures shown once), test (means over repeated pictures), test_trials."""

  VERSION = tfds.core.Version('1.1.0')  # 1.0.0 had no WordNet ids
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f'CSI{k}') for k in range(1, 5)]
  DESCRIPTION = 'fMRI betas of one subject for pictures of scenes, COCO and ImageNet. `name` is the picture file.'
  HOMEPAGE = 'https://bold5000-dataset.github.io/website/'
  LICENSE = 'CC0 (betas); the pictures keep the terms of SUN, COCO and ImageNet'
  CITATION = """@article{chang2019bold5000,
  title = {{BOLD5000}, a public {fMRI} dataset while viewing 5000 visual images},
  author = {Chang, Nadine and Pyles, John A. and Marcus, Austin and Gupta, Abhinav and others},
  journal = {Scientific Data}, volume = {6}, pages = {49}, year = {2019}
}"""

  subjects_in = staticmethod(bold5000_raw.subjects_in)

  def raw_files(self, raw_dir):
    """The files that this subject's data depend on."""
    return bold5000_raw.files_of(raw_dir, self.subject)

  def read(self, raw_dir):
    """Betas, pictures of each presentation, and all pictures."""
    subject = bold5000_raw.read_subject(raw_dir, self.subject)
    stimuli = bold5000_raw.read_stimuli(raw_dir, subject)
    facts = pictures.survey([stimuli.table[name] for name in (*stimuli.train, *stimuli.test)])
    return paired.Trials(
      subject.fmri, subject.names, subject.rois, stimuli.train, stimuli.test, stimuli.picture, label, facts=facts
    )


DATA_SET = data_set.DataSet(
  name='bold5000',
  title='BOLD5000: GLMsingle ROI betas, presentation lists and stimuli',
  builder=Bold5000,
  has_raw=lambda folder: (folder / bold5000_raw.BETAS).is_dir(),
  rois=('VC', *bold5000_raw.ROIS),
  zscore='subject',  # the paper's way
  raw_field='bold5000',
)
prepare = Bold5000.prepare
load = functools.partial(paired_rows.load, DATA_SET)
