"""Cross-attention between the fMRI and the image autoencoder (paper, section 3.2)."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from brainjax.models.blocks import MLP, XAVIER, Attention, Init, layer_norm, run_stack
from brainjax.models.dense import Dense
from brainjax.ops.types import Array


class CrossBlock(nn.Module):
  """Self-attention whose output queries the other modality.

  a = CrossAttention(LN1(SelfAttention(LN1(h))), context); h += a; h += MLP(LN2(h)). LN1 is one layer used twice, and
  there is no residual around the self-attention.
  """

  num_heads: int
  mlp_dim: int
  kernel_init: Init = XAVIER
  dtype: DTypeLike = jnp.float32
  length: int | None = None

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D'], context: Float[Array, 'B M E']) -> Float[Array, 'B L D']:
    attention = partial(Attention, self.num_heads, False, self.kernel_init, self.dtype, self.length)
    norm1 = layer_norm(1e-12, self.dtype, 'norm1')
    queries = norm1(attention(name='self_attn')(norm1(x)))
    x = x + attention(name='cross_attn')(queries, context)
    mlp = MLP(self.mlp_dim, self.kernel_init, self.dtype, name='mlp')
    return x + mlp(layer_norm(1e-12, self.dtype, 'norm2')(x))


class CrossBottleneck(nn.Module):
  """The fMRI side: a linear map to the width of image tokens, attention to them, a linear map back.

  Everything passes through that width: no residual goes around both maps. `residual` adds the input of the blocks to
  their output (the published default).
  """

  width: int
  make_block: Callable[..., nn.Module]
  depth: int
  residual: bool = True
  remat: str = 'nothing'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D'], context: Float[Array, 'B M E']) -> Float[Array, 'B L D']:
    dense = partial(Dense, dtype=self.dtype, kernel_init=XAVIER)
    inner = dense(self.width, name='map_in')(x)
    attended = run_stack(self.make_block, self.depth, self.remat, inner, context)
    return dense(x.shape[-1], name='map_out')(inner + attended if self.residual else attended)


class CrossTail(nn.Module):
  """The image side: tokens attend to fMRI tokens, which one linear map brings to the same width."""

  make_block: Callable[..., nn.Module]
  depth: int
  kernel_init: Init
  remat: str = 'nothing'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D'], context: Float[Array, 'B M E']) -> Float[Array, 'B L D']:
    context = Dense(x.shape[-1], dtype=self.dtype, kernel_init=self.kernel_init, name='map_in')(context)
    return run_stack(self.make_block, self.depth, self.remat, x, context)
