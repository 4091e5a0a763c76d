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


@pytest.mark.parametrize('shape', [{'n': 40, 'v': 90}, {'n': 200, 'v': 8}])
def test_the_corrected_error_is_the_error_on_means(shape):
  """Cross-validation on single trials, corrected, predicts the error on rows that are means of 20 trials."""
  rng = np.random.default_rng(4)
  fmri, targets, _ = data(**shape)
  spread = rng.uniform(0.2, 3, fmri.shape[1])  # noise differs between voxels
  noise = spread * rng.normal(size=(4000, fmri.shape[1]))
  trials = fmri + spread * rng.normal(size=fmri.shape)
  single = ridge.ridge(trials, targets, trials[:3])
  corrected = ridge.ridge(trials, targets, trials[:3], noise=noise, repetitions=20)
  # The same folds by hand: held-out rows get the noise of a mean of 20 trials.
  fold = np.random.default_rng(0).permutation(np.arange(len(fmri)) % 5)
  for penalty in (0.1, 10.0):
    total = []
    for k in range(5):
      x, y = trials[fold != k], targets[fold != k]
      model = Ridge(alpha=penalty * np.square(x - x.mean(axis=0)).sum() / len(x)).fit(x, y)
      for _ in range(100):
        new = fmri[fold == k] + spread * rng.normal(size=fmri[fold == k].shape) / np.sqrt(20)
        total.append(np.square(model.predict(new) - targets[fold == k]).mean())
    # The signal of the held-out rows correlates by chance with the noise they had; hence the width.
    assert corrected.errors[penalty] == pytest.approx(np.mean(total), rel=0.15)
    assert corrected.errors[penalty] < single.errors[penalty]
  assert corrected.penalty <= single.penalty


def test_noise_of_repeated_trials():
  rng = np.random.default_rng(0)
  stimulus = np.array([5, 5, 7, 5, 8, 8])
  fmri = rng.normal(size=(6, 4))
  rows = ridge.noise_rows(fmri, stimulus)
  assert rows.shape == (5, 4)  # stimulus 7 has one trial
  mean = fmri[[0, 1, 3]].mean(axis=0)
  np.testing.assert_allclose(rows[0], (fmri[0] - mean) * np.sqrt(3 / 2))
  many = ridge.noise_rows(rng.normal(size=(6000, 2)) * [1, 3] + 9, np.repeat(np.arange(2000), 3))
  np.testing.assert_allclose(np.square(many).mean(axis=0), [1, 9], rtol=0.05)
  assert ridge.noise_rows(fmri, np.arange(6)).shape == (0, 4)


def test_voxel_zscore_is_that_of_the_training_rows():
  fmri, targets, new = data()
  scale = np.random.default_rng(2).uniform(0.1, 9, fmri.shape[1])
  scale[3] = 0  # a constant voxel
  result = ridge.ridge(fmri * scale, targets, new * scale, voxel_zscore=True)
  kept = scale > 0
  mean, deviation = fmri[:, kept].mean(axis=0), fmri[:, kept].std(axis=0)
  plain = ridge.ridge((fmri[:, kept] - mean) / deviation, targets, (new[:, kept] - mean) / deviation)
  np.testing.assert_allclose(result.predictions, plain.predictions)
  assert result.penalty == plain.penalty
