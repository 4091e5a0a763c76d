"""The dense layer of every model: one matrix product over all rows and tokens at once."""

from functools import partial
from typing import Any

import flax.linen as nn
from jax import lax
from jaxtyping import Float

from brainjax.ops.types import Array


def _product(
  x: Float[Array, '... D'], kernel: Float[Array, 'D E'], dimensions: Any, **options: Any
) -> Float[Array, '... E']:
  """Multiplies with the leading axes flattened: no gradient then needs a transposed copy of its operands."""
  del dimensions  # always the last axis with the first
  flat = lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options)
  return flat.reshape(*x.shape[:-1], kernel.shape[-1])


Dense = partial(nn.Dense, dot_general=_product)
