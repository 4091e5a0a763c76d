"""Frechet distance (FID; Heusel et al. 2017) of features that the user supplies (Inception, CLIP, ...)."""

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """FID of two sets of features: |mean difference|^2 + trace(A + B - 2 (A B)^(1/2)), in float64.

  With fewer images than features the covariances are singular and the value is biased upwards. It then compares models
  on the same images and says nothing by itself. `a: N D` are features of reconstructions, `b: M D` those of real images.

  Raises:
    ValueError: the features differ in width, or a side has fewer than 2 images.
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
  """A matrix X of at most D rows such that X'X is the covariance of the features (N D)."""
  centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
  return np.linalg.qr(centred, mode='r') if len(centred) > centred.shape[1] else centred
