"""The loader: order, shards, weights, augmentation, and going on after a restart."""

import json
import time

import numpy as np
import pytest

from brainjax.datasets import arrays, loader
from brainjax.errors import UserError


def numbered(rows, width=4):
  fmri = np.repeat(np.arange(rows, dtype=np.float32)[:, None], width, axis=1)
  return arrays.ArrayDataset({'fmri': fmri, 'stimulus': np.arange(rows, dtype=np.int32)})


def take(batches, count):
  return [next(batches)['stimulus'].tolist() for _ in range(count)]


def noisy(item, rng):
  return item | {'noise': rng.random(2)}


def test_sources_are_drawn_in_the_shares_that_balance_says():
  sources = np.repeat([4, 0, 9], [16, 4, 80])  # in any order of numbers
  shares = {0.0: [4, 16, 80], 1.0: [34, 33, 33], 0.5: [13, 27, 60]}  # 0.5: as 2 : 4 : 8.94
  for balance, expected in shares.items():
    rows = loader.draw_balanced(sources, balance, np.random.default_rng(0))
    counts = np.bincount(rows, minlength=100)
    assert [int(counts[sources == source].sum()) for source in (0, 4, 9)] == pytest.approx(expected, abs=1)
    assert len(rows) == 100
    for source in (0, 4, 9):  # each row of a source as often as any other, but for one
      assert np.ptp(counts[sources == source]) <= 1


def test_a_balanced_epoch_is_the_same_for_a_seed_and_epoch():
  columns = {'fmri': np.arange(30, dtype=np.float32)[:, None], 'subject': np.repeat([0, 1], [25, 5])}
  one, two = (loader.make_loader(arrays.ArrayDataset(columns), 10, seed=4, balance=1.0) for _ in range(2))
  epochs = [np.concatenate([next(one)['row'] for _ in range(3)]) for _ in range(2)]
  for epoch in epochs:
    assert (epoch >= 25).sum() == 15 and len(set(epoch[epoch < 25].tolist())) == 15
    np.testing.assert_array_equal(epoch, np.concatenate([next(two)['row'] for _ in range(3)]))
  assert not np.array_equal(*epochs)
  joined = arrays.JoinedDataset([arrays.ArrayDataset(columns), arrays.ArrayDataset({'fmri': np.ones((4, 1))})])
  np.testing.assert_array_equal(joined.sources(), np.repeat([0, 1, 2], [25, 5, 4]))


def test_every_row_once_an_epoch_in_a_new_order():
  batches = loader.make_loader(numbered(9), 3, seed=1)
  assert batches.steps_per_epoch == 3
  first, second = (sum(take(batches, 3), []) for _ in range(2))
  assert sorted(first) == sorted(second) == list(range(9)) and first != second != list(range(9))


def test_same_seed_same_batches_other_seed_others():
  runs = [take(loader.make_loader(numbered(9), 2, seed=seed), 8) for seed in (5, 5, 6)]
  assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize('done', [0, 1, 7])
def test_resume_gives_exactly_the_next_batches(done):
  def make():
    return loader.make_loader(numbered(9), 2, seed=3, transform=noisy)

  whole = make()
  for _ in range(done):
    next(whole)
  state = json.loads(json.dumps(whole.get_state()))
  expected = [next(whole) for _ in range(6)]
  again = make()
  next(again)
  again.set_state(state)
  for batch in expected:
    for name, values in next(again).items():
      np.testing.assert_array_equal(values, batch[name])


def test_a_place_in_data_of_another_size_is_refused():
  batches = loader.make_loader(numbered(9), 2)
  next(batches)
  with pytest.raises(UserError, match='saved with 9 training rows, but the data now have 8'):
    loader.make_loader(numbered(8), 2).set_state(batches.get_state())
  loader.make_loader(numbered(8), 2).set_state({'next_index': 1})  # as before rows were saved


def test_augmentation_follows_seed_epoch_and_row_only():
  def draws(batch_size, shuffle, seed=0, epochs=2):
    batches = loader.make_loader(numbered(8), batch_size, seed=seed, shuffle=shuffle, transform=noisy)
    out = np.zeros((epochs, 8, 2))
    for epoch in range(epochs):
      for _ in range(8 // batch_size):
        batch = next(batches)
        out[epoch, batch['stimulus']] = batch['noise']
    return out

  reference = draws(8, False)
  np.testing.assert_array_equal(reference, draws(2, True))
  assert len(np.unique(reference)) == reference.size
  assert not np.any(reference == draws(8, False, seed=1))


def test_processes_share_every_batch():
  # Three processes give together, in order, the batches that one gives: 23 rows by 8, each batch filled up to 9.
  whole = list(loader.make_loader(numbered(23), 8, seed=2, repeat=False))
  options = {'seed': 2, 'filled_size': 9, 'shard_count': 3, 'repeat': False, 'transform': noisy}
  shards = [list(loader.make_loader(numbered(23), 8, shard_index=i, **options)) for i in range(3)]
  assert [len(shard) for shard in shards] == [3, 3, 3]
  for step, batch in enumerate(whole):
    parts = [shard[step] for shard in shards]
    assert [len(part['stimulus']) for part in parts] == [3, 3, 3]
    real = [part['stimulus'][part['weight'] > 0].tolist() for part in parts]
    assert sum(real, []) == batch['stimulus'][batch['weight'] > 0].tolist()
  assert [part[2]['weight'].tolist() for part in shards] == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]


def test_last_batch_is_filled_up_with_weight_zero():
  batches = list(loader.make_loader(numbered(8), 3, shuffle=False, repeat=False))
  assert [batch['stimulus'].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6, 7, 0]]
  assert [batch['weight'].tolist() for batch in batches] == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]


def test_too_large_a_batch_and_no_rows():
  with pytest.raises(UserError, match='batch size 9 is larger than the 8 samples'):
    loader.make_loader(numbered(8), 9)
  with pytest.raises(UserError, match='no rows'):
    loader.make_loader(numbered(0), 1)


def test_batches_may_be_changed_in_place():
  data = numbered(4)
  batch = next(loader.make_loader(data, 4, shuffle=False))
  batch['fmri'][:] = -1
  assert data.columns['fmri'].max() == 3


def test_thousands_of_samples_a_second():
  batches = loader.make_loader(numbered(1200, width=4192), 250)
  next(batches)
  start = time.process_time()
  for _ in range(20):
    next(batches)
  assert 20 * 250 / (time.process_time() - start) > 5000
