"""The model that turns fMRI vectors into the context of the diffusion model (paper, section 3.3)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from brainjax.models.blocks import NORMAL, Block, Init, PatchEmbed, layer_norm, run_stack, table_init
from brainjax.models.dense import Dense
from brainjax.ops import patches, positions
from brainjax.ops.types import Array


class ConditionerEncoder(nn.Module):
  """The encoder of `FmriMAE` without masking and without a class token.

  It declares a class token and a mask token that it does not use: the published weights have them.
  """

  num_voxels: int
  patch_size: int
  width: int
  depth: int
  num_heads: int
  mlp_ratio: float
  global_pool: bool
  remat: str = 'nothing'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, fmri: Float[Array, 'B {self.num_voxels}']) -> Float[Array, 'B L D']:
    """Encodes fMRI as tokens; L is 1 with global_pool."""
    self.param('cls_token', NORMAL, (1, 1, self.width))
    self.param('mask_token', NORMAL, (1, 1, self.width))
    table = positions.sincos_1d(self.num_voxels // self.patch_size, self.width)
    table = self.param('pos_embed', table_init(table), (1, *table.shape))
    x = patches.patchify_1d(fmri, self.patch_size)  # B L p
    x = PatchEmbed(self.width, (self.patch_size, 1), self.dtype, name='patch_embed')(x)
    x = x + table[:, 1:].astype(self.dtype)
    block = partial(Block, self.num_heads, int(self.width * self.mlp_ratio), dtype=self.dtype)
    x = run_stack(block, self.depth, self.remat, x)
    if self.global_pool:
      x = x.mean(axis=1, keepdims=True)
    return layer_norm(1e-5, self.dtype, 'norm')(x)


def _uniform(fan_in: int) -> Init:
  """Returns PyTorch's initialiser of weights and biases of a linear layer: uniform within 1 / sqrt(fan_in)."""
  bound = fan_in**-0.5
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class FmriConditioner(nn.Module):
  """Maps fMRI to the context: the encoder, two linear maps of the token axis (L -> L // 2 -> T), one of the width.

  Attributes:
    num_voxels: V, a multiple of the patch size.
    patch_size, width, depth, num_heads, mlp_ratio: of the encoder, see `FmriMAE`.
    context_tokens: T.
    context_dim: E.
    global_pool: average the tokens before the last LayerNorm. There are then no maps of the token axis, and T is 1.
    remat: what the backward pass recomputes of each block, see `recompute`.
    dtype: of the computation; parameters are float32.
  """

  num_voxels: int
  patch_size: int = 16
  width: int = 1024
  depth: int = 24
  num_heads: int = 16
  mlp_ratio: float = 1.0
  context_tokens: int = 77
  context_dim: int = 512
  global_pool: bool = False
  remat: str = 'nothing'
  dtype: DTypeLike = jnp.float32

  def setup(self):
    """Builds the parts."""
    sizes = (self.num_voxels, self.patch_size, self.width, self.depth, self.num_heads, self.mlp_ratio)
    self.mae = ConditionerEncoder(*sizes, self.global_pool, self.remat, self.dtype)

    def dense(fan_in: int, out: int) -> Dense:
      return Dense(out, dtype=self.dtype, kernel_init=_uniform(fan_in), bias_init=_uniform(fan_in))

    if not self.global_pool:
      tokens = self.num_voxels // self.patch_size
      self.channel_mapper_0 = dense(tokens, tokens // 2)
      self.channel_mapper_1 = dense(tokens // 2, self.context_tokens)
    self.dim_mapper = dense(self.width, self.context_dim)

  def __call__(self, fmri: Float[Array, 'B V']) -> Float[Array, 'B T E']:
    """Computes the context of the diffusion model."""
    x = self.encode(fmri)
    if not self.global_pool:
      x = self.channel_mapper_1(self.channel_mapper_0(x.swapaxes(1, 2))).swapaxes(1, 2)  # B L D -> B D L -> B T D
    return self.dim_mapper(x)

  def encode(self, fmri: Float[Array, 'B V']) -> Float[Array, 'B L D']:
    """Runs the encoder alone; L is 1 with global_pool."""
    return self.mae(fmri)

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: fMRI 1 V."""
    return (jnp.zeros((1, self.num_voxels)),)
