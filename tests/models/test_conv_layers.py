"""The 3x3 convolution of few pixels and many channels, which is one product on a CPU, against flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models import conv_layers


@pytest.mark.parametrize('shape, stride', [((2, 7, 9, 13), 1), ((3, 1, 2, 13), 1), ((2, 8, 8, 13), 2)])
def test_a_product_over_patches_is_a_convolution(monkeypatch, shape, stride):
  monkeypatch.setattr(conv_layers, 'MANY_CHANNELS', 13)
  ours = conv_layers.conv3x3(5, jnp.float32, stride=stride)
  theirs = nn.Conv(5, (3, 3), stride, ((1, 1), (1, 1)))
  x = jax.random.normal(jax.random.key(0), shape)
  params = ours.init(jax.random.key(1), x)
  params['params']['bias'] += jnp.arange(5.0)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, theirs.init(jax.random.key(1), x))
  assert ('conv_general' in str(jax.make_jaxpr(ours.apply)(params, x))) == (stride == 2)
  found, found_vjp = jax.vjp(ours.apply, params, x)
  wanted, wanted_vjp = jax.vjp(theirs.apply, params, x)
  bar = jax.random.normal(jax.random.key(2), wanted.shape)
  for one, other in zip(
    jax.tree.leaves((found, found_vjp(bar))), jax.tree.leaves((wanted, wanted_vjp(bar))), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_many_pixels_or_few_channels_are_left_to_the_compiler():
  for shape in ((1, 9, 8, 512), (1, 8, 8, 511)):
    layer = conv_layers.conv3x3(3, jnp.float32)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert 'conv_general' in str(jax.make_jaxpr(layer.apply)(params, x))
