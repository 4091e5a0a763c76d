"""The training picture nearest to each reconstruction, so that copying from the training set shows."""

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def _correlations(a: jax.Array, b: jax.Array) -> jax.Array:
  """Pearson correlation of all pairs: A P, B P uint8 -> A B."""

  def unit(x):
    x = x.astype(jnp.float32)
    x -= x.mean(axis=1, keepdims=True)
    norm = jnp.linalg.norm(x, axis=1, keepdims=True)
    return jnp.where(norm > 1e-3, x / jnp.maximum(norm, 1e-3), 0.0)

  return jnp.matmul(unit(a), unit(b).T, precision='highest')


def nearest(samples: np.ndarray, training: np.ndarray, block: int = 64) -> tuple[np.ndarray, np.ndarray]:
  """Finds for each sample the training picture with the highest Pearson correlation of pixels.

  Args:
    samples: N S H W 3 uint8.
    training: M H W 3 uint8, of the same size.
    block: pictures worked on at once.

  Returns:
    (N S int64 rows of `training`, N S float32 correlations). Of equal ones the first.
  """
  if samples.shape[2:] != training.shape[1:]:
    raise ValueError(
      f'samples are {samples.shape[2:]}, training pictures {training.shape[1:]}; they must have one size'
    )
  if not len(training):
    raise ValueError('there are no training pictures')
  flat = samples.reshape(-1, int(np.prod(samples.shape[2:])))  # N S H W 3 -> N*S P
  pool = training.reshape(len(training), -1)  # M P
  rows, values = np.zeros(len(flat), np.int64), np.full(len(flat), -np.inf, np.float32)
  for i in range(0, len(flat), block):
    part = slice(i, i + block)
    for j in range(0, len(pool), block):
      table = np.asarray(_correlations(flat[part], pool[j : j + block]))
      best = table.argmax(axis=1)
      score = np.take_along_axis(table, best[:, None], axis=1)[:, 0]
      better = score > values[part]
      rows[part] = np.where(better, best + j, rows[part])
      values[part] = np.where(better, score, values[part])
  return rows.reshape(samples.shape[:2]), values.reshape(samples.shape[:2])
