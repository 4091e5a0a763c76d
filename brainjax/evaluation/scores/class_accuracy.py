"""N-way top-k class accuracy: the exact expectation over all draws, and the sampled protocol of the release."""

import functools

import numpy as np


@functools.lru_cache(maxsize=64)
def success_by_rank(num_others: int, n: int, k: int) -> np.ndarray:
  """Chance of success in an n-way top-k trial, for each number of better rivals.

  A trial draws n-1 of the `num_others` rivals without replacement. It succeeds if fewer than k of the drawn ones are
  better. The number of better ones among those drawn has a hypergeometric distribution. Entry r of the result (num_others + 1
  float64) is the chance of success with r better rivals.

  Raises:
    ValueError: more alternatives than there are, or k below 1.
  """
  from scipy.stats import hypergeom  # slow to import, and only evaluation needs it

  if not 2 <= n <= num_others + 1:
    raise ValueError(f'{n}-way needs at least {n} alternatives, found {num_others + 1}')
  if k < 1:
    raise ValueError(f'top-k needs k of at least 1, found {k}')
  result = hypergeom.cdf(k - 1, num_others, np.arange(num_others + 1), n - 1)
  result.setflags(write=False)
  return result


def expected_top_k(probabilities: np.ndarray, class_id: np.ndarray, n: int, k: int) -> np.ndarray:
  """Expected n-way top-k accuracy over all draws of n-1 other classes; no sampling.

  Classes with exactly the probability of the true class are ordered by a fair draw, so that an uninformative classifier
  scores k/n and not 1.

  Args:
    probabilities: ... C, class probabilities of each sample (any monotone score will do).
    class_id: integers that broadcast against the leading axes; the true class.
    n: alternatives in a trial, 2..C.
    k: success is to be among the k most probable.

  Returns:
    float64 of the broadcast leading shape.
  """
  num_classes = probabilities.shape[-1]
  success = success_by_rank(num_classes - 1, n, k)
  cumulative = np.concatenate([[0.0], np.cumsum(success)])
  leading = np.broadcast_shapes(probabilities.shape[:-1], np.shape(class_id))
  probabilities = np.broadcast_to(probabilities, (*leading, num_classes))
  class_id = np.broadcast_to(class_id, leading)
  own = np.take_along_axis(probabilities, class_id[..., None], axis=-1)
  higher = np.sum(probabilities > own, axis=-1)
  tied = np.sum(probabilities == own, axis=-1) - 1
  # The true class falls with equal chance on each of the tied + 1 places.
  return (cumulative[higher + tied + 1] - cumulative[higher]) / (tied + 1)


def expected_table(probabilities: np.ndarray, classes: np.ndarray, n: int, k: int) -> np.ndarray:
  """`expected_top_k` of every sample (probabilities N S C) against the class of every stimulus (U): N S U float64."""
  distinct, index = np.unique(classes, return_inverse=True)
  columns = [expected_top_k(probabilities, np.int64(class_id), n, k) for class_id in distinct]
  return np.stack(columns, axis=-1)[..., index]


def draw_picks(rng: np.random.Generator, class_id: np.ndarray, num_classes: int, n: int, num_trials: int) -> np.ndarray:
  """Draws n-1 of the other classes for each item and trial, without replacement.

  Returns:
    N T n-1 int32 class numbers.

  Raises:
    ValueError: there are fewer than n classes.
  """
  if not 2 <= n <= num_classes:
    raise ValueError(f'{n}-way needs at least {n} classes, found {num_classes}')
  picks = np.empty((len(class_id), num_trials, n - 1), np.int32)
  for item, own in enumerate(np.asarray(class_id)):  # all keys at once would take N T C numbers
    keys = rng.random((num_trials, num_classes - 1))
    # The n-1 smallest of uniform keys are a uniform subset. Positions skip the true class.
    positions = np.argpartition(keys, n - 2, axis=-1)[:, : n - 1]
    picks[item] = positions + (positions >= own)
  return picks


def sampled_top_k(probabilities: np.ndarray, class_id: np.ndarray, picks: np.ndarray, k: int) -> np.ndarray:
  """N-way top-k accuracy with given draws: the protocol of the release.

  Args:
    probabilities: N C of one sample per item.
    class_id: N, the true class.
    picks: N T n-1, the other classes drawn in each trial.
    k: success is to be among the k most probable.

  Returns:
    N T bool, success of each trial. The release reports the mean over T, and its standard deviation.
  """
  own = np.take_along_axis(probabilities, np.asarray(class_id)[:, None], axis=1)  # N 1
  rivals = np.take_along_axis(probabilities[:, None, :], picks, axis=2)  # N T n-1
  return np.sum(rivals > own[:, :, None], axis=2) < k
