"""Pearson correlation of all pairs of rows: pixels, features or voxels."""

import numpy as np


def correlation_table(a: np.ndarray, b: np.ndarray, block: int = 256) -> np.ndarray:
  """Correlates every row of `a` with every row of `b`, in float64.

  Args:
    a: ... D.
    b: B D.
    block: rows of each that are worked on at once.

  Returns:
    ... B float64; 0 for a constant row.

  Raises:
    ValueError: the rows differ in length.
  """
  if b.ndim != 2 or a.shape[-1] != b.shape[1]:
    raise ValueError(f'correlation needs ... D and B D, found {a.shape} and {b.shape}')
  rows = a.reshape(-1, a.shape[-1])  # ... D -> A D
  table = np.empty((len(rows), len(b)))
  for j in range(0, len(b), block):
    units = _unit_rows(b[j : j + block])
    for i in range(0, len(rows), block):
      table[i : i + block, j : j + block] = _unit_rows(rows[i : i + block]) @ units.T
  return table.reshape(*a.shape[:-1], len(b))


def _unit_rows(x: np.ndarray) -> np.ndarray:
  """Centred rows of length 1: B D -> B D float64. A constant row becomes 0."""
  x = x.astype(np.float64)
  size = np.linalg.norm(x, axis=1, keepdims=True)
  x -= x.mean(axis=1, keepdims=True)
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  # The mean of equal numbers is rounded, so what is left of a constant row is tiny and not 0.
  return np.divide(x, norm, out=np.zeros_like(x), where=norm > 1e-9 * size)
