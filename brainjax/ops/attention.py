"""Attention that keeps its scores within a memory limit: large batches are computed in parts."""

import jax
import jax.numpy as jnp

# Bytes of float32 scores (batch x heads x queries x keys) that may exist at once.
MAX_SCORES = 2**29
# On a CPU: what its caches hold. Two to four times as fast as scores that go to memory and back (docs/performance.md).
CACHED_SCORES = 6 * 2**20


def on_cpu() -> bool:
  """Whether programs are compiled for a CPU."""
  return jax.default_backend() == 'cpu'


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Scaled dot-product attention with a float32 softmax: B L N D, B M N D, B M N D -> B L N D.

  Where all scores would need more than the limit, equal parts are computed one after the other, and again in the
  backward pass: of the batch, then of the heads, then of the queries, padded. A part takes every n-th sample, so that it
  lies on all devices as the batch does.
  """
  attend = _on_cpu if on_cpu() else jax.nn.dot_product_attention
  limit = min(MAX_SCORES, CACHED_SCORES) if on_cpu() else MAX_SCORES
  batch, length, heads, width = query.shape
  scores = 4 * batch * length * heads * key.shape[1]
  samples, scores = _parts(batch, scores, limit)
  groups, scores = _parts(heads, scores, limit)
  rows = -(-scores // limit)
  if samples * groups * rows == 1:
    return attend(query, key, value)

  def split(x):  # B M N D -> parts B/samples M N/groups D
    x = x.reshape(batch // samples, samples, x.shape[1], heads // groups, groups, width)
    return jnp.moveaxis(x, (1, 4), (0, 1)).reshape(-1, batch // samples, x.shape[2], heads // groups, width)

  part = jax.checkpoint(attend)

  def in_rows(qkv):
    query, key, value = qkv
    query = jnp.pad(query, ((0, 0), (0, -length % rows), (0, 0), (0, 0)))
    query = query.reshape(query.shape[0], -1, rows, *query.shape[2:])
    out = jax.lax.map(lambda some: part(some, key, value), jnp.moveaxis(query, 2, 0))
    out = jnp.moveaxis(out, 0, 2)  # B/samples L/rows rows N/groups D
    return out.reshape(out.shape[0], -1, *out.shape[3:])[:, :length]

  out = jax.lax.map(in_rows, (split(query), split(key), split(value)))
  out = out.reshape(samples, groups, batch // samples, length, heads // groups, width)
  return jnp.moveaxis(out, (0, 1), (1, 4)).reshape(query.shape)


def _parts(size: int, scores: int, limit: int) -> tuple[int, int]:
  """The fewest equal parts of an axis whose scores are within the limit, or all; and the bytes of one part."""
  parts = next(n for n in range(1, size + 1) if size % n == 0 and (scores <= n * limit or n == size))
  return parts, scores // parts


def _on_cpu(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """The same as jax.nn.dot_product_attention, as products of matrices that lie in one piece."""
  return _in_heads(*(x.swapaxes(1, 2) for x in (query, key, value))).swapaxes(1, 2)


@jax.custom_vjp
def _in_heads(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Attention of B N L D, B N M D, B N M D. Scores are not kept: the backward pass computes them again."""
  return _forward(query, key, value)[0]


def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
  product = jnp.einsum('bnld,bnmd->bnlm', query, key, preferred_element_type=jnp.float32)
  return product * query.shape[-1] ** -0.5


def _forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  scores = _scores(query, key)
  largest = scores.max(-1, keepdims=True)
  weights = jnp.exp(scores - largest)
  total = weights.sum(-1, keepdims=True)
  out = jnp.einsum('bnlm,bnmd->bnld', weights.astype(value.dtype), value) / total
  out = out.astype(value.dtype)
  return out, (query, key, value, out, largest + jnp.log(total))


def _backward(kept: tuple[jax.Array, ...], out_bar: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  query, key, value, out, log_total = kept
  weights = jnp.exp(_scores(query, key) - log_total)
  # The sum of weights and their cotangents over the keys, as one of D terms (FlashAttention, section 3.1).
  mean = jnp.sum(out_bar * out, -1, keepdims=True, dtype=jnp.float32)
  weights_bar = jnp.einsum('bnld,bnmd->bnlm', out_bar, value, preferred_element_type=jnp.float32)
  scores_bar = (weights * (weights_bar - mean) * query.shape[-1] ** -0.5).astype(query.dtype)
  weights = weights.astype(value.dtype)
  # D before M: a product that sums over the queries would else transpose all weights.
  value_bar = jnp.einsum('bnld,bnlm->bndm', out_bar, weights).swapaxes(2, 3)
  key_bar = jnp.einsum('bnld,bnlm->bndm', query, scores_bar).swapaxes(2, 3)
  return jnp.einsum('bnlm,bnmd->bnld', scores_bar, key), key_bar, value_bar


_in_heads.defvjp(_forward, _backward)
