"""Batches from a data set: shuffled, sharded, augmented, resumable; grain with threads.

Everything about batch k follows from (seed, k): the order of epoch e from (seed, e), the augmentation of a row from
(seed, e, row). So a loader whose state was saved gives exactly the next batch after a restart. Each process reads its
part of the same batch k, so that the rows of a batch do not depend on how many processes there are.

  data = god.load('data/prepared', ['sbj_3'], roi='VC', split='train', image_size=256, num_val_stimuli=100)

  def augmented(item, rng):
    item['image'] = transforms.random_crop(transforms.to_signed_unit(item['image']), rng)
    item['fmri'] = transforms.sparse(item['fmri'], rng)
    return item

  batches = make_loader(data, batch_size=8, seed=0, shuffle=True, transform=augmented)
  batch = next(batches)                     # {'fmri': 8 V, 'image': 8 256 256 3, 'stimulus': 8, ..., 'weight': 8}
  state = batches.get_state()               # JSON-able; batches.set_state(state) continues with the next batch
  for batch in make_loader(val, batch_size=8, shuffle=False, repeat=False): ...
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from brainjax.datasets.arrays import Dataset
from brainjax.errors import UserError

Transform = Callable[[dict[str, np.ndarray], np.random.Generator], dict[str, np.ndarray]]


@dataclasses.dataclass
class _Batches:
  """Random access to the batches of all epochs: position -> batch (the source that grain reads).

  Attributes are arguments of `make_loader`, and
    first, share: this process has `share` rows of every batch, from `first` on.
  """

  dataset: Dataset
  batch_size: int
  seed: int
  shuffle: bool
  first: int
  share: int
  transform: Transform | None
  repeat: bool
  balance: float
  _order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

  @property
  def steps(self) -> int:
    """Batches per epoch."""
    return -(-len(self.dataset) // self.batch_size)

  def __len__(self) -> int:
    return self.steps * (sys.maxsize // max(self.steps, 1)) if self.repeat else self.steps

  def _rows_of_epoch(self, epoch: int) -> np.ndarray:
    if not self.shuffle:
      epoch = 0  # the same order always
    known, rows = self._order  # one read: other threads may replace the pair
    if known != epoch:
      rows = np.arange(len(self.dataset))
      if self.shuffle:
        rng = np.random.default_rng((self.seed, epoch))
        rows = rng.permutation(draw_balanced(self.dataset.sources(), self.balance, rng) if self.balance else rows)
      self._order = (epoch, rows)
    return rows

  def __getitem__(self, position: int) -> dict[str, np.ndarray]:
    epoch, step = divmod(int(position), self.steps)
    rows = self._rows_of_epoch(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
    rows = rows[self.first : self.first + self.share]
    count = len(rows)
    # Shapes never change: a short batch repeats row 0 with weight 0.
    rows = np.concatenate([rows, np.zeros(self.share - count, rows.dtype)])
    batch = self.dataset.gather(rows)
    if self.transform is not None:
      items = []
      for i, row in enumerate(rows):
        # Philox is keyed directly, 10 times cheaper to start than hashing a seed sequence.
        rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch], counter=[0, 0, 0, row]))
        items.append(self.transform({name: values[i] for name, values in batch.items()}, rng))
      batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    batch['row'] = rows.astype(np.int32)
    batch['weight'] = (np.arange(self.share) < count).astype(np.float32)
    return batch


def draw_balanced(sources: np.ndarray, balance: float, rng: np.random.Generator) -> np.ndarray:
  """As many rows as there are, each source with a share in proportion to (its number of rows) ** (1 - balance).

  A source that gives more rows than it has gives each of them as often as possible before the rest is drawn.

  Args:
    sources: N, of each row.
    balance: 0 (every row once) to 1 (equal shares).
    rng: draws which rows.

  Returns:
    N rows, source by source.
  """
  _, place, counts = np.unique(sources, return_inverse=True, return_counts=True)
  share = counts.astype(float) ** (1 - balance)
  exact = len(sources) * share / share.sum()
  wanted = np.floor(exact).astype(int)
  wanted[np.argsort(wanted - exact, kind='stable')[: len(sources) - wanted.sum()]] += 1  # the largest remainders
  drawn = []
  for source, count in enumerate(wanted.tolist()):
    rows = np.flatnonzero(place == source)
    whole, rest = divmod(count, len(rows))
    drawn += [rows] * whole + [rng.permutation(rows)[:rest]]
  return np.concatenate(drawn)


class Loader(Iterator[dict[str, np.ndarray]]):
  """An iterator of batches that knows its place."""

  def __init__(self, source: _Batches, num_threads: int, prefetch: int):
    self.steps_per_epoch = source.steps
    self._rows = len(source.dataset)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    self._iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))

  def __iter__(self) -> 'Loader':
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    return next(self._iterator)

  def get_state(self) -> dict[str, Any]:
    """The place in the data, JSON-able: the next batch after `set_state` of it is the next one from here."""
    return {**self._iterator.get_state(), 'rows': self._rows}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a saved place.

    Raises:
      UserError: the data have another number of rows now, and so another order.
    """
    place = dict(state)
    rows = place.pop('rows', self._rows)
    if rows != self._rows:
      raise UserError(
        f'the checkpoint was saved with {rows} training rows, but the data now have {self._rows}: the raw files changed, and '
        'with them the order of the rows. Put the old files back, or move the folder of this stage away to train it anew.'
      )
    self._iterator.set_state(place)


