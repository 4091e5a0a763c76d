"""Frechet distance (FID) and correlation of features that the user supplies (Inception, CLIP, ...)."""

import numpy as np
import scipy.linalg


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
  covariance_a, covariance_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
  # The trace of (A B)^(1/2) is that of the symmetric (A^(1/2) B A^(1/2))^(1/2), whose eigenvalues are real.
  values, vectors = scipy.linalg.eigh(covariance_a)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  cross = np.sqrt(np.maximum(scipy.linalg.eigvalsh(root @ covariance_b @ root), 0)).sum()
  return float(mean + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


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
