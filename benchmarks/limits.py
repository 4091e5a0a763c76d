"""Floating-point operations of a row: counted by XLA, and computed by hand from the sizes."""

from functools import partial
from typing import NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks import rows_jax
from benchmarks.rows import PLMS_STEPS, STEPS, Row, config, voxels
from brainjax.models import blocks, conv_layers
from brainjax.ops import attention
from brainjax.stages import diffuse

# --- as XLA counts --------------------------------------------------------------------------------------------------------


def xla(row: Row, quick: bool) -> float:
  """Operations of the row's program as XLA counts them, with loops unrolled and nothing recomputed."""
  settings = config(quick)
  settings.remat = 'nothing'
  width = voxels(row, quick)
  with (
    mock.patch.object(blocks.nn, 'scan', partial(nn.scan, unroll=10**6)),  # XLA counts the body of a loop once
    # No chunks, no scores that are recomputed, and no kernels, which XLA cannot count.
    mock.patch.multiple(attention, MAX_SCORES=2**62, platform=lambda: 'gpu', _choice='xla'),
    mock.patch.object(conv_layers, 'platform', lambda: 'gpu'),  # no products with the padding
  ):
    if row.name in STEPS:
      return _count(*rows_jax.abstract_step(row, settings, width))
    if row.name == 'sample':
      once = _count(*rows_jax.abstract_forward('decode', settings, row.batch, width)) + _count(
        *_condition(settings, row.batch, width)
      )
      return once + (PLMS_STEPS + 1) * _count(*rows_jax.abstract_forward('unet', settings, row.batch, width))
    return _count(*rows_jax.abstract_forward(row.name, settings, row.batch, width))


def _count(jitted, arguments: tuple) -> float:
  return float(jitted.lower(*arguments).cost_analysis()['flops'])


def _condition(settings: ConfigDict, batch: int, num_voxels: int) -> tuple:
  model = diffuse.models(settings, num_voxels).conditioner
  fmri = jax.ShapeDtypeStruct((batch, num_voxels), jnp.float32)
  params = jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)), fmri)
  return jax.jit(model.apply), (params, fmri)


# --- by hand ------------------------------------------------------------------------------------------------------------------
# Multiplications of weights with activations ('linear') and of activations with each other ('scores'): the backward pass
# needs the first once more for the input and once more for the weights, the second twice. Element-wise work is left out.


class Macs(NamedTuple):
  """Multiply-additions: with weights, with activations, with weights that train (a part of the first)."""

  linear: float = 0.0
  scores: float = 0.0
  trained: float = 0.0

  def __add__(self, other: 'Macs') -> 'Macs':
    return Macs(*(a + b for a, b in zip(self, other, strict=True)))

  def times(self, factor: float) -> 'Macs':
    """Multiplies all counts."""
    return Macs(*(factor * x for x in self))

  def forward(self) -> float:
    """Multiply-additions of the forward pass."""
    return self.linear + self.scores

  def step(self) -> float:
    """Multiply-additions of forward and backward pass: gradients of the inputs, and of the weights that train."""
    return 2 * self.linear + 3 * self.scores + self.trained


def _weights(macs: float, trained: bool = True) -> Macs:
  return Macs(macs, 0.0, macs if trained else 0.0)


def _blocks(tokens: int, depth: int, width: int, mlp: int) -> Macs:
  """Pre-norm blocks: four square projections, an MLP, products of tokens with tokens."""
  return (_weights(tokens * (4 * width**2 + 2 * width * mlp)) + Macs(scores=2 * tokens**2 * width)).times(depth)


def _fmri_encoder(settings: ConfigDict, tokens: int) -> Macs:
  mae = settings.fmri_mae
  return _blocks(tokens, mae.depth, mae.width, int(mae.width * mae.mlp_ratio))


def _fmri_decoder(settings: ConfigDict, tokens: int, kept: int, depth: int) -> Macs:
  mae = settings.fmri_mae
  ends = kept * mae.width * mae.decoder_width + tokens * mae.decoder_width * mae.patch_size
  return _blocks(1 + tokens, depth, mae.decoder_width, int(mae.decoder_width * mae.mlp_ratio)) + _weights(ends)


