"""EfficientNet-Lite, an image classifier small enough for a CPU (Tan & Le 2019; the Lite variant without attention)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from brainjax.models.conv_layers import dense
from brainjax.ops.types import Array

EPSILON = 1e-3  # of the batch normalisations, as TensorFlow has it


class Group(NamedTuple):
  """A run of equal blocks.

  Attributes:
    repeats: how many blocks.
    kernel: side of the depthwise kernel, in pixels.
    stride: of the first block.
    expand: factor on the channels inside a block.
    width: output channels.
  """

  repeats: int
  kernel: int
  stride: int
  expand: int
  width: int


LITE0 = (
  Group(1, 3, 1, 1, 16),
  Group(2, 3, 2, 6, 24),
  Group(2, 5, 2, 6, 40),
  Group(3, 3, 2, 6, 80),
  Group(3, 5, 1, 6, 112),
  Group(4, 5, 2, 6, 192),
  Group(1, 3, 1, 6, 320),
)


class FrozenBatchNorm(nn.Module):
  """Batch normalisation with the statistics of training; they are parameters here, as the network does not train."""

  @nn.compact
  def __call__(self, x: Float[Array, '... C']) -> Float[Array, '... C']:
    shape = x.shape[-1:]
    scale, bias = self.param('scale', nn.initializers.ones, shape), self.param('bias', nn.initializers.zeros, shape)
    mean, var = self.param('mean', nn.initializers.zeros, shape), self.param('var', nn.initializers.ones, shape)
    return (x - mean) * (jax.lax.rsqrt(var + EPSILON) * scale) + bias


def _conv(width: int, kernel: int, stride: int, name: str, groups: int = 1) -> nn.Conv:
  # 'SAME' pads as TensorFlow does: of an odd number, the larger half goes to the bottom and the right.
  return nn.Conv(width, (kernel, kernel), stride, 'SAME', feature_group_count=groups, use_bias=False, name=name)


class InvertedBottleneck(nn.Module):
  """1x1 widening, depthwise convolution, 1x1 narrowing without activation; a shortcut where shapes agree."""

  group: Group
  stride: int

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    inputs, width = x, x.shape[-1] * self.group.expand
    if self.group.expand != 1:
      x = dense(width, jnp.float32, 'expand', use_bias=False)(x)
      x = nn.relu6(FrozenBatchNorm(name='expand_norm')(x))
    x = _conv(width, self.group.kernel, self.stride, 'depthwise', groups=width)(x)
    x = nn.relu6(FrozenBatchNorm(name='depthwise_norm')(x))
    x = dense(self.group.width, jnp.float32, 'project', use_bias=False)(x)
    x = FrozenBatchNorm(name='project_norm')(x)
    return x + inputs if x.shape == inputs.shape else x


class EfficientNetLite(nn.Module):
  """EfficientNet-Lite0 by default, for judging pictures; float32.

  Attributes:
    num_classes: number of logits.
    image_size: side of the square images, in pixels.
    groups: of blocks.
    stem_width: channels of the first convolution.
    feature_width: D, of the pooled features.
  """

  num_classes: int = 1000
  image_size: int = 224
  groups: tuple[Any, ...] = LITE0
  stem_width: int = 32
  feature_width: int = 1280

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W C'], return_features: bool = False) -> Float[Array, 'B D']:
    """Returns the logits of images given as (pixel - 127) / 128, or the pooled features."""
    x = _conv(self.stem_width, 3, 2, 'stem')(image)
    x = nn.relu6(FrozenBatchNorm(name='stem_norm')(x))
    number = 0
    for group in map(lambda values: Group(*values), self.groups):
      for i in range(group.repeats):
        x = InvertedBottleneck(group, group.stride if i == 0 else 1, name=f'block_{number}')(x)
        number += 1
    x = dense(self.feature_width, jnp.float32, 'last', use_bias=False)(x)
    x = nn.relu6(FrozenBatchNorm(name='last_norm')(x))
    features = jnp.mean(x, axis=(1, 2))  # B D
    return features if return_features else dense(self.num_classes, jnp.float32, 'head')(features)

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: images 1 H W 3."""
    return (jnp.zeros((1, self.image_size, self.image_size, 3)),)
