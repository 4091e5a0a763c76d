"""The scale that means over repetitions are expected to have, against simulated trials."""

import numpy as np
import pytest

from brainjax.datasets import paired


@pytest.mark.parametrize('repetitions', [5, 35])
def test_scale_of_means_is_that_of_simulated_means(repetitions):
  rng = np.random.default_rng(repetitions)
  explainable = rng.uniform(0, 0.4, 60)
  deviation = rng.uniform(0.3, 2, 60)  # voxels differ: one scale for all of them weighs by variance
  signal = np.sqrt(explainable) * rng.normal(size=(400, 1, 60))
  noise = np.sqrt(1 - explainable) * rng.normal(size=(400, repetitions, 60))
  trials = deviation * (signal + noise)  # stimuli, repetitions, voxels
  found = np.sqrt(trials.mean(axis=1).var(axis=0).mean() / trials.reshape(-1, 60).var(axis=0).mean())
  assert paired.scale_of_means(explainable, repetitions, deviation**2) == pytest.approx(found, rel=0.03)
  # With the share estimated from a part of the stimuli, and numbers of trials that differ.
  rows = trials[:100].reshape(-1, 60)
  estimated = paired.explainable_variance(rows, np.repeat(np.arange(100), repetitions))
  variance = rows.var(axis=0)
  assert paired.scale_of_means(estimated, repetitions, variance) == pytest.approx(found, rel=0.1)
  mixed = paired.scale_of_means(explainable, np.array([1, repetitions]), deviation**2)
  assert found < mixed < 1


def test_scale_by_hand():
  assert paired.scale_of_means(np.array([0.2, 0.4]), 10) == pytest.approx(np.sqrt(0.3 + 0.07))
  assert paired.scale_of_means(np.array([0.0]), 4) == 0.5
  assert paired.scale_of_means(np.array([0.3]), 1) == 1
