"""Random masking of token sequences: which tokens are kept, and how to put them back in order."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mask(NamedTuple):
  """What `random_mask` draws: kept tokens (B K), the way back (B L), and the mask (B L; 0 kept, 1 removed)."""

  ids_keep: jax.Array
  ids_restore: jax.Array
  mask: jax.Array


def num_kept(length: int, ratio: float) -> int:
  """How many of `length` tokens stay: truncated, in floating point, as in the masked autoencoder's code."""
  if not 0 <= ratio < 1:
    raise ValueError(f'the mask ratio is {ratio}; it must be at least 0 and below 1.')
  return int(length * (1 - ratio))


def random_mask(noise: jax.Array, ratio: float) -> Mask:
  """Keeps, for every sample, the tokens with the smallest noise (He et al. 2022, section 3).

  Args:
    noise: B L, independent uniform draws.
    ratio: fraction of tokens to remove; static. At 0 the tokens are still shuffled.
  """
  kept = num_kept(noise.shape[1], ratio)
  shuffle = jnp.argsort(noise, axis=1)
  restore = jnp.argsort(shuffle, axis=1)
  return Mask(shuffle[:, :kept], restore, (restore >= kept).astype(jnp.float32))


def no_mask(batch: int, length: int) -> Mask:
  """The mask that keeps every token in its place."""
  ids = jnp.broadcast_to(jnp.arange(length), (batch, length))
  return Mask(ids, ids, jnp.zeros((batch, length), jnp.float32))


def gather(tokens: jax.Array, ids: jax.Array) -> jax.Array:
  """Picks tokens per sample: B L D and B K -> B K D."""
  return jnp.take_along_axis(tokens, ids[:, :, None], axis=1)


def unshuffle(kept: jax.Array, mask_token: jax.Array, ids_restore: jax.Array) -> jax.Array:
  """Fills removed places with the mask token and restores the order: B K D, (1, 1, D), B L -> B L D."""
  batch, count, width = kept.shape
  removed = jnp.broadcast_to(mask_token.astype(kept.dtype), (batch, ids_restore.shape[1] - count, width))
  return gather(jnp.concatenate([kept, removed], axis=1), ids_restore)
