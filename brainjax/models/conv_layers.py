"""Convolutional layers that the UNet, the first stages and the small classifier share (NHWC)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from brainjax.models.dense import Dense
from brainjax.ops.types import Array

NUM_GROUPS = 32

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


def conv3x3(features: int, dtype: DTypeLike, name: str | None = None, stride: int = 1, zero: bool = False) -> nn.Conv:
  """Returns a 3x3 convolution padded by one on every side; `zero`: its kernel is zero at first."""
  kernel_init = nn.initializers.zeros if zero else fan_in_uniform
  padding = ((1, 1), (1, 1))
  return nn.Conv(features, (3, 3), stride, padding, dtype=dtype, kernel_init=kernel_init, name=name)


def upsample_nearest(x: Float[Array, 'B H W C']) -> Float[Array, 'B 2*H 2*W C']:
  """Doubles height and width by repetition.

  `jax.image.resize` gives the same, but with a gather, whose gradient is a slow scatter.
  """
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
