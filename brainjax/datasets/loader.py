"""Batches from a data set: shuffled, sharded, augmented, resumable; grain with threads.

Everything about batch k follows from (seed, k): the order of epoch e from (seed, e), the augmentation of a row from
(seed, e, row). So a loader whose state was saved gives exactly the next batch after a restart.

  data = god.load('data/prepared', ['sbj_3'], roi='VC', split='train', image_size=256, num_val_stimuli=100)

  def augmented(item, rng):
    item['image'] = transforms.random_crop(transforms.to_signed_unit(item['image']), rng)
    item['fmri'] = transforms.sparse(item['fmri'], rng)
    return item

  batches = make_loader(data, batch_size=8, seed=0, shuffle=True, transform=augmented)
  batch = next(batches)                     # {'fmri': 8 V, 'image': 8 256 256 3, 'stimulus': 8, ..., 'weight': 8}
  state = batches.get_state()               # JSON-able; batches.set_state(state) goes on with the next batch
  for batch in make_loader(val, batch_size=8, shuffle=False, repeat=False, drop_remainder=False): ...
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from brainjax.datasets.arrays import Dataset, stack
from brainjax.errors import UserError

Transform = Callable[[dict[str, np.ndarray], np.random.Generator], dict[str, np.ndarray]]


class _Batches:
  """Random access to the batches of all epochs: position -> batch (the source that grain reads)."""

  def __init__(self, dataset, batch_size, seed, shuffle, shard_index, shard_count, drop_remainder, transform, repeat):
    self._dataset, self._transform = dataset, transform
    self._batch_size, self._seed, self._shuffle = batch_size, seed, shuffle
    self._shard = (shard_index, shard_count)
    # Every process must take the same number of steps. Shards take every shard_count-th of the shuffled rows.
    if drop_remainder:
      self.steps = len(dataset) // shard_count // batch_size
    else:
      longest_shard = -(-len(dataset) // shard_count)
      self.steps = -(-longest_shard // batch_size)
    self._length = self.steps * (sys.maxsize // max(self.steps, 1)) if repeat else self.steps
    self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

  def __len__(self) -> int:
    return self._length

  def __repr__(self) -> str:
    # grain stores and compares this text with its state; it must not depend on addresses in memory.
    return f'brainjax batches of {self._batch_size} from {len(self._dataset)} rows, seed {self._seed}'

  def _rows_of_epoch(self, epoch: int) -> np.ndarray:
    if not self._shuffle:
      epoch = 0  # the same order always
    known, rows = self._order  # one read: other threads may replace the pair
    if known != epoch:
      rows = np.arange(len(self._dataset))
      if self._shuffle:
        rows = np.random.default_rng((self._seed, epoch)).permutation(rows)
      index, count = self._shard
      rows = rows[index::count]
      self._order = (epoch, rows)
    return rows

  def __getitem__(self, position: int) -> dict[str, np.ndarray]:
    epoch, step = divmod(int(position), self.steps)
    rows = self._rows_of_epoch(epoch)[step * self._batch_size : (step + 1) * self._batch_size]
    count = len(rows)
    # Shapes never change: a short batch repeats row 0 with weight 0.
    rows = np.concatenate([rows, np.zeros(self._batch_size - count, rows.dtype)])
    batch = self._dataset.gather(rows)
    if self._transform is not None:
      items = []
      for i, row in enumerate(rows):
        # Philox is keyed directly, 10 times cheaper to start than hashing a seed sequence.
        rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch], counter=[0, 0, 0, row]))
        items.append(self._transform({name: values[i] for name, values in batch.items()}, rng))
      batch = stack(items)
    batch['weight'] = (np.arange(self._batch_size) < count).astype(np.float32)
    return batch


class Loader(Iterator[dict[str, np.ndarray]]):
  """An iterator of batches that knows its place."""

  def __init__(self, source: _Batches, num_threads: int, prefetch: int):
    self.steps_per_epoch = source.steps
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    self._iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))

  def __iter__(self) -> 'Loader':
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    return next(self._iterator)

  def get_state(self) -> dict[str, Any]:
    """The place in the data, JSON-able: the next batch after `set_state` of it is the next one from here."""
    return self._iterator.get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a saved place."""
    self._iterator.set_state(state)


def make_loader(
  dataset: Dataset,
  batch_size: int,
  seed: int = 0,
  shuffle: bool = True,
  shard_index: int = 0,
  shard_count: int = 1,
  drop_remainder: bool = True,
  transform: Transform | None = None,
  repeat: bool = True,
  num_threads: int = 2,
  prefetch: int = 4,
) -> Loader:
  """An iterator of NumPy batches of this process.

  Args:
    dataset: anything with a length and `gather(rows)`.
    batch_size: rows in each batch of this process (not of all processes together).
    seed: decides order and augmentation, together with the epoch.
    shuffle: a new order each epoch; False: the order of the data set.
    shard_index: this process.
    shard_count: number of processes; each takes a disjoint part of every epoch.
    drop_remainder: leave an epoch's last short batch out; otherwise it is filled up, the filling has 'weight' 0.
    transform: (item, rng) -> item for one row, with its own random generator.
    repeat: go on for ever (training) or stop after one epoch (evaluation).
    num_threads: batches prepared at the same time.
    prefetch: batches held ready.

  Every batch has a 'weight' field: B, 1 for real rows and 0 for filling.
  """
  if batch_size < 1 or not 0 <= shard_index < shard_count:
    raise ValueError(f'batch_size {batch_size}, shard {shard_index} of {shard_count}')
  if not 0 <= seed < 2**63:
    raise ValueError(f'seed {seed}: expected 0 <= seed < 2**63')
  if len(dataset) == 0:
    raise UserError('the data set has no rows: check the subjects, the split and the number of validation stimuli')
  source = _Batches(dataset, batch_size, seed, shuffle, shard_index, shard_count, drop_remainder, transform, repeat)
  if source.steps == 0:
    raise UserError(
      f'batch size {batch_size} is larger than the {len(dataset) // shard_count} samples there are for each of '
      f'{shard_count} process(es); choose a smaller batch size'
    )
  return Loader(source, num_threads, prefetch)