def make_loader(
  dataset: Dataset,
  batch_size: int,
  seed: int = 0,
  shuffle: bool = True,
  filled_size: int | None = None,
  shard_index: int = 0,
  shard_count: int = 1,
  transform: Transform | None = None,
  repeat: bool = True,
  balance: float = 0.0,
  num_threads: int = 2,
  prefetch: int = 4,
) -> Loader:
  """An iterator of this process's part of every batch, as NumPy. The last batch of an epoch is padded, never left out.

  Args:
    dataset: anything with a length and `gather(rows)`.
    batch_size: rows in each batch of all processes together.
    seed: decides order and augmentation, together with the epoch.
    shuffle: a new order each epoch; False: the order of the data set.
    filled_size: rows after padding, so that devices and processes share a batch evenly; None: `batch_size`.
    shard_index: this process.
    shard_count: number of processes; process k has the k-th part of every padded batch.
    transform: (item, rng) -> item for one row, with its own random generator.
    repeat: never stop (training), or stop after one epoch (evaluation).
    balance: of the sources of the rows in a shuffled epoch, see `draw_balanced`.
    num_threads: batches prepared at the same time.
    prefetch: batches held ready.

  Every batch has the fields 'row': B, numbers of the rows of the data set, and 'weight': B, 1 for real rows and 0 for
  padding.

  Raises:
    UserError: the data set is empty, or smaller than a batch that repeats.
    ValueError: sizes, shard or seed are out of range.
  """
  filled_size = batch_size if filled_size is None else filled_size
  if not 1 <= batch_size <= filled_size or filled_size % shard_count or not 0 <= shard_index < shard_count:
    raise ValueError(f'batch_size {batch_size}, padded to {filled_size}, shard {shard_index} of {shard_count}')
  if not 0 <= seed < 2**63:
    raise ValueError(f'seed {seed}: expected 0 <= seed < 2**63')
  if len(dataset) == 0:
    raise UserError('the data set has no rows: check the subjects, the split and the number of validation stimuli')
  if repeat and batch_size > len(dataset):
    raise UserError(
      f'batch size {batch_size} is larger than the {len(dataset)} samples there are; choose a smaller batch size'
    )
  share = filled_size // shard_count
  source = _Batches(dataset, batch_size, seed, shuffle, shard_index * share, share, transform, repeat, balance)
  return Loader(source, num_threads, prefetch)
