"""Bootstrap, null and paired comparison against hand calculations, SciPy and simulation."""

import numpy as np
import pytest
import scipy.stats

from brainjax.evaluation.statistics import resampling


def test_aggregates_have_their_own_meaning():
  values = np.array([[1.0, 4.0, 2.0], [7.0, 0.0, 2.0]])
  assert resampling.aggregate(values, 'mean_of_samples', True).tolist() == [7 / 3, 3]
  assert resampling.aggregate(values, 'best_of_samples', True).tolist() == [4, 7]
  assert resampling.aggregate(values, 'best_of_samples', False).tolist() == [1, 0]
  assert resampling.aggregate(values, 'first_sample', True).tolist() == [1, 7]
  with pytest.raises(ValueError, match='no aggregate'):
    resampling.aggregate(values, 'best', True)


def test_interval_equals_scipy():
  values = np.random.default_rng(0).gamma(2.0, size=80)
  low, high = resampling.Bootstrap.draw(np.arange(80), 20000, seed=1).interval(values)
  reference = scipy.stats.bootstrap(
    (values,), np.mean, n_resamples=20000, method='percentile', rng=np.random.default_rng(2)
  ).confidence_interval
  np.testing.assert_allclose([low, high], reference, atol=0.02)


def test_interval_is_seeded_and_holds_extremes():
  stimulus = np.arange(9)
  values = np.arange(9.0)
  a, b, c = (resampling.Bootstrap.draw(stimulus, 500, seed).interval(values) for seed in (3, 3, 4))
  assert a == b and a != c
  assert resampling.Bootstrap.draw(stimulus, 500, 0).interval(np.full(9, 0.3)) == pytest.approx((0.3, 0.3))


def test_items_of_one_stimulus_stay_together():
  # 8 stimuli, 35 identical trials each: the interval must be that of 8 values, not of 280.
  values = np.arange(8.0)
  few = resampling.Bootstrap.draw(np.arange(8), 4000, seed=0)
  many = resampling.Bootstrap.draw(np.repeat(np.arange(8), 35), 4000, seed=0)
  np.testing.assert_allclose(many.interval(np.repeat(values, 35)), few.interval(values))
  # Unequal numbers of trials: the mean is over items.
  uneven = resampling.Bootstrap(np.array([[2, 0], [1, 1]]), np.array([0, 0, 0, 1]))
  np.testing.assert_allclose(uneven.means(np.array([1.0, 2.0, 3.0, 10.0])), [2.0, 4.0])


def test_coverage_of_the_interval():
  rng = np.random.default_rng(5)
  hits = 0
  for trial in range(200):
    low, high = resampling.Bootstrap.draw(np.arange(50), 400, seed=trial).interval(rng.normal(size=50))
    hits += low <= 0 <= high
  assert 0.90 <= hits / 200 <= 0.99


def test_null_is_the_score_of_other_pairings():
  table = np.random.default_rng(1).normal(size=(7, 2, 5))
  stimulus = np.array([0, 1, 2, 3, 4, 4, 0])
  np.testing.assert_array_equal(resampling.observed(table, stimulus)[5], table[5, :, 4])
  pairings = np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
  null = resampling.null_means(table, stimulus, pairings, 'best_of_samples', True)
  np.testing.assert_allclose(null[0], resampling.observed(table, stimulus).max(axis=1).mean())
  np.testing.assert_allclose(null[1], np.mean([table[i, :, (u + 1) % 5].max() for i, u in enumerate(stimulus)]))


def test_pairings_are_seeded_permutations():
  pairings = resampling.draw_pairings(9, 30, seed=2)
  assert pairings.shape == (30, 9)
  assert np.all(np.sort(pairings, axis=1) == np.arange(9))
  np.testing.assert_array_equal(pairings, resampling.draw_pairings(9, 30, seed=2))
  assert not np.array_equal(pairings, resampling.draw_pairings(9, 30, seed=3))


def test_p_value_by_hand():
  null = np.array([0.1, 0.2, 0.3, 0.4])
  assert resampling.p_value(0.5, null, True) == 1 / 5
  assert resampling.p_value(0.3, null, True) == 3 / 5
  assert resampling.p_value(0.1 + 0.2, null, True) == 3 / 5  # a tie up to rounding
  assert resampling.p_value(0.05, null, False) == 1 / 5
  assert resampling.p_value(0.2, null, False) == 3 / 5


def test_p_values_are_uniform_without_an_effect():
  rng = np.random.default_rng(7)
  stimulus = np.arange(8)
  values = []
  for seed in range(300):
    table = rng.normal(size=(8, 1, 8))
    null = resampling.null_means(table, stimulus, resampling.draw_pairings(8, 39, seed), 'mean_of_samples', True)
    values.append(resampling.p_value(resampling.observed(table, stimulus).mean(), null, True))
  assert np.mean(np.array(values) <= 0.05) < 0.09
  assert 0.42 < np.mean(values) < 0.60


def test_paired_difference():
  rng = np.random.default_rng(3)
  base = rng.normal(size=60) * 5  # items differ far more than runs do
  bootstrap = resampling.Bootstrap.draw(np.arange(60), 4000, seed=0)
  better = resampling.paired_difference(base + 0.5 + rng.normal(size=60) * 0.1, base, bootstrap)
  assert better['interval'][0] > 0.4 and better['p_value'] < 0.001
  assert better['difference'] == pytest.approx(0.5, abs=0.05)
  same = resampling.paired_difference(base, base, bootstrap)
  assert same == {'difference': 0.0, 'interval': [0.0, 0.0], 'p_value': 1.0}
