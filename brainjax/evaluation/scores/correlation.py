"""Pearson correlation of all pairs of rows (pixels, features or voxels), block by block."""

import numpy as np

from brainjax.ops import losses


def correlation_table(a: np.ndarray, b: np.ndarray, block: int = 256) -> np.ndarray:
  """Correlates every row of `a: ... D` with every row of `b: U D` -> ... U float32; 0 for a constant row.

  `block`: rows of each that are in memory as floats at once.

  Raises:
    ValueError: the rows differ in length.
  """
  if b.ndim != 2 or a.shape[-1] != b.shape[1]:
    raise ValueError(f'correlation needs ... D and U D, found {a.shape} and {b.shape}')
  rows = a.reshape(-1, a.shape[-1])  # ... D -> N D
  table = np.empty((len(rows), len(b)), np.float32)
  for i in range(0, len(rows), block):
    for j in range(0, len(b), block):
      table[i : i + block, j : j + block] = losses.all_correlations(rows[i : i + block], b[j : j + block])
  return table.reshape(*a.shape[:-1], len(b))
