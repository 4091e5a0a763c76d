"""The denoising UNet of latent diffusion, conditioned by cross-attention and through its time embedding."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Float, Real

from brainjax.models.blocks import layer_norm
from brainjax.models.conv_layers import NUM_GROUPS, conv3x3, dense, fan_in_uniform, group_norm, upsample_nearest
from brainjax.models.recompute import recomputed
from brainjax.ops.attention import attention
from brainjax.ops.positions import timestep_embedding
from brainjax.ops.types import Array

RES_EPSILON = 1e-5
TRANSFORMER_EPSILON = 1e-6
LAYER_NORM_EPSILON = 1e-5


class TimeCondition(nn.Module):
  """Computes what the condition adds to the time embedding (Chen et al. 2023)."""

  features: int
  context_tokens: int
  global_pool: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(self, context: Float[Array, 'B T E']) -> Float[Array, 'B D']:
    if self.global_pool:
      return dense(self.features, self.dtype, 'pooled')(context[:, 0])
    mixed = jnp.swapaxes(context, 1, 2)  # B E T: the two first layers mix tokens, not features
    mixed = dense(self.context_tokens // 2, self.dtype, 'tokens_0')(mixed)
    mixed = dense(1, self.dtype, 'tokens_1')(mixed)  # B E 1
    return dense(self.features, self.dtype, 'dense')(mixed[:, :, 0])


class ResBlock(nn.Module):
  """Residual block shifted by the time embedding."""

  features: int
  num_groups: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C'], emb: Float[Array, 'B E']) -> Float[Array, 'B H W D']:
    h = nn.silu(group_norm(RES_EPSILON, self.dtype, 'in_norm', self.num_groups)(x))
    h = conv3x3(self.features, self.dtype, 'in_conv')(h)
    h += dense(self.features, self.dtype, 'emb')(nn.silu(emb))[:, None, None, :]
    h = nn.silu(group_norm(RES_EPSILON, self.dtype, 'out_norm', self.num_groups)(h))
    h = conv3x3(self.features, self.dtype, 'out_conv', zero=True)(h)
    if x.shape[-1] != self.features:
      x = dense(self.features, self.dtype, 'skip')(x)
    return x + h


class Attention(nn.Module):
  """Multi-head attention; queries, keys and values have no bias. Queries and keys are sown as `query` and `key`."""

  num_heads: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D'], context: Float[Array, 'B T E']) -> Float[Array, 'B L D']:
    width = x.shape[-1]

    def heads(name, source):
      projected = dense(width, self.dtype, name, use_bias=False)(source)
      return projected.reshape(*source.shape[:2], self.num_heads, -1)  # B L heads width/heads

    query, key = heads('to_q', x), heads('to_k', context)
    self.sow('intermediates', 'query', query)
    self.sow('intermediates', 'key', key)
    out = attention(query, key, heads('to_v', context))
    return dense(width, self.dtype, 'to_out')(out.reshape(x.shape))  # B L D


class GatedDense(nn.Module):
  """GEGLU: one half of a dense layer's outputs, times the GELU of the other half.

  Each half is a product of its own: gradients of halves of one array are padded and added, which takes longer.
  """

  features: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L E']:
    kernel = self.param('kernel', fan_in_uniform, (x.shape[-1], 2 * self.features))
    bias = self.param('bias', nn.initializers.zeros, (2 * self.features,))
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    halves = zip(jnp.split(kernel, 2, axis=-1), jnp.split(bias, 2), strict=True)
    value, gate = (x @ half + shift for half, shift in halves)
    return value * nn.gelu(gate, approximate=False)


class TransformerBlock(nn.Module):
  """Self-attention, cross-attention and a gated (GEGLU) feed-forward, each pre-normalised with a residual."""

  num_heads: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D'], context: Float[Array, 'B T E']) -> Float[Array, 'B L D']:
    norm = partial(layer_norm, LAYER_NORM_EPSILON, self.dtype)
    h = norm('norm1')(x)
    x += Attention(self.num_heads, self.dtype, name='attn1')(h, h)
    x += Attention(self.num_heads, self.dtype, name='attn2')(norm('norm2')(x), context)
    width = x.shape[-1]
    h = GatedDense(4 * width, self.dtype, name='ff_in')(norm('norm3')(x))
    return x + dense(width, self.dtype, 'ff_out')(h)


class SpatialTransformer(nn.Module):
  """Transformer blocks over the pixels of a feature map."""

  num_heads: int
  depth: int
  remat: str
  num_groups: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C'], context: Float[Array, 'B T E']) -> Float[Array, 'B H W C']:
    batch, height, width, channels = x.shape
    block = recomputed(TransformerBlock, self.remat)
    h = group_norm(TRANSFORMER_EPSILON, self.dtype, 'norm', self.num_groups)(x)
    h = dense(channels, self.dtype, 'proj_in')(h).reshape(batch, height * width, channels)  # B (H W) C
    for i in range(self.depth):
      h = block(self.num_heads, self.dtype, name=f'block_{i}')(h, context)
    h = dense(channels, self.dtype, 'proj_out', zero=True)(h)
    return x + h.reshape(x.shape)


class UNetBlock(nn.Module):
  """One block of the UNet: a residual block, then a transformer if `num_heads`, then upsampling if `upsample`.

  The upsampling convolution is named by its position in the block, as the published weights name it.
  """

  features: int
  num_heads: int
  depth: int
  upsample: bool
  remat: str
  num_groups: int
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B H W C'], emb: Float[Array, 'B D'], context: Float[Array, 'B T E']
  ) -> Float[Array, 'B h w K']:
    """Returns features of the same height and width, or of twice as much if `upsample`."""
    x = ResBlock(self.features, self.num_groups, self.dtype, name='res')(x, emb)
    if self.num_heads:
      x = SpatialTransformer(self.num_heads, self.depth, self.remat, self.num_groups, self.dtype, name='transformer')(
        x, context
      )
    if self.upsample:
      x = conv3x3(self.features, self.dtype, f'upsample_{2 if self.num_heads else 1}')(upsample_nearest(x))
    return x


class UNet(nn.Module):
  """Predicts the noise in a latent (Rombach et al. 2022, with the time conditioning of Chen et al. 2023).

  The defaults are the ImageNet model that the paper fine-tunes. Stable Diffusion 1 is `UNet(4, 4, 320, (1, 2, 4, 4),
  attention_resolutions=(4, 2, 1), num_heads=8, context_dim=768, time_cond=False)`.

  Attributes:
    in_channels: channels of the latent.
    out_channels: channels of the prediction.
    model_channels: width of the first level; a multiple of `num_groups`.
    channel_mult: width of each level in units of `model_channels`.
    num_res_blocks: residual blocks per level on the way down (one more on the way up).
    attention_resolutions: downsampling factors at which transformers follow the residual blocks.
    num_heads: heads per attention, when `num_head_channels` is None.
    num_head_channels: width of a head; heads are then channels / this.
    context_dim: width E of the condition.
    context_tokens: tokens T of the condition; only the time conditioning depends on it.
    time_cond: whether the condition is also added to the time embedding.
    global_pool: whether the condition is one pooled token.
    transformer_depth: blocks per transformer.
    num_groups: groups of every group normalisation; divides the width of every level. A narrow network needs few: a
      group of one channel loses the mean of its channel.
    remat: what the backward pass recomputes of the transformer blocks, see `recompute`.
    dtype: compute dtype.
  """

  in_channels: int = 3
  out_channels: int = 3
  model_channels: int = 192
  channel_mult: tuple[int, ...] = (1, 2, 3, 5)
  num_res_blocks: int = 2
  attention_resolutions: tuple[int, ...] = (8, 4, 2)
  num_heads: int = 1
  num_head_channels: int | None = None
  context_dim: int = 512
  context_tokens: int = 77
  time_cond: bool = True
  global_pool: bool = False
  transformer_depth: int = 1
  num_groups: int = NUM_GROUPS
  remat: str = 'nothing'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B H W {self.in_channels}'],
    t: Real[Array, ' B'],
    context: Float[Array, 'B T {self.context_dim}'],
  ) -> Float[Array, 'B H W D']:
    """Predicts the noise, in float32. Block outputs are sown as `tap_input_<i>`, `tap_middle` and `tap_output_<i>`.

    Args:
      x: noisy latent; H and W are multiples of 2 ** (levels - 1).
      t: diffusion step of each sample.
      context: the condition.
    """
    emb = self._time_embedding(t, context)
    x, context = x.astype(self.dtype), context.astype(self.dtype)
    last = len(self.channel_mult) - 1

    h = conv3x3(self.model_channels, self.dtype, 'input_0')(x)
    skips = [self._tap('tap_input_0', h)]
    for level, mult in enumerate(self.channel_mult):
      for _ in range(self.num_res_blocks):
        index = len(skips)
        h = self._block(f'input_{index}', mult, 2**level)(h, emb, context)
        skips.append(self._tap(f'tap_input_{index}', h))
      if level != last:
        index = len(skips)
        h = conv3x3(h.shape[-1], self.dtype, f'input_{index}', stride=2)(h)
        skips.append(self._tap(f'tap_input_{index}', h))

    channels = h.shape[-1]
    h = ResBlock(channels, self.num_groups, self.dtype, name='middle_res_0')(h, emb)
    h = SpatialTransformer(
      self._heads(channels), self.transformer_depth, self.remat, self.num_groups, self.dtype, name='middle_transformer'
    )(h, context)
    h = self._tap('tap_middle', ResBlock(channels, self.num_groups, self.dtype, name='middle_res_2')(h, emb))

    index = 0
    for level, mult in reversed(list(enumerate(self.channel_mult))):
      for i in range(self.num_res_blocks + 1):
        upsample = level > 0 and i == self.num_res_blocks
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = self._block(f'output_{index}', mult, 2**level, upsample)(h, emb, context)
        self._tap(f'tap_output_{index}', h)
        index += 1

    h = nn.silu(group_norm(RES_EPSILON, self.dtype, 'out_norm', self.num_groups)(h))
    return conv3x3(self.out_channels, self.dtype, 'out_conv', zero=True)(h).astype(jnp.float32)

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: a latent 1 H W C of the smallest size, a step 1, a context 1 T D."""
    side = 2 ** (len(self.channel_mult) - 1)
    tokens = 1 if self.global_pool else self.context_tokens
    return (
      jnp.zeros((1, side, side, self.in_channels)),
      jnp.zeros(1, jnp.int32),
      jnp.zeros((1, tokens, self.context_dim)),
    )

  def _time_embedding(self, t: Real[Array, ' B'], context: Float[Array, 'B T E']) -> Float[Array, 'B D']:
    width = 4 * self.model_channels
    emb = dense(width, self.dtype, 'time_embed_0')(timestep_embedding(t, self.model_channels))
    emb = dense(width, self.dtype, 'time_embed_2')(nn.silu(emb))
    if self.time_cond:
      condition = TimeCondition(width, self.context_tokens, self.global_pool, self.dtype, name='time_embed_condition')
      emb += condition(context)
    return emb

  def _block(self, name: str, mult: int, downsampling: int, upsample: bool = False) -> UNetBlock:
    features = mult * self.model_channels
    heads = self._heads(features) if downsampling in self.attention_resolutions else 0
    return UNetBlock(
      features, heads, self.transformer_depth, upsample, self.remat, self.num_groups, self.dtype, name=name
    )

  def _heads(self, channels: int) -> int:
    return self.num_heads if self.num_head_channels is None else channels // self.num_head_channels

  def _tap(self, name: str, h: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    self.sow('intermediates', name, h)
    return h
