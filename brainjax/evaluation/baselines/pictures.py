"""Baselines that draw pictures: ridge regression from voxels to latents (decoded) and to features (nearest picture)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainjax import sharding
from brainjax.checkpoints import load_weights
from brainjax.datasets import transforms
from brainjax.datasets.arrays import ArrayDataset
from brainjax.evaluation.baselines.ridge import PENALTIES, noise_rows, ridge
from brainjax.evaluation.scores.correlation import correlation_table
from brainjax.models import autoencoder
from brainjax.stages.first_stage import encode_pictures
from brainjax.trees import subtree, unflatten

NUM_FOLDS = 5
Trials = Mapping[str, ArrayDataset | str]  # subject -> single test trials, or why there are none


class Baseline(NamedTuple):
  """Pictures of a baseline and how it was made.

  Attributes:
    pictures: N H W 3 uint8, for the test items.
    about: method and penalty, for the report.
  """

  pictures: np.ndarray
  about: dict[str, Any]


class Regression:
  """Ridge regression from voxels to any targets of the training pictures, for one set of test rows."""

  def __init__(self, train: ArrayDataset, test: ArrayDataset, trials: Trials, voxel_zscore: bool):
    """Finds the noise of single trials of each subject.

    Args:
      train: training rows with pictures uint8.
      test: test rows.
      trials: the single trials that the test rows are means of, by subject in the order of their numbers; none if the test
        rows are single trials themselves.
      voxel_zscore: see `ridge`.
    """
    self.train, self.test, self.voxel_zscore = train, test, voxel_zscore
    self.noise: dict[int, tuple[np.ndarray, float]] = {}  # subject -> noise K V, repetitions
    for subject, rows in enumerate(trials.values()):
      if isinstance(rows, str):
        continue
      mine = train.columns['subject'] == subject
      noise = noise_rows(train.columns['fmri'][mine], train.columns['stimulus'][mine])
      if not len(noise):  # training pictures were shown once: the test trials' deviations from their means
        fmri = transforms.fit_width(rows.columns['fmri'], train.num_voxels)
        noise = noise_rows(fmri, rows.columns['stimulus'])
      if len(noise):
        counts = np.unique(rows.columns['stimulus'], return_counts=True)[1]
        self.noise[subject] = noise, float(1 / np.mean(1 / counts))

  def predict(self, targets: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Fits one regression a subject, as the same column is another voxel in another brain.

    Args:
      targets: P T, of the training pictures.

    Returns:
      (predictions N T for the test rows, facts for the report). Trials of one stimulus share a fold.
    """
    predictions, penalties = np.zeros((len(self.test), targets.shape[1])), []
    for subject in np.unique(self.test.columns['subject']):
      rows, new = (np.flatnonzero(data.columns['subject'] == subject) for data in (self.train, self.test))
      stimulus = self.train.columns['stimulus'][rows]
      noise, repetitions = self.noise.get(int(subject), (None, 1.0))
      fit = ridge(
        self.train.columns['fmri'][rows],
        targets[self.train.picture_row[rows]],
        self.test.columns['fmri'][new],
        groups=stimulus,
        num_folds=min(NUM_FOLDS, len(np.unique(stimulus))),
        noise=noise,
        repetitions=repetitions,
        voxel_zscore=self.voxel_zscore,
      )
      predictions[new] = fit.predictions
      penalties.append(fit.penalty)
    chosen_by = f'cross-validation over training stimuli, at most {NUM_FOLDS} folds'
    if self.noise:
      counts = ', '.join(f'{repetitions:.3g}' for _, repetitions in self.noise.values())
      chosen_by += f', its error corrected for test rows that are means over {counts} trials'
    return predictions, {
      'penalty': penalties[0] if len(penalties) == 1 else penalties,  # one a subject
      'penalty_unit': 'mean squared norm of a centred training row',
      'penalties_tried': list(PENALTIES),
      'chosen_by': chosen_by,
      'voxels': 'z-scored each' if self.voxel_zscore else 'z-scored as for the model',
    }


def to_latents(weights_folder: Path, regression: Regression) -> Baseline:
  """Ridge regression from voxels to first-stage latents, decoded by the first stage.

  Args:
    weights_folder: with a first stage among the weights.
    regression: from the training rows to the test rows.

  Raises:
    UserError: the weights are missing or cannot be read.
  """
  flat, info = load_weights(weights_folder)
  first_stage = autoencoder.first_stage(info['settings']['first_stage'])
  weights = subtree(flat, 'first_stage')
  latents = encode_pictures(first_stage, weights, regression.train.pictures)  # P h w C
  predictions, about = regression.predict(latents.reshape(len(latents), -1))
  predicted = predictions.reshape(-1, *latents.shape[1:]).astype(np.float32)
  decode = sharding.RowMap(
    lambda params, z: first_stage.apply({'params': params}, z, method='to_image'), unflatten(weights), batch_size=1
  )
  images = decode(predicted)
  about = {'method': 'ridge regression, voxels to first-stage latents, decoded'} | about
  return Baseline(transforms.to_uint8(images), about)


def to_features(features: Callable[[np.ndarray], np.ndarray], name: str, regression: Regression) -> Baseline:
  """Ridge regression from voxels to features of a classifier; the picture is the training picture with the nearest ones.

  Args:
    features: uint8 B H W 3 -> B D.
    name: of the classifier.
    regression: from the training rows to the test rows.
  """
  known = np.asarray(features(regression.train.pictures), np.float64)  # P D
  predictions, about = regression.predict(known)
  # All pictures share the large mean of the features; without it the correlation separates them.
  mean = known.mean(axis=0)
  table = correlation_table(predictions - mean, known - mean)  # N P
  method = f'ridge regression, voxels to features of the {name}, training picture of the most correlated features'
  return Baseline(regression.train.pictures[table.argmax(axis=1)], {'method': method} | about)


def describe_obstacle(train: ArrayDataset, test: ArrayDataset) -> str:
  """Why ridge regression cannot be fitted; '' where it can."""
  for subject in np.unique(test.columns['subject']):
    count = len(np.unique(train.columns['stimulus'][train.columns['subject'] == subject]))
    if count < 2:
      return f'subject {subject} has {count} training pictures, and its penalty is chosen by folds of them'
  return ''
