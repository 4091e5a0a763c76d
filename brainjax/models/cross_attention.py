"""Cross-attention between the fMRI and the image autoencoder (paper, section 3.2)."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models.blocks import MLP, XAVIER, Attention, Init, layer_norm, run_stack
from brainjax.models.dense import Dense


class CrossBlock(nn.Module):
  """Self-attention whose output queries the other modality: B L D and context B M E -> B L D.

  a = CrossAttention(LN1(SelfAttention(LN1(h))), context); h += a; h += MLP(LN2(h)). LN1 is one layer used twice, and
  there is no residual around the self-attention.
  """

  num_heads: int
  mlp_dim: int
  kernel_init: Init = XAVIER
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    """B L D and context B M E -> B L D."""
    attention = partial(Attention, self.num_heads, False, self.kernel_init, self.dtype)
    norm1 = layer_norm(1e-12, self.dtype, 'norm1')
    queries = norm1(attention(name='self_attn')(norm1(x)))
    x = x + attention(name='cross_attn')(queries, context)
    mlp = MLP(self.mlp_dim, self.kernel_init, self.dtype, name='mlp')
    return x + mlp(layer_norm(1e-12, self.dtype, 'norm2')(x))


class CrossBottleneck(nn.Module):
  """The fMRI side: tokens B L D go through the image's width and back, attending to image tokens B M W.

  Everything passes through the narrow width: the D-wide tokens are not carried around it. `residual` adds the input of
  the blocks to their output (the published default).
  """

  width: int
  make_block: Callable[..., nn.Module]
  depth: int
  residual: bool = True
  remat: str = 'nothing'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    """fMRI tokens B L D and image tokens B M W -> B L D."""
    dense = partial(Dense, dtype=self.dtype, kernel_init=XAVIER)
    inner = dense(self.width, name='map_in')(x)
    attended = run_stack(self.make_block, self.depth, self.remat, inner, context)
    return dense(x.shape[-1], name='map_out')(inner + attended if self.residual else attended)


class CrossTail(nn.Module):
  """The image side: tokens B L D attend to fMRI tokens B M E, which one linear map brings to width D."""

  make_block: Callable[..., nn.Module]
  depth: int
  kernel_init: Init
  remat: str = 'nothing'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    """Image tokens B L D and fMRI tokens B M E -> B L D."""
    context = Dense(x.shape[-1], dtype=self.dtype, kernel_init=self.kernel_init, name='map_in')(context)
    return run_stack(self.make_block, self.depth, self.remat, x, context)
