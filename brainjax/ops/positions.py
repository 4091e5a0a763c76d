"""Tables of sines and cosines: token positions in one and two dimensions, diffusion times, and resizing of tables."""

import jax
import jax.numpy as jnp
import numpy as np


def _sin_cos(positions: np.ndarray, width: int, dtype: type) -> np.ndarray:
  """Sines, then cosines, of positions (L) at rates 10000^(-i / (width/2)): L width."""
  if width % 2:
    raise ValueError(f'a table of sines and cosines needs an even width, not {width}.')
  rates = np.arange(width // 2, dtype=dtype)
  rates /= dtype(width / 2)
  rates = dtype(1) / dtype(10000) ** rates
  angles = np.outer(positions.astype(dtype), rates)  # L width/2
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _with_class_row(table: np.ndarray) -> np.ndarray:
  return np.concatenate([np.zeros_like(table[:1]), table]).astype(np.float32)


def sincos_1d(length: int, width: int, dtype: type = np.float32) -> np.ndarray:
  """The fixed table of a 1-D sequence, a zero row for the class token first: (length + 1) width, float32.

  The arithmetic is float32 as in the published code; at position 262 float64 differs by about 1e-5.
  """
  return _with_class_row(_sin_cos(np.arange(length), width, dtype))


def sincos_2d(grid: tuple[int, int], width: int) -> np.ndarray:
  """The fixed table of a grid of (rows, columns) patches, a zero class row first: (rows * columns + 1) width, float32.

  The first half of the width encodes the column, the second half the row; computed in float64, then cast.
  """
  if width % 4:
    raise ValueError(f'a two-dimensional position table needs a width that is a multiple of 4, not {width}.')
  rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
  halves = [_sin_cos(index, width // 2, np.float64) for index in (columns, rows)]
  return _with_class_row(np.concatenate(halves, axis=1))


def timestep_embedding(t: jax.Array, width: int) -> jax.Array:
  """Diffusion times as cosines, then sines, at rates exp(-ln(10000) i / (width/2)): B -> B width, float32."""
  half = width // 2
  exponents = np.float32(-np.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(max(half, 1))
  # Correctly rounded: times of 1000 make an angle of 1e-4 out of two units in the last place of a rate.
  rates = np.exp(exponents, dtype=np.float64).astype(np.float32)
  angles = t.astype(jnp.float32)[:, None] * rates  # B half
  embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
  return jnp.pad(embedding, ((0, 0), (0, width % 2)))


def resize_nearest(table: np.ndarray, new_length: int) -> np.ndarray:
  """Resizes a position table to another number of tokens, class row aside: (old + 1) D -> (new + 1) D.

  New row i takes old row floor(i * old / new), in the float32 arithmetic of PyTorch's nearest interpolation.
  """
  old_length = table.shape[0] - 1
  rows = np.floor(np.arange(new_length, dtype=np.float32) * np.float32(old_length / new_length)).astype(np.int64)
  return np.concatenate([table[:1], table[1:][np.minimum(rows, old_length - 1)]])
