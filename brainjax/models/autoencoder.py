"""First stages of latent diffusion: the vector-quantised (VQ) and the Gaussian (KL) image autoencoder."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from brainjax.models.conv_layers import NUM_GROUPS, conv3x3, dense, fan_in_uniform, group_norm, upsample_nearest
from brainjax.ops.attention import attention
from brainjax.ops.types import Array
from brainjax.trees import lists_to_tuples

EPSILON = 1e-6
CODES_AT_ONCE = 1024  # of a codebook, in the search for the nearest


class ResBlock(nn.Module):
  """Residual block of two normalised 3x3 convolutions."""

  features: int
  num_groups: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W D']:
    h = nn.silu(group_norm(EPSILON, self.dtype, 'norm1', self.num_groups)(x))
    h = conv3x3(self.features, self.dtype, 'conv1')(h)
    h = nn.silu(group_norm(EPSILON, self.dtype, 'norm2', self.num_groups)(h))
    h = conv3x3(self.features, self.dtype, 'conv2')(h)
    if x.shape[-1] != self.features:
      x = dense(self.features, self.dtype, 'shortcut')(x)
    return x + h


class AttentionBlock(nn.Module):
  """Self-attention of one head over the pixels, with a residual."""

  num_groups: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    batch, height, width, channels = x.shape
    h = group_norm(EPSILON, self.dtype, 'norm', self.num_groups)(x)
    q, k, v = (
      dense(channels, self.dtype, name)(h).reshape(batch, height * width, 1, channels)  # B (H W) 1 C
      for name in ('q', 'k', 'v')
    )
    h = attention(q, k, v).reshape(x.shape)
    return x + dense(channels, self.dtype, 'proj_out')(h)


class Encoder(nn.Module):
  """Turns images into features, halving the size between levels."""

  features: int
  ch: int
  ch_mult: tuple[int, ...]
  num_res_blocks: int
  resolution: int
  attn_resolutions: tuple[int, ...]
  num_groups: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    h = conv3x3(self.ch, self.dtype, 'conv_in')(image.astype(self.dtype))
    for level, mult in enumerate(self.ch_mult):
      for i in range(self.num_res_blocks):
        h = ResBlock(mult * self.ch, self.num_groups, self.dtype, name=f'down_{level}_block_{i}')(h)
        if self.resolution // 2**level in self.attn_resolutions:
          h = AttentionBlock(self.num_groups, self.dtype, name=f'down_{level}_attn_{i}')(h)
      if level != len(self.ch_mult) - 1:
        # One row and column are padded at the bottom and right only, as in the published models.
        pad = ((0, 1), (0, 1))
        name = f'down_{level}_downsample'
        h = nn.Conv(h.shape[-1], (3, 3), 2, pad, dtype=self.dtype, kernel_init=fan_in_uniform, name=name)(h)
    h = _middle(h, self.num_groups, self.dtype)
    h = nn.silu(group_norm(EPSILON, self.dtype, 'norm_out', self.num_groups)(h))
    return conv3x3(self.features, self.dtype, 'conv_out')(h)


class Decoder(nn.Module):
  """Turns features into images, float32 and not squashed, doubling the size between levels."""

  out_channels: int
  ch: int
  ch_mult: tuple[int, ...]
  num_res_blocks: int
  resolution: int
  attn_resolutions: tuple[int, ...]
  num_groups: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, z: Float[Array, 'B h w D']) -> Float[Array, 'B H W C']:
    h = conv3x3(self.ch_mult[-1] * self.ch, self.dtype, 'conv_in')(z)
    h = _middle(h, self.num_groups, self.dtype)
    for level, mult in reversed(list(enumerate(self.ch_mult))):
      for i in range(self.num_res_blocks + 1):
        h = ResBlock(mult * self.ch, self.num_groups, self.dtype, name=f'up_{level}_block_{i}')(h)
        if self.resolution // 2**level in self.attn_resolutions:
          h = AttentionBlock(self.num_groups, self.dtype, name=f'up_{level}_attn_{i}')(h)
      if level:
        h = conv3x3(h.shape[-1], self.dtype, f'up_{level}_upsample')(upsample_nearest(h))
    h = nn.silu(group_norm(EPSILON, self.dtype, 'norm_out', self.num_groups)(h))
    return conv3x3(self.out_channels, self.dtype, 'conv_out')(h).astype(jnp.float32)


def _middle(h: Float[Array, 'B H W C'], num_groups: int, dtype: DTypeLike) -> Float[Array, 'B H W C']:
  h = ResBlock(h.shape[-1], num_groups, dtype, name='mid_block_1')(h)
  h = AttentionBlock(num_groups, dtype, name='mid_attn_1')(h)
  return ResBlock(h.shape[-1], num_groups, dtype, name='mid_block_2')(h)


class _FirstStage(nn.Module):
  """What both first stages share; the defaults are VQ-f4, 256x256x3 -> 64x64x3. A subclass has `encode` and `decode`.

  Attributes:
    ch: width of the first level; a multiple of `num_groups`.
    ch_mult: width of each level in units of `ch`; the size is halved between levels.
    num_res_blocks: residual blocks per level of the encoder (the decoder has one more).
    z_channels: channels between encoder and `quant_conv`.
    embed_dim: channels of the latent and of a code.
    resolution: image side, in pixels, to which `attn_resolutions` refers; other sizes can be encoded too.
    attn_resolutions: sides at which attention follows each residual block.
    in_channels: channels of the image.
    num_groups: groups of every normalisation; each level's width is a multiple.
    dtype: compute dtype.
  """

  ch: int = 128
  ch_mult: tuple[int, ...] = (1, 2, 4)
  num_res_blocks: int = 2
  z_channels: int = 3
  embed_dim: int = 3
  resolution: int = 256
  attn_resolutions: tuple[int, ...] = ()
  in_channels: int = 3
  num_groups: int = NUM_GROUPS
  dtype: DTypeLike = jnp.float32

  # Values that the encoder gives for each channel of a latent: the latent itself, or mean and log-variance.
  MOMENTS = 1

  def setup(self):
    """Declares the layers."""
    shape = (self.ch, self.ch_mult, self.num_res_blocks, self.resolution, self.attn_resolutions)
    sizes = (*shape, self.num_groups, self.dtype)
    self.encoder = Encoder(self.MOMENTS * self.z_channels, *sizes)
    self.decoder = Decoder(self.in_channels, *sizes)
    self.quant_conv = dense(self.MOMENTS * self.embed_dim, self.dtype)
    self.post_quant_conv = dense(self.z_channels, self.dtype)

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """h w C of the latent of one picture whose side is `resolution`."""
    side = self.resolution // 2 ** (len(self.ch_mult) - 1)
    return side, side, self.embed_dim

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: images 1 H W C of the smallest size."""
    side = 2 ** len(self.ch_mult)
    return (jnp.zeros((1, side, side, self.in_channels)),)


