"""Identification: is a sample closer to its own stimulus than to others? Pairwise and n-way, exact or drawn."""

import numpy as np

from brainjax.evaluation.scores.class_accuracy import success_by_rank


def num_rivals(table: np.ndarray, higher_is_better: bool) -> np.ndarray:
  """For each sample and each stimulus taken as its own: how many other stimuli are not strictly worse.

  Ties count against the sample, as in the release (REFERENCE section 7: strictly better).

  Args:
    table: N S U, score of each sample against each stimulus; no NaN.
    higher_is_better: direction of the score.

  Returns:
    N S U int64, 0..U-1.
  """
  if np.isnan(table).any():
    raise ValueError('identification needs scores without NaN')
  flat = (-table if higher_is_better else table).reshape(-1, table.shape[-1])  # N*S U, smaller is better
  rivals = [np.searchsorted(np.sort(row), row, side='right') - 1 for row in flat]
  return np.stack(rivals).reshape(table.shape)


def pairwise(rivals: np.ndarray) -> np.ndarray:
  """Fraction of the other stimuli that are strictly worse than the own one; chance is 1/2.

  Args:
    rivals: ... U from `num_rivals`.

  Returns:
    float64 of the same shape.
  """
  others = rivals.shape[-1] - 1
  if others < 1:
    raise ValueError('identification needs at least 2 different stimuli, found 1')
  return 1.0 - rivals / others


def expected_n_way(rivals: np.ndarray, n: int) -> np.ndarray:
  """Expected n-way identification over all draws of n-1 other stimuli: the own one must beat them all; chance is 1/n.

  Args:
    rivals: ... U from `num_rivals`.
    n: alternatives in a trial, 2..U.

  Returns:
    float64 of the same shape.
  """
  return success_by_rank(rivals.shape[-1] - 1, n, 1)[rivals]


def draw_picks(rng: np.random.Generator, num_items: int, num_stimuli: int, n: int, num_trials: int) -> np.ndarray:
  """Draws n-1 of the other stimuli for each item and trial: N T n-1 int32 positions among the others."""
  if not 2 <= n <= num_stimuli:
    raise ValueError(f'{n}-way needs at least {n} stimuli, found {num_stimuli}')
  keys = rng.random((num_items, num_trials, num_stimuli - 1))
  return np.argpartition(keys, n - 2, axis=-1)[..., : n - 1].astype(np.int32)


def sampled_n_way(scores: np.ndarray, own: np.ndarray, picks: np.ndarray, higher_is_better: bool) -> np.ndarray:
  """N-way identification with given draws: the protocol of the release.

  Args:
    scores: N U of one sample per item against every stimulus.
    own: N, position of the own stimulus.
    picks: N T n-1, positions among the others (the own one left out), as `draw_picks` gives them.
    higher_is_better: direction of the score.

  Returns:
    N T bool, success of each trial.
  """
  signed = scores if higher_is_better else -scores
  positions = picks + (picks >= own[:, None, None])
  rivals = np.take_along_axis(signed[:, None, :], positions, axis=2)  # N T n-1
  return np.all(np.take_along_axis(signed, own[:, None], axis=1)[:, :, None] > rivals, axis=2)
