"""Tests of the simulated GOD files: their format, and what a simple decoder reads from them."""

import json
import re

import numpy as np
import pytest

from brainjax.datasets import god_raw
from brainjax.raw_layout import GOD_CLASS_INDEX, GOD_LABELS
from brainjax.simulator import cortex, god, stimuli
from tests import golden_files

NUM_VOXELS = 2000


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('god')
  shown = god.pictures(0, 64)
  god.write_pictures(folder, shown)
  god.write_subject(folder, 3, cortex.CortexConfig(num_voxels=NUM_VOXELS), 0, shown.features(), shown.num_train)
  return folder


@pytest.fixture(scope='module')
def subject(folder):
  with np.load(folder / 'sbj_3.npz') as data:
    return dict(data)


def _labels(path):
  """Class indices by the rule of the release: the integer before the first dot is the WordNet id."""
  index = json.loads((path.parent / GOD_CLASS_INDEX).read_text())
  by_id = {int(entry[0][1:]): int(key) for key, entry in index.items()}
  return np.array([by_id[int(line.split('.')[0])] for line in path.read_text().splitlines()])


def test_files_have_the_published_form(folder, subject):
  kinds = golden_files.group(golden_files.load('data')[0], 'god/sbj_1')
  assert set(kinds) <= set(subject)
  for name, array in kinds.items():
    assert subject[name].ndim == array.ndim
    if name.startswith('arr'):
      assert subject[name].dtype.kind == array.dtype.kind
  assert subject['arr_0'].shape == (1200, NUM_VOXELS) and subject['arr_0'].dtype == np.float32
  assert subject['arr_1'].shape == (50 * 35, NUM_VOXELS) and subject['arr_2'].shape == (50, NUM_VOXELS)
  assert sorted(subject['arr_3']) == list(range(1200)) and not np.array_equal(subject['arr_3'], np.arange(1200))
  for roi in ('V1', 'V2', 'V3', 'V4', 'LOC', 'FFA', 'PPA', 'LVC', 'HVC', 'VC'):
    assert subject[roi].dtype == bool and subject[roi].shape == (NUM_VOXELS,) and subject[roi].any()
  with np.load(folder / 'images_256.npz') as images:
    assert images['train_images'].shape == (1200, 64, 64, 3) and images['train_images'].dtype == np.uint8
    assert images['test_images'].shape == (50, 64, 64, 3)
  text = (folder / 'imagenet_training_label.csv').read_text()
  assert re.fullmatch(r'(\d+\.\d{6}\n){1200}', text)
  assert text.startswith('90000001.000000\n90000001.000001\n')
  assert re.fullmatch(r'(\d+\.000000\n){50}', (folder / 'imagenet_testing_label.csv').read_text())


def test_labels_name_the_pictures(folder):
  train, test = (_labels(folder / GOD_LABELS[split]) for split in ('train', 'test'))
  assert np.array_equal(np.bincount(train), [8] * 150)
  assert np.array_equal(np.sort(test), np.arange(150, 200))
  categories = stimuli.categories()
  rows = categories.attributes[test[:9]]
  expected = stimuli.render(rows, 1_000_000_000 + 1200 + np.arange(9), 64)
  with np.load(folder / 'images_256.npz') as images:
    assert np.array_equal(images['test_images'][:9], expected)
    assert len(np.unique(images['train_images'].reshape(1200, -1), axis=0)) == 1200


def test_average_is_over_runs(subject):
  trials = subject['arr_1'].reshape(50, 35, NUM_VOXELS).swapaxes(0, 1)
  np.testing.assert_allclose(trials.mean(0), subject['arr_2'], atol=1e-6)
  # A run's rows follow the test images: trials of the same image agree across runs, others do not.
  first, second = trials[:17].mean(0), trials[17:].mean(0)
  similarity = np.corrcoef(first, second)[:50, 50:]
  assert (similarity.argmax(1) == np.arange(50)).mean() > 0.9


