"""FID against closed forms and SciPy."""

import numpy as np
import pytest
import scipy.linalg

from brainjax.evaluation.scores import frechet


def test_equals_the_matrix_root():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(90, 7)) @ rng.normal(size=(7, 7)), rng.normal(size=(80, 7)) + 1
  covariances = [np.cov(x, rowvar=False) for x in (a, b)]
  expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(sum(covariances))
  expected -= 2 * np.trace(scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real)
  assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
  assert frechet.frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_closed_forms():
  rng = np.random.default_rng(1)
  a = rng.normal(size=(50, 8))
  assert frechet.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
  assert frechet.frechet_distance(a, a + 2) == pytest.approx(4 * 8)
  centred = a - a.mean(axis=0)
  assert frechet.frechet_distance(centred, 3 * centred) == pytest.approx(4 * np.trace(np.cov(a, rowvar=False)))
  # fewer images than features
  assert frechet.frechet_distance(a[:5], a[:5] + 1) == pytest.approx(8, abs=1e-6)


def test_refusals():
  with pytest.raises(ValueError, match='N D and M D'):
    frechet.frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))
  with pytest.raises(ValueError, match='at least 2'):
    frechet.frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
