"""Identification: is a reconstruction closer to its own stimulus than to other stimuli?"""

import numpy as np

from brainjax.evaluation.scores.class_accuracy import success_by_rank
from brainjax.evaluation.statistics import resampling


def num_rivals(table: np.ndarray, higher_is_better: bool) -> np.ndarray:
  """Counts, for each sample and each stimulus as the true one, the other stimuli that are not strictly worse.

  Ties count against the sample, as in the published code. `table: N S U` scores each sample against each stimulus. The result is
  N S U int64, 0..U-1.

  Raises:
    ValueError: the table has NaN.
  """
  if np.isnan(table).any():
    raise ValueError('identification needs scores without NaN')
  flat = (-table if higher_is_better else table).reshape(-1, table.shape[-1])  # N*S U, smaller is better
  rivals = [np.searchsorted(np.sort(row), row, side='right') - 1 for row in flat]
  return np.stack(rivals).reshape(table.shape)


def expected_n_way(rivals: np.ndarray, n: int) -> np.ndarray:
  """Expected n-way identification over all draws of n-1 other stimuli: the true one must beat them all; chance is 1/n.

  With n = 2 this is pairwise identification: the share of the other stimuli that are strictly worse. `rivals` (... U) are from
  `num_rivals`; the result is float64 of that shape.

  Raises:
    ValueError: fewer than n stimuli.
  """
  return success_by_rank(rivals.shape[-1] - 1, n, 1)[rivals]


def candidate_influence(
  table: np.ndarray, stimulus: np.ndarray, n: int, how: str, higher_is_better: bool
) -> np.ndarray:
  """How far each stimulus, as a candidate, moves mean n-way identification (jackknife).

  The score depends on the stimuli in two ways: as the items that are identified and as the candidates among
  which they are identified. A bootstrap of items alone covers the first way only. Leaving a stimulus out of the candidates changes the
  mean score; its influence is (1 - U) times that change. The influences have mean 0 if every stimulus has as many items.

  Args:
    table: N S U, score of each sample against each stimulus.
    stimulus: N, the true stimulus of each item.
    n: alternatives in a trial. With n = U every stimulus is a candidate of every trial, and the influence is 0.
    how: aggregate over samples.
    higher_is_better: direction of the table.

  Returns:
    U float64.
  """
  num_others = table.shape[-1] - 1
  if n > num_others:
    return np.zeros(table.shape[-1])
  true = np.take_along_axis(table, stimulus[:, None, None], axis=2)  # N S 1
  rival = table >= true if higher_is_better else table <= true
  is_item = stimulus[:, None] == np.arange(table.shape[-1])  # N U
  rival &= ~is_item[:, None]
  count = rival.sum(axis=2, keepdims=True)  # N S 1
  with_all = success_by_rank(num_others, n, 1)[count]
  # An item's own stimulus is no candidate of it; its place only has to be a valid index.
  without = success_by_rank(num_others - 1, n, 1)[np.minimum(count - rival, num_others - 1)]  # N S U
  # N S U -> N U
  change = resampling.aggregate(np.moveaxis(without, 1, -1), how, True)
  change -= resampling.aggregate(np.moveaxis(with_all, 1, -1), how, True)
  return -num_others * np.sum(change, axis=0, where=~is_item) / np.sum(~is_item, axis=0)
