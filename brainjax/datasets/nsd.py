"""Natural Scenes Dataset (Allen et al. 2022): TFDS builder, one config a subject, and the loader of its rows.

nsd.prepare('data/NSD', 'data/prepared', ['subj01'])    # or: brainjax prepare nsd --raw=... --out=...
train = nsd.load('data/prepared', ['subj01'], roi='V1+V2', split='train', image_size=256, zscore='voxel_session')

It reads the release of NSD (betas in func1pt8mm, ROIs, design, stimuli) and the files that MindEye2 prepared from it, in any mixture.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import (
  data_set,
  neuroimaging,
  nsd_betas,
  nsd_design,
  nsd_files,
  nsd_rois,
  paired,
  paired_rows,
  pictures,
  store,
)
from brainjax.datasets.masks import WHOLE
from brainjax.errors import UserError
from brainjax.raw_layout import NSD_TRIALS

IMAGE_SIZE = 256  # larger pictures (425 pixels as published) are reduced to this side
PICTURES = {'imgBrick': 'uint8', 'images': 'float16'}  # array of the stimuli in each format -> their numbers


class Source(NamedTuple):
  """What the data of a subject are made from, once its betas are converted."""

  folder: Path  # of the converted sessions
  sessions: nsd_betas.Sessions
  chosen: nsd_rois.Chosen | None
  design: nsd_design.Design
  design_files: dict[str, Path]
  stimuli: Path
  num_pictures: int


class Nsd(paired.Builder):
  """TFDS data set `nsd/subj01`: train (single trials), test (means over the shared pictures), test_trials."""

  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f'subj0{k}') for k in range(1, 9)]
  DESCRIPTION = (
    'fMRI betas of one subject (7 T, 1.8 mm) for pictures of COCO, in per cent signal change, or as MindEye2 z-scored them. The '
    'pictures that all subjects share are the test set. `name` is nsd and the number of the picture among 73,000, from 0.'
  )
  HOMEPAGE = 'https://naturalscenesdataset.org'
  LICENSE = 'The NSD Terms and Conditions; the pictures keep the terms of COCO'
  CITATION = """@article{allen2022massive,
  title = {A massive {7T} {fMRI} dataset to bridge cognitive neuroscience and artificial intelligence},
  author = {Allen, Emily J. and St-Yves, Ghislain and Wu, Yihan and Breedlove, Jesse L. and others},
  journal = {Nature Neuroscience}, volume = {25}, pages = {116--126}, year = {2022}
}"""
  source: Source | None = None  # what to prepare from

  def raw_files(self, raw_dir):
    """The converted sessions and the design. The stimuli (39 GB) are there by name and size, so that nobody sums them."""
    stimuli = f'{self.source.stimuli.name}, {self.source.stimuli.stat().st_size} bytes'
    return {
      **{path.name: path for path in self.source.sessions.files},
      **{f'{name}; pictures of {stimuli}': path for name, path in self.source.design_files.items()},
      nsd_betas.SOURCE: self.source.folder / nsd_betas.SOURCE,
    }

  def read(self, raw_dir):
    """Betas, the picture of each trial, and all pictures."""
    source, (shown, shared) = self.source, self.source.design
    is_test = np.isin(np.arange(source.num_pictures), shared)
    name = lambda picture: f'nsd{picture:05d}'
    places = {} if source.chosen is None else source.chosen.where
    rois = {WHOLE: np.ones(source.sessions.shape[1], bool)} if source.chosen is None else source.chosen.rois
    return paired.Trials(
      source.sessions,
      [name(picture) for picture in shown.tolist()],
      rois,
      [name(picture) for picture in np.flatnonzero(~is_test)],
      [name(picture) for picture in np.flatnonzero(is_test)],
      lambda text: read_picture(source.stimuli, int(text.removeprefix('nsd'))),
      lambda text: paired.Label(paired.NO_CLASS, '', text),
      sessions=[f'session{1 + trial // NSD_TRIALS:02d}' for trial in range(len(shown))],
      facts=places,
    )


def _count_pictures(path: Path) -> int:
  with neuroimaging.open_hdf5(path, PICTURES) as (name, item):
    is_right = item.ndim == 4 and item.dtype == PICTURES[name] and item.shape[3 if name == 'imgBrick' else 1] == 3
    if not is_right:
      raise UserError(
        f'{path}: {name} is {item.dtype} of shape {item.shape}; expected {PICTURES[name]} of shape '
        + ('(73000, 425, 425, 3)' if name == 'imgBrick' else '(73000, 3, 224, 224)')
      )
    return len(item)


def read_picture(path: Path, number: int) -> np.ndarray:
  """One of the stimuli, counted from 0: `H H 3` uint8, at most 256 pixels a side.

  Raises:
    UserError: the file is damaged, or holds nothing there.
  """
  with neuroimaging.open_hdf5(path, PICTURES) as (name, item):
    pixels = item[number]
  if name == 'images':  # 3 H W, 0 to 1
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
      raise UserError(f'{path}: picture {number} has values from {pixels.min()} to {pixels.max()}; expected 0 to 1')
    pixels = np.round(255 * np.moveaxis(pixels, 0, 2).astype(np.float32)).astype(np.uint8)
  if not pixels.any():
    raise UserError(f'{path}: picture {number} (counted from 0) is empty, but it was shown; download the file again')
  return pictures.read_square(pixels, IMAGE_SIZE, f'{path}: picture {number}')


def _source(
  found: nsd_files.Found, subject: str, out: Path, rois: str, version: str | None, scale: float | None
) -> Source:
  """Finds and checks what a subject needs, and converts its betas."""
  version, files = found.version(subject, version)
  stimuli, design_files = found.stimuli, found.design(subject)
  masks, chosen, columns = found.rois.get(subject, {}), None, None
  where = f'{found.folder}: {subject}'
  if version != nsd_files.MIND_EYE:
    chosen = nsd_rois.choose(masks, rois, where)
  elif nsd_rois.DEFAULT in masks or rois != nsd_rois.DEFAULT:
    general = nsd_rois.choose(masks, nsd_rois.DEFAULT, where)
    chosen = nsd_rois.choose(masks, rois, where).within(general.mask)
    columns = chosen.mask[general.mask]
  betas = nsd_betas.Source(version, files, chosen, columns, scale)
  design = nsd_design.read(design_files, subject, NSD_TRIALS * betas.num_sessions())
  num_pictures = _count_pictures(stimuli)
  if (last := max(design.pictures.max(), design.shared.max())) >= num_pictures:
    raise UserError(f'{stimuli}: {num_pictures} pictures, but picture {last} (counted from 0) was shown')
  folder = out / store.NPZ / 'nsd' / subject  # all is checked that can be before this, which takes minutes
  sessions = nsd_betas.convert(betas, folder, subject)
  return Source(folder, sessions, chosen, design, design_files, stimuli, num_pictures)


def prepare(
  raw: str | os.PathLike,
  out: str | os.PathLike,
  subjects: Sequence[str] | None = None,
  rois: str = nsd_rois.DEFAULT,
  betas: str | None = None,
  scale: float | None = None,
) -> store.States:
  """Prepares the subjects below a folder.

  Args:
    raw: folder of NSD or of MindEye2's files.
    out: of all prepared data sets.
    subjects: names; None: all found.
    rois: the voxels to store, see `nsd_rois`.
    betas: version of the betas, the name of their folder, or mindeye2; None: see `nsd_files.Found.version`.
    scale: see `nsd_betas.Source`.

  Raises:
    UserError: files are missing or do not fit.
  """
  if scale is not None and not 0 < scale < float('inf'):
    raise UserError(f'--scale={scale:g}; expected a positive number, such as 300')
  found = nsd_files.find(Path(raw))
  states = {}
  for name in paired.select_subjects(found.betas, subjects, Path(raw)):
    source = _source(found, name, Path(out), rois, betas, scale)

    def builder(folder: str, name: str = name, source: Source = source) -> Nsd:
      builder = Nsd.of(folder, name)
      builder.source = source
      return builder

    states[f'nsd/{name}'] = store.prepare(builder, Path(raw), out)
  return states


DATA_SET = data_set.DataSet(
  name='nsd',
  title='Natural Scenes Dataset: betas in func1pt8mm, ROIs, design and stimuli, or the files of MindEye2',
  builder=Nsd,
  has_raw=nsd_files.has_files,
  prepare=prepare,
  arguments=(
    data_set.RAW,
    data_set.SUBJECTS,
    data_set.Argument(
      'rois', 'voxels to store: areas, ROI files or labels, such as V1+V2 or HCP_MMP1:1; default: nsdgeneral', 'NAMES'
    ),
    data_set.Argument(
      'betas',
      f'version of the betas (the name of their folder), or mindeye2; default: {nsd_files.BETAS}, or the only one there',
      'NAME',
    ),
    data_set.Argument(
      'scale', 'the files hold betas times this number; default: 300 for whole numbers', 'NUMBER', float
    ),
  ),
  zscore='voxel_session',
  raw_field='nsd',
  origin='https://naturalscenesdataset.org (needs its data access form)',
  needs_command=nsd_files.has_files,  # --rois, --betas
)
load = functools.partial(paired_rows.load, DATA_SET)
