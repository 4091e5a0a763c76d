"""Generic Object Decoding (Horikawa & Kamitani 2017): TFDS builder, one config a subject, and the loader of its rows.

god.prepare('data/Kamitani', 'data/prepared')    # or: brainjax prepare god --raw=... --out=...
train = god.load('data/prepared', ['sbj_3'], roi='VC', split='train', image_size=256, num_val_stimuli=100)
val = god.load('data/prepared', ['sbj_3'], roi='VC', split='val', image_size=256, num_val_stimuli=100)
batches = loader.make_loader(train, batch_size=8, seed=0)
next(batches)    # {'fmri': 8 V float32, 'image': 8 256 256 3, 'stimulus': 8, 'class_index': 8, 'subject': 8, ...}
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from brainjax.datasets import data_set, god_bdata, god_raw, paired, paired_rows, store


class God(paired.Builder):
  """TFDS data set `god/sbj_k`: splits train, test (means over repetitions), and test_trials if their order is known."""

  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f'sbj_{k}') for k in range(1, 6)]
  DESCRIPTION = (
    'fMRI responses of one subject to natural pictures, on their raw scale, with the picture seen. `stimulus` '
    'numbers the training pictures from 0, then the test pictures. Training and test categories are disjoint.'
  )
  HOMEPAGE = 'https://github.com/KamitaniLab/GenericObjectDecoding'
  LICENSE = 'CC BY 4.0 (fMRI); the pictures keep the terms of ImageNet'
  CITATION = """@article{horikawa2017generic,
  title = {Generic decoding of seen and imagined objects using hierarchical visual features},
  author = {Horikawa, Tomoyasu and Kamitani, Yukiyasu},
  journal = {Nature Communications}, volume = {8}, pages = {15037}, year = {2017}
}"""

  subjects_in = staticmethod(god_raw.subjects_in)

  def raw_files(self, raw_dir):
    """The files that this subject's data depend on."""
    return god_raw.files_of(raw_dir, self.subject)

  def read(self, raw_dir):
    """The arrays of the subject, pictures and labels."""
    return god_raw.read(raw_dir, self.subject)


def prepare(
  raw: str | os.PathLike, out: str | os.PathLike, subjects: Sequence[str] | None = None, images: str | None = None
) -> store.States:
  """Prepares the published .npz files, or SubjectN.h5 with a folder of `images` (default: `raw`/images).

  Raises:
    UserError: files are missing or do not fit.
  """
  folder = Path(raw)
  if god_bdata.has_files(folder):
    npz = Path(out) / store.NPZ
    written = god_bdata.prepare(folder, Path(images) if images else folder / 'images', npz, subjects)
    print(f'npz: {", ".join(written) or "nothing new"}')
    folder = npz
  return God.prepare(god_raw.find_folder(folder), out, subjects)


def _needs_images(folder: Path) -> bool:
  """Whether the pictures are elsewhere, so that only the command (--images) can find them."""
  return god_bdata.has_files(folder) and not (folder / 'images').is_dir()


def _has_raw(folder: Path) -> bool:
  return god_bdata.has_files(folder) or any((folder / place / god_raw.IMAGES).is_file() for place in ('', 'npz'))


DATA_SET = data_set.DataSet(
  name='god',
  title='Generic Object Decoding: published .npz folder, or SubjectN.h5 of the Kamitani lab',
  builder=God,
  has_raw=_has_raw,
  prepare=prepare,
  arguments=(
    data_set.RAW,
    data_set.SUBJECTS,
    data_set.Argument('images', 'with SubjectN.h5: folder of the stimulus pictures; default: RAW/images'),
  ),
  rois=('VC', 'V1', 'V2', 'V3', 'V4', 'LOC', 'FFA', 'PPA', 'HVC'),
  zscore='subject',  # the paper's way
  raw_field='god',
  origin='https://1drv.ms/u/s!AlmPyF18ti-A3Xec-3-PdsaO230u?e=uL35tO (npz files, a OneDrive page), or figshare 7387130 with the '
  'pictures, for which https://github.com/KamitaniLab/GenericObjectDecoding has a form',
  released_raw_scale=True,
  needs_command=_needs_images,
)
load = functools.partial(paired_rows.load, DATA_SET)
