"""Parts of every transformer: patch embedding, attention, blocks, scanned stacks of blocks."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from brainjax.models.dense import Dense
from brainjax.models.recompute import recomputed
from brainjax.ops.attention import attention

Init = Callable[..., jax.Array]
NORMAL: Init = nn.initializers.normal(0.02)
XAVIER: Init = nn.initializers.xavier_uniform()


def layer_norm(epsilon: float, dtype: jnp.dtype, name: str | None = None) -> nn.LayerNorm:
  """Normalisation over the last axis with float32 statistics (two passes, as PyTorch computes them)."""
  return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def table_init(table: np.ndarray) -> Init:
  """Initialises a parameter of shape (1, rows, width) with a fixed table (rows, width)."""
  return lambda key, shape: jnp.asarray(table, jnp.float32).reshape(shape)


class PatchEmbed(nn.Module):
  """A convolution whose kernel is one patch, as a matrix product: B L (p*C) -> B L D.

  Attributes:
    width: D.
    kernel_shape: (*patch sides, channels): the axes of the patches' last axis.
  """

  width: int
  kernel_shape: tuple[int, ...]
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, patches: jax.Array) -> jax.Array:
    """B L (p*C) -> B L D."""
    kernel = self.param('kernel', NORMAL, (*self.kernel_shape, self.width))
    bias = self.param('bias', nn.initializers.zeros, (self.width,))
    matrix = kernel.reshape(-1, self.width).astype(self.dtype)  # (p*C) D
    return patches.astype(self.dtype) @ matrix + bias.astype(self.dtype)


def exact_gelu(x: jax.Array) -> jax.Array:
  """GELU by the error function, as PyTorch has it: ... -> ..."""
  return nn.gelu(x, approximate=False)


class MLP(nn.Module):
  """Linear, activation, linear: B L D -> B L D."""

  hidden: int
  kernel_init: Init = XAVIER
  dtype: jnp.dtype = jnp.float32
  activation: Callable[[jax.Array], jax.Array] = exact_gelu

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """B L D -> B L D."""
    dense = partial(Dense, dtype=self.dtype, kernel_init=self.kernel_init)
    hidden = self.activation(dense(self.hidden, name='fc1')(x))
    return dense(x.shape[-1], name='fc2')(hidden)


class Attention(nn.Module):
  """Multi-head attention of B L D to itself or to a context B M E; the softmax is float32.

  Attributes:
    fused_qkv: one matrix for queries, keys and values (self-attention only) or three.
  """

  num_heads: int
  fused_qkv: bool = True
  kernel_init: Init = XAVIER
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
    """B L D, and a context B M E to look at instead of itself -> B L D."""
    width = x.shape[-1]
    if width % self.num_heads:
      raise ValueError(f'width {width} cannot be split into {self.num_heads} heads.')
    dense = partial(Dense, dtype=self.dtype, kernel_init=self.kernel_init)
    if self.fused_qkv:
      query, key, value = jnp.split(dense(3 * width, name='qkv')(x), 3, axis=-1)
    else:
      source = x if context is None else context
      query = dense(width, name='query')(x)
      key, value = dense(width, name='key')(source), dense(width, name='value')(source)
    query, key, value = (rearrange(y, 'b l (n d) -> b l n d', n=self.num_heads) for y in (query, key, value))
    out = attention(query, key, value)
    return dense(width, name='proj')(rearrange(out, 'b l n d -> b l (n d)'))


class Block(nn.Module):
  """Pre-norm transformer block: x += Attention(LN(x)); x += MLP(LN(x))."""

  num_heads: int
  mlp_dim: int
  fused_qkv: bool = True
  epsilon: float = 1e-5
  kernel_init: Init = XAVIER
  dtype: jnp.dtype = jnp.float32
  activation: Callable[[jax.Array], jax.Array] = exact_gelu

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """B L D -> B L D."""
    attention = Attention(self.num_heads, self.fused_qkv, self.kernel_init, self.dtype, name='attn')
    x = x + attention(layer_norm(self.epsilon, self.dtype, 'norm1')(x))
    mlp = MLP(self.mlp_dim, self.kernel_init, self.dtype, self.activation, name='mlp')
    return x + mlp(layer_norm(self.epsilon, self.dtype, 'norm2')(x))


def run_stack(
  make_block: Callable[..., nn.Module], depth: int, remat: str, x: jax.Array, *context: jax.Array
) -> jax.Array:
  """Runs `depth` equal blocks as one scan, inside a compact method: parameters under `blocks/`, stacked on axis 0.

  Args:
    make_block: gives one block, called with a name.
    depth: how many.
    remat: what the backward pass recomputes of each block, see `recompute`.
    x: B L D, goes through the blocks.
    *context: handed to every block.
  """

  def body(block, x, *context):
    return block(x, *context), None

  body = recomputed(body, remat, in_scan=True)
  scan = nn.scan(body, variable_axes={'params': 0}, split_rngs={'params': True}, in_axes=nn.broadcast, length=depth)
  return scan(make_block(name='blocks'), x, *context)[0]
