"""Data sets of fMRI with the picture seen: their TFDS builder, one config a subject, and what their examples hold.

The features are fmri, image, stimulus, class_index, wordnet_id and name, the splits train and test, and the metadata
have 'roi/<name>' masks, num_train_stimuli and stimuli_sha256. Training stimuli are numbered 0 .. num_train_stimuli - 1,
test stimuli come after them. `paired_rows` reads such data sets.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Self

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import raw, store, transforms
from brainjax.errors import UserError

NO_CLASS = -1  # class index of a picture whose category is not known; its name is then that of its file
SUBJECT = re.compile(r'[A-Za-z][A-Za-z0-9_-]{0,63}')


class Builder(store.Builder, skip_registration=True):
  """One TFDS config a subject. A subclass fills in the texts, `raw_files` and `_split_generators`."""

  VERSION = tfds.core.Version('1.0.0')
  DESCRIPTION = HOMEPAGE = CITATION = ''
  ARGUMENTS = ''  # of `python -m brainjax.prepare`, told where the data are not there

  def _info(self):
    return self.about(features(), self.DESCRIPTION, self.HOMEPAGE, self.CITATION, ('fmri', 'image'))

  @classmethod
  def of(cls, prepared_dir: str | os.PathLike, subject: str) -> Self:
    """The builder of a subject, whether the class lists it or not. A folder gets its name, so that is checked."""
    if not SUBJECT.fullmatch(subject):
      raise UserError(f'subject {subject[:70]!r}: expected a letter, then letters, digits, _ or -, such as sub-01')

    class OneSubject(cls, skip_registration=True):
      name = cls.name
      BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=subject)]  # a config that the class does not list is warned of

    return OneSubject(data_dir=os.fspath(prepared_dir), config=subject)

  @classmethod
  def prepare(
    cls, folder: Path, prepared_dir: str | os.PathLike, known: Sequence[str], subjects: Sequence[str] | None
  ) -> dict[str, tuple[str, list[str]]]:
    """Writes the data sets of `subjects` (default: all `known`); subject -> what `store.prepare` says."""
    unknown = [name for name in subjects or [] if name not in known]
    if unknown:
      raise UserError(f'{folder}: no files of subject {", ".join(unknown)}; those that exist: {", ".join(known)}')
    return {
      name: store.prepare(lambda out, name=name: cls.of(out, name), folder, prepared_dir) for name in subjects or known
    }


@dataclasses.dataclass
class Label:
  """What a picture shows."""

  class_index: int
  wordnet_id: str
  name: str


def features() -> tfds.features.FeaturesDict:
  """The features of such a data set."""
  return tfds.features.FeaturesDict(
    {
      'fmri': tfds.features.Tensor(shape=(None,), dtype=np.float32, encoding='bytes'),
      'image': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
      'stimulus': tfds.features.Scalar(np.int32),
      'class_index': tfds.features.Scalar(np.int32),
      'wordnet_id': tfds.features.Text(),
      'name': tfds.features.Text(),
    }
  )


def examples(
  fmri: Iterable[np.ndarray],
  picture: np.ndarray,
  image: Callable[[int], np.ndarray],
  labels: Sequence[Label],
  stimuli: Sequence[int],
) -> Iterator[dict]:
  """Examples in row order; row i of `fmri`, N times V, saw `image(picture[i])`, which is stimulus `stimuli[picture[i]]`.

  Each picture is encoded as soon as it is read, so that few are in memory.
  """
  with futures.ThreadPoolExecutor() as pool:
    encoded = list(pool.map(lambda number: raw.png_bytes(image(number)), range(len(labels))))
  for row, number in zip(fmri, picture.tolist(), strict=True):
    label = dataclasses.asdict(labels[number])
    yield {'fmri': row, 'image': encoded[number], 'stimulus': int(stimuli[number]), **label}


def explainable_variance(trials: np.ndarray, stimulus: np.ndarray) -> np.ndarray | None:
  """Share of a single trial's variance that the stimulus explains, for each voxel: `N V`, `N` -> `V` in [0, 1].

  Variance components: noise = pooled variance within stimuli; signal = variance of the stimulus means minus the noise
  left in them. None without repetitions. The noise ceiling of a mean over R trials is s / (s + (1 - s) / R).
  """
  numbers, place, counts = np.unique(stimulus, return_inverse=True, return_counts=True)
  if len(numbers) < 2 or len(trials) == len(numbers):
    return None
  means = np.zeros((len(numbers), trials.shape[1]), np.float64)
  np.add.at(means, place, trials)
  means /= counts[:, None]
  noise = np.square(trials - means[place]).sum(axis=0) / (len(trials) - len(numbers))
  signal = np.maximum(means.var(axis=0, ddof=1) - noise * np.mean(1 / counts), 0)
  total = signal + noise
  return np.divide(signal, total, out=np.zeros_like(total), where=total > 0).astype(np.float32)


@dataclasses.dataclass
class Trials:
  """Single trials of one subject, and all pictures of the data set, which every subject numbers alike."""

  fmri: np.ndarray  # N V float32
  names: list[str]  # N, the picture of each trial
  rois: dict[str, np.ndarray]  # name -> V bool
  train: list[str]  # names of training pictures, in the order of their numbers
  test: list[str]  # names of test pictures, numbered on


def splits_of_trials(
  facts: dict,
  subject: str,
  trials: Trials,
  picture: Callable[[str], np.ndarray],
  label: Callable[[str], Label],
) -> dict[str, tuple[int, Iterator[dict]]]:
  """Splits train (single trials), test (means over repetitions) and test_trials, for `store.Builder`; fills `facts`.

  Args:
    facts: the builder's metadata.
    subject: its name.
    trials: of the subject.
    picture: name -> `H H 3` uint8.
    label: name -> what it shows.
  """
  names = [*trials.train, *trials.test]
  number = {name: i for i, name in enumerate(names)}
  stimulus = np.array([number[name] for name in trials.names])
  is_test = stimulus >= len(trials.train)
  test = trials.fmri[is_test]
  in_order = np.argsort(stimulus[is_test], kind='stable')
  means, mean_stimulus = transforms.mean_by_label(test[in_order], stimulus[is_test][in_order].tolist())
  facts.update(
    subject=subject,
    num_voxels=trials.fmri.shape[1],
    rois={roi: int(mask.sum()) for roi, mask in trials.rois.items()},
    num_train_stimuli=len(trials.train),
    num_test_stimuli=len(trials.test),
    stimuli_sha256=store.digest(names),
    repetitions=np.unique(stimulus[is_test], return_counts=True)[1].tolist(),
    **{f'roi/{roi}': mask for roi, mask in trials.rois.items()},
  )
  ceiling = explainable_variance(test, stimulus[is_test])
  if ceiling is not None:
    facts['explainable_variance'] = ceiling

  def rows(fmri: Iterable[np.ndarray], shown: np.ndarray) -> Iterator[dict]:
    seen, place = np.unique(shown, return_inverse=True)
    labels = [label(names[i]) for i in seen]
    yield from examples(fmri, place, lambda number: picture(names[seen[number]]), labels, seen.tolist())

  train = (trials.fmri[row] for row in np.flatnonzero(~is_test))  # not copied: it may have 2 GiB
  return {
    'train': (int((~is_test).sum()), rows(train, stimulus[~is_test])),
    'test': (len(means), rows(means, np.array(mean_stimulus))),
    'test_trials': (len(test), rows(test, stimulus[is_test])),
  }
