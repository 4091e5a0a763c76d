"""The ridge baseline to classifier features on data whose answer is known."""

import numpy as np

from brainjax.datasets.arrays import ArrayDataset
from brainjax.evaluation.baselines import pictures as baselines


def rows(pictures, picture_row, fmri, subject=0):
  columns = {'fmri': fmri, 'stimulus': picture_row + 100, 'subject': np.broadcast_to(subject, len(fmri))}
  return ArrayDataset(columns, pictures, picture_row)


def test_nearest_returns_the_training_picture_with_the_predicted_features():
  rng = np.random.default_rng(0)
  pictures = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
  project = rng.normal(size=(5, 30))

  def features(images):  # large means that all pictures share must not matter
    return 1000 + images.reshape(len(images), -1)[:, :5].astype(np.float64)

  def respond(images, noise):
    return ((features(images) - 1000) @ project / 100 + noise * rng.normal(size=(len(images), 30))).astype(np.float32)

  seen = np.repeat(np.arange(40), 2)
  train = rows(pictures, seen, respond(pictures[seen], 0.05))
  shown = np.array([7, 3, 30])
  test = rows(pictures[shown], np.arange(3), respond(pictures[shown], 0.05))
  found = baselines.to_features(features, 'toy', baselines.Regression(train, test, {}, False))
  np.testing.assert_array_equal(found.pictures, pictures[shown])
  assert 'toy' in found.about['method'] and found.about['penalty'] in found.about['penalties_tried']


def test_one_training_picture_is_reported():
  pictures = np.zeros((2, 8, 8, 3), np.uint8)
  fmri = np.zeros((2, 30), np.float32)
  test = rows(pictures, np.arange(2), fmri)
  assert baselines.describe_obstacle(rows(pictures, np.arange(2), fmri), test) == ''
  assert 'subject 0 has 1 training pictures' in baselines.describe_obstacle(
    rows(pictures, np.zeros(2, int), fmri), test
  )


def test_each_subject_has_a_regression_of_its_own():
  # The second brain has the first one's voxels in another order: one regression for both would find nothing.
  rng = np.random.default_rng(1)
  pictures = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
  features = lambda images: images.reshape(len(images), -1)[:, :5].astype(np.float64)
  project = rng.normal(size=(5, 30))
  respond = lambda rows, order: (features(pictures[rows]) @ project)[:, order].astype(np.float32)
  orders = np.arange(30), rng.permutation(30)
  seen, shown = np.arange(40), np.array([7, 3, 30])
  train = rows(pictures, np.tile(seen, 2), np.concatenate([respond(seen, o) for o in orders]), np.repeat([0, 1], 40))
  test = rows(
    pictures[shown], np.tile(np.arange(3), 2), np.concatenate([respond(shown, o) for o in orders]), np.repeat([0, 1], 3)
  )
  found = baselines.to_features(features, 'toy', baselines.Regression(train, test, {}, False))
  np.testing.assert_array_equal(found.pictures, pictures[np.tile(shown, 2)])
  assert len(found.about['penalty']) == 2


def test_the_penalty_is_chosen_for_means_where_trials_are_known():
  rng = np.random.default_rng(3)
  pictures = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
  targets = rng.normal(size=(60, 6))
  signal = targets @ rng.normal(size=(6, 40))
  noisy = lambda rows, times: signal[rows] + 6 / np.sqrt(times) * rng.normal(size=(len(rows), 40))
  train = rows(pictures, np.arange(50), noisy(np.arange(50), 1))
  test = rows(pictures, np.arange(50, 60), noisy(np.arange(50, 60), 30))
  shown = np.repeat(np.arange(50, 60), 30)
  trials = {'sub-1': ArrayDataset({'fmri': noisy(shown, 1), 'stimulus': shown})}
  means, about = baselines.Regression(train, test, trials, False).predict(targets[:50])
  single, plain = baselines.Regression(train, test, {'sub-1': 'not there'}, False).predict(targets[:50])
  assert about['penalty'] < plain['penalty'] and 'means over 30 trials' in about['chosen_by']
  assert 'means' not in plain['chosen_by']
  error = lambda found: np.square(found - targets[50:]).mean()
  assert error(means) < error(single)
  # Repetitions of training pictures are used before those of test pictures.
  twice = rows(pictures, np.tile(np.arange(50), 2), noisy(np.tile(np.arange(50), 2), 1))
  regression = baselines.Regression(twice, test, trials, False)
  assert regression.noise[0][0].shape == (100, 40) and regression.noise[0][1] == 30
