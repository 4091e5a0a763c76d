"""Cuts fMRI vectors and images into patches and puts patches together again."""

from einops import rearrange
from jaxtyping import Shaped

from brainjax.ops.types import Array


def patchify_1d(x: Shaped[Array, 'B V'], patch_size: int) -> Shaped[Array, 'B L p']:
  """Cuts vectors into consecutive patches, L = V / p, without remainder."""
  return rearrange(x, 'b (l p) -> b l p', p=patch_size)


def unpatchify_1d(patches: Shaped[Array, 'B L p']) -> Shaped[Array, 'B V']:
  """The inverse of `patchify_1d`."""
  return rearrange(patches, 'b l p -> b (l p)')


def patchify_2d(images: Shaped[Array, 'B H W C'], patch_size: int) -> Shaped[Array, 'B L p']:
  """Cuts images into square patches, row by row; the values of a patch are ordered (row, column, channel)."""
  return rearrange(images, 'b (h p) (w q) c -> b (h w) (p q c)', p=patch_size, q=patch_size)
