"""Data sets as the loader sees them: a length and `gather(rows) -> batch`; and the guard of the test split."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from brainjax.datasets import transforms
from brainjax.errors import UserError

TEST_SPLITS = ('test', 'test_trials')
_test_split_forbidden = 0


@contextlib.contextmanager
def forbid_test_split() -> Iterator[None]:
  """Inside this block, opening a test split is a programming error (RuntimeError). Training runs in it."""
  global _test_split_forbidden
  _test_split_forbidden += 1
  try:
    yield
  finally:
    _test_split_forbidden -= 1


def check_split(split: str, known: Sequence[str]) -> None:
  """Refuses an unknown split, and a test split inside `forbid_test_split`.

  Raises:
    UserError: the split is not one of `known`.
    RuntimeError: training opens a test split, a programming error.
  """
  if split not in known:
    raise UserError(f'there is no split {split!r}; choose one of {", ".join(known)}')
  if split in TEST_SPLITS and _test_split_forbidden:
    raise RuntimeError(f'the {split!r} split was opened while training: test data are read by evaluation only')


def select_mask(masks: Mapping[str, np.ndarray], roi: str | Sequence[str], where: str) -> np.ndarray:
  """The union mask of one ROI, several, or 'V1+V2': `V` bool. `where` begins the error for an unknown name.

  Raises:
    UserError: a name is unknown, or there is none.
  """
  names = roi.split('+') if isinstance(roi, str) else list(roi)
  unknown = [name for name in names if name not in masks]
  if unknown or not names:
    raise UserError(
      f'{where}: no ROI named {", ".join(unknown) or "(nothing)"}; those that exist: {", ".join(sorted(masks))}'
    )
  return np.logical_or.reduce([masks[name] for name in names])


class Dataset:
  """What `make_loader` needs: a length and `gather`.

  Attributes:
    num_voxels: width of the fMRI rows, padding included.
    info: facts about the data (subjects, statistics, names); never part of a batch.
  """

  num_voxels: int
  info: Mapping[str, Any] = MappingProxyType({})

  def sources(self) -> np.ndarray:
    """Where each row comes from, for a balanced sampling: `N` int. By default all rows from one source."""
    return np.zeros(len(self), np.int32)

  def __len__(self) -> int:
    raise NotImplementedError

  def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The items of `rows: B`, stacked: `{'fmri': B V, ...}`. The caller may change the arrays."""
    raise NotImplementedError

  def __getitem__(self, row: int) -> dict[str, np.ndarray]:
    """One item.

    Raises:
      IndexError: there is no such row.
    """
    return {name: values[0] for name, values in self.gather(np.arange(len(self))[[row]]).items()}


@dataclasses.dataclass
class ArrayDataset(Dataset):
  """Rows in memory. Pictures are kept once per stimulus and looked up by `picture_row`.

  Attributes:
    columns: arrays with one entry a row: 'fmri' `N V` float32, 'stimulus' `N` int32, ...
    pictures: `P H W 3` uint8, or None.
    picture_row: for each row its place in `pictures`: `N`.
    signed_unit: give pictures as float32 in [-1, 1] instead of uint8.
    picture_name: the field of a batch that holds them.
  """

  columns: dict[str, np.ndarray]
  pictures: np.ndarray | None = None
  picture_row: np.ndarray | None = None
  signed_unit: bool = False
  picture_name: str = 'image'
  info: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(next(iter(self.columns.values())))

  @property
  def num_voxels(self) -> int:
    return self.columns['fmri'].shape[-1]

  def sources(self) -> np.ndarray:
    """The subject of each row: `N`."""
    return self.columns['subject'] if 'subject' in self.columns else super().sources()

  def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    batch = {name: column[rows] for name, column in self.columns.items()}
    if self.pictures is not None:
      pictures = self.pictures[self.picture_row[rows]]
      batch[self.picture_name] = transforms.to_signed_unit(pictures) if self.signed_unit else pictures
    return batch

  def take(self, rows: np.ndarray) -> 'ArrayDataset':
    """The same data set with these rows only (pictures are shared, not copied)."""
    columns = {name: column[rows] for name, column in self.columns.items()}
    picture_row = None if self.picture_row is None else self.picture_row[rows]
    return dataclasses.replace(self, columns=columns, picture_row=picture_row)


@dataclasses.dataclass
class JoinedDataset(Dataset):
  """Several data sets one after the other; fMRI is wrap-padded (or cut) to one width; only shared fields remain.

  Used for HCP + GOD pre-training (`include_kam` of the published code).
  """

  parts: Sequence[Dataset]
  num_voxels: int = 0  # 0: the widest part's
  info: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    self.num_voxels = self.num_voxels or max(part.num_voxels for part in self.parts)
    self._starts = np.cumsum([0] + [len(part) for part in self.parts])
    first_items = [part.gather(np.arange(1)) for part in self.parts]
    self._fields = [name for name in first_items[0] if all(name in item for item in first_items)]
    self._like = {name: first_items[0][name] for name in self._fields}

  def __len__(self) -> int:
    return int(self._starts[-1])

  def sources(self) -> np.ndarray:
    """Those of the parts, which are different: `N`."""
    found: list[np.ndarray] = []
    for part in self.parts:
      first = found[-1].max() + 1 if found else 0
      found.append(np.unique(part.sources(), return_inverse=True)[1] + first)
    return np.concatenate(found)

  def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    rows = np.asarray(rows)
    which = np.searchsorted(self._starts, rows, side='right') - 1
    batch: dict[str, np.ndarray] = {}
    for name in self._fields:
      shape = (self.num_voxels,) if name == 'fmri' else self._like[name].shape[1:]
      batch[name] = np.empty((len(rows), *shape), self._like[name].dtype)
    for part in np.unique(which):
      here = np.flatnonzero(which == part)
      piece = self.parts[part].gather(rows[here] - self._starts[part])
      piece['fmri'] = transforms.fit_width(piece['fmri'], self.num_voxels)
      for name in self._fields:
        batch[name][here] = piece[name]
    return batch


@dataclasses.dataclass
class InterpolatedDataset(Dataset):
  """A data set followed by the interpolations of drawn pairs of its rows (`augmentation` of the published code).

  `pairs: P 2`; other fields of such a row are those of the first of its pair.
  """

  base: Dataset
  pairs: np.ndarray
  ratio: float = 0.5

  def __len__(self) -> int:
    return len(self.base) + len(self.pairs)

  @property
  def num_voxels(self) -> int:
    return self.base.num_voxels

  def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    rows = np.asarray(rows)
    mixed = np.flatnonzero(rows >= len(self.base))
    pairs = self.pairs[rows[mixed] - len(self.base)]
    first = rows.copy()
    first[mixed] = pairs[:, 0]
    batch = self.base.gather(first)
    if len(mixed):
      second = self.base.gather(pairs[:, 1])['fmri']
      batch['fmri'][mixed] = transforms.interpolate_voxels(batch['fmri'][mixed], second, self.ratio)
    return batch
