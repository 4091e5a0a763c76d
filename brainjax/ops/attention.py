"""Attention that keeps its scores within a memory limit: large batches are computed in parts."""

import jax
import jax.numpy as jnp

# Bytes of float32 scores (batch x heads x queries x keys) that may exist at once.
MAX_SCORES = 2**29
# On a CPU: what its caches hold. Twice as fast as scores that go to memory and back (docs/performance.md).
CACHED_SCORES = 2**23


def on_cpu() -> bool:
  """Whether programs are compiled for a CPU."""
  return jax.default_backend() == 'cpu'


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Scaled dot-product attention with a float32 softmax: B L N D, B M N D, B M N D -> B L N D.

  Where all scores would need more than the limit, the batch is computed in equal parts one after the other, and
  again in the backward pass. A part takes every n-th sample, so that it lies on all devices as the batch does.
  """
  attend = _in_heads if on_cpu() else jax.nn.dot_product_attention
  limit = min(MAX_SCORES, CACHED_SCORES) if on_cpu() else MAX_SCORES
  batch, length, heads, _ = query.shape
  scores = 4 * batch * heads * length * key.shape[1]
  parts = next(n for n in range(1, batch + 1) if batch % n == 0 and (scores <= n * limit or n == batch))
  if parts == 1:
    return attend(query, key, value)

  def split(x):
    return x.reshape(batch // parts, parts, *x.shape[1:]).swapaxes(0, 1)  # n B/n L N D

  part = jax.checkpoint(lambda qkv: attend(*qkv))
  out = jax.lax.map(part, (split(query), split(key), split(value)))
  return out.swapaxes(0, 1).reshape(query.shape)


def _in_heads(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """The same as jax.nn.dot_product_attention, as products of matrices that lie in one piece: faster on a CPU."""
  query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))  # B N L D
  scores = jnp.matmul(query, key.swapaxes(2, 3), preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
  weights = jax.nn.softmax(scores).astype(value.dtype)
  return jnp.matmul(weights, value).swapaxes(1, 2)
