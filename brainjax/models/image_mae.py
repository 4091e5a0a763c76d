"""The masked autoencoder of images (ViT-MAE), with optional cross-attention to fMRI tokens (phase 2)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from brainjax.models.blocks import NORMAL
from brainjax.models.cross_attention import CrossBlock, CrossTail
from brainjax.models.masked_autoencoder import MaskedAutoencoder, Modality
from brainjax.ops import patches, positions


class ImageMAE(MaskedAutoencoder):
  """Images B H W 3 -> predicted patches B L (p*p*3) (He et al. 2022; cross-attention: paper, section 3.2).

  Attributes:
    image_size: side of the square images, in pixels; a multiple of the patch size.
    patch_size: p, side of a patch, in pixels.
    width, depth, num_heads, mlp_dim: of the encoder; the width is D, the last the hidden width of the MLPs.
    decoder_width, decoder_depth, decoder_num_heads, decoder_mlp_dim: of the decoder.
    cross_depth: number of cross-attention blocks; 0 for the plain autoencoder.
    fmri_width: width of the fMRI tokens that the cross-attention blocks look at.
    norm_epsilon: of the LayerNorms; 1e-12 in Hugging Face's ViT-MAE, 1e-6 in the official code.
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
  norm_epsilon: float = 1e-12
  remat: str = 'nothing'
  dtype: DTypeLike = jnp.float32

  @property
  def num_patches(self) -> int:
    """L, the number of tokens without the class token."""
    return (self.image_size // self.patch_size) ** 2

  def modality(self) -> Modality:
    """Square patches, positions on a grid, Hugging Face's initialisation; cross-attention after the last block."""
    common = {'kernel_init': NORMAL, 'dtype': self.dtype}
    block = partial(CrossBlock, self.num_heads, self.mlp_dim, **common)
    side = self.image_size // self.patch_size
    return Modality(
      patchify=partial(patches.patchify_2d, patch_size=self.patch_size),
      kernel_shape=(self.patch_size, self.patch_size, 3),
      position_table=partial(positions.sincos_2d, (side, side)),
      mlp_dims=(self.mlp_dim, self.decoder_mlp_dim),
      kernel_init=NORMAL,
      norm_epsilon=self.norm_epsilon,
      fused_qkv=False,
      cross=partial(CrossTail, block, self.cross_depth, remat=self.remat, **common),
      context_width=self.fmri_width,
    )

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: images 1 H W 3."""
    return (jnp.zeros((1, self.image_size, self.image_size, 3)),)
