"""Convolutional layers that the UNet, the first stages and the small classifier share (NHWC)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float

from brainjax.models.dense import Dense
from brainjax.ops.placement import platform
from brainjax.ops.types import Array

NUM_GROUPS = 32
# On a CPU, a convolution of at most so many pixels and at least so many channels is one product over gathered patches.
FEW_PIXELS, MANY_CHANNELS = 8 * 8, 512

# Uniform in +-1/sqrt(fan_in): the initial values of convolutions and dense layers in the published models.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def group_norm(epsilon: float, dtype: DTypeLike, name: str | None = None, num_groups: int = NUM_GROUPS) -> nn.GroupNorm:
  """Returns a group normalisation with two-pass float32 statistics; the result has `dtype`."""
  return nn.GroupNorm(
    num_groups=num_groups, epsilon=epsilon, dtype=dtype, param_dtype=jnp.float32, use_fast_variance=False, name=name
  )


def dense(features: int, dtype: DTypeLike, name: str | None = None, use_bias: bool = True, zero: bool = False) -> Dense:
  """Returns a dense layer over the last axis (on images a 1x1 convolution); `zero`: its kernel is zero at first."""
  kernel_init = nn.initializers.zeros if zero else fan_in_uniform
  return Dense(features, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, name=name)


class Conv3x3(nn.Module):
  """A 3x3 convolution padded by one on every side: what `nn.Conv` computes.

  XLA:CPU takes up to twice as long for few pixels of many channels as for one product over their patches.
  """

  features: int
  dtype: DTypeLike
  stride: int = 1
  kernel_init: Callable[..., Any] = fan_in_uniform

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    _, height, width, channels = x.shape
    kernel = self.param('kernel', self.kernel_init, (3, 3, channels, self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
    if platform() != 'cpu' or self.stride > 1 or height * width > FEW_PIXELS or channels < MANY_CHANNELS:
      strides, padding, axes = (self.stride,) * 2, ((1, 1), (1, 1)), ('NHWC', 'HWIO', 'NHWC')
      return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=axes) + bias
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate([x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)
    return patches @ kernel.reshape(9 * channels, -1) + bias


def conv3x3(features: int, dtype: DTypeLike, name: str | None = None, stride: int = 1, zero: bool = False) -> Conv3x3:
  """Returns a 3x3 convolution padded by one on every side; `zero`: its kernel is zero at first."""
  return Conv3x3(features, dtype, stride, nn.initializers.zeros if zero else fan_in_uniform, name=name)


def upsample_nearest(x: Float[Array, 'B H W C']) -> Float[Array, 'B 2*H 2*W C']:
  """Doubles height and width by repetition.

  `jax.image.resize` gives the same, but with a gather, whose gradient is a slow scatter.
  """
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