def test_explainable_variance_is_that_of_the_specification(subject):
  trials = subject['arr_1'].astype(np.float64).reshape(50, 35, NUM_VOXELS).swapaxes(0, 1)
  noise = trials.var(0, ddof=1).mean(0)
  signal = trials.mean(0).var(0, ddof=1) - noise / 35
  share = signal / (signal + noise)
  assert abs(np.median(share) - 0.15) < 0.03
  assert 0.07 < (share < 0.01).mean() < 0.16
  assert np.log(share[share > 0.02]).std() == pytest.approx(0.6, abs=0.12)
  np.testing.assert_allclose(np.median(subject['arr_0'].var(0)), 1, atol=0.06)


def _ridge(train, target, test, penalty=0.3):
  mean, target_mean = train.mean(0), target.mean(0)
  centred = train - mean
  gram = centred @ centred.T + penalty * train.shape[1] * np.eye(len(train), dtype=train.dtype)
  return (test - mean) @ (centred.T @ np.linalg.solve(gram, target - target_mean)) + target_mean


def test_a_ridge_regression_decodes_unseen_categories(folder, subject):
  categories = stimuli.categories()
  train = categories.attributes[_labels(folder / GOD_LABELS['train'])][subject['arr_3']]
  test = categories.attributes[_labels(folder / GOD_LABELS['test'])]
  one_hot = [np.eye(size, dtype=np.float32) for size in stimuli.NUM_VALUES]
  target, truth = (
    np.concatenate([h[c] for h, c in zip(one_hot, rows.T, strict=True)], axis=1) for rows in (train, test)
  )
  guess = _ridge(subject['arr_0'], target, subject['arr_2'])
  stops = np.cumsum(stimuli.NUM_VALUES)
  for name, size, stop, column in zip(stimuli.ATTRIBUTES, stimuli.NUM_VALUES, stops, test.T, strict=True):
    accuracy = (guess[:, stop - size : stop].argmax(1) == column).mean()
    assert accuracy > 0.8, name
  distance = ((guess[:, None] - truth[None]) ** 2).sum(-1)
  assert (distance.argmin(1) == np.arange(50)).mean() > 0.9
  # Shuffled fMRI identifies nothing.
  shuffled = np.roll(distance, 7, axis=0)
  assert (shuffled.argmin(1) == np.arange(50)).mean() < 0.15


def test_a_ridge_regression_decodes_pixels(folder, subject):
  def coarse(images):  # N 64 64 3 -> N 8 8 3 -> N 192
    return images.reshape(len(images), 8, 8, 8, 8, 3).mean((2, 4)).reshape(len(images), -1).astype(np.float32) / 255

  with np.load(folder / 'images_256.npz') as images:
    train, test = coarse(images['train_images'])[subject['arr_3']], coarse(images['test_images'])
  guess = _ridge(subject['arr_0'], train, subject['arr_2'])
  similarity = np.corrcoef(guess, test)[:50, 50:]
  better = similarity.diagonal()[:, None] > similarity
  assert better.sum() / (50 * 49) > 0.9


def test_seeds_keep_categories_and_change_pictures():
  first, second = god.pictures(0, 64), god.pictures(1, 64)
  assert np.array_equal(first.scenes.attributes, second.scenes.attributes)
  assert (first.images != second.images).any((1, 2, 3)).all()


def test_trials_are_in_the_documented_order(folder, subject):
  # Row 35 * picture + run, as data/README.md says; the reader finds that order by the means.
  np.testing.assert_allclose(subject['arr_1'][35 * 7 : 35 * 8].mean(0), subject['arr_2'][7], atol=1e-6)
  stimulus = god_raw.find_trial_order(subject['arr_1'], subject['arr_2'])
  np.testing.assert_array_equal(stimulus, np.arange(50 * 35) // 35)


def test_baselines_drift_between_sessions():
  config = cortex.CortexConfig(num_voxels=4000, session_drift=0.5)
  drawn = god._baselines(np.random.default_rng(0), 3, 10, config)
  assert drawn.shape == (10, 4000)
  sessions = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
  np.testing.assert_array_equal(drawn, drawn[[0, 0, 0, 0, 4, 4, 4, 7, 7, 7]])
  assert np.unique(sessions).size == len({row.tobytes() for row in drawn})
  assert drawn.std() == pytest.approx(0.5, rel=0.05)
