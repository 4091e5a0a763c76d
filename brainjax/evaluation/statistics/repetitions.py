"""What the noise of repeated fMRI allows: identification of one half of the repetitions by the other."""

import numpy as np

from brainjax.evaluation.scores import identification


def split_half_identification(
  trials: np.ndarray, stimulus: np.ndarray, num_splits: int = 50, seed: int = 0
) -> np.ndarray | None:
  """Pairwise identification of each stimulus from one half of its repetitions by the other half.

  In each random split the trials of a stimulus fall into two halves, each half is averaged, and the mean over stimuli is
  taken out. A stimulus is identified against another if its two halves correlate more than its first half does with
  the other's second half. No decoder is involved: this is how far the data tell the stimuli apart by their patterns.

  Args:
    trials: N V, single trials.
    stimulus: N labels.
    num_splits: random splits, each used in both directions.
    seed: of the splits.

  Returns:
    U fractions in the order of the sorted labels, chance 1/2; None where a stimulus has a single trial or is alone.
  """
  labels, place, counts = np.unique(stimulus, return_inverse=True, return_counts=True)
  if counts.min() < 2 or len(labels) < 2:
    return None
  rng = np.random.default_rng(seed)
  trials = np.asarray(trials, np.float64)
  result = np.zeros(len(labels))
  for _ in range(num_splits):
    first, second = (_unit(half) for half in _halves(trials, place, counts, rng))
    for a, b in ((first, second), (second, first)):
      table = a @ b.T  # U U
      rivals = identification.num_rivals(table[:, None], True)[:, 0]
      result += np.diagonal(identification.pairwise(rivals))
  return result / (2 * num_splits)


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


def _unit(means: np.ndarray) -> np.ndarray:
  """Rows as unit vectors after the mean row and then each row's own mean are taken out: U V -> U V."""
  means = means - means.mean(axis=0)
  means -= means.mean(axis=1, keepdims=True)
  return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
