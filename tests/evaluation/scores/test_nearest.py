"""The nearest training picture against NumPy."""

import numpy as np
import pytest

from brainjax.evaluation.scores import nearest


@pytest.mark.parametrize('block', [2, 64])
def test_equals_a_plain_loop(block):
  rng = np.random.default_rng(0)
  samples = rng.integers(0, 256, (4, 2, 8, 9, 3), dtype=np.uint8)
  training = rng.integers(0, 256, (7, 8, 9, 3), dtype=np.uint8)
  training[5] = samples[1, 1]  # a copy
  rows, values = nearest.nearest(samples, training, block)
  r = np.array([[[np.corrcoef(s.ravel(), t.ravel())[0, 1] for t in training] for s in item] for item in samples])
  np.testing.assert_array_equal(rows, r.argmax(axis=-1))
  np.testing.assert_allclose(values, r.max(axis=-1), atol=1e-5)
  assert rows[1, 1] == 5 and values[1, 1] == pytest.approx(1)


def test_refusals():
  samples = np.zeros((1, 1, 8, 9, 3), np.uint8)
  with pytest.raises(ValueError, match='one size'):
    nearest.nearest(samples, np.zeros((2, 9, 9, 3), np.uint8))
  with pytest.raises(ValueError, match='no training'):
    nearest.nearest(samples, np.zeros((0, 8, 9, 3), np.uint8))
