"""MOSAIC (Lahner et al.): eight data sets in one cortical space, fsLR32k; TFDS builder, and the loader of its rows.

mosaic.prepare('data/MOSAIC', 'data/prepared', ['sub-01_GOD'])     # or: brainjax prepare mosaic --raw=... --out=...
train = mosaic.load('data/prepared', ['sub-01_GOD', 'sub-02_NSD'], roi='V1+V2', split='train', image_size=256)

Stimuli have the same number in the data of every subject, and voxels are the same vertices: any subjects can be loaded
together.
"""

import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brainjax.datasets import (
  bold5000,
  data_set,
  glasser,
  mosaic_betas,
  mosaic_raw,
  paired,
  paired_rows,
  pictures,
  store,
)
from brainjax.errors import UserError

IMAGE_SIZE = 256  # larger pictures are reduced to this side
PARTIAL = '.mosaic'  # folder below --out for the rows of a subject that is being prepared


class Mosaic(paired.Builder):
  """TFDS data set `mosaic/sub-01_GOD`: train (single trials), test (means over repetitions), test_trials."""

  DESCRIPTION = (
    'Single-trial fMRI betas of one subject for pictures and videos (one frame of each), on vertices of the fsLR32k surface. '
    '`name` is the stimulus file.'
  )
  HOMEPAGE = 'https://github.com/blahner/mosaic-preprocessing'
  LICENSE = 'of the original data sets; the stimuli keep the terms of their sources'
  CITATION = """@article{lahner2025mosaic,
  title = {A scalable framework for {fMRI} dataset aggregation and modeling of human vision},
  author = {Lahner, Benjamin and Deb, Mayukh and Murty, N. Apurva Ratan and Oliva, Aude},
  year = {2025}, note = {https://blahner.github.io/MOSAICfmri}
}"""
  files: mosaic_raw.Files
  rois: str
  partial: Path

  @classmethod
  def subjects_in(cls, raw_dir):
    """Names of the subjects whose betas are there."""
    return list(mosaic_raw.find(raw_dir).betas)

  def raw_files(self, raw_dir):
    """Betas, lists, and the pictures that the subject saw. Other areas make other data."""
    lists = {path.name: path for path in self.files.lists(self.subject).values()}
    betas = self.files.betas[self.subject]
    return {f'{betas.name} --rois={self.rois}': betas} | lists | {f'stimuli/{k}': v for k, v in self._pictures.items()}

  @functools.cached_property
  def _split(self) -> mosaic_raw.Split:
    return self.files.split(self.subject)

  @functools.cached_property
  def _pictures(self) -> dict[str, Path]:
    return self.files.find_pictures(sorted(set(self._split.trials.values())))

  def read(self, raw_dir):
    """Betas of the chosen areas, with the stimulus of each trial."""
    split, parcels = self._split, glasser.select(self.rois)
    columns = np.concatenate(list(glasser.columns(parcels).values()))
    fmri, names, remarks = mosaic_betas.read(
      self.files.betas[self.subject], split.trials, split.train, columns, self.partial / self.subject, self.subject
    )
    for part, stimuli in (('train', split.train), ('test', split.test)):
      if not set(stimuli) & set(names):
        raise UserError(
          f'{self.files.betas[self.subject]}: none of its trials is a {part} trial by {split.path}; expected some'
        )
    if remarks:
      print('\n'.join(remarks), flush=True)
    shown = [self._pictures.get(name) for name in (*split.train, *split.test)]
    return paired.Trials(
      fmri,
      names,
      glasser.masks(parcels),
      split.train,
      split.test,
      lambda name: pictures.read_square(self._pictures[name], IMAGE_SIZE, str(self._pictures[name])),
      bold5000.label,
      facts={'vertices': columns, 'split': split.path.name, **pictures.survey(shown)},
    )


def prepare(
  raw: str | os.PathLike, out: str | os.PathLike, subjects: Sequence[str] | None = None, rois: str = 'visual'
) -> store.States:
  """Writes the data sets of `subjects` (default: all below the folder `raw`) below the folder `out`.

  Args:
    raw: folder of the files, at any depth.
    out: folder of all prepared data sets.
    subjects: such as ['sub-01_GOD'].
    rois: areas to store, see `glasser.select`.

  Raises:
    UserError: files are missing, damaged or do not fit.
  """
  glasser.select(rois)
  files, partial = mosaic_raw.find(Path(raw)), Path(out) / PARTIAL
  states = {}
  for name in paired.select_subjects(files.betas, subjects, Path(raw)):

    def builder(data_dir: str, name: str = name) -> Mosaic:
      made = Mosaic.of(data_dir, name)
      made.files, made.rois, made.partial = files, rois, partial
      return made

    states[f'mosaic/{name}'] = store.prepare(builder, Path(raw), out)
    shutil.rmtree(partial / name, ignore_errors=True)
  if partial.is_dir() and not any(partial.iterdir()):
    partial.rmdir()
  return states


DATA_SET = data_set.DataSet(
  name='mosaic',
  title='MOSAIC: one HDF5 file a subject, stimuli, stiminfo and split',
  builder=Mosaic,
  has_raw=mosaic_raw.has_files,
  prepare=prepare,
  arguments=(
    data_set.RAW,
    data_set.SUBJECTS,
    data_set.Argument('rois', 'areas of Glasser (2016), groups or unions joined by +; default: visual', 'ROIS'),
  ),
  raw_field='mosaic',
  origin='https://github.com/blahner/mosaic-preprocessing',
  needs_command=mosaic_raw.has_files,  # --rois
)
load = functools.partial(paired_rows.load, DATA_SET)