def _cross(tokens: int, context: int, width: int, mlp: int, depth: int) -> Macs:
  linear = tokens * (6 * width**2 + 2 * width * mlp) + context * 2 * width**2
  return (_weights(linear) + Macs(scores=2 * tokens**2 * width + 2 * tokens * context * width)).times(depth)


def _embed(settings: ConfigDict, kept: int) -> Macs:
  """Embedding of the patches that are kept."""
  return _weights((kept - 1) * settings.fmri_mae.patch_size * settings.fmri_mae.width)


def contrast_step(settings: ConfigDict, num_voxels: int) -> float:
  """Operations for one sample: two views, forward and backward."""
  tokens = num_voxels // settings.fmri_mae.patch_size
  kept = 1 + int(tokens * (1 - settings.contrast.mask_ratio))
  one = (
    _embed(settings, kept)
    + _fmri_encoder(settings, kept)
    + _fmri_decoder(settings, tokens, kept, settings.contrast.decoder_depth)
  )
  return 2 * 2 * one.step()


def attend_step(settings: ConfigDict, num_voxels: int) -> float:
  """Operations for one sample."""
  mae, image, stage = settings.fmri_mae, settings.image_mae, settings.attend
  tokens, patches = num_voxels // mae.patch_size, (image.image_size // image.patch_size) ** 2
  kept, image_kept = (1 + int(n * (1 - r)) for n, r in ((tokens, stage.mask_ratio), (patches, stage.image_mask_ratio)))
  across = kept * 2 * mae.width * image.width  # to the width of pictures and back
  trained = _fmri_encoder(settings, kept) + _fmri_encoder(settings, 1 + tokens) + _weights(across)
  trained += _cross(kept, 1 + patches, image.width, image.mlp_dim, stage.cross_depth)
  trained += _fmri_decoder(settings, tokens, kept, stage.decoder_depth)
  trained += _weights((1 + tokens) * mae.width * image.width)
  trained += _cross(image_kept, 1 + tokens, image.width, image.mlp_dim, stage.cross_depth)
  trained += _blocks(1 + patches, stage.image_decoder_depth, image.decoder_width, image.decoder_mlp_dim)
  trained += _weights(
    image_kept * image.width * image.decoder_width + patches * image.decoder_width * image.patch_size**2 * 3
  )
  frozen = _blocks(1 + patches, image.depth, image.width, image.mlp_dim) + _blocks(
    image_kept, image.depth, image.width, image.mlp_dim
  )
  return 2 * (trained.step() + frozen.forward())


def _conv(side: int, inner: int, outer: int, stride: int = 1) -> Macs:
  """A 3x3 convolution; products with the padding are not counted. `side`: of its output."""
  taps = 3 * side - (2 if stride == 1 else 1)
  return Macs(taps**2 * inner * outer)


def _res(side: int, inner: int, outer: int, emb: int = 0) -> Macs:
  skip = side**2 * inner * outer if inner != outer else 0
  return _conv(side, inner, outer) + _conv(side, outer, outer) + Macs(emb * outer + skip)


def _transformer(side: int, width: int, settings: ConfigDict) -> Macs:
  pixels, tokens = side**2, settings.conditioner.context_tokens
  frozen = Macs((2 + 4 + 12) * width**2 * pixels, 2 * pixels**2 * width)  # ends, attention to itself, feed-forward
  cross = _weights(2 * width**2 * pixels + 2 * tokens * settings.unet.context_dim * width)
  return frozen + cross + Macs(scores=2 * pixels * tokens * width)


