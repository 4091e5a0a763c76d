"""The TPU kernel of layer normalisation, interpreted on the CPU, against flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.ops import layer_norm_kernel


@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-5), ('bfloat16', 2e-2)])
@pytest.mark.parametrize('shape', [(7, 9, 128), (2, 66, 256)])
def test_kernel_equals_flax(shape, dtype, tolerance):
  keys = jax.random.split(jax.random.key(0), 5)
  x, *bars = (3 + 2 * jax.random.normal(key, shape) for key in keys[:3])
  scale, bias = (jax.random.normal(key, shape[-1:]) for key in keys[3:])
  x, bars = x.astype(dtype), tuple(bar.astype(dtype) for bar in bars)

  def theirs(x, scale, bias):
    layer = nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False)
    return layer.apply({'params': {'scale': scale, 'bias': bias}}, x), x

  def ours(x, scale, bias):
    return layer_norm_kernel.norm_and_skip(x, scale, bias, 1e-5, jnp.dtype(dtype), True)

  found, found_gradients = jax.vjp(ours, x, scale, bias)
  wide, *wide_bars = (array.astype(jnp.float32) for array in (x, *bars))
  wanted, wanted_gradients = jax.vjp(theirs, wide, scale, bias)
  pairs = zip((*found, *found_gradients(bars)), (*wanted, *wanted_gradients(tuple(wide_bars))), strict=True)
  for number, (one, other) in enumerate(pairs):
    assert one.dtype == (jnp.float32 if number > 2 else dtype)
    np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0, atol=tolerance * np.abs(other).max())


def test_shapes_that_the_kernel_supports():
  assert layer_norm_kernel.supports((500, 263, 512)) and layer_norm_kernel.supports((4, 66, 1024))
  assert not layer_norm_kernel.supports((4, 66, 192)) and not layer_norm_kernel.supports((4, 128))
