"""EfficientNet (Tan & Le 2019) and its Lite variant, image classifiers small enough for a CPU."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from brainjax.models.conv_layers import dense
from brainjax.ops.types import Array

TENSORFLOW_EPSILON, TORCH_EPSILON = 1e-3, 1e-5  # of the batch normalisations
SQUEEZE = 4  # the gate of a block has this fraction of the channels that enter the block


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
B1_DEPTH = 1.1  # over that of B0, whose groups are those of Lite0


def deepen(groups: Sequence[Sequence[int]], depth: float) -> list[Group]:
  """Groups with `depth` times as many blocks, rounded up."""
  return [Group(math.ceil(depth * repeats), *rest) for repeats, *rest in groups]


class FrozenBatchNorm(nn.Module):
  """Batch normalisation with the statistics of training; they are parameters here, as the network does not train."""

  epsilon: float = TENSORFLOW_EPSILON

  @nn.compact
  def __call__(self, x: Float[Array, '... C']) -> Float[Array, '... C']:
    shape = x.shape[-1:]
    scale, bias = self.param('scale', nn.initializers.ones, shape), self.param('bias', nn.initializers.zeros, shape)
    mean, var = self.param('mean', nn.initializers.zeros, shape), self.param('var', nn.initializers.ones, shape)
    return (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias


class Gate(nn.Module):
  """Squeeze and excitation (Hu et al. 2018): each channel times a number in 0..1 that follows from the mean picture."""

  width: int

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    h = jnp.mean(x, axis=(1, 2), keepdims=True)
    h = nn.silu(dense(self.width, jnp.float32, 'squeeze')(h))
    return x * nn.sigmoid(dense(x.shape[-1], jnp.float32, 'excite')(h))


def _activation(lite: bool) -> Callable[[jax.Array], jax.Array]:
  return nn.relu6 if lite else nn.silu


def _norm(lite: bool, name: str) -> FrozenBatchNorm:
  return FrozenBatchNorm(TENSORFLOW_EPSILON if lite else TORCH_EPSILON, name=name)


def _conv(lite: bool, width: int, kernel: int, stride: int, name: str, groups: int = 1) -> nn.Conv:
  # 'SAME' pads as TensorFlow does: of an odd number, the larger half goes to the bottom and the right.
  padding = 'SAME' if lite else kernel // 2
  return nn.Conv(width, (kernel, kernel), stride, padding, feature_group_count=groups, use_bias=False, name=name)


class InvertedBottleneck(nn.Module):
  """1x1 widening, depthwise convolution, gate, 1x1 narrowing without activation; a shortcut where shapes agree."""

  group: Group
  stride: int
  lite: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    activation, inputs, width = _activation(self.lite), x, x.shape[-1] * self.group.expand
    if self.group.expand != 1:
      x = dense(width, jnp.float32, 'expand', use_bias=False)(x)
      x = activation(_norm(self.lite, 'expand_norm')(x))
    x = _conv(self.lite, width, self.group.kernel, self.stride, 'depthwise', groups=width)(x)
    x = activation(_norm(self.lite, 'depthwise_norm')(x))
    if not self.lite:
      x = Gate(inputs.shape[-1] // SQUEEZE, name='gate')(x)
    x = dense(self.group.width, jnp.float32, 'project', use_bias=False)(x)
    x = _norm(self.lite, 'project_norm')(x)
    return x + inputs if x.shape == inputs.shape else x


class EfficientNet(nn.Module):
  """EfficientNet-Lite0 by default, for judging pictures; float32.

  Attributes:
    num_classes: number of logits.
    image_size: side of the square images, in pixels.
    groups: of blocks.
    depth: factor on the number of blocks.
    stem_width: channels of the first convolution.
    feature_width: D, of the pooled features.
    lite: the Lite variant as TensorFlow computes it: ReLU6 and no gates. Otherwise SiLU and gates, as torchvision computes it.
  """

  num_classes: int = 1000
  image_size: int = 224
  groups: tuple[Any, ...] = LITE0
  depth: float = 1.0
  stem_width: int = 32
  feature_width: int = 1280
  lite: bool = True

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W C'], return_features: bool = False) -> Float[Array, 'B D']:
    """Returns the logits of images that are normalised as the weights expect, or the pooled features."""
    activation = _activation(self.lite)
    x = _conv(self.lite, self.stem_width, 3, 2, 'stem')(image)
    x = activation(_norm(self.lite, 'stem_norm')(x))
    number = 0
    for group in deepen(self.groups, self.depth):
      for i in range(group.repeats):
        stride = group.stride if i == 0 else 1
        x = InvertedBottleneck(group, stride, self.lite, name=f'block_{number}')(x)
        number += 1
    x = dense(self.feature_width, jnp.float32, 'last', use_bias=False)(x)
    x = activation(_norm(self.lite, 'last_norm')(x))
    features = jnp.mean(x, axis=(1, 2))  # B D
    return features if return_features else dense(self.num_classes, jnp.float32, 'head')(features)

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: images 1 H W 3."""
    return (jnp.zeros((1, self.image_size, self.image_size, 3)),)