def unet(settings: ConfigDict) -> Macs:
  """One pass for one sample."""
  sizes, channels = settings.unet, settings.first_stage.embed_dim
  side = settings.data.image_size // 2 ** (len(settings.first_stage.ch_mult) - 1)
  width, emb, tokens = sizes.model_channels, 4 * sizes.model_channels, settings.conditioner.context_tokens
  total = Macs(width * emb + emb**2) + _conv(side, channels, width) + _conv(side, width, channels)
  total += _weights(sizes.context_dim * (tokens * (tokens // 2) + tokens // 2) + sizes.context_dim * emb)
  skips, inner, last = [width], width, len(sizes.channel_mult) - 1

  def entry(side: int, inner: int, outer: int, level: int) -> Macs:
    attends = 2**level in sizes.attention_resolutions
    return _res(side, inner, outer, emb) + (_transformer(side, outer, settings) if attends else Macs())

  for level, mult in enumerate(sizes.channel_mult):
    for _ in range(sizes.num_res_blocks):
      total += entry(side, inner, mult * width, level)
      inner = mult * width
      skips.append(inner)
    if level != last:
      side //= 2
      total += _conv(side, inner, inner, stride=2)
      skips.append(inner)
  total += _res(side, inner, inner, emb).times(2) + _transformer(side, inner, settings)
  for level, mult in reversed(list(enumerate(sizes.channel_mult))):
    for _ in range(sizes.num_res_blocks + 1):
      total += entry(side, inner + skips.pop(), mult * width, level)
      inner = mult * width
    if level:
      side *= 2
      total += _conv(side, inner, inner)
  return total


def autoencoder(settings: ConfigDict, encode: bool) -> float:
  """Multiply-additions of one pass of the encoder, or of the decoder with its codebook."""
  sizes, side = settings.first_stage, settings.data.image_size
  widths = [mult * sizes.ch for mult in sizes.ch_mult]
  low, top = side // 2 ** (len(widths) - 1), widths[-1]
  middle = _res(low, top, top).times(2) + Macs(4 * top**2 * low**2, 2 * low**4 * top)
  z = Macs(low**2 * sizes.z_channels * sizes.embed_dim)
  if encode:
    total, inner = _conv(side, 3, sizes.ch), sizes.ch
    for level, width in enumerate(widths):
      for _ in range(sizes.num_res_blocks):
        total += _res(side, inner, width)
        inner = width
      if level != len(widths) - 1:
        side //= 2
        total += _conv(side, inner, inner, stride=2)
    return (total + middle + _conv(low, top, sizes.z_channels) + z).forward()
  total, inner = _conv(low, sizes.z_channels, top) + Macs(low**2 * sizes.embed_dim * sizes.n_embed) + z, top
  side = low
  for level, width in reversed(list(enumerate(widths))):
    for _ in range(sizes.num_res_blocks + 1):
      total += _res(side, inner, width)
      inner = width
    if level:
      side *= 2
      total += _conv(side, inner, inner)
  return (total + middle + _conv(side, inner, 3)).forward()


def conditioner(settings: ConfigDict, num_voxels: int) -> Macs:
  """One pass for one sample."""
  mae, tokens, out = settings.fmri_mae, num_voxels // settings.fmri_mae.patch_size, settings.conditioner.context_tokens
  ends = (
    tokens * mae.patch_size * mae.width
    + mae.width * (tokens + out) * (tokens // 2)
    + out * mae.width * settings.unet.context_dim
  )
  return _fmri_encoder(settings, tokens) + _weights(ends)


def diffuse_step(settings: ConfigDict, num_voxels: int, encode: bool = True) -> float:
  """Operations for one sample: the encoder without gradients, the UNet with those that the trained layers need."""
  width = settings.unet.model_channels
  side = settings.data.image_size // 2 ** (len(settings.first_stage.ch_mult) - 1)
  # Nothing before the first place where the condition enters is differentiated.
  before = _conv(side, settings.first_stage.embed_dim, width).linear + _conv(side, width, width).linear
  both = unet(settings).step() - before + conditioner(settings, num_voxels).step()
  return 2 * (both + (autoencoder(settings, encode=True) if encode else 0.0))


def by_hand(row: Row, quick: bool) -> float:
  """Operations of a row."""
  settings, width = config(quick), voxels(row, quick)
  if row.name == 'matmul':
    return 2.0 * row.batch**3
  per_sample = {
    'contrast': lambda: contrast_step(settings, width),
    'attend': lambda: attend_step(settings, width),
    'diffuse': lambda: diffuse_step(settings, width),
    'cached': lambda: diffuse_step(settings, width, encode=False),
    'unet': lambda: 2 * unet(settings).forward(),
    'encode': lambda: 2 * autoencoder(settings, encode=True),
    'decode': lambda: 2 * autoencoder(settings, encode=False),
    'sample': lambda: (
      2
      * (
        conditioner(settings, width).forward()
        + (PLMS_STEPS + 1) * unet(settings).forward()
        + autoencoder(settings, encode=False)
      )
    ),
  }
  return row.batch * per_sample[row.name]()
