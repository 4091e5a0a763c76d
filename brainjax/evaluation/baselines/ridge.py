"""Ridge regression from voxels to any target (latents, classifier features), its penalty chosen for the test rows' noise."""

import dataclasses

import numpy as np

PENALTIES = tuple(float(10.0**power) for power in range(-2, 7))


@dataclasses.dataclass(frozen=True)
class RidgeResult:
  """What `ridge` returns.

  Attributes:
    predictions: M T, for the test fMRI.
    penalty: the chosen penalty, relative to the mean squared norm of a centred training row.
    errors: penalty -> mean squared error of its cross-validation, for rows as noisy as the test rows.
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
  noise: np.ndarray | None = None,
  repetitions: float = 1.0,
  voxel_zscore: bool = False,
) -> RidgeResult:
  """Ridge regression with an unpenalised intercept, its penalty chosen by cross-validation on training data only.

  Training rows are single trials. If test rows are means over R trials, their noise has 1/R of the variance, and a penalty
  chosen on single trials is too strong. The noise e of a trial adds ||W' e||^2 to the squared error of a linear map W
  (noise and signal are independent), so the error of a mean of R trials is that of a trial less
  (1 - 1/R) E||W' e||^2. `noise` gives the expectation.

  Args:
    train_fmri: N V.
    train_targets: N T, for instance flattened first-stage latents.
    test_fmri: M V.
    penalties: candidates, in units of the mean squared norm of a centred training row.
    num_folds: folds of the cross-validation.
    groups: N labels; rows of one label share a fold (trials of one stimulus). None: every row by itself.
    seed: of the fold assignment.
    noise: K V samples of the noise of a single trial, as `noise_rows` gives them. None: no correction.
    repetitions: R, trials that a test row is the mean of (the harmonic mean where they differ).
    voxel_zscore: give each voxel mean 0 and deviation 1 over the training rows first. Otherwise voxels with a large
      deviation are penalised less.

  Returns:
    Predictions for the test rows, the chosen penalty and the error of each candidate.

  Raises:
    ValueError: shapes that do not fit, or more folds than groups.
  """
  from sklearn.linear_model import Ridge  # slow to import, and only evaluation needs it

  train_fmri, train_targets, test_fmri = (np.asarray(x, np.float64) for x in (train_fmri, train_targets, test_fmri))
  if train_fmri.ndim != 2 or train_targets.ndim != 2 or len(train_fmri) != len(train_targets):
    raise ValueError(f'ridge needs N V and N T, found {train_fmri.shape} and {train_targets.shape}')
  if test_fmri.ndim != 2 or test_fmri.shape[1] != train_fmri.shape[1]:
    raise ValueError(f'test fMRI {test_fmri.shape} and training fMRI {train_fmri.shape} differ in voxels')
  labels = np.unique(np.arange(len(train_fmri)) if groups is None else groups, return_inverse=True)[1]
  num_groups = int(labels.max()) + 1
  if not 2 <= num_folds <= num_groups:
    raise ValueError(f'{num_folds} folds do not fit {num_groups} groups of training rows')
  noise = np.zeros((1, train_fmri.shape[1])) if noise is None else np.asarray(noise, np.float64)
  if voxel_zscore:
    mean, deviation = train_fmri.mean(axis=0), train_fmri.std(axis=0)
    deviation[deviation == 0] = 1.0
    train_fmri, test_fmri, noise = (train_fmri - mean) / deviation, (test_fmri - mean) / deviation, noise / deviation
  fold = np.random.default_rng(seed).permutation(np.arange(num_groups) % num_folds)[labels]
  errors = np.zeros(len(penalties))
  for k in range(num_folds):
    held = fold == k
    train, test = (train_fmri[~held], train_targets[~held]), (train_fmri[held], train_targets[held])
    errors += _errors(*train, *test, penalties, noise, 1 - 1 / repetitions)
  errors /= train_targets.size
  best = penalties[int(np.argmin(errors))]
  model = Ridge(alpha=best * _scale(train_fmri)).fit(train_fmri, train_targets)  # primal or dual, as the shape asks
  return RidgeResult(model.predict(test_fmri), best, dict(zip(penalties, errors.tolist(), strict=True)))


def noise_rows(fmri: np.ndarray, stimulus: np.ndarray) -> np.ndarray:
  """Samples of the noise of single trials: deviations of repeated trials from the mean of their stimulus.

  Scaled by sqrt(n / (n - 1)) for n trials of a stimulus, so that their mean square is the noise variance. Stimuli with one
  trial are left out. The means themselves, which hold the signal, do not enter.

  Args:
    fmri: N V single trials.
    stimulus: N labels.

  Returns:
    K V float64, K = 0 without repetitions.
  """
  _, place, counts = np.unique(stimulus, return_inverse=True, return_counts=True)
  means = np.zeros((len(counts), fmri.shape[1]))
  np.add.at(means, place, fmri)
  means /= counts[:, None]
  repeated = counts[place] > 1
  n = counts[place][repeated, None]
  return (fmri[repeated] - means[place[repeated]]) * np.sqrt(n / (n - 1))


def _scale(fmri: np.ndarray) -> float:
  """The unit of penalties, as the sum over rows: mean squared norm of a centred row."""
  return float(np.square(fmri - fmri.mean(axis=0)).sum() / len(fmri))


def _errors(
  x: np.ndarray,
  y: np.ndarray,
  held_x: np.ndarray,
  held_y: np.ndarray,
  penalties: tuple[float, ...],
  noise: np.ndarray,
  removed: float,
) -> list[float]:
  """Summed squared error on held-out rows for each penalty, less the noise that averaging removes.

  In the basis of the eigenvectors Q of X'X the map is W = Q diag(d) Z with d = 1 / (eigenvalue + penalty), Z = Q'X'Y. All
  sums over rows and targets then become sums over pairs of eigenvectors, so that no penalty needs its own predictions.

  Args:
    x: N V.
    y: N T.
    held_x: M V.
    held_y: M T.
    penalties: in units of `_scale(x)`.
    noise: K V.
    removed: share of the noise variance that averaging removes.
  """
  scale, mean_x = _scale(x), x.mean(axis=0)
  held_y, y = held_y - y.mean(axis=0), y - y.mean(axis=0)
  x, held_x = x - mean_x, held_x - mean_x
  values, q = _eigenvectors(x)  # r, V r
  z = (x @ q).T @ y  # r T
  held, noise = held_x @ q, noise @ q  # M r, K r
  products = z @ z.T  # r r
  gram = held.T @ held - removed * len(held) * (noise.T @ noise) / len(noise)
  linear = np.sum((held.T @ held_y) * z, axis=1)  # r
  total = np.square(held_y).sum()
  errors = []
  for penalty in penalties:
    d = 1 / (values + penalty * scale)
    errors.append(total - 2 * d @ linear + d @ (gram * products) @ d)
  return errors


def _eigenvectors(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Positive eigenvalues (r) and eigenvectors (V r) of X'X, from X'X or XX', whichever is smaller: x is N V."""
  wide = len(x) < x.shape[1]
  values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
  keep = values > values[-1] * 1e-12
  values, vectors = values[keep], vectors[:, keep]
  return values, x.T @ vectors / np.sqrt(values) if wide else vectors
