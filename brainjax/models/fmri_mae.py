"""The masked autoencoder of fMRI vectors, with optional cross-attention to image tokens (phases 1 and 2)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models.blocks import Block, MaskedDecoder, MaskedEncoder, mask_from_noise
from brainjax.models.cross_attention import CrossBlock, CrossBottleneck
from brainjax.ops import masking, patches, positions


class FmriMAE(nn.Module):
  """fMRI B V -> predicted patches B L p (paper, sections 3.1 and 3.2).

  Several views of one batch are one pass: concatenate them, and their noise, on the batch axis.

  Attributes:
    num_voxels: V, a multiple of the patch size.
    patch_size: p, in voxels.
    mlp_ratio: hidden width of each block's MLP over its width.
    cross_depth: number of cross-attention blocks; 0 for phase 1.
    cross_width: width of the image tokens, and of the cross-attention blocks.
    cross_mlp_dim: hidden width of the MLP of a cross-attention block.
    cross_residual: add the input of the cross-attention blocks to their output.
    remat: what the backward pass recomputes of each block, see `recompute`.
    dtype: of the computation; parameters are float32.
  """

  num_voxels: int
  patch_size: int = 16
  width: int = 1024
  depth: int = 24
  num_heads: int = 16
  mlp_ratio: float = 1.0
  decoder_width: int = 512
  decoder_depth: int = 8
  decoder_num_heads: int = 16
  cross_depth: int = 0
  cross_width: int = 768
  cross_heads: int = 12
  cross_mlp_dim: int = 3072
  cross_residual: bool = True
  remat: str = 'nothing'
  dtype: jnp.dtype = jnp.float32

  @property
  def num_patches(self) -> int:
    """L, the number of tokens apart from the class token."""
    return self.num_voxels // self.patch_size

  def setup(self):
    """Builds the parts."""
    cross = None
    if self.cross_depth:
      block = partial(CrossBlock, self.cross_heads, self.cross_mlp_dim, dtype=self.dtype)
      cross = partial(
        CrossBottleneck, self.cross_width, block, self.cross_depth, self.cross_residual, self.remat, self.dtype
      )
    self.encoder = MaskedEncoder(
      table=positions.sincos_1d(self.num_patches, self.width),
      kernel_shape=(self.patch_size, 1),
      make_block=partial(Block, self.num_heads, int(self.width * self.mlp_ratio), dtype=self.dtype),
      depth=self.depth,
      norm_epsilon=1e-5,
      cross=cross,
      context_width=self.cross_width,
      remat=self.remat,
      dtype=self.dtype,
    )
    self.decoder = MaskedDecoder(
      table=positions.sincos_1d(self.num_patches, self.decoder_width),
      make_block=partial(Block, self.decoder_num_heads, int(self.decoder_width * self.mlp_ratio), dtype=self.dtype),
      depth=self.decoder_depth,
      patch_dim=self.patch_size,
      remat=self.remat,
      dtype=self.dtype,
    )

  def __call__(
    self,
    fmri: jax.Array,
    noise: jax.Array | None = None,
    mask_ratio: float = 0.0,
    image_tokens: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Masks, encodes and predicts.

    Args:
      fmri: B V.
      noise: B L uniform draws; may be absent at ratio 0, and the tokens are then not shuffled.
      mask_ratio: fraction of tokens to remove; static.
      image_tokens: B M W; without them the cross-attention is skipped.

    Returns:
      pred: B L p; mask: B L (1 = removed); latent: B (1 + kept) D; ids_restore: B L.
    """
    mask = mask_from_noise(noise, mask_ratio, fmri.shape[0], self.num_patches)
    latent = self.encoder(patches.patchify_1d(fmri, self.patch_size), mask, image_tokens)
    mask = mask or masking.no_mask(fmri.shape[0], self.num_patches)
    return {
      'pred': self.decoder(latent, mask.ids_restore),
      'mask': mask.mask,
      'latent': latent,
      'ids_restore': mask.ids_restore,
    }

  def encode(
    self,
    fmri: jax.Array,
    noise: jax.Array | None = None,
    mask_ratio: float = 0.0,
    image_tokens: jax.Array | None = None,
  ) -> jax.Array:
    """The encoder alone: fMRI B V -> tokens B (1 + kept) D, the class token first. Arguments as in a call."""
    mask = mask_from_noise(noise, mask_ratio, fmri.shape[0], self.num_patches)
    return self.encoder(patches.patchify_1d(fmri, self.patch_size), mask, image_tokens)
