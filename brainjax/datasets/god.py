"""Generic Object Decoding (Horikawa & Kamitani 2017): TFDS builder, one config a subject, and the loader of its rows.

god.prepare('data/Kamitani', 'data/prepared')    # or: python -m brainjax.prepare god --raw=... --out=...
train = god.load('data/prepared', ['sbj_3'], roi='VC', split='train', image_size=256, num_val_stimuli=100)
val = god.load('data/prepared', ['sbj_3'], roi='VC', split='val', image_size=256, num_val_stimuli=100)
batches = loader.make_loader(train, batch_size=8, seed=0)
next(batches)    # {'fmri': 8 V float32, 'image': 8 256 256 3, 'stimulus': 8, 'class_index': 8, 'subject': 8, ...}
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import arrays, god_raw, paired, store
from brainjax.errors import UserError

CITATION = """@article{horikawa2017generic,
  title = {Generic decoding of seen and imagined objects using hierarchical visual features},
  author = {Horikawa, Tomoyasu and Kamitani, Yukiyasu},
  journal = {Nature Communications}, volume = {8}, pages = {15037}, year = {2017}
}"""


class God(store.Builder):
  """TFDS data set `god/sbj_k`: splits train, test (means over repetitions), and test_trials if its order is known."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f'sbj_{k}') for k in range(1, 6)]
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'The folder with images_256.npz and sbj_k.npz, see data/README.md.'

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        'fMRI responses of one subject to natural pictures, on their raw scale, with the picture seen. `stimulus` '
        'numbers the training pictures from 0, then the test pictures. Training and test categories are disjoint.'
      ),
      features=paired.features(),
      supervised_keys=('fmri', 'image'),
      homepage='https://github.com/KamitaniLab/GenericObjectDecoding',
      citation=CITATION,
      metadata=store.Metadata(),
      disable_shuffling=True,
    )

  def raw_files(self, raw):
    """The files that this subject's data depend on."""
    return god_raw.files_of(god_raw.find_folder(raw), self.builder_config.name)

  def _split_generators(self, dl_manager):
    folder = god_raw.find_folder(dl_manager.manual_dir)
    stimuli = god_raw.read_stimuli(folder)
    num_train, num_test = len(stimuli.images['train']), len(stimuli.images['test'])
    name = self.builder_config.name
    subject = god_raw.read_subject(folder, name, num_train, num_test)
    facts = self.info.metadata
    facts.update(
      subject=name,
      num_voxels=subject.train.shape[1],
      rois={roi: int(mask.sum()) for roi, mask in subject.rois.items()},
      num_train_stimuli=num_train,
      num_test_stimuli=num_test,
      stimuli_sha256=facts['raw_files'][god_raw.IMAGES]['sha256'],
      image_size=stimuli.images['train'].shape[1],
      repetitions=len(subject.trials) // num_test,
      trial_order='known' if subject.trial_stimulus is not None else 'unknown: trials do not average to arr_2',
      **{f'roi/{roi}': mask for roi, mask in subject.rois.items()},
    )
    train, test = stimuli.images['train'], stimuli.images['test']
    train_labels, test_labels = stimuli.labels['train'], stimuli.labels['test']
    test_numbers = range(num_train, num_train + num_test)
    means = paired.examples(subject.test, np.arange(num_test), test, test_labels, test_numbers)
    splits = {
      'train': (
        len(subject.train),
        paired.examples(subject.train, subject.train_stimulus, train, train_labels, range(num_train)),
      ),
      'test': (num_test, means),
    }
    if subject.trial_stimulus is not None:
      ceiling = paired.explainable_variance(subject.trials, subject.trial_stimulus)
      if ceiling is not None:
        facts['explainable_variance'] = ceiling
      trials = paired.examples(subject.trials, subject.trial_stimulus, test, test_labels, test_numbers)
      splits['test_trials'] = (len(subject.trials), trials)
    return splits


def builder(prepared_dir: str | os.PathLike, subject: str) -> God:
  """The TFDS builder of one subject, whatever its number."""
  config = God.builder_configs.get(subject) or tfds.core.BuilderConfig(name=subject)
  return God(data_dir=os.fspath(prepared_dir), config=config)


def prepare(
  raw_dir: str | os.PathLike, prepared_dir: str | os.PathLike, subjects: Sequence[str] | None = None
) -> dict[str, tuple[str, list[str]]]:
  """Writes the data sets of `subjects` (default: all); subject -> ('kept', 'built' or 'rebuilt', changed files)."""
  folder = god_raw.find_folder(raw_dir)
  known = god_raw.subjects_in(folder)
  unknown = [name for name in subjects or [] if name not in known]
  if unknown:
    raise UserError(f'{folder}: no file of subject {", ".join(unknown)}; those that exist: {", ".join(known)}')
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
  return paired.load(lambda subject: _open(prepared_dir, subject), subjects, roi, split, **options)


def _open(prepared_dir: str | os.PathLike, subject: str) -> God:
  return store.open_prepared(lambda folder: builder(folder, subject), prepared_dir, 'god --raw=DIR')


def metadata(prepared_dir: str | os.PathLike, subject: str) -> Mapping:
  """A prepared subject's facts: num_voxels, rois, explainable_variance `V`, 'roi/<name>' masks, raw_files, ..."""
  return _open(prepared_dir, subject).info.metadata


def is_prepared(prepared_dir: str | os.PathLike, subjects: Sequence[str]) -> bool:
  """Whether all these subjects' data are there (whether the raw files still agree is for `prepare` to say)."""
  return all(store.is_prepared(lambda folder, name=name: builder(folder, name), prepared_dir) for name in subjects)
