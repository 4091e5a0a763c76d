"""What anyone would try first: ridge regression from voxels to latents (decoded) and to features (nearest picture)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainjax import sharding
from brainjax.checkpoints import load_weights
from brainjax.datasets.arrays import ArrayDataset
from brainjax.evaluation.baselines.ridge import PENALTIES, ridge
from brainjax.evaluation.scores.correlation import correlation_table
from brainjax.models import autoencoder
from brainjax.stages.first_stage import encode_pictures
from brainjax.trees import subtree, unflatten

NUM_FOLDS = 5


class Baseline(NamedTuple):
  """Pictures of a baseline and how it was made.

  Attributes:
    pictures: N H W 3 uint8, for the test items.
    about: method and penalty, for the report.
  """

  pictures: np.ndarray
  about: dict[str, Any]


def to_latents(workdir: Path, train: ArrayDataset, test: ArrayDataset) -> Baseline:
  """Ridge regression from voxels to first-stage latents, decoded by the first stage of the diffuse stage.

  Args:
    workdir: of the run, with the weights of its diffuse stage.
    train: training rows with pictures uint8.
    test: test rows.
  """
  flat, info = load_weights(workdir / 'diffuse' / 'weights')
  first_stage = autoencoder.first_stage(info['settings']['first_stage'])
  weights = subtree(flat, 'first_stage')
  latents = encode_pictures(first_stage, weights, train.pictures)  # P h w C
  predictions, penalties = _fit(train, test, latents.reshape(len(latents), -1))
  predicted = predictions.reshape(-1, *latents.shape[1:]).astype(np.float32)
  decode = sharding.RowMap(
    lambda params, z: first_stage.apply({'params': params}, z, method='to_image'), unflatten(weights), batch_size=1
  )
  images = decode(predicted)
  about = _about('voxels to first-stage latents, decoded', penalties)
  return Baseline(np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8), about)


def to_features(
  features: Callable[[np.ndarray], np.ndarray], name: str, train: ArrayDataset, test: ArrayDataset
) -> Baseline:
  """Ridge regression from voxels to features of a classifier; shown is the training picture with the nearest features.

  Args:
    features: uint8 B H W 3 -> B D.
    name: of the classifier.
    train: training rows with pictures uint8.
    test: test rows.
  """
  known = np.asarray(features(train.pictures), np.float64)  # P D
  predictions, penalties = _fit(train, test, known)
  # Correlation after the mean is taken out: features have large means that every picture shares.
  mean = known.mean(axis=0)
  table = correlation_table(predictions - mean, known - mean)  # N P
  about = _about(f'voxels to features of the {name}, training picture of the most correlated features', penalties)
  return Baseline(train.pictures[table.argmax(axis=1)], about)


def why_not(train: ArrayDataset, test: ArrayDataset) -> str:
  """Why ridge regression cannot be fitted; '' where it can."""
  for subject in np.unique(test.columns['subject']):
    count = len(np.unique(train.columns['stimulus'][train.columns['subject'] == subject]))
    if count < 2:
      return f'subject {subject} has {count} training pictures, and its penalty is chosen by folds of them'
  return ''


def _fit(train: ArrayDataset, test: ArrayDataset, targets: np.ndarray) -> tuple[np.ndarray, list[float]]:
  """Ridge regression to targets of the pictures, P T. Trials of one stimulus share a fold.

  One for each subject: the same column is another voxel in another brain.
  """
  predictions, penalties = np.zeros((len(test), targets.shape[1])), []
  for subject in np.unique(test.columns['subject']):
    rows, new = (np.flatnonzero(data.columns['subject'] == subject) for data in (train, test))
    stimulus = train.columns['stimulus'][rows]
    found = ridge(
      train.columns['fmri'][rows],
      targets[train.picture_row[rows]],
      test.columns['fmri'][new],
      groups=stimulus,
      num_folds=min(NUM_FOLDS, len(np.unique(stimulus))),
    )
    predictions[new] = found.predictions
    penalties.append(found.penalty)
  return predictions, penalties


def _about(method: str, penalties: list[float]) -> dict[str, Any]:
  return {
    'method': f'ridge regression, {method}',
    'penalty': penalties[0] if len(penalties) == 1 else penalties,  # one a subject
    'penalty_unit': 'mean squared norm of a centred training row',
    'penalties_tried': list(PENALTIES),
    'chosen_by': f'cross-validation over training stimuli, at most {NUM_FOLDS} folds',
  }
