"""Parts of every transformer: patch embedding, attention, blocks, scanned stacks of blocks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Float

from brainjax.models.dense import Dense
from brainjax.models.recompute import recomputed
from brainjax.ops.attention import attention, self_attention
from brainjax.ops.placement import on_each_device, runs_kernels
from brainjax.ops.types import Array

Init = Callable[..., Any]
TILE = 8  # rows of a TPU's registers: other lengths are copied from one layout to another in every product
NORMAL: Init = nn.initializers.normal(0.02)
XAVIER: Init = nn.initializers.xavier_uniform()


def layer_norm(epsilon: float, dtype: DTypeLike, name: str | None = None) -> nn.LayerNorm:
  """Normalisation over the last axis with float32 statistics (two passes, as PyTorch computes them)."""
  return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


class PreNorm(nn.LayerNorm):
  """The normalisation before a residual branch. On a TPU it is one kernel."""

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> tuple[Float[Array, 'B L D'], Float[Array, 'B L D']]:
    """Returns the normalised tokens, and the tokens for the skip connection: the kernel sums both gradients."""
    if not runs_kernels(len(x)):
      return super().__call__(x), x
    from brainjax.ops import layer_norm_kernel

    if not layer_norm_kernel.supports(x.shape):
      return super().__call__(x), x
    scale = self.param('scale', self.scale_init, (x.shape[-1],), self.param_dtype)
    bias = self.param('bias', self.bias_init, (x.shape[-1],), self.param_dtype)
    norm = partial(layer_norm_kernel.norm_and_skip, epsilon=self.epsilon, dtype=self.dtype)
    return on_each_device(norm, x, shared=(scale, bias))


def pre_norm(epsilon: float, dtype: DTypeLike, name: str) -> nn.LayerNorm:
  """Returns a `layer_norm` before a residual branch."""
  return PreNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def table_init(table: Float[np.ndarray, 'L D']) -> Init:
  """Returns an initialiser that sets a parameter 1 L D to a fixed table L D."""
  return lambda key, shape: jnp.asarray(table, jnp.float32).reshape(shape)


class PatchEmbed(nn.Module):
  """A convolution whose kernel is one patch, as a matrix product.

  Attributes:
    width: D.
    kernel_shape: (*patch sides, channels): the axes of the patches' last axis.
  """

  width: int
  kernel_shape: tuple[int, ...]
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, patches: Float[Array, 'B L p']) -> Float[Array, 'B L D']:
    kernel = self.param('kernel', NORMAL, (*self.kernel_shape, self.width))
    bias = self.param('bias', nn.initializers.zeros, (self.width,))
    matrix = kernel.reshape(-1, self.width).astype(self.dtype)  # (p*C) D
    return patches.astype(self.dtype) @ matrix + bias.astype(self.dtype)


def exact_gelu(x: Float[Array, '...']) -> Float[Array, '...']:
  """Applies GELU with the error function, as PyTorch does."""
  return nn.gelu(x, approximate=False)


class MLP(nn.Module):
  """Two dense layers with an activation between them."""

  hidden: int
  kernel_init: Init = XAVIER
  dtype: DTypeLike = jnp.float32
  activation: Callable[[jax.Array], jax.Array] = exact_gelu

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    dense = partial(Dense, dtype=self.dtype, kernel_init=self.kernel_init)
    hidden = self.activation(dense(self.hidden, name='fc1')(x))
    return dense(x.shape[-1], name='fc2')(hidden)


class Attention(nn.Module):
  """Multi-head attention to the tokens themselves or to a context; the softmax is float32.

  Attributes:
    num_heads: divides the width.
    fused_qkv: one matrix for queries, keys and values (self-attention only), or three.
    length: tokens that are not padding (`run_stack`); None: all.
  """

  num_heads: int
  fused_qkv: bool = True
  kernel_init: Init = XAVIER
  dtype: DTypeLike = jnp.float32
  length: int | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D'], context: Float[Array, 'B M E'] | None = None) -> Float[Array, 'B L D']:
    """Attends from x to the context, or to x itself without one.

    Raises:
      ValueError: the heads do not divide the width.
    """
    width = x.shape[-1]
    if width % self.num_heads:
      raise ValueError(f'width {width} cannot be split into {self.num_heads} heads.')
    dense = partial(Dense, dtype=self.dtype, kernel_init=self.kernel_init)
    if self.fused_qkv:
      out = self_attention(dense(3 * width, name='qkv')(x), self.num_heads, self.length)
    else:
      source = x if context is None else context
      query = dense(width, name='query')(x)
      key, value = dense(width, name='key')(source), dense(width, name='value')(source)
      heads = (rearrange(y, 'b l (n d) -> b l n d', n=self.num_heads) for y in (query, key, value))
      out = rearrange(attention(*heads, self.length if context is None else None), 'b l n d -> b l (n d)')
    return dense(width, name='proj')(out)


class Block(nn.Module):
  """Pre-norm transformer block: x += Attention(LN(x)); x += MLP(LN(x))."""

  num_heads: int
  mlp_dim: int
  fused_qkv: bool = True
  epsilon: float = 1e-5
  kernel_init: Init = XAVIER
  dtype: DTypeLike = jnp.float32
  activation: Callable[[jax.Array], jax.Array] = exact_gelu
  length: int | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    attention = Attention(self.num_heads, self.fused_qkv, self.kernel_init, self.dtype, self.length, name='attn')
    h, x = pre_norm(self.epsilon, self.dtype, 'norm1')(x)
    x = x + attention(h)
    mlp = MLP(self.mlp_dim, self.kernel_init, self.dtype, self.activation, name='mlp')
    h, x = pre_norm(self.epsilon, self.dtype, 'norm2')(x)
    return x + mlp(h)


def run_stack(
  make_block: Callable[..., nn.Module],
  depth: int,
  remat: str,
  x: Float[Array, 'B L D'],
  *context: Float[Array, 'B M E'],
) -> Float[Array, 'B L D']:
  """Runs `depth` equal blocks as one scan, inside a compact method; parameters are `blocks/...`, stacked on axis 0.

  On a TPU the tokens are padded to whole tiles of eight. No token attends to the padding, which is cut off at the end.

  Args:
    make_block: gives one block, called with a name and with `length`, the tokens that are not padding.
    depth: how many.
    remat: what the backward pass recomputes of each block, see `recompute`.
    x: goes through the blocks.
    *context: passed to every block.
  """

  def body(block, x, *context):
    return block(x, *context), None

  body = recomputed(body, remat, in_scan=True)
  scan = nn.scan(body, variable_axes={'params': 0}, split_rngs={'params': True}, in_axes=nn.broadcast, length=depth)
  length = x.shape[1]
  padding = -length % TILE if runs_kernels(len(x)) else 0
  x = jnp.pad(x, ((0, 0), (0, padding), (0, 0)))
  return scan(make_block(name='blocks', length=length), x, *context)[0][:, :length]
