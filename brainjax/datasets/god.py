"""Generic Object Decoding (Horikawa & Kamitani 2017): TFDS builder, one config a subject, and the loader of its rows.

god.prepare('data/Kamitani', 'data/prepared')    # or: python -m brainjax.prepare god --raw=... --out=...
train = god.load('data/prepared', ['sbj_3'], roi='VC', split='train', image_size=256, num_val_stimuli=100)
val = god.load('data/prepared', ['sbj_3'], roi='VC', split='val', image_size=256, num_val_stimuli=100)
batches = loader.make_loader(train, batch_size=8, seed=0)
next(batches)    # {'fmri': 8 V float32, 'image': 8 256 256 3, 'stimulus': 8, 'class_index': 8, 'subject': 8, ...}
"""

import functools
import os
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import god_raw, paired, paired_rows


class God(paired.Builder):
  """TFDS data set `god/sbj_k`: splits train, test (means over repetitions), and test_trials if its order is known."""

  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f'sbj_{k}') for k in range(1, 6)]
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'The folder with images_256.npz and sbj_k.npz, see data/README.md.'
  ARGUMENTS = 'god --raw=DIR'
  DESCRIPTION = (
    'fMRI responses of one subject to natural pictures, on their raw scale, with the picture seen. `stimulus` '
    'numbers the training pictures from 0, then the test pictures. Training and test categories are disjoint.'
  )
  HOMEPAGE = 'https://github.com/KamitaniLab/GenericObjectDecoding'
  CITATION = """@article{horikawa2017generic,
  title = {Generic decoding of seen and imagined objects using hierarchical visual features},
  author = {Horikawa, Tomoyasu and Kamitani, Yukiyasu},
  journal = {Nature Communications}, volume = {8}, pages = {15037}, year = {2017}
}"""

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
    means = paired.examples(subject.test, np.arange(num_test), test.__getitem__, test_labels, test_numbers)
    splits = {
      'train': (
        len(subject.train),
        paired.examples(subject.train, subject.train_stimulus, train.__getitem__, train_labels, range(num_train)),
      ),
      'test': (num_test, means),
    }
    if subject.trial_stimulus is not None:
      ceiling = paired.explainable_variance(subject.trials, subject.trial_stimulus)
      if ceiling is not None:
        facts['explainable_variance'] = ceiling
      trials = paired.examples(subject.trials, subject.trial_stimulus, test.__getitem__, test_labels, test_numbers)
      splits['test_trials'] = (len(subject.trials), trials)
    else:
      print(
        f'{folder / name}.npz: arr_2 is not the mean of arr_1, whether repetitions stand together or stimuli; arr_2 is used, '
        'and single test trials and noise ceilings are left out'
      )
    return splits


def prepare(
  raw_dir: str | os.PathLike, prepared_dir: str | os.PathLike, subjects: Sequence[str] | None = None
) -> dict[str, tuple[str, list[str]]]:
  """Writes the data sets of `subjects` (default: all); subject -> ('kept', 'built' or 'rebuilt', changed files)."""
  folder = god_raw.find_folder(raw_dir)
  return God.prepare(folder, prepared_dir, god_raw.subjects_in(folder), subjects)


load = functools.partial(paired_rows.load, God)
