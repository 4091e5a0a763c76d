"""Split-half identification: certain without noise, chance without signal, counted by hand in between."""

import numpy as np
import pytest

from brainjax.evaluation.statistics import repetitions


def fractions(*args, **options):
  found = repetitions.split_half_identification(*args, **options)
  return None if found is None else found.fractions


STIMULUS = np.repeat(np.arange(7) + 40, 9)


def trials(signal: float, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return signal * rng.normal(size=(7, 30))[STIMULUS - 40] + rng.normal(size=(len(STIMULUS), 30)) + 5


def test_without_noise_and_without_signal():
  np.testing.assert_array_equal(fractions(trials(100.0), STIMULUS), 1)
  values = np.mean([fractions(trials(0.0, seed), STIMULUS, 10).mean() for seed in range(40)])
  # Halves of one sample lean apart when the mean is taken out of both; near chance all the same.
  assert values == pytest.approx(0.5, abs=0.03)


def test_order_of_trials_does_not_matter_and_a_seed_repeats():
  order = np.random.default_rng(3).permutation(len(STIMULUS))
  a = fractions(trials(0.5), STIMULUS, 200)
  b = fractions(trials(0.5)[order], STIMULUS[order], 200)
  np.testing.assert_allclose(a, b, atol=0.1)
  assert 0.6 < a.mean() < 1
  np.testing.assert_array_equal(a, fractions(trials(0.5), STIMULUS, 200))


def test_equals_a_plain_loop_where_halves_leave_no_choice():
  # Two trials each: the only split, in both directions.
  rng = np.random.default_rng(5)
  first, second = rng.normal(size=(5, 11)), rng.normal(size=(5, 11))
  second += 0.7 * first
  found = fractions(np.concatenate([first, second]), np.tile(np.arange(5), 2), num_splits=400)
  expected = np.zeros(5)
  draws = np.random.default_rng(0).random((400, 5)) < 0.5  # which trial of each stimulus is in the first half
  for swap in draws:
    a, b = np.where(swap[:, None], second, first), np.where(swap[:, None], first, second)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    for x, y in ((a, b), (b, a)):
      r = np.corrcoef(x, y)[:5, 5:]
      expected += [np.mean([r[i, i] > r[i, j] for j in range(5) if j != i]) for i in range(5)]
  np.testing.assert_allclose(found, expected / 800, atol=0.06)


def test_a_stimulus_shown_once_has_no_halves():
  assert fractions(trials(1.0)[:10], STIMULUS[:10]) is None  # 9 trials of one, 1 of another
  assert fractions(trials(1.0)[:9], STIMULUS[:9]) is None
