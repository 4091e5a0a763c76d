"""Random masking of token sequences: which tokens are kept, and how to put them back in order."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Int

from brainjax.ops.types import Array


class Mask(NamedTuple):
  """A mask over L tokens of which K are kept.

  Attributes:
    ids_keep: B K, the places of the kept tokens.
    ids_restore: B L, where each token is in the sequence of kept, then removed tokens.
    mask: B L; 0 kept, 1 removed.
  """

  ids_keep: Array
  ids_restore: Array
  mask: Array


def num_kept(length: int, ratio: float) -> int:
  """Returns how many of `length` tokens are kept; rounded down in floating point, as in the published code."""
  return int(length * (1 - ratio))


def random_mask(noise: Float[Array, 'B L'], ratio: float) -> Mask:
  """Keeps the tokens with the smallest noise of each sample (He et al. 2022, section 3).

  Args:
    noise: independent uniform draws.
    ratio: fraction of tokens to remove, at least 0 and less than 1; static. At 0 the tokens are still shuffled.
  """
  kept = num_kept(noise.shape[1], ratio)
  shuffle = jnp.argsort(noise, axis=1)
  restore = jnp.argsort(shuffle, axis=1)
  return Mask(shuffle[:, :kept], restore, (restore >= kept).astype(jnp.float32))


def no_mask(batch: int, length: int) -> Mask:
  """Keeps every token in its place."""
  ids = jnp.broadcast_to(jnp.arange(length), (batch, length))
  return Mask(ids, ids, jnp.zeros((batch, length), jnp.float32))


def gather(tokens: Float[Array, 'B L D'], ids: Int[Array, 'B K']) -> Float[Array, 'B K D']:
  """Picks tokens of each sample."""
  return jnp.take_along_axis(tokens, ids[:, :, None], axis=1)


def unshuffle(
  kept: Float[Array, 'B K D'], mask_token: Float[Array, '1 1 D'], ids_restore: Int[Array, 'B L']
) -> Float[Array, 'B L D']:
  """Puts the mask token in the removed places and restores the order."""
  batch, count, width = kept.shape
  removed = jnp.broadcast_to(mask_token.astype(kept.dtype), (batch, ids_restore.shape[1] - count, width))
  return gather(jnp.concatenate([kept, removed], axis=1), ids_restore)
