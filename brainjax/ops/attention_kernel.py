"""Attention of short sequences as one TPU kernel (Pallas), with its backward pass.

One program has all tokens of some samples in VMEM: it reads queries, keys and values as the dense layers wrote them
(B L ND: heads side by side on the last axis, no transposition) and writes B L ND. No score leaves the chip. The forward
pass keeps the logarithm of each softmax's sum; the backward pass computes the scores again (FlashAttention, Dao et al. 2022).

How the work lies on the chip: 128 lanes of ND are one group of heads. Scores of a head are computed transposed, keys x
queries, so that the softmax's maxima and sums are rows, and every product with D (32 or 64) rows has them on the axis
that a matrix unit need not pad. Heads are not cut out of a group: keys of the other heads are set to zero.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float

from brainjax.ops.types import Array

LANES = 128
# Queries of one program. Longer sequences take several, one after the other; the keys stay.
MAX_QUERIES = 512
QUERY_BLOCK = 256
# Keys whose scores with a block of queries fit into VMEM.
MAX_KEYS = 2048
# Bytes of inputs and outputs of one program: several short sequences share one.
PROGRAM_BYTES = 2 * 2**20
# Up to this length the heads of all groups are in one piece of straight code, which hides the latency of each.
UNROLLED_LENGTH = 128
VMEM_BYTES = 48 * 2**20  # for long sequences; the others keep within the default of every chip (16 MiB)

_INNER = (((1,), (0,)), ((), ()))  # rows x columns
_LAST = (((1,), (1,)), ((), ()))  # the last axis of both


def supports(num_heads: int, head_width: int, num_keys: int) -> bool:
  """Whether the kernel can run these shapes: heads fill groups of 128 lanes, and the keys fit into VMEM."""
  return LANES % head_width == 0 and num_heads * head_width % LANES == 0 and num_keys <= MAX_KEYS


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def self_attention(
  qkv: Float[Array, 'B L W'], num_heads: int, key_length: int | None = None, interpret: bool = False
) -> Float[Array, 'B L {qkv.shape[2]//3}']:
  """Attention of tokens to each other: the output of one dense layer, W = 3ND -> B L ND.

  Tokens from `key_length` on are padding: no token attends to them.
  """
  return _self_forward(qkv, num_heads, key_length, interpret)[0]


def _self_forward(qkv: jax.Array, num_heads: int, key_length: int | None, interpret: bool):
  out, log_sum = _forward(_Sizes((qkv, qkv, qkv), (0, 1, 2), num_heads, key_length), interpret)
  return out, (qkv, log_sum)


def _self_backward(num_heads: int, key_length: int | None, interpret: bool, kept, out_bar: jax.Array):
  qkv, log_sum = kept
  sizes = _Sizes((qkv, qkv, qkv), (0, 1, 2), num_heads, key_length)
  if sizes.blocks > 1:  # gradients of queries are written block by block, those of keys at the end
    return (jnp.concatenate(_backward(sizes, interpret, log_sum, out_bar), axis=-1),)
  return tuple(_backward(sizes, interpret, log_sum, out_bar, fused=True))


self_attention.defvjp(_self_forward, _self_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def attention(
  query: Float[Array, 'B L W'],
  key: Float[Array, 'B M W'],
  value: Float[Array, 'B M W'],
  num_heads: int,
  key_length: int | None = None,
  interpret: bool = False,
) -> Float[Array, 'B L W']:
  """Attention with heads side by side, W = ND. Keys from `key_length` on are padding."""
  return _cross_forward(query, key, value, num_heads, key_length, interpret)[0]


def _cross_forward(query, key, value, num_heads: int, key_length: int | None, interpret: bool):
  out, log_sum = _forward(_Sizes((query, key, value), (0, 0, 0), num_heads, key_length), interpret)
  return out, (query, key, value, log_sum)


def _cross_backward(num_heads: int, key_length: int | None, interpret: bool, kept, out_bar: jax.Array):
  *inputs, log_sum = kept
  return tuple(_backward(_Sizes(inputs, (0, 0, 0), num_heads, key_length), interpret, log_sum, out_bar))


attention.defvjp(_cross_forward, _cross_backward)


class _Sizes:
  """Inputs and shapes of one call, and how it is cut into programs.

  `parts`: which part of the last axis of each input is wanted.
  """

  def __init__(self, inputs: Sequence[jax.Array], parts: Sequence[int], num_heads: int, key_length: int | None):
    query, key, _ = inputs
    self.inputs, self.parts = inputs, parts
    self.batch, self.queries, width = query.shape
    self.key_rows = key.shape[1]
    self.keys = key_length or self.key_rows
    self.width = width // 3 if parts[1] else width
    self.num_heads = num_heads
    self.head_width = self.width // num_heads
    self.groups = self.width // LANES
    self.heads = LANES // self.head_width  # of a group
    self.block = self.queries if self.queries <= MAX_QUERIES else QUERY_BLOCK
    self.blocks = -(-self.queries // self.block)
    one = 4 * (self.block + self.keys) * self.width * query.dtype.itemsize
    self.samples = max(
      n for n in range(1, self.batch + 1) if self.batch % n == 0 and (n == 1 or n * one <= PROGRAM_BYTES)
    )
    self.dtype = query.dtype

  def query_spec(self, part: int = 0) -> pl.BlockSpec:
    """A block of queries, or of anything that has a row for each: the given third of the last axis."""
    return pl.BlockSpec((self.samples, self.block, self.width), lambda sample, block: (sample, block, part))

  def key_spec(self, part: int = 0) -> pl.BlockSpec:
    """All keys or values."""
    return pl.BlockSpec((self.samples, self.key_rows, self.width), lambda sample, block: (sample, 0, part))

  def input_specs(self) -> list[pl.BlockSpec]:
    """Of queries, keys and values."""
    return [self.query_spec(self.parts[0]), *(self.key_spec(part) for part in self.parts[1:])]

  def log_sum_spec(self) -> pl.BlockSpec:
    """Sums of a block of queries: B groups heads L."""
    return pl.BlockSpec(
      (self.samples, self.groups, self.heads, self.block), lambda sample, block: (sample, 0, 0, block)
    )

  def cost(self, backward: bool) -> pl.CostEstimate:
    """For the compiler's schedule: products at the sizes that the matrix units see."""
    columns = -(-self.queries // LANES) * LANES
    keys, rows = (-(-size // 8) * 8 for size in (self.keys, self.queries))
    wide = 2 * LANES * keys * columns  # scores: the width of a head is padded to the lanes
    narrow = 2 * self.head_width * -(-keys // LANES) * LANES * columns
    pairs = self.batch * self.num_heads
    row_bytes = self.width * self.dtype.itemsize * self.batch
    moved = row_bytes * (3 * rows + 4 * keys if backward else 2 * rows + 2 * keys) + 4 * pairs * columns
    return pl.CostEstimate(
      flops=pairs * (2 * wide + 3 * narrow if backward else wide + narrow),
      transcendentals=pairs * keys * columns,
      bytes_accessed=moved,
    )

  def params(self) -> Any:
    """Samples are independent; the blocks of a sample add to the same gradients of its keys."""
    return pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary'), vmem_limit_bytes=VMEM_BYTES if self.keys > MAX_QUERIES else None
    )

  def for_each_group(self, work: Callable[[Any, Any, pl.Slice | slice], None]) -> None:
    """Calls work(sample, group, lanes of the group)."""

    @pl.loop(0, self.samples)
    def _(sample):
      if max(self.block, self.keys) <= UNROLLED_LENGTH:
        for group in range(self.groups):
          work(sample, group, pl.ds(group * LANES, LANES))
      else:
        pl.loop(0, self.groups)(lambda group: work(sample, group, pl.ds(pl.multiple_of(group * LANES, LANES), LANES)))


def _product(a: jax.Array, b: jax.Array, dimensions: Any) -> jax.Array:
  precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32, precision=precision)


def _only_head(x: jax.Array, head: int, width: int) -> jax.Array:
  """A group's lanes, those of other heads zero. `x` is float32: older chips select nothing narrower."""
  lane = lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
  return jnp.where((lane >= head * width) & (lane < (head + 1) * width), x, 0.0)


def _forward(sizes: _Sizes, interpret: bool) -> tuple[jax.Array, jax.Array]:
  """(attention B L ND, base-2 logarithm of each softmax's sum: B groups heads L)."""
  scale = sizes.head_width**-0.5 * math.log2(math.e)  # powers of two are what the chip computes

  def kernel(query_ref, key_ref, value_ref, out_ref, log_sum_ref):
    def group_of_heads(sample, group, lanes):
      query = query_ref[sample, :, lanes]
      key, value = (ref[sample, : sizes.keys, lanes] for ref in (key_ref, value_ref))
      key, value = key.astype(jnp.float32), value.T  # D M
      outs = []
      for head in range(sizes.heads):
        scores = _product(_only_head(key, head, sizes.head_width).astype(sizes.dtype), query, _LAST) * scale  # M L
        largest = scores.max(axis=0, keepdims=True)
        weights = jnp.exp2(scores - largest)
        total = weights.sum(axis=0, keepdims=True)
        mine = slice(head * sizes.head_width, (head + 1) * sizes.head_width)
        outs.append(_product(value[mine], weights.astype(sizes.dtype), _INNER) / total)  # D L
        log_sum_ref[sample, group, head : head + 1] = largest + jnp.log2(total)
      out_ref[sample, :, lanes] = jnp.concatenate(outs).T.astype(sizes.dtype)

    sizes.for_each_group(group_of_heads)

  return pl.pallas_call(
    kernel,
    grid=(sizes.batch // sizes.samples, sizes.blocks),
    in_specs=sizes.input_specs(),
    out_specs=[sizes.query_spec(), sizes.log_sum_spec()],
    out_shape=[
      jax.ShapeDtypeStruct((sizes.batch, sizes.queries, sizes.width), sizes.dtype),
      jax.ShapeDtypeStruct((sizes.batch, sizes.groups, sizes.heads, sizes.queries), jnp.float32),
    ],
    cost_estimate=sizes.cost(backward=False),
    compiler_params=sizes.params(),
    interpret=interpret,
    name='attention_forward',
  )(*sizes.inputs)


def _backward(
  sizes: _Sizes, interpret: bool, log_sum: jax.Array, out_bar: jax.Array, fused: bool = False
) -> list[jax.Array]:
  """Gradients of queries, keys and values; `fused`: as one array B L 3ND, which needs all queries in one block."""
  scale, width = sizes.head_width**-0.5, sizes.head_width

  def kernel(query_ref, key_ref, value_ref, out_bar_ref, log_sum_ref, *bar_refs):
    if fused:
      bar_refs = [bar_refs[0].at[:, :, part * sizes.width : (part + 1) * sizes.width] for part in range(3)]
    block = pl.program_id(1)
    rows = sizes.queries - block * sizes.block  # of this block; what follows the last query is undefined
    cut = sizes.queries % sizes.block != 0

    def only_rows(x, axis):
      return jnp.where(lax.broadcasted_iota(jnp.int32, x.shape, axis) < rows, x, 0) if cut else x

    def group_of_heads(sample, group, lanes):
      query, out_bar = (only_rows(ref[sample, :, lanes].astype(jnp.float32), 0) for ref in (query_ref, out_bar_ref))
      key, value = (ref[sample, : sizes.keys, lanes].astype(jnp.float32) for ref in (key_ref, value_ref))
      query_t, key_t, out_bar_t = (x.T.astype(sizes.dtype) for x in (query, key, out_bar))
      query, out_bar = query.astype(sizes.dtype), out_bar.astype(sizes.dtype)
      log_sums = only_rows(log_sum_ref[sample, group], 1)  # heads L
      bars = [], [], []
      for head in range(sizes.heads):
        mine = slice(head * width, (head + 1) * width)
        scores = _product(_only_head(key, head, width).astype(sizes.dtype), query, _LAST)  # M L
        weights = jnp.exp2(scores * (scale * math.log2(math.e)) - log_sums[head : head + 1])
        weights_bar = _product(_only_head(value, head, width).astype(sizes.dtype), out_bar, _LAST)
        mean = jnp.sum(weights * weights_bar, axis=0, keepdims=True)
        scores_bar = (weights * (weights_bar - mean) * scale).astype(sizes.dtype)
        bars[0].append(_product(key_t[mine], scores_bar, _INNER))  # D L
        bars[1].append(_product(query_t[mine], scores_bar, _LAST))  # D M
        bars[2].append(_product(out_bar_t[mine], weights.astype(sizes.dtype), _LAST))
      query_bar, *key_bars = (jnp.concatenate(bar).T for bar in bars)
      bar_refs[0][sample, :, lanes] = query_bar.astype(sizes.dtype)
      for ref, bar in zip(bar_refs[1:], key_bars, strict=True):
        if sizes.blocks > 1:
          bar += jnp.where(block == 0, 0.0, ref[sample, : sizes.keys, lanes])
        ref[sample, : sizes.keys, lanes] = bar.astype(ref.dtype)
        if padding := sizes.key_rows - sizes.keys:
          ref[sample, sizes.keys :, lanes] = jnp.zeros((padding, LANES), ref.dtype)

    sizes.for_each_group(group_of_heads)

  key_dtype = jnp.float32 if sizes.blocks > 1 else sizes.dtype  # sums of blocks

  def like(rows: int, columns: int, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((sizes.batch, rows, columns), dtype)

  if fused:
    out_specs = [pl.BlockSpec((sizes.samples, sizes.block, 3 * sizes.width), lambda sample, block: (sample, block, 0))]
    out_shape = [like(sizes.queries, 3 * sizes.width, sizes.dtype)]
  else:
    out_specs = [sizes.query_spec(), sizes.key_spec(), sizes.key_spec()]
    out_shape = [like(sizes.queries, sizes.width, sizes.dtype), *[like(sizes.key_rows, sizes.width, key_dtype)] * 2]
  bars = pl.pallas_call(
    kernel,
    grid=(sizes.batch // sizes.samples, sizes.blocks),
    in_specs=[*sizes.input_specs(), sizes.query_spec(), sizes.log_sum_spec()],
    out_specs=out_specs,
    out_shape=out_shape,
    cost_estimate=sizes.cost(backward=True),
    compiler_params=sizes.params(),
    interpret=interpret,
    name='attention_backward',
  )(*sizes.inputs, out_bar, log_sum)
  return [bar.astype(sizes.dtype) for bar in bars]
