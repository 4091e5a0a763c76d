"""Frechet distance (FID) and correlation of features that the user supplies (Inception, CLIP, ...)."""

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """FID of two sets of features: |mean difference|^2 + trace(A + B - 2 (A B)^(1/2)), in float64.

  With fewer images than features the covariances are singular and the value is biased upwards: it compares models on
  the same images, it is no absolute measure.

  Args:
    a: N D features of reconstructions.
    b: M D features of real images.

  Returns:
    The squared distance.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
    raise ValueError(f'FID needs N D and M D features, found {a.shape} and {b.shape}')
  if min(len(a), len(b)) < 2:
    raise ValueError('FID needs at least 2 images on each side')
  mean = np.sum(np.square(a.mean(axis=0) - b.mean(axis=0)))
  # With A = X'X and B = Y'Y, the eigenvalues of A B are the squared singular values of X Y', which is small for few images.
  x, y = _factor(a), _factor(b)
  cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
  return float(mean + np.square(x).sum() + np.square(y).sum() - 2 * cross)


def _factor(features: np.ndarray) -> np.ndarray:
  """X with at most D rows, whose X'X is the covariance of features N D."""
  centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
  return np.linalg.qr(centred, mode='r') if len(centred) > centred.shape[1] else centred


def feature_table(samples: np.ndarray, stimuli: np.ndarray) -> np.ndarray:
  """Pearson correlation of features of every sample and every stimulus, for two-way identification.

  Args:
    samples: N S D.
    stimuli: U D.

  Returns:
    N S U float64; 0 for constant features.
  """
  if samples.ndim != 3 or stimuli.ndim != 2 or samples.shape[2] != stimuli.shape[1]:
    raise ValueError(f'features must be N S D and U D, found {samples.shape} and {stimuli.shape}')

  def unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    x = x - x.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 1e-12)

  return unit(samples) @ unit(stimuli).T
