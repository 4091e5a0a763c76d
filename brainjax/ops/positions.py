"""Tables of sines and cosines for token positions and diffusion times, and resizing of position tables."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real, Shaped

from brainjax.ops.types import Array


def _sin_cos(positions: Real[np.ndarray, ' L'], width: int, dtype: type) -> Float[np.ndarray, 'L D']:
  """Sines, then cosines, at rates 10000^(-i / (D/2)); the width is D."""
  if width % 2:
    raise ValueError(f'a table of sines and cosines needs an even width, not {width}.')
  rates = np.arange(width // 2, dtype=dtype)
  rates /= dtype(width / 2)
  rates = dtype(1) / dtype(10000) ** rates
  angles = np.outer(positions.astype(dtype), rates)  # L width/2
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _with_class_row(table: Float[np.ndarray, 'L D']) -> Float[np.ndarray, 'rows D']:
  return np.concatenate([np.zeros_like(table[:1]), table]).astype(np.float32)


def sincos_1d(length: int, width: int, dtype: type = np.float32) -> Float[np.ndarray, '{1+length} {width}']:
  """Builds the fixed table of a sequence; row 0 is zero, for the class token (Vaswani et al. 2017, section 3.5).

  The arithmetic is float32 as in the published code; at position 262 float64 differs by about 1e-5.

  Raises:
    ValueError: the width is odd.
  """
  return _with_class_row(_sin_cos(np.arange(length), width, dtype))


def sincos_2d(grid: tuple[int, int], width: int) -> Float[np.ndarray, '{1+grid[0]*grid[1]} {width}']:
  """Builds the fixed table of a grid of (rows, columns) patches; row 0 is zero, for the class token.

  The first half of the width encodes the column, the second half the row. Computed in float64, stored in float32.

  Raises:
    ValueError: the width is not a multiple of 4.
  """
  if width % 4:
    raise ValueError(f'a two-dimensional position table needs a width that is a multiple of 4, not {width}.')
  rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
  halves = [_sin_cos(index, width // 2, np.float64) for index in (columns, rows)]
  return _with_class_row(np.concatenate(halves, axis=1))


def timestep_embedding(t: Real[Array, ' B'], width: int) -> Float[Array, 'B {width}']:
  """Embeds diffusion steps as cosines, then sines, at rates exp(-ln(10000) i / (width/2)); float32."""
  half = width // 2
  exponents = np.float32(-np.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(max(half, 1))
  # Rates are rounded correctly: at t = 1000, two units in the last place of a rate are 1e-4 of an angle.
  rates = np.exp(exponents, dtype=np.float64).astype(np.float32)
  angles = t.astype(jnp.float32)[:, None] * rates  # B half
  embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
  return jnp.pad(embedding, ((0, 0), (0, width % 2)))


def resize_nearest(table: Shaped[np.ndarray, 'rows D'], new_length: int) -> Shaped[np.ndarray, '{1+new_length} D']:
  """Resizes a position table to another number of tokens; the class row stays.

  New row i is old row floor(i * old / new) in float32, as in PyTorch's nearest interpolation. (`jax.image.resize` takes
  the nearest centre, which is another row.)
  """
  old_length = table.shape[0] - 1
  rows = np.floor(np.arange(new_length, dtype=np.float32) * np.float32(old_length / new_length)).astype(np.int64)
  return np.concatenate([table[:1], table[1:][np.minimum(rows, old_length - 1)]])
