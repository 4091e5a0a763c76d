"""Scaled dot-product attention with a float32 softmax, through one door.

`attention` takes heads (B L N D); `self_attention` takes the output of one dense layer for queries, keys and values
(B L 3ND). Which program computes it depends on the platform and the shapes:

* 'pallas': one TPU kernel that keeps all scores on the chip (ops/attention_kernel.py);
* 'cudnn': NVIDIA's fused attention, for 16-bit inputs and heads of up to 128; odd lengths are padded;
* 'xla': plain matrix products. Where all scores would need too much memory, equal parts are computed one after the other.

'auto' takes the fused program of the platform for the shapes that it supports, and 'xla' for all others. So do 'pallas'
and 'cudnn', which fail on another platform. `policy` sets the choice (`config.attention`) for what is traced inside it.

The platform is that of the mesh inside which a program is traced (`sharding.on_mesh`), or JAX's default. On a mesh the
fused programs run on each device's part of the batch, and the memory limit counts what one device holds.
"""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from brainjax.errors import UserError
from brainjax.ops.placement import num_devices, on_each_device, platform, runs_kernels
from brainjax.ops.types import Array

CHOICES = ('auto', 'xla', 'pallas', 'cudnn')
# Bytes of float32 scores (batch x heads x queries x keys) that may exist at once on a device.
MAX_SCORES = 2**29
# On a CPU: what its caches hold. Two to four times as fast as scores that go to memory and back (docs/performance.md).
CACHED_SCORES = 6 * 2**20
# Where each fused program runs.
_PLATFORMS = {'pallas': 'tpu', 'cudnn': 'gpu'}

_choice = 'auto'


@contextlib.contextmanager
def policy(choice: str) -> Iterator[None]:
  """Sets which program, one of `CHOICES`, computes attention in what is traced inside.

  Raises:
    UserError: the program runs on another platform.
  """
  global _choice
  if (needed := _PLATFORMS.get(choice, platform())) != platform():
    raise UserError(
      f'config.attention is {choice!r}, which runs on a {needed.upper()} only, and this is a {platform().upper()}; '
      "choose 'auto' or 'xla'."
    )
  before, _choice = _choice, choice
  try:
    yield
  finally:
    _choice = before


def attention(
  query: Float[Array, 'B L N D'],
  key: Float[Array, 'B M N D'],
  value: Float[Array, 'B M N D'],
  key_length: int | None = None,
) -> Float[Array, 'B L N D']:
  """Attention of heads. Keys from `key_length` on are padding."""
  batch, length, heads, width = query.shape
  program = _select(batch, query.dtype, heads, width, key.shape[1])
  if program == 'pallas':
    from brainjax.ops import attention_kernel

    flat = (x.reshape(batch, x.shape[1], heads * width) for x in (query, key, value))
    return on_each_device(lambda *x: attention_kernel.attention(*x, heads, key_length), *flat).reshape(query.shape)
  key, value = key[:, :key_length], value[:, :key_length]
  if program == 'cudnn':
    return on_each_device(_cudnn, query, key, value)
  return _xla(query, key, value)


def self_attention(
  qkv: Float[Array, 'B L W'], num_heads: int, key_length: int | None = None
) -> Float[Array, 'B L {qkv.shape[2]//3}']:
  """Attention of tokens to each other: queries, keys and values side by side, W = 3ND -> B L ND.

  Tokens from `key_length` on are padding: no token attends to them.
  """
  batch, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
  if _select(batch, qkv.dtype, num_heads, width // num_heads, length) == 'pallas':
    from brainjax.ops import attention_kernel

    return on_each_device(lambda x: attention_kernel.self_attention(x, num_heads, key_length), qkv)
  heads = (x.reshape(batch, length, num_heads, -1) for x in jnp.split(qkv, 3, axis=-1))
  return attention(*heads, key_length).reshape(batch, length, width)


def _select(batch: int, dtype: DTypeLike, heads: int, width: int, keys: int) -> str:
  """'pallas', 'cudnn' or 'xla'."""
  if _choice == 'xla' or batch % num_devices():
    return 'xla'
  if runs_kernels(batch):
    from brainjax.ops import attention_kernel

    return 'pallas' if attention_kernel.supports(heads, width, keys) else 'xla'
  if platform() == 'gpu' and jnp.dtype(dtype).itemsize == 2 and width <= 128 and width % 8 == 0:
    return 'cudnn'
  return 'xla'


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """cuDNN's attention. Its backward pass needs even lengths: one token is added, and the true lengths are given."""
  lengths = query.shape[1], key.shape[1]
  if not any(length % 2 for length in lengths):
    return jax.nn.dot_product_attention(query, key, value, implementation='cudnn')
  query, key, value = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
  given = (jnp.full(len(query), length, jnp.int32) for length in lengths)
  names = ('query_seq_lengths', 'key_value_seq_lengths')
  out = jax.nn.dot_product_attention(query, key, value, implementation='cudnn', **dict(zip(names, given, strict=True)))
  return out[:, : lengths[0]]


def _xla(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Matrix products: B L N D, B M N D, B M N D -> B L N D.

  Where all scores would need more than the limit, equal parts are computed one after the other, and again in the
  backward pass: of the batch, then of the heads, then of the queries, padded. A part takes every n-th sample, so that it
  lies on all devices as the batch does.
  """
  on_cpu = platform() == 'cpu'
  attend = _on_cpu if on_cpu else jax.nn.dot_product_attention
  limit = min(MAX_SCORES, CACHED_SCORES) if on_cpu else MAX_SCORES
  batch, length, heads, width = query.shape
  local = batch if batch % num_devices() else batch // num_devices()
  scores = 4 * local * length * heads * key.shape[1]
  samples, scores = _parts(local, scores, limit)
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
