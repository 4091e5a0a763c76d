"""The masked autoencoder of images (ViT-MAE), with optional cross-attention to fMRI tokens (phase 2)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models.blocks import NORMAL, Block, MaskedDecoder, MaskedEncoder, mask_from_noise
from brainjax.models.cross_attention import CrossBlock, CrossTail
from brainjax.ops import masking, patches, positions


class ImageMAE(nn.Module):
  """Images B H W 3 -> predicted patches B L (p*p*3) (He et al. 2022; cross-attention: paper, section 3.2).

  Attributes:
    image_size: side of the square images, in pixels; a multiple of the patch size.
    patch_size: p, side of a patch, in pixels.
    mlp_dim, decoder_mlp_dim: hidden widths of the blocks' MLPs.
    cross_depth: number of cross-attention blocks; 0 for the plain autoencoder.
    fmri_width: width of the fMRI tokens that the cross-attention blocks look at.
    remat: what the backward pass recomputes of each block, see `recompute`.
    dtype: of the computation; parameters are float32.
  """

  image_size: int = 224
  patch_size: int = 16
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  mlp_dim: int = 3072
  decoder_width: int = 512
  decoder_depth: int = 8
  decoder_num_heads: int = 16
  decoder_mlp_dim: int = 2048
  cross_depth: int = 0
  fmri_width: int = 1024
  remat: str = 'nothing'
  dtype: jnp.dtype = jnp.float32

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of patches."""
    return (self.image_size // self.patch_size,) * 2

  @property
  def num_patches(self) -> int:
    """L, the number of tokens apart from the class token."""
    return self.grid[0] * self.grid[1]

  def setup(self):
    """Builds the parts."""
    common = dict(kernel_init=NORMAL, dtype=self.dtype)
    cross = None
    if self.cross_depth:
      block = partial(CrossBlock, self.num_heads, self.mlp_dim, **common)
      cross = partial(CrossTail, block, self.cross_depth, remat=self.remat, **common)
    layer = partial(Block, fused_qkv=False, epsilon=1e-12, **common)
    self.encoder = MaskedEncoder(
      table=positions.sincos_2d(self.grid, self.width),
      kernel_shape=(self.patch_size, self.patch_size, 3),
      make_block=partial(layer, self.num_heads, self.mlp_dim),
      depth=self.depth,
      norm_epsilon=1e-12,
      cross=cross,
      context_width=self.fmri_width,
      remat=self.remat,
      dtype=self.dtype,
    )
    self.decoder = MaskedDecoder(
      table=positions.sincos_2d(self.grid, self.decoder_width),
      make_block=partial(layer, self.decoder_num_heads, self.decoder_mlp_dim),
      depth=self.decoder_depth,
      patch_dim=self.patch_size**2 * 3,
      remat=self.remat,
      **common,
    )

  def __call__(
    self,
    images: jax.Array,
    noise: jax.Array | None = None,
    mask_ratio: float = 0.0,
    fmri_tokens: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Masks, encodes and predicts.

    Args:
      images: B H W 3, normalised with ImageNet's mean and deviation.
      noise: B L uniform draws; may be absent at ratio 0, and the tokens are then not shuffled.
      mask_ratio: fraction of tokens to remove; static.
      fmri_tokens: B M E; without them the cross-attention is skipped.

    Returns:
      pred: B L (p*p*3), ordered (row, column, channel) in a patch; mask: B L (1 = removed);
      latent: B (1 + kept) D; ids_restore: B L.
    """
    mask = mask_from_noise(noise, mask_ratio, images.shape[0], self.num_patches)
    latent = self.encoder(patches.patchify_2d(images, self.patch_size), mask, fmri_tokens)
    mask = mask or masking.no_mask(images.shape[0], self.num_patches)
    return {
      'pred': self.decoder(latent, mask.ids_restore),
      'mask': mask.mask,
      'latent': latent,
      'ids_restore': mask.ids_restore,
    }

  def encode(
    self,
    images: jax.Array,
    noise: jax.Array | None = None,
    mask_ratio: float = 0.0,
    fmri_tokens: jax.Array | None = None,
  ) -> jax.Array:
    """The encoder alone: images B H W 3 -> tokens B (1 + kept) D, the class token first. Arguments as in a call."""
    mask = mask_from_noise(noise, mask_ratio, images.shape[0], self.num_patches)
    return self.encoder(patches.patchify_2d(images, self.patch_size), mask, fmri_tokens)
