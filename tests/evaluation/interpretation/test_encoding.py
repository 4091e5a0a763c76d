"""Encoding models: accuracy in each voxel against NumPy and a known map."""

import numpy as np

from brainjax.evaluation.baselines.ridge import PENALTIES
from brainjax.evaluation.interpretation import encoding


def test_accuracy_is_the_correlation_on_other_pictures():
  rng = np.random.default_rng(0)
  features, new = rng.normal(size=(80, 7)), rng.normal(size=(40, 7))
  weights = rng.normal(size=(7, 9))
  weights[:, [2, 5]] = 0  # voxels of pure noise
  noise = lambda count: 0.5 * rng.normal(size=(count, 9))
  measured = new @ weights + noise(40)
  measured[:, 8] = 3  # and one that never changes
  stimulus = np.arange(80) // 2
  accuracy, penalty = encoding.fit(features, features @ weights + noise(80), stimulus, new, measured)
  assert penalty in PENALTIES and penalty < 1  # most of the variance is signal
  true = [np.corrcoef(new @ weights[:, v], measured[:, v])[0, 1] for v in (0, 1, 3, 4, 6, 7)]
  np.testing.assert_allclose(accuracy[[0, 1, 3, 4, 6, 7]], true, atol=0.03)
  assert np.abs(accuracy[[2, 5]]).max() < 0.45 and accuracy[8] == 0  # chance: 0.16 is one standard deviation


def test_correlation_of_columns():
  a, b = np.random.default_rng(1).normal(size=(2, 8, 3))
  expected = [np.corrcoef(a[:, v], b[:, v])[0, 1] for v in range(3)]
  np.testing.assert_allclose(encoding.correlate(a, b), expected)


def test_latents_are_averaged_over_blocks():
  latents = np.arange(2 * 48 * 48 * 2, dtype=float).reshape(2, 48, 48, 2)
  pooled = encoding._pool(latents).reshape(2, 16, 16, 2)
  np.testing.assert_allclose(pooled[1, 2, 5, 1], latents[1, 6:9, 15:18, 1].mean())
  assert encoding._pool(latents[:, :7, :7]).shape == (2, 98)  # few places stay
