"""ResNet-50 (He et al. 2016; stride in the 3x3 convolution, as torchvision has it), whose SwAV features compare pictures."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from brainjax.models.conv_layers import dense
from brainjax.models.efficientnet import TORCH_EPSILON, FrozenBatchNorm
from brainjax.ops.types import Array

EXPAND = 4  # output channels of a block over its inner ones


class Bottleneck(nn.Module):
  """1x1 narrowing, 3x3 convolution, 1x1 widening; the shortcut is a 1x1 convolution where shapes differ."""

  width: int
  stride: int
  project: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    h = nn.relu(_norm('norm1')(_conv(self.width, 1, 1, 'conv1')(x)))
    h = nn.relu(_norm('norm2')(_conv(self.width, 3, self.stride, 'conv2')(h)))
    h = _norm('norm3')(_conv(EXPAND * self.width, 1, 1, 'conv3')(h))
    if self.project:
      x = _norm('shortcut_norm')(_conv(EXPAND * self.width, 1, self.stride, 'shortcut')(x))
    return nn.relu(h + x)


class ResNet(nn.Module):
  """ResNet-50 by default, for judging pictures; float32.

  Attributes:
    num_classes: number of logits; 0: no head, features only.
    image_size: side of the square images, in pixels.
    depths: number of blocks of each level.
    width: channels of the first convolution, and inner ones of the first level.
  """

  num_classes: int = 0
  image_size: int = 224
  depths: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W C'], return_features: bool = False) -> Float[Array, 'B D']:
    """Returns the logits of images with ImageNet's mean and deviation, or the pooled features; without a head, always these."""
    x = nn.relu(_norm('stem_norm')(_conv(self.width, 7, 2, 'stem')(image)))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for level, depth in enumerate(self.depths):
      for i in range(depth):
        stride = 2 if level and not i else 1
        x = Bottleneck(self.width * 2**level, stride, project=not i, name=f'level_{level + 1}_block_{i}')(x)
    features = jnp.mean(x, axis=(1, 2))  # B D
    return (
      features if return_features or not self.num_classes else dense(self.num_classes, jnp.float32, 'head')(features)
    )

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: images 1 H W 3."""
    return (jnp.zeros((1, self.image_size, self.image_size, 3)),)


def _norm(name: str) -> FrozenBatchNorm:
  return FrozenBatchNorm(TORCH_EPSILON, name=name)


def _conv(width: int, kernel: int, stride: int, name: str) -> nn.Conv:
  return nn.Conv(width, (kernel, kernel), stride, kernel // 2, use_bias=False, name=name)
