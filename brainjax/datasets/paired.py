"""Data sets of fMRI with the picture seen: their TFDS builder, one config a subject, and what their examples hold.

The features are fmri, image, stimulus, class_index, wordnet_id and name. The splits are train (single trials), test (means
over repetitions) and, where single test trials are known, test_trials. The metadata hold 'roi/<name>' masks,
num_train_stimuli and stimuli_sha256. Training stimuli are numbered 0 .. num_train_stimuli - 1, test stimuli follow.
`paired_rows` reads such data sets.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import pictures, store, transforms
from brainjax.errors import UserError
from brainjax.rules import NAME

NO_CLASS = -1  # class index of a picture whose category is not known; its name is then that of its file


@dataclasses.dataclass
class Label:
  """What a picture shows."""

  class_index: int
  wordnet_id: str
  name: str


class Rows(Protocol):
  """Responses `N V` that are too many for memory: as much of an array as `Trials.fmri` needs."""

  shape: tuple[int, int]

  def __getitem__(self, rows: Any) -> np.ndarray:
    """One row `V`, or the rows of an array of numbers: float32."""


@dataclasses.dataclass
class Trials:
  """What one subject saw, and all pictures of the data set, which every subject numbers alike.

  Attributes:
    fmri: single trials in order, `N V` float32, on their raw scale; an array, or what reads rows from disk when indexed (`Rows`).
    names: the picture of each trial: `N`.
    rois: mask name -> `V` bool.
    train: names of all training pictures, in the order of their numbers.
    test: names of all test pictures; their numbers follow.
    picture: name -> `H H 3` uint8.
    label: name -> what it shows.
    test_means: `K V`, means over the repetitions of each of `test`, where the raw files hold them; None: they are computed.
    sessions: name of the session of each trial, `N`; None if it is not known.
    facts: more entries of the metadata; they replace those of the same name.
  """

  fmri: 'np.ndarray | Rows'
  names: list[str]
  rois: dict[str, np.ndarray]
  train: list[str]
  test: list[str]
  picture: Callable[[str], np.ndarray]
  label: Callable[[str], Label]
  test_means: np.ndarray | None = None
  sessions: list[str] | None = None
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class Builder(store.Builder, skip_registration=True):
  """One TFDS config a subject. A subclass gives the texts, `subjects_in`, `raw_files` and `read`."""

  VERSION = tfds.core.Version('1.0.0')
  DESCRIPTION = HOMEPAGE = CITATION = LICENSE = ''

  @classmethod
  def subjects_in(cls, raw_dir: Path) -> list[str]:
    """Names of the subjects whose raw files exist.

    Raises:
      UserError: there are none.
    """
    raise NotImplementedError

  def read(self, raw_dir: Path) -> Trials:
    """The raw files of `self.subject`, checked against each other.

    Raises:
      UserError: what does not fit.
    """
    raise NotImplementedError

  @property
  def subject(self) -> str:
    """Name of the subject."""
    return self.builder_config.name

  def _info(self):
    features = {
      'fmri': tfds.features.Tensor(shape=(None,), dtype=np.float32, encoding='bytes'),
      'image': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
      'stimulus': tfds.features.Scalar(np.int32),
      'class_index': tfds.features.Scalar(np.int32),
      'wordnet_id': tfds.features.Text(),
      'name': tfds.features.Text(),
    }
    return self.about(tfds.features.FeaturesDict(features), ('fmri', 'image'))

  def _split_generators(self, dl_manager):
    trials = self.read(Path(dl_manager.manual_dir))
    self.info.metadata.update(_facts(self.subject, trials))
    return _splits(trials)

  @classmethod
  def of(cls, prepared_dir: str | os.PathLike, subject: str = '') -> Self:
    """The builder of a subject, whether the class lists it or not. A folder gets its name, so that is checked.

    Raises:
      UserError: `subject` cannot be the name of a folder.
    """
    if not NAME.fullmatch(subject):
      raise UserError(f'subject {subject[:70]!r}: expected a letter, then letters, digits, _ or -, such as sub-01')

    class OneSubject(cls, skip_registration=True):
      name = cls.name
      BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=subject)]  # TFDS warns of a config that the class does not list

    return OneSubject(data_dir=os.fspath(prepared_dir), config=subject)

  @classmethod
  def prepare(
    cls, raw: str | os.PathLike, out: str | os.PathLike, subjects: Sequence[str] | None = None
  ) -> store.States:
    """Writes the data sets of `subjects` (default: all in the folder `raw`) below the folder `out`.

    Raises:
      UserError: a subject has no files, or its files do not fit.
    """
    return {
      f'{cls.name}/{name}': store.prepare(lambda data_dir, name=name: cls.of(data_dir, name), Path(raw), out)
      for name in select_subjects(cls.subjects_in(Path(raw)), subjects, Path(raw))
    }


def select_subjects(known: Collection[str], wanted: Sequence[str] | None, raw: Path) -> list[str]:
  """The wanted subjects, by default all known ones.

  Raises:
    UserError: the folder `raw` has no files of a wanted one.
  """
  if unknown := [name for name in wanted or () if name not in known]:
    raise UserError(f'{raw}: no files of subject {", ".join(unknown)}; those that exist: {", ".join(known)}')
  return list(wanted or known)


def make_examples(
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
    encoded = list(pool.map(lambda number: pictures.encode_png(image(number)), range(len(labels))))
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


def _facts(subject: str, trials: Trials) -> dict[str, Any]:
  """Metadata of a subject."""
  names = [*trials.train, *trials.test]
  stimulus, is_test = _stimuli(trials)
  facts = {
    'subject': subject,
    'num_voxels': trials.fmri.shape[1],
    'rois': {roi: int(mask.sum()) for roi, mask in trials.rois.items()},
    'num_train_stimuli': len(trials.train),
    'num_test_stimuli': len(trials.test),
    'stimuli_sha256': store.digest_names(names),
    'repetitions': np.unique(stimulus[is_test], return_counts=True)[1].tolist(),
    **{f'roi/{roi}': mask for roi, mask in trials.rois.items()},
  }
  if trials.sessions:
    session = np.array(trials.sessions)
    facts['sessions'] = {'train': session[~is_test].tolist(), 'test_trials': session[is_test].tolist()}  # in row order
  test = np.flatnonzero(is_test)
  ceiling = explainable_variance(trials.fmri[test], stimulus[test]) if len(test) else None
  return facts | ({} if ceiling is None else {'explainable_variance': ceiling}) | trials.facts


def _stimuli(trials: Trials) -> tuple[np.ndarray, np.ndarray]:
  """Number of the stimulus of each trial `N`, and whether it is a test stimulus `N`."""
  number = {name: i for i, name in enumerate([*trials.train, *trials.test])}
  stimulus = np.array([number[name] for name in trials.names])
  return stimulus, stimulus >= len(trials.train)


def _splits(trials: Trials) -> dict[str, tuple[int, Iterator[dict]]]:
  """Splits for `store.Builder`: name -> number of rows, rows."""
  names = [*trials.train, *trials.test]
  stimulus, is_test = _stimuli(trials)
  test, test_stimulus = trials.fmri[np.flatnonzero(is_test)], stimulus[is_test]
  means, mean_stimulus = trials.test_means, np.arange(len(trials.train), len(names))
  if means is None:
    in_order = np.argsort(test_stimulus, kind='stable')
    means, mean_stimulus = transforms.mean_by_label(test[in_order], test_stimulus[in_order].tolist())

  def rows(fmri: Iterable[np.ndarray], shown: np.ndarray) -> Iterator[dict]:
    seen, place = np.unique(shown, return_inverse=True)
    labels = [trials.label(names[i]) for i in seen]
    yield from make_examples(fmri, place, lambda number: trials.picture(names[seen[number]]), labels, seen.tolist())

  train = (trials.fmri[row] for row in np.flatnonzero(~is_test))  # one by one: it may have 2 GiB
  splits = {
    'train': (int((~is_test).sum()), rows(train, stimulus[~is_test])),
    'test': (len(means), rows(means, np.array(mean_stimulus))),
  }
  return splits | ({'test_trials': (len(test), rows(test, test_stimulus))} if len(test) else {})
