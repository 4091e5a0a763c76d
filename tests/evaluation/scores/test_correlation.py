"""Correlation of all pairs of rows against NumPy."""

import numpy as np
import pytest

from brainjax.evaluation.scores.correlation import correlation_table


@pytest.mark.parametrize('block', [2, 256])
def test_equals_numpy_and_constant_rows_are_0(block):
  rng = np.random.default_rng(2)
  samples, stimuli = rng.normal(size=(4, 2, 9)) + 3, rng.normal(size=(5, 9))
  samples[0, 0], samples[3, 1] = 3.0, 0.1
  table = correlation_table(samples, stimuli, block)
  for i, s, u in np.ndindex(4, 2, 5):
    constant = (i, s) in ((0, 0), (3, 1))
    expected = 0 if constant else np.corrcoef(samples[i, s], stimuli[u])[0, 1]
    assert table[i, s, u] == pytest.approx(expected, abs=1e-6)
  assert np.all(table[0, 0] == 0) and np.all(table[3, 1] == 0)


def test_bytes_do_not_wrap():
  rows = np.random.default_rng(0).integers(0, 256, (3, 50), dtype=np.uint8)
  np.testing.assert_allclose(correlation_table(rows, rows), np.corrcoef(rows.astype(float)), atol=1e-6)


def test_refusals():
  with pytest.raises(ValueError, match='... D and U D'):
    correlation_table(np.zeros((5, 3)), np.zeros((5, 4)))
  with pytest.raises(ValueError, match='... D and U D'):
    correlation_table(np.zeros((5, 3)), np.zeros((5, 2, 3)))
