"""Reliability of repeated fMRI: identification of one half of the repetitions by the other."""

from typing import NamedTuple

import numpy as np

from brainjax.evaluation.scores import identification
from brainjax.evaluation.scores.correlation import correlation_table


class SplitHalf(NamedTuple):
  """Identification of each stimulus, in the order of the sorted labels.

  Attributes:
    fractions: U, share of the other stimuli from which it is distinguished; chance is 1/2.
    influence: U, how far each stimulus, as a candidate, moves the mean (`identification.candidate_influence`).
  """

  fractions: np.ndarray
  influence: np.ndarray


def split_half_identification(
  trials: np.ndarray, stimulus: np.ndarray, num_splits: int = 50, seed: int = 0
) -> SplitHalf | None:
  """Pairwise identification of each stimulus from one half of its repetitions by the other half.

  Each random split divides the trials of a stimulus into two halves, averages each half and subtracts the mean over
  stimuli. A stimulus is identified against another if its two halves correlate more than its first half does with the
  other's second half. No decoder is involved: this is how far the data tell the stimuli apart by their patterns.

  Args:
    trials: N V, single trials.
    stimulus: N labels.
    num_splits: random splits, each used in both directions.
    seed: of the splits.

  Returns:
    None where a stimulus has a single trial, or where there is one stimulus only.
  """
  labels, place, counts = np.unique(stimulus, return_inverse=True, return_counts=True)
  if counts.min() < 2 or len(labels) < 2:
    return None
  rng = np.random.default_rng(seed)
  trials, true = np.asarray(trials, np.float64), np.arange(len(labels))
  fractions, influence = np.zeros(len(labels)), np.zeros(len(labels))
  for _ in range(num_splits):
    first, second = (half - half.mean(axis=0) for half in _halves(trials, place, counts, rng))
    for a, b in ((first, second), (second, first)):
      table = correlation_table(a, b)[:, None]  # U 1 U
      rivals = identification.num_rivals(table, True)
      fractions += identification.expected_n_way(rivals, 2)[true, 0, true]
      influence += identification.candidate_influence(table, true, 2, 'first_sample', True)
  return SplitHalf(fractions / (2 * num_splits), influence / (2 * num_splits))


def _halves(trials: np.ndarray, place: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
  """Means over two disjoint random halves of each stimulus's trials, U V each; of an odd number one is left out."""
  # In random order, then by stimulus: the rank of a trial among those of its stimulus is random.
  order = np.lexsort((rng.random(len(place)), place))
  rank = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
  size = np.repeat(counts // 2, counts)
  means = []
  for low, high in ((0 * size, size), (size, 2 * size)):
    chosen = order[(rank >= low) & (rank < high)]
    sums = np.zeros((len(counts), trials.shape[1]))
    np.add.at(sums, place[chosen], trials[chosen])
    means.append(sums / (counts // 2)[:, None])
  return means
