"""Layer normalisation of tokens as one TPU kernel (Pallas), with its backward pass.

XLA reads the tokens once for each mean and once more to use it, and cannot fuse the gradient of the skip connection.
The kernel has all tokens of some samples in VMEM: forward it reads them once and writes them once; backward it reads
tokens and both gradients and writes the sum.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float

from brainjax.ops.types import Array

LANES = 128
# Bytes of one array that one program has in VMEM.
PROGRAM_BYTES = 2**20


def supports(shape: tuple[int, ...]) -> bool:
  """Whether the kernel can run B L D: D fills the lanes, and one sample fits into VMEM."""
  return len(shape) == 3 and shape[2] % LANES == 0 and 4 * shape[1] * shape[2] <= 4 * PROGRAM_BYTES


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def norm_and_skip(
  x: Float[Array, 'B L D'],
  scale: Float[Array, ' D'],
  bias: Float[Array, ' D'],
  epsilon: float,
  dtype: Any,
  interpret: bool = False,
) -> tuple[Float[Array, 'B L D'], Float[Array, 'B L D']]:
  """Tokens -> (normalised tokens in `dtype`, the tokens themselves for a skip connection)."""
  return _forward(x, scale, bias, epsilon, dtype, interpret)[0]


def _samples(x: jax.Array) -> int:
  """Samples of one program."""
  one = x.shape[1] * x.shape[2] * x.dtype.itemsize
  return max(n for n in range(1, len(x) + 1) if len(x) % n == 0 and (n == 1 or n * one <= PROGRAM_BYTES))


def _normalise(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
  """(tokens with mean 0 and variance 1, the factor that made it 1); float32 statistics in two passes."""
  centred = x - x.mean(axis=-1, keepdims=True)
  factor = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)
  return centred * factor, factor


def _call(kernel, x: jax.Array, arrays: tuple[jax.Array, ...], out_types: tuple, interpret: bool, name: str):
  """Runs the kernel on blocks of samples of B L D arrays; vectors D go to every program whole, sums D come from each."""
  samples = _samples(x)
  tokens = pl.BlockSpec((samples, *x.shape[1:]), lambda n: (n, 0, 0))
  vector = pl.BlockSpec((1, x.shape[2]), lambda n: (0, 0))
  sums = pl.BlockSpec((1, 1, x.shape[2]), lambda n: (n, 0, 0))
  programs = len(x) // samples
  shapes = [
    jax.ShapeDtypeStruct(x.shape, kind) if kind else jax.ShapeDtypeStruct((programs, 1, x.shape[2]), jnp.float32)
    for kind in out_types
  ]
  moved = sum(array.size * array.dtype.itemsize for array in (*arrays, *shapes))
  return pl.pallas_call(
    kernel,
    grid=(programs,),
    in_specs=[tokens if array.ndim == 3 else vector for array in arrays],
    out_specs=[tokens if kind else sums for kind in out_types],
    out_shape=shapes,
    cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=moved),
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel',)),
    interpret=interpret,
    name=name,
  )(*arrays)


def _forward(x, scale, bias, epsilon: float, dtype: Any, interpret: bool):
  def kernel(x_ref, scale_ref, bias_ref, out_ref):
    @pl.loop(0, x_ref.shape[0])
    def _(sample):
      normalised, _ = _normalise(x_ref[sample].astype(jnp.float32), epsilon)
      out_ref[sample] = (normalised * scale_ref[...] + bias_ref[...]).astype(dtype)

  (out,) = _call(kernel, x, (x, scale[None], bias[None]), (dtype,), interpret, 'layer_norm_forward')
  return (out, x), (x, scale)


def _backward(epsilon: float, dtype: Any, interpret: bool, kept, bars):
  x, scale = kept
  out_bar, skip_bar = bars

  def kernel(x_ref, scale_ref, out_bar_ref, skip_bar_ref, x_bar_ref, scale_bar_ref, bias_bar_ref):
    scale_bar_ref[...] = jnp.zeros_like(scale_bar_ref)
    bias_bar_ref[...] = jnp.zeros_like(bias_bar_ref)

    @pl.loop(0, x_ref.shape[0])
    def _(sample):
      normalised, factor = _normalise(x_ref[sample].astype(jnp.float32), epsilon)
      out_bar = out_bar_ref[sample].astype(jnp.float32)
      scale_bar_ref[0] += jnp.sum(out_bar * normalised, axis=0, keepdims=True)
      bias_bar_ref[0] += jnp.sum(out_bar, axis=0, keepdims=True)
      bar = out_bar * scale_ref[...]
      along = jnp.mean(bar * normalised, axis=-1, keepdims=True)
      bar = factor * (bar - bar.mean(axis=-1, keepdims=True) - normalised * along)
      x_bar_ref[sample] = (bar + skip_bar_ref[sample].astype(jnp.float32)).astype(x_bar_ref.dtype)

  arrays = (x, scale[None], out_bar, skip_bar)
  x_bar, *sums = _call(kernel, x, arrays, (x.dtype, None, None), interpret, 'layer_norm_backward')
  return (x_bar, *(one.sum(axis=(0, 1)) for one in sums))


norm_and_skip.defvjp(_forward, _backward)
