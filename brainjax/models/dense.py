"""The dense layer of every model: one matrix product over all rows and tokens at once."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jax import lax


def _product(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
  """... K and K N -> ... N. With the leading axes as one, no gradient needs a transposed copy of its operands."""
  del dimensions  # always the last axis with the first
  flat = lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options)
  return flat.reshape(*x.shape[:-1], kernel.shape[-1])


Dense = partial(nn.Dense, dot_general=_product)
