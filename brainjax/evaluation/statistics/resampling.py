"""Uncertainty of scores: bootstrap over stimuli, null by re-pairing, paired comparison, aggregation over samples."""

import dataclasses

import numpy as np

AGGREGATES = ('mean_of_samples', 'best_of_samples', 'first_sample')


def aggregate(values: np.ndarray, how: str, higher_is_better: bool) -> np.ndarray:
  """One value per item from its samples.

  Args:
    values: ... S.
    how: 'mean_of_samples', 'first_sample' or 'best_of_samples' (chosen with knowledge of the stimulus: an upper bound,
      not an accuracy).
    higher_is_better: direction of the score.

  Returns:
    values without the last axis.

  Raises:
    ValueError: an unknown `how`.
  """
  if how == 'mean_of_samples':
    return values.mean(axis=-1)
  if how == 'best_of_samples':
    return values.max(axis=-1) if higher_is_better else values.min(axis=-1)
  if how == 'first_sample':
    return values[..., 0]
  raise ValueError(f'no aggregate named {how!r}; there are {AGGREGATES}')


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """Resamplings of stimuli, drawn once and shared by every score, so that scores of a run are resampled alike.

  Attributes:
    counts: B U, how often each stimulus is in each resampling.
    stimulus: N, which stimulus (0..U-1) each item shows; items of one stimulus are resampled together.
  """

  counts: np.ndarray
  stimulus: np.ndarray

  @classmethod
  def draw(cls, stimulus: np.ndarray, num_resamplings: int, seed: int) -> 'Bootstrap':
    """Draws `num_resamplings` (B) resamplings of the stimuli (N numbers 0..U-1 that each occur) with replacement."""
    num_stimuli = int(stimulus.max()) + 1
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(num_stimuli, np.full(num_stimuli, 1 / num_stimuli), size=num_resamplings)
    return cls(counts, stimulus)

  def means(self, values: np.ndarray, influence: np.ndarray | float = 0.0) -> np.ndarray:
    """Mean over items in each resampling: N -> B float64.

    Args:
      values: N, a score of each item.
      influence: U, how far each stimulus moves the mean besides by its own items (`identification.candidate_influence`).
    """
    num_stimuli = self.counts.shape[1]
    sums = np.bincount(self.stimulus, weights=values, minlength=num_stimuli)
    sizes = np.bincount(self.stimulus, minlength=num_stimuli)
    moved = self.counts @ np.broadcast_to(influence, num_stimuli) / num_stimuli
    return (self.counts @ sums) / (self.counts @ sizes) + moved

  def interval(self, values: np.ndarray, influence: np.ndarray | float = 0.0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over items."""
    return percentile_interval(self.means(values, influence))


def percentile_interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
  """The central interval that holds `level` of the draws."""
  low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def draw_pairings(num_stimuli: int, num_shuffles: int, seed: int) -> np.ndarray:
  """Random permutations of the stimuli for the null: shuffles U int64.

  Plain permutations, not derangements: under the null hypothesis every pairing, the true one included, is equally
  likely, and only then is the p value exact. On average one item per shuffle keeps its own stimulus.
  """
  rng = np.random.default_rng(seed)
  return np.stack([rng.permutation(num_stimuli) for _ in range(num_shuffles)])


def draw(stimulus: np.ndarray, num_bootstrap: int, num_shuffles: int, seed: int) -> tuple[Bootstrap, np.ndarray]:
  """The resamplings of the items' stimuli (N), and the pairings for the null with the next seed."""
  pairings = draw_pairings(int(stimulus.max()) + 1, num_shuffles, seed + 1)
  return Bootstrap.draw(stimulus, num_bootstrap, seed), pairings


def observed(table: np.ndarray, stimulus: np.ndarray) -> np.ndarray:
  """Scores with the true pairing: (N S U, N) -> N S float64."""
  return np.take_along_axis(table, stimulus[:, None, None], axis=2)[:, :, 0].astype(np.float64)


def null_means(
  table: np.ndarray, stimulus: np.ndarray, pairings: np.ndarray, how: str, higher_is_better: bool
) -> np.ndarray:
  """Mean score over items under each shuffled pairing.

  Args:
    table: N S U, score of each sample if its stimulus were u.
    stimulus: N, true stimulus of each item.
    pairings: shuffles U; items of stimulus u are scored as if they showed pairings[p, u].
    how: aggregate over samples.
    higher_is_better: direction of the score.

  Returns:
    shuffles float64.
  """
  return np.array([aggregate(observed(table, p[stimulus]), how, higher_is_better).mean() for p in pairings])


def p_value(value: float, null: np.ndarray, higher_is_better: bool) -> float:
  """One-sided permutation p value, (1 + shuffles at least as good) / (1 + shuffles); never 0."""
  # Sums in another order may differ in the last bits; a tie must count as a tie.
  slack = 1e-9 * max(1.0, abs(value))
  as_good = null >= value - slack if higher_is_better else null <= value + slack
  return float((1 + as_good.sum()) / (1 + len(null)))


def paired_difference(
  a: np.ndarray, b: np.ndarray, bootstrap: Bootstrap, influence: np.ndarray | float = 0.0, level: float = 0.95
) -> dict[str, object]:
  """Mean of a - b over the same items, with a paired bootstrap over stimuli.

  Args:
    a: N per-item scores of one run.
    b: N per-item scores of the other, the same items in the same order.
    bootstrap: resamplings of those items' stimuli.
    influence: U, influence of the candidates on a minus that on b.
    level: of the interval.

  Returns:
    difference, its interval, two-sided bootstrap p value.
  """
  draws = bootstrap.means(np.asarray(a, np.float64) - np.asarray(b, np.float64), influence)
  tail = min(np.sum(draws <= 0), np.sum(draws >= 0))
  return {
    'difference': float(np.mean(a) - np.mean(b)),
    'interval': list(percentile_interval(draws, level)),
    'p_value': float(min(1.0, 2 * (1 + tail) / (1 + len(draws)))),
  }


def holm(p_values: np.ndarray) -> np.ndarray:
  """Adjusts p values of a family of tests (Holm 1979): N -> N.

  The chance that any true hypothesis among them has an adjusted p of at most a is at most a, however they depend on each
  other.
  """
  order = np.argsort(p_values)
  factors = np.arange(len(p_values), 0, -1)
  adjusted = np.minimum(np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order]), 1.0)
  result = np.empty(len(p_values))
  result[order] = adjusted
  return result
