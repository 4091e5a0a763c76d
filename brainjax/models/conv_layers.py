"""The convolutional pieces that the UNet, the autoencoders and the small classifier share (NHWC)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from brainjax.models.dense import Dense

NUM_GROUPS = 32

# Uniform in +-1/sqrt(fan_in): what the published models start their convolutions and dense layers from.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def group_norm(epsilon: float, dtype: Any, name: str | None = None, num_groups: int = NUM_GROUPS) -> nn.GroupNorm:
  """Group normalisation with two-pass float32 statistics; the result has `dtype`."""
  return nn.GroupNorm(
    num_groups=num_groups, epsilon=epsilon, dtype=dtype, param_dtype=jnp.float32, use_fast_variance=False, name=name
  )


def dense(features: int, dtype: Any, name: str | None = None, use_bias: bool = True, zero: bool = False) -> nn.Dense:
  """Dense layer over the last axis (a 1x1 convolution on images); `zero` starts the kernel at zero."""
  kernel_init = nn.initializers.zeros if zero else fan_in_uniform
  return Dense(features, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, name=name)


def conv3x3(features: int, dtype: Any, name: str | None = None, stride: int = 1, zero: bool = False) -> nn.Conv:
  """3x3 convolution padded by one on every side; `zero` starts the kernel at zero."""
  kernel_init = nn.initializers.zeros if zero else fan_in_uniform
  padding = ((1, 1), (1, 1))
  return nn.Conv(features, (3, 3), stride, padding, dtype=dtype, kernel_init=kernel_init, name=name)


def upsample_nearest(x: jax.Array) -> jax.Array:
  """Doubles height and width by repetition: B H W C -> B 2H 2W C."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
