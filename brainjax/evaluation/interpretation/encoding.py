"""Encoding models: how well each voxel's response is predicted from the picture, on pictures that were not fitted.

A linear map with a ridge penalty leads from features of the training pictures to the responses of single trials. Its
accuracy in a voxel is the correlation of predicted and measured responses over the test pictures, the standard map of
encoding models (Naselaris et al. 2011). Weights of a decoder are no such map: they are large also where a voxel only helps
to cancel noise (Haufe et al. 2014).
"""

from typing import NamedTuple

import numpy as np

from brainjax.evaluation.baselines.pictures import NUM_FOLDS
from brainjax.evaluation.baselines.ridge import ridge
from brainjax.evaluation.interpretation.run import Run
from brainjax.stages import data as stage_data

LATENTS, CLASSIFIER = 'latents', 'classifier'
NUM_CELLS = 16  # side of the latents after averaging, or somewhat more


class Encoding(NamedTuple):
  """An encoding model of a subject.

  Attributes:
    accuracy: V float32, correlation of each voxel of the ROI; NaN for voxels that are cut off, 0 for constant ones.
    penalty: chosen by cross-validation over training pictures, one for all voxels.
    num_stimuli: test pictures.
  """

  accuracy: np.ndarray
  penalty: float
  num_stimuli: int


def compute(run: Run, place: int) -> dict[str, Encoding]:
  """Encoding models of one subject: name of the features -> `Encoding`.

  Features are the latents of the first stage (what lies where), averaged to about 16 x 16 places, and those of the
  run's classifier, if it has one (what it is).

  Args:
    run: whose data; all its test pictures are used, averaged over trials.
    place: of the subject in the config.
  """
  fitted, areas, train = run.reconstructor.transforms, run.areas[place], run.train
  # Correlations need no scale of rows that the model wants.
  test = stage_data.test(run.config, {subject: each.with_test_scale('train') for subject, each in fitted.items()})
  features = {LATENTS: lambda pictures: _pool(run.encode(pictures))}
  if run.classifier:
    features[CLASSIFIER] = run.classifier.features
  rows, new = (np.flatnonzero(data.columns['subject'] == place) for data in (train, test))
  voxels, entries = np.unique(areas.source, return_index=True)
  result = {}
  for name, function in features.items():
    known, unseen = (np.asarray(function(data.pictures), np.float64) for data in (train, test))
    found, penalty = fit(
      known[train.picture_row[rows]],
      train.columns['fmri'][np.ix_(rows, entries)],
      train.columns['stimulus'][rows],
      unseen[test.picture_row[new]],
      test.columns['fmri'][np.ix_(new, entries)],
    )
    accuracy = np.full(areas.num_voxels, np.nan, np.float32)
    accuracy[voxels] = found
    result[name] = Encoding(accuracy, penalty, len(np.unique(test.columns['stimulus'][new])))
  return result


def fit(
  features: np.ndarray, responses: np.ndarray, stimulus: np.ndarray, new_features: np.ndarray, new_responses: np.ndarray
) -> tuple[np.ndarray, float]:
  """The accuracy in each voxel V of the map from features N D to responses N V on other pictures, and its penalty.

  Args:
    features: N D, of the picture of each training row.
    responses: N V.
    stimulus: N, the stimulus of each training row; rows of one share a fold.
    new_features: M D.
    new_responses: M V.
  """
  num_folds = min(NUM_FOLDS, len(np.unique(stimulus)))
  found = ridge(features, responses, new_features, groups=stimulus, num_folds=num_folds, voxel_zscore=True)
  return correlate(found.predictions, new_responses), found.penalty


def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Pearson's correlation of the columns of two arrays N W: W; 0 where one is constant."""
  a, b = (x - x.mean(axis=0, dtype=np.float64) for x in (a, b))
  size = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
  return np.where(size > 1e-12, (a * b).sum(axis=0) / np.where(size > 1e-12, size, 1), 0.0)


def _pool(latents: np.ndarray) -> np.ndarray:
  """P h w C -> P features: averaged over equal blocks, so that about `NUM_CELLS` places are left along each side."""
  count, side, _, channels = latents.shape
  block = max(size for size in range(1, max(side // NUM_CELLS, 1) + 1) if side % size == 0)
  # P h w C -> P h/b b w/b b C -> P h/b w/b C
  cells = latents.reshape(count, side // block, block, -1, block, channels).mean(axis=(2, 4))
  return cells.reshape(count, -1)
