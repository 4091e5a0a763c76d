"""Cuts fMRI vectors and images into patches and puts patches together again."""

import jax
from einops import rearrange


def patchify_1d(x: jax.Array, patch_size: int) -> jax.Array:
  """Cuts vectors into consecutive patches: B V -> B L p, with L = V / p.

  Raises:
    ValueError: V is not a multiple of the patch size.
  """
  if x.shape[-1] % patch_size:
    raise ValueError(f'{x.shape[-1]} voxels are not a multiple of the patch size {patch_size}; pad the data first.')
  return rearrange(x, 'b (l p) -> b l p', p=patch_size)


def unpatchify_1d(patches: jax.Array) -> jax.Array:
  """The inverse of `patchify_1d`: B L p -> B V."""
  return rearrange(patches, 'b l p -> b (l p)')


def patchify_2d(images: jax.Array, patch_size: int) -> jax.Array:
  """Cuts images into square patches, row by row: B H W C -> B L (p*p*C), ordered (row, column, channel) in a patch.

  Raises:
    ValueError: a side is not a multiple of the patch size.
  """
  height, width = images.shape[1:3]
  if height % patch_size or width % patch_size:
    raise ValueError(f'images of {height} x {width} pixels are not a multiple of the patch size {patch_size}.')
  return rearrange(images, 'b (h p) (w q) c -> b (h w) (p q c)', p=patch_size, q=patch_size)


def unpatchify_2d(patches: jax.Array, grid: tuple[int, int], channels: int = 3) -> jax.Array:
  """The inverse of `patchify_2d`: B L (p*p*C) -> B H W C, for a grid of (rows, columns) patches."""
  patch_size = round((patches.shape[-1] / channels) ** 0.5)
  return rearrange(
    patches, 'b (h w) (p q c) -> b (h p) (w q) c', h=grid[0], w=grid[1], p=patch_size, q=patch_size, c=channels
  )
