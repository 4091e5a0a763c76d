"""The ridge baseline against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from brainjax.evaluation.baselines import ridge


def data(seed=0, n=40, v=90, t=7, m=9):
  rng = np.random.default_rng(seed)
  weights = rng.normal(size=(v, t)) / np.sqrt(v)
  fmri, new = rng.normal(size=(n, v)) + 2, rng.normal(size=(m, v)) + 2
  return fmri, fmri @ weights + rng.normal(size=(n, t)) * 0.3 + 5, new


@pytest.mark.parametrize('shape', [{'n': 40, 'v': 90}, {'n': 60, 'v': 8}])
def test_equals_scikit_learn_at_the_same_penalty(shape):
  fmri, targets, new = data(**shape)
  result = ridge.ridge(fmri, targets, new)
  centred = fmri - fmri.mean(axis=0)
  alpha = result.penalty * np.square(centred).sum() / len(fmri)
  np.testing.assert_allclose(result.predictions, Ridge(alpha=alpha).fit(fmri, targets).predict(new), atol=1e-8)


def test_cross_validation_is_that_of_a_plain_loop_and_uses_training_data_only():
  fmri, targets, new = data()
  groups = np.repeat(np.arange(8), 5)
  result = ridge.ridge(fmri, targets, new, penalties=(0.01, 1.0), num_folds=4, groups=groups, seed=3)
  fold = np.random.default_rng(3).permutation(np.arange(8) % 4)[groups]
  for penalty, error in result.errors.items():
    total = 0.0
    for k in range(4):
      x, y = fmri[fold != k], targets[fold != k]
      alpha = penalty * np.square(x - x.mean(axis=0)).sum() / len(x)
      total += np.square(Ridge(alpha=alpha).fit(x, y).predict(fmri[fold == k]) - targets[fold == k]).sum()
    assert error == pytest.approx(total / targets.size, rel=1e-9)
  assert result.penalty == min(result.errors, key=result.errors.get)
  assert (
    ridge.ridge(fmri, targets, new * 100, num_folds=4).penalty == ridge.ridge(fmri, targets, new, num_folds=4).penalty
  )


def test_noise_gets_a_strong_penalty():
  rng = np.random.default_rng(1)
  result = ridge.ridge(rng.normal(size=(40, 50)), rng.normal(size=(40, 3)), rng.normal(size=(5, 50)))
  assert result.penalty >= 10


def test_refusals():
  fmri, targets, new = data()
  with pytest.raises(ValueError, match='differ in voxels'):
    ridge.ridge(fmri, targets, new[:, :5])
  with pytest.raises(ValueError, match='N V and N T'):
    ridge.ridge(fmri[:7], targets, new)
  with pytest.raises(ValueError, match='folds do not fit'):
    ridge.ridge(fmri, targets, new, groups=np.repeat(np.arange(4), 10))
