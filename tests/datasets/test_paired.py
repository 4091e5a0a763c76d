"""The explainable variance of single trials, against simulated trials."""

import numpy as np
import pytest

from brainjax.datasets import paired


@pytest.mark.parametrize('repetitions', [5, 35])
def test_explainable_variance_predicts_the_deviation_of_means(repetitions):
  rng = np.random.default_rng(repetitions)
  explainable = rng.uniform(0, 0.4, 60)
  deviation = rng.uniform(0.3, 2, 60)  # voxels differ: one scale for all of them weighs by variance
  signal = np.sqrt(explainable) * rng.normal(size=(400, 1, 60))
  noise = np.sqrt(1 - explainable) * rng.normal(size=(400, repetitions, 60))
  trials = deviation * (signal + noise)  # stimuli, repetitions, voxels
  measured = np.sqrt(trials.mean(axis=1).var(axis=0).mean() / trials.reshape(-1, 60).var(axis=0).mean())
  # Averaging R trials leaves the signal and takes 1/R of the noise variance: s + (1 - s) / R.
  rows = trials[:100].reshape(-1, 60)
  estimated = paired.explainable_variance(rows, np.repeat(np.arange(100), repetitions))
  for share, tolerance in ((explainable, 0.03), (estimated, 0.1)):
    explained = np.average(share, weights=rows.var(axis=0))
    assert np.sqrt(explained + (1 - explained) / repetitions) == pytest.approx(measured, rel=tolerance)
