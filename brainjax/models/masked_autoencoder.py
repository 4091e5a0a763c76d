"""The masked autoencoder (He et al. 2022) that fMRI and images share; `fmri_mae` and `image_mae` define what differs."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from brainjax.models.blocks import NORMAL, XAVIER, Block, Init, PatchEmbed, layer_norm, run_stack, table_init
from brainjax.models.dense import Dense
from brainjax.ops import masking
from brainjax.ops.types import Array


class Modality(NamedTuple):
  """What differs between the autoencoders of fMRI and of images.

  Attributes:
    patchify: input B ... -> patches B L p.
    kernel_shape: (*patch sides, channels); their product is p.
    position_table: width -> initial positions (1 + L) x width, the class row first.
    mlp_dims: hidden width of the MLPs of encoder and decoder.
    kernel_init: of every dense layer.
    norm_epsilon: of the blocks and of the encoder's last LayerNorm.
    fused_qkv: one matrix for queries, keys and values, or three.
    cross: gives the module that attends to the other modality, called with a name.
    context_width: E, the width of the other modality's tokens.
  """

  patchify: Callable[[jax.Array], jax.Array]
  kernel_shape: tuple[int, ...]
  position_table: Callable[[int], np.ndarray]
  mlp_dims: tuple[int, int]
  kernel_init: Init
  norm_epsilon: float
  fused_qkv: bool
  cross: Callable[..., nn.Module]
  context_width: int


class MaskedEncoder(nn.Module):
  """The encoder of a masked autoencoder; the class token comes first.

  Attributes:
    table: (1 + L, width) initial positions, the class row first.
    kernel_shape: (*patch sides, channels).
    make_block: gives one block, called with a name.
    cross: gives the module that attends to the other modality, called with a name; None for a plain autoencoder.
    context_width: E, the width of the other modality's tokens.
    norm_epsilon: of the final LayerNorm.
  """

  table: np.ndarray
  kernel_shape: tuple[int, ...]
  make_block: Callable[..., nn.Module]
  depth: int
  norm_epsilon: float
  cross: Callable[..., nn.Module] | None = None
  context_width: int = 0
  remat: str = 'nothing'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    patches: Float[Array, 'B {len(self.table)-1} p'],
    mask: masking.Mask | None = None,
    context: Float[Array, 'B M E'] | None = None,
  ) -> Float[Array, 'B K D']:
    """Encodes the patches that the mask keeps (None keeps all), with tokens of the other modality or without.

    Raises:
      ValueError: other tokens are given to a model without cross-attention.
    """
    width = self.table.shape[1]
    class_token = self.param('cls_token', NORMAL, (1, 1, width))
    positions = self.param('pos_embed', table_init(self.table), (1, *self.table.shape)).astype(self.dtype)
    places = positions[:, 1:]
    if mask is not None:  # before the embedding, so that removed patches cost nothing
      patches, places = masking.gather(patches, mask.ids_keep), jnp.take(places[0], mask.ids_keep, axis=0)
    x = PatchEmbed(width, self.kernel_shape, self.dtype, name='patch_embed')(patches) + places
    first = jnp.broadcast_to(class_token.astype(self.dtype) + positions[:, :1], (x.shape[0], 1, width))
    x = run_stack(self.make_block, self.depth, self.remat, jnp.concatenate([first, x], axis=1))
    if self.cross is None:
      if context is not None:
        raise ValueError('tokens of the other modality were given to an autoencoder without cross-attention.')
    elif context is not None:
      x = self.cross(name='cross')(x, context.astype(self.dtype))
    elif self.is_initializing():  # so that every parameter exists after a call without context, too
      self.cross(name='cross')(x, jnp.zeros((x.shape[0], 1, self.context_width), self.dtype))
    return layer_norm(self.norm_epsilon, self.dtype, 'norm')(x)


class MaskedDecoder(nn.Module):
  """The decoder of a masked autoencoder; predicts every patch in float32.

  Attributes:
    table: (1 + L, width) initial positions, the class row first.
    make_block: gives one block, called with a name.
    patch_dim: p, the number of values in a patch.
  """

  table: np.ndarray
  make_block: Callable[..., nn.Module]
  depth: int
  patch_dim: int
  kernel_init: Init = XAVIER
  remat: str = 'nothing'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, latent: Float[Array, 'B K D'], ids_restore: Int[Array, 'B L']) -> Float[Array, 'B L p']:
    width = self.table.shape[1]
    dense = partial(Dense, dtype=self.dtype, kernel_init=self.kernel_init)
    mask_token = self.param('mask_token', NORMAL, (1, 1, width))
    positions = self.param('pos_embed', table_init(self.table), (1, *self.table.shape)).astype(self.dtype)
    x = dense(width, name='embed')(latent)
    x = jnp.concatenate([x[:, :1], masking.unshuffle(x[:, 1:], mask_token, ids_restore)], axis=1)  # B 1+L width
    x = run_stack(self.make_block, self.depth, self.remat, x + positions)
    x = layer_norm(1e-5, self.dtype, 'norm')(x)
    return dense(self.patch_dim, name='pred')(x[:, 1:]).astype(jnp.float32)


class MaskedAutoencoder(nn.Module):
  """Masks an input, encodes the rest, and predicts every patch.

  Several views of one batch are one pass: concatenate them, and their noise, on the batch axis.

  A subclass declares `width`, `depth`, `num_heads`, `decoder_width`, `decoder_depth`, `decoder_num_heads`, `cross_depth`
  (blocks of cross-attention; 0: none), `remat` and `dtype`, and defines `num_patches`, `modality` and `example_inputs`.
  """

  @property
  def num_patches(self) -> int:
    """L, the number of tokens without the class token."""
    raise NotImplementedError

  def modality(self) -> Modality:
    """What this autoencoder does not share with the others."""
    raise NotImplementedError

  def setup(self):
    """Builds the encoder and the decoder."""
    modality = self.modality()
    shared = {'remat': self.remat, 'dtype': self.dtype}
    block = partial(
      Block,
      fused_qkv=modality.fused_qkv,
      epsilon=modality.norm_epsilon,
      kernel_init=modality.kernel_init,
      dtype=self.dtype,
    )
    self.encoder = MaskedEncoder(
      table=modality.position_table(self.width),
      kernel_shape=modality.kernel_shape,
      make_block=partial(block, self.num_heads, modality.mlp_dims[0]),
      depth=self.depth,
      norm_epsilon=modality.norm_epsilon,
      cross=modality.cross if self.cross_depth else None,
      context_width=modality.context_width,
      **shared,
    )
    self.decoder = MaskedDecoder(
      table=modality.position_table(self.decoder_width),
      make_block=partial(block, self.decoder_num_heads, modality.mlp_dims[1]),
      depth=self.decoder_depth,
      patch_dim=math.prod(modality.kernel_shape),
      kernel_init=modality.kernel_init,
      **shared,
    )

  def __call__(
    self,
    inputs: Float[Array, 'B ...'],
    noise: Float[Array, 'B {self.num_patches}'] | None = None,
    mask_ratio: float = 0.0,
    context: Float[Array, 'B M E'] | None = None,
  ) -> dict[str, Shaped[Array, 'B ...']]:
    """Masks, encodes and predicts.

    Args:
      inputs: fMRI B V; or images B H W 3, normalised with ImageNet's mean and deviation.
      noise: uniform draws; None at ratio 0 leaves the tokens in order.
      mask_ratio: fraction of tokens to remove; static.
      context: tokens of the other modality; None skips the cross-attention.

    Returns:
      pred: B L p (in an image patch ordered row, column, channel); mask: B L (1 = removed); latent: B 1+K D of the K
      tokens that are kept; ids_restore: B L, see `Mask`.

    Raises:
      ValueError: the noise is missing; other tokens are given to a model without cross-attention.
    """
    mask = self._mask(inputs, noise, mask_ratio)
    latent = self.encoder(self.modality().patchify(inputs), mask, context)
    mask = mask or masking.no_mask(len(inputs), self.num_patches)
    return {
      'pred': self.decoder(latent, mask.ids_restore),
      'mask': mask.mask,
      'latent': latent,
      'ids_restore': mask.ids_restore,
    }

  def encode(
    self,
    inputs: Float[Array, 'B ...'],
    noise: Float[Array, 'B {self.num_patches}'] | None = None,
    mask_ratio: float = 0.0,
    context: Float[Array, 'B M E'] | None = None,
  ) -> Float[Array, 'B K D']:
    """Runs the encoder alone, with the arguments of a call; the class token comes first."""
    return self.encoder(self.modality().patchify(inputs), self._mask(inputs, noise, mask_ratio), context)

  def _mask(
    self, inputs: Float[Array, 'B ...'], noise: Float[Array, 'B L'] | None, ratio: float
  ) -> masking.Mask | None:
    """The mask of one pass; None keeps every token in order (ratio 0 and no noise)."""
    if noise is None:
      if ratio:
        raise ValueError(f'masking {ratio:.0%} of the tokens needs noise of shape {(len(inputs), self.num_patches)}.')
      return None
    return masking.random_mask(noise, ratio)