class Quantized(NamedTuple):
  """Result of `VQModel.quantize`.

  Attributes:
    z_q: B h w C, the nearest codes; gradients pass straight through to z.
    indices: B h w int32, rows of the codebook.
    loss: B, codebook and commitment loss of each sample.
  """

  z_q: Array
  indices: Array
  loss: Array


class VQModel(_FirstStage):
  """VQ autoencoder (Esser et al. 2021).

  Attributes are those of `_FirstStage`, and
    n_embed: codes in the codebook.
    beta: weight of the commitment loss.
  """

  n_embed: int = 8192
  beta: float = 0.25

  def setup(self):
    """Declares the layers and the codes."""
    super().setup()
    self.codebook = self.param('codebook', _uniform_codes, (self.n_embed, self.embed_dim))

  def encode(self, image: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    """Encodes images in [-1, 1] to latents, not quantised; float32."""
    return self.quant_conv(self.encoder(image)).astype(jnp.float32)

  def quantize(self, z: Float[Array, 'B h w D']) -> Quantized:
    """Replaces each vector by the nearest code (squared distance).

    The loss is mean |sg(z) - code|^2 + beta mean |z - sg(code)|^2 (van den Oord et al. 2017, eq. 3).
    """
    z = z.astype(jnp.float32)
    indices = _nearest(*jax.lax.stop_gradient((z, self.codebook)))
    codes = jnp.take(self.codebook, indices, axis=0)
    axes = tuple(range(1, z.ndim))
    codebook_loss = jnp.mean(jnp.square(jax.lax.stop_gradient(z) - codes), axes)
    commitment_loss = jnp.mean(jnp.square(z - jax.lax.stop_gradient(codes)), axes)
    z_q = z + jax.lax.stop_gradient(codes - z)
    return Quantized(z_q, indices, codebook_loss + self.beta * commitment_loss)

  def decode(self, z: Float[Array, 'B h w D'], quantize: bool = True) -> Float[Array, 'B H W C']:
    """Quantises latents if asked, and decodes them to images in about [-1, 1], not clipped; float32."""
    if quantize:
      z = self.quantize(z).z_q
    z = self.post_quant_conv(z.astype(self.dtype))
    self.sow('intermediates', 'tap_post_quant_conv', z)
    return self.decoder(z)

  def to_latent(self, image: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    """Encodes images in [-1, 1] for the diffusion model: the same as `encode`."""
    return self.encode(image)

  def to_image(self, latent: Float[Array, 'B h w D']) -> Float[Array, 'B H W C']:
    """Decodes latents of the diffusion model: quantised, then `decode`."""
    return self.decode(latent)

  def __call__(self, image: Float[Array, 'B H W C']) -> tuple[Float[Array, 'B H W C'], Quantized]:
    """Reconstructs images through the codebook, as for training a first stage."""
    quantized = self.quantize(self.encode(image))
    return self.decode(quantized.z_q, quantize=False), quantized


class Gaussian(NamedTuple):
  """A diagonal Gaussian over latents.

  Attributes:
    mean: B h w C.
    log_var: B h w C, clipped to [-30, 20].
  """

  mean: Array
  log_var: Array


class KLModel(_FirstStage):
  """KL autoencoder (Rombach et al. 2022); the defaults are that of Stable Diffusion 1, 512x512x3 -> 64x64x4.

  Attributes are those of `_FirstStage`, and
    latent_scale: factor on latents for the diffusion model, which expects a deviation of about 1.
  """

  ch_mult: tuple[int, ...] = (1, 2, 4, 4)
  z_channels: int = 4
  embed_dim: int = 4
  latent_scale: float = 0.18215

  MOMENTS = 2

  def encode(self, image: Float[Array, 'B H W C']) -> Gaussian:
    """Encodes images in [-1, 1] to the posterior over latents, float32."""
    mean, log_var = jnp.split(self.quant_conv(self.encoder(image)).astype(jnp.float32), 2, axis=-1)
    return Gaussian(mean, jnp.clip(log_var, -30.0, 20.0))

  def decode(self, z: Float[Array, 'B h w D']) -> Float[Array, 'B H W C']:
    """Decodes latents to images in about [-1, 1], not clipped; float32."""
    return self.decoder(self.post_quant_conv(z.astype(self.dtype)))

  def to_latent(self, image: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    """Encodes images in [-1, 1] for the diffusion model: the posterior's mean, scaled."""
    return self.latent_scale * self.encode(image).mean

  def to_image(self, latent: Float[Array, 'B h w D']) -> Float[Array, 'B H W C']:
    """Decodes latents of the diffusion model: the inverse of `to_latent`."""
    return self.decode(latent / self.latent_scale)

  def __call__(self, image: Float[Array, 'B H W C']) -> tuple[Float[Array, 'B H W C'], Gaussian]:
    """Reconstructs images from the posterior's mean."""
    posterior = self.encode(image)
    return self.decode(posterior.mean), posterior


def first_stage(kwargs: Mapping[str, Any], dtype: DTypeLike = jnp.float32) -> VQModel | KLModel:
  """Builds a `VQModel` if the kwargs have `n_embed`, else a `KLModel`; lists, as in JSON, become tuples."""
  return (VQModel if 'n_embed' in kwargs else KLModel)(**lists_to_tuples(kwargs), dtype=dtype)


def _nearest(z: Float[Array, 'B h w C'], codebook: Float[Array, 'N C']) -> Int[Array, 'B h w']:
  """The index of the nearest code for each vector.

  It compares with a part of the codes at a time: all distances at once (B h w N) take 5 GB for 40 latents of 64 x 64.
  """
  count = max(size for size in range(1, CODES_AT_ONCE + 1) if len(codebook) % size == 0)

  def compare(best, part):
    start, codes = part
    # B h w count, in full precision: a rounded distance may select another code.
    products = jnp.einsum('bhwc,nc->bhwn', z, codes, precision=jax.lax.Precision.HIGHEST)
    distances = jnp.sum(jnp.square(codes), axis=-1) - 2 * products  # |z|^2 is the same for all codes
    index, distance = jnp.argmin(distances, axis=-1).astype(jnp.int32), distances.min(axis=-1)
    nearer = distance < best[1]
    return (jnp.where(nearer, start + index, best[0]), jnp.where(nearer, distance, best[1])), None

  starts = jnp.arange(0, len(codebook), count, dtype=jnp.int32)
  best = jnp.zeros(z.shape[:-1], jnp.int32), jnp.full(z.shape[:-1], jnp.inf, jnp.float32)
  return jax.lax.scan(compare, best, (starts, codebook.reshape(-1, count, codebook.shape[1])))[0][0]


def _uniform_codes(key: jax.Array, shape: tuple[int, int]) -> Float[Array, 'N D']:
  return jax.random.uniform(key, shape, jnp.float32, -1 / shape[0], 1 / shape[0])
