"""The dense layer of every model: one matrix product over all rows and tokens at once."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float

from brainjax.ops.placement import platform
from brainjax.ops.types import Array


def _product(x: Float[Array, '... D'], kernel: Float[Array, 'D E']) -> Float[Array, '... E']:
  """Multiplies with the leading axes flattened: no gradient then needs a transposed copy of its operands."""
  flat = lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())))
  return flat.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _add_bias(x: Float[Array, '... E'], bias: Float[Array, ' E']) -> Float[Array, '... E']:
  """Adds a bias. Its gradient is a product with ones: a TPU's vector units sum rows slowly."""
  return x + bias


def _bias_gradient(_: None, bar: jax.Array) -> tuple[jax.Array, jax.Array]:
  rows = bar.reshape(-1, bar.shape[-1])
  ones = jnp.ones((8, len(rows)), bar.dtype)
  return bar, jnp.matmul(ones, rows, preferred_element_type=jnp.float32)[0].astype(bar.dtype)


_add_bias.defvjp(lambda x, bias: (x + bias, None), _bias_gradient)


class Dense(nn.Module):
  """What `nn.Dense` computes, as one product over all leading axes.

  Attributes:
    features: E.
    use_bias: whether a bias is added.
    dtype: of the computation; None: that of the input and the parameters. Parameters are float32.
    kernel_init, bias_init: initialisers.
  """

  features: int
  use_bias: bool = True
  dtype: DTypeLike | None = None
  kernel_init: Callable[..., Any] = nn.linear.default_kernel_init
  bias_init: Callable[..., Any] = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... E']:
    kernel = self.param('kernel', self.kernel_init, (x.shape[-1], self.features))
    bias = self.param('bias', self.bias_init, (self.features,)) if self.use_bias else None
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    product = _product(x, kernel)
    if bias is None:
      return product
    return _add_bias(product, bias) if platform() == 'tpu' else product + bias


def cast_kernels(params: Any, dtype: DTypeLike) -> Any:
  """Casts every kernel of a nested tree to the compute dtype: once for a whole step, and not in each layer and pass.

  Scans then read and write half the bytes. Other parameters stay float32.
  """
  return jax.tree_util.tree_map_with_path(lambda path, x: x.astype(dtype) if path[-1].key == 'kernel' else x, params)
