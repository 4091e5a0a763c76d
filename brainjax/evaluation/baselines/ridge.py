"""The baseline anyone would try first: ridge regression from voxels to any target (latents, classifier features)."""

import dataclasses

import numpy as np

PENALTIES = tuple(float(10.0**power) for power in range(-2, 7))


@dataclasses.dataclass(frozen=True)
class RidgeResult:
  """What `ridge` returns.

  Attributes:
    predictions: M T, for the test fMRI.
    penalty: the chosen penalty, relative to the mean squared norm of a centred training row.
    errors: penalty -> mean squared error of its cross-validation.
  """

  predictions: np.ndarray
  penalty: float
  errors: dict[float, float]


def ridge(
  train_fmri: np.ndarray,
  train_targets: np.ndarray,
  test_fmri: np.ndarray,
  *,
  penalties: tuple[float, ...] = PENALTIES,
  num_folds: int = 5,
  groups: np.ndarray | None = None,
  seed: int = 0,
) -> RidgeResult:
  """Ridge regression with an unpenalised intercept, its penalty chosen by cross-validation on training data only.

  Solved in the dual (N x N, few trials and many voxels), in float64, all penalties from one eigendecomposition a fold.

  Args:
    train_fmri: N V.
    train_targets: N T, for instance flattened first-stage latents.
    test_fmri: M V.
    penalties: candidates, in units of the mean squared norm of a centred training row.
    num_folds: folds of the cross-validation.
    groups: N labels; rows of one label share a fold (trials of one stimulus). None: every row by itself.
    seed: of the fold assignment.

  Returns:
    Predictions for the test rows, the chosen penalty and the error of each candidate.
  """
  train_fmri, train_targets, test_fmri = (np.asarray(x, np.float64) for x in (train_fmri, train_targets, test_fmri))
  if train_fmri.ndim != 2 or train_targets.ndim != 2 or len(train_fmri) != len(train_targets):
    raise ValueError(f'ridge needs N V and N T, found {train_fmri.shape} and {train_targets.shape}')
  if test_fmri.ndim != 2 or test_fmri.shape[1] != train_fmri.shape[1]:
    raise ValueError(f'test fMRI {test_fmri.shape} and training fMRI {train_fmri.shape} differ in voxels')
  labels = np.unique(np.arange(len(train_fmri)) if groups is None else groups, return_inverse=True)[1]
  num_groups = int(labels.max()) + 1
  if not 2 <= num_folds <= num_groups:
    raise ValueError(f'{num_folds} folds do not fit {num_groups} groups of training rows')
  fold = np.random.default_rng(seed).permutation(np.arange(num_groups) % num_folds)[labels]
  errors = np.zeros(len(penalties))
  for k in range(num_folds):
    held = fold == k
    predicted = _solve(train_fmri[~held], train_targets[~held], train_fmri[held], penalties)
    errors += [np.sum(np.square(p - train_targets[held])) for p in predicted]
  errors /= train_targets.size
  best = penalties[int(np.argmin(errors))]
  (predictions,) = _solve(train_fmri, train_targets, test_fmri, (best,))
  return RidgeResult(predictions, best, dict(zip(penalties, errors.tolist(), strict=True)))


def _solve(x: np.ndarray, y: np.ndarray, new: np.ndarray, penalties: tuple[float, ...]) -> list[np.ndarray]:
  mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
  x, y, new = x - mean_x, y - mean_y, new - mean_x
  values, vectors = np.linalg.eigh(x @ x.T)  # N, N N
  scale = np.trace(x @ x.T) / len(x)
  rotated_y, rotated_new = vectors.T @ y, (new @ x.T) @ vectors
  return [mean_y + (rotated_new / (np.maximum(values, 0) + penalty * scale)) @ rotated_y for penalty in penalties]
