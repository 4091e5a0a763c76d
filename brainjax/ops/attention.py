"""Attention that keeps its scores within a memory limit: large batches are computed in parts."""

import jax

# Bytes of float32 scores (batch x heads x queries x keys) that may exist at once.
MAX_SCORES = 2**29


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Scaled dot-product attention with a float32 softmax: B L N D, B M N D, B M N D -> B L N D.

  Where all scores would need more than `MAX_SCORES`, the batch is computed in equal parts one after the other, and
  again in the backward pass. A part takes every n-th sample, so that it lies on all devices as the batch does.
  """
  batch, length, heads, _ = query.shape
  scores = 4 * batch * heads * length * key.shape[1]
  parts = next(n for n in range(1, batch + 1) if batch % n == 0 and (scores <= n * MAX_SCORES or n == batch))
  if parts == 1:
    return jax.nn.dot_product_attention(query, key, value)

  def split(x):
    return x.reshape(batch // parts, parts, *x.shape[1:]).swapaxes(0, 1)  # n B/n L N D

  part = jax.checkpoint(lambda qkv: jax.nn.dot_product_attention(*qkv))
  out = jax.lax.map(part, (split(query), split(key), split(value)))
  return out.swapaxes(0, 1).reshape(query.shape)
