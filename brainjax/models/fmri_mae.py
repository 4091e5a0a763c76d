"""The masked autoencoder of fMRI vectors, with optional cross-attention to image tokens (phases 1 and 2)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from brainjax.models.blocks import XAVIER
from brainjax.models.cross_attention import CrossBlock, CrossBottleneck
from brainjax.models.masked_autoencoder import MaskedAutoencoder, Modality
from brainjax.ops import patches, positions
from brainjax.trees import subtree


class FmriMAE(MaskedAutoencoder):
  """fMRI B V -> predicted patches B L p (paper, sections 3.1 and 3.2).

  Attributes:
    num_voxels: V, a multiple of the patch size.
    patch_size: p, in voxels.
    width, depth, num_heads: of the encoder; the width is D.
    mlp_ratio: hidden width of each block's MLP over its width.
    decoder_width, decoder_depth, decoder_num_heads: of the decoder.
    cross_depth: number of cross-attention blocks; 0 for phase 1.
    cross_width: width of the image tokens, and of the cross-attention blocks.
    cross_heads: heads of each cross-attention.
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
  dtype: DTypeLike = jnp.float32

  @property
  def num_patches(self) -> int:
    """L, the number of tokens without the class token."""
    return self.num_voxels // self.patch_size

  def modality(self) -> Modality:
    """Patches of voxels, positions on a line, timm's initialisation; cross-attention through the image's width."""
    block = partial(CrossBlock, self.cross_heads, self.cross_mlp_dim, dtype=self.dtype)
    return Modality(
      patchify=partial(patches.patchify_1d, patch_size=self.patch_size),
      kernel_shape=(self.patch_size, 1),
      position_table=partial(positions.sincos_1d, self.num_patches),
      mlp_dims=(int(self.width * self.mlp_ratio), int(self.decoder_width * self.mlp_ratio)),
      kernel_init=XAVIER,
      norm_epsilon=1e-5,
      fused_qkv=True,
      cross=partial(
        CrossBottleneck, self.cross_width, block, self.cross_depth, self.cross_residual, self.remat, self.dtype
      ),
      context_width=self.cross_width,
    )

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: fMRI 1 V."""
    return (jnp.zeros((1, self.num_voxels)),)


def fmri_kwargs(info: Mapping[str, Any]) -> dict[str, Any]:
  """The constructor arguments of an `FmriMAE` in the info of weights: of one alone, or of one beside an `ImageMAE`."""
  kwargs = info.get('settings', {})
  return kwargs.get('fmri', kwargs)


def fmri_weights(flat: Mapping[str, Any]) -> Mapping[str, Any]:
  """The parameters of an `FmriMAE` in such weights (path -> array)."""
  return subtree(flat, 'fmri') or flat
