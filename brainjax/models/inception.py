"""Inception v3 (Szegedy et al. 2016), by whose features papers compare pictures and compute the Frechet distance."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from brainjax.models.conv_layers import dense
from brainjax.models.efficientnet import FrozenBatchNorm
from brainjax.ops.types import Array

FID_CLASSES = 1008  # of the TensorFlow network of 2015, which defines the Frechet Inception distance


class Layer(NamedTuple):
  """A convolution without bias, batch normalisation, ReLU.

  Attributes:
    name: of the parameters.
    width: output channels.
    kernel: height and width, in pixels.
    stride: along both axes.
  """

  name: str
  width: int
  kernel: tuple[int, int] = (1, 1)
  stride: int = 1


class Mixed(NamedTuple):
  """Branches side by side whose channels are joined, with the pooled input as the last one.

  Attributes:
    branches: each is a chain of layers. A tuple of layers in a chain is a fork; its ends are joined.
    pool_width: channels of the layer after an average over 3x3; 0: a maximum with stride 2 and no layer.
  """

  branches: tuple[tuple, ...]
  pool_width: int


def _a(pool_width: int) -> Mixed:
  five = Layer('branch5x5_1', 48), Layer('branch5x5_2', 64, (5, 5))
  three = (Layer('branch3x3dbl_1', 64), *(Layer(f'branch3x3dbl_{i}', 96, (3, 3)) for i in (2, 3)))
  return Mixed(((Layer('branch1x1', 64),), five, three), pool_width)


def _c(width: int) -> Mixed:
  row, column = (1, 7), (7, 1)
  seven = Layer('branch7x7_1', width), Layer('branch7x7_2', width, row), Layer('branch7x7_3', 192, column)
  kernels = ((1, 1), column, row, column, row)
  double = (Layer(f'branch7x7dbl_{i}', 192 if i == 5 else width, kernel) for i, kernel in enumerate(kernels, 1))
  return Mixed(((Layer('branch1x1', 192),), seven, tuple(double)), 192)


def _e() -> Mixed:
  def fork(name: str) -> tuple[Layer, Layer]:
    return Layer(f'{name}a', 384, (1, 3)), Layer(f'{name}b', 384, (3, 1))

  three = Layer('branch3x3_1', 384), fork('branch3x3_2')
  double = Layer('branch3x3dbl_1', 448), Layer('branch3x3dbl_2', 384, (3, 3)), fork('branch3x3dbl_3')
  return Mixed(((Layer('branch1x1', 320),), three, double), 192)


STEM = (
  Layer('Conv2d_1a_3x3', 32, (3, 3), 2),
  Layer('Conv2d_2a_3x3', 32, (3, 3)),
  Layer('Conv2d_2b_3x3', 64, (3, 3)),
  Layer('Conv2d_3b_1x1', 80),
  Layer('Conv2d_4a_3x3', 192, (3, 3)),
)
PADDED, POOLED = ('Conv2d_2b_3x3',), ('Conv2d_2b_3x3', 'Conv2d_4a_3x3')  # of the stem; the latter end in a maximum
BLOCKS = {
  'Mixed_5b': _a(32),
  'Mixed_5c': _a(64),
  'Mixed_5d': _a(64),
  'Mixed_6a': Mixed(
    (
      (Layer('branch3x3', 384, (3, 3), 2),),
      (Layer('branch3x3dbl_1', 64), Layer('branch3x3dbl_2', 96, (3, 3)), Layer('branch3x3dbl_3', 96, (3, 3), 2)),
    ),
    0,
  ),
  'Mixed_6b': _c(128),
  'Mixed_6c': _c(160),
  'Mixed_6d': _c(160),
  'Mixed_6e': _c(192),
  'Mixed_7a': Mixed(
    (
      (Layer('branch3x3_1', 192), Layer('branch3x3_2', 320, (3, 3), 2)),
      (
        Layer('branch7x7x3_1', 192),
        Layer('branch7x7x3_2', 192, (1, 7)),
        Layer('branch7x7x3_3', 192, (7, 1)),
        Layer('branch7x7x3_4', 192, (3, 3), 2),
      ),
    ),
    0,
  ),
  'Mixed_7b': _e(),
  'Mixed_7c': _e(),
}


class _Conv(nn.Module):
  layer: Layer
  padding: str

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    _, width, kernel, stride = self.layer
    x = nn.Conv(width, kernel, stride, self.padding, use_bias=False, name='conv')(x)
    return nn.relu(FrozenBatchNorm(name='norm')(x))


def _conv(layer: Layer, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
  return _Conv(layer, 'SAME' if layer.stride == 1 else 'VALID', name=layer.name)(x)


class _Mixed(nn.Module):
  block: Mixed
  pool: str

  @nn.compact
  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B h w D']:
    ends = []
    for branch in self.block.branches:
      h = x
      for layer in branch:
        h = _conv(layer, h) if isinstance(layer, Layer) else jnp.concatenate([_conv(one, h) for one in layer], axis=-1)
      ends.append(h)
    if not self.block.pool_width:
      return jnp.concatenate([*ends, nn.max_pool(x, (3, 3), (2, 2))], axis=-1)
    if self.pool == 'max':
      x = nn.max_pool(x, (3, 3), padding='SAME')
    else:
      x = nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=self.pool == 'average with padding')
    return jnp.concatenate([*ends, _conv(Layer('branch_pool', self.block.pool_width), x)], axis=-1)


class InceptionV3(nn.Module):
  """Inception v3 for judging pictures; float32.

  Attributes:
    num_classes: number of logits.
    image_size: side of the square images, in pixels.
    fid: the network of the Frechet Inception distance: averages leave padding out, the last block pools by maximum.
  """

  num_classes: int = 1000
  image_size: int = 299
  fid: bool = False

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W C'], return_features: bool = False) -> Float[Array, 'B D']:
    """Returns the logits of images that are normalised as the weights expect, or the pooled features (2048)."""
    x = image
    for layer in STEM:
      x = _Conv(layer, 'SAME' if layer.name in PADDED else 'VALID', name=layer.name)(x)
      x = nn.max_pool(x, (3, 3), (2, 2)) if layer.name in POOLED else x
    for name, block in BLOCKS.items():
      pool = 'average' if self.fid else 'average with padding'
      x = _Mixed(block, 'max' if self.fid and name == 'Mixed_7c' else pool, name=name)(x)
    features = jnp.mean(x, axis=(1, 2))  # B 2048
    return features if return_features else dense(self.num_classes, jnp.float32, 'head')(features)

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: images 1 H W 3."""
    return (jnp.zeros((1, self.image_size, self.image_size, 3)),)


def layer_names() -> list[str]:
  """Lists every convolution by its name in the published PyTorch weights, such as Mixed_5b.branch1x1."""
  names = [layer.name for layer in STEM]
  for name, block in BLOCKS.items():
    for layer in (layer for branch in block.branches for layer in branch):
      names += [f'{name}.{one.name}' for one in ([layer] if isinstance(layer, Layer) else layer)]
    names += [f'{name}.branch_pool'] if block.pool_width else []
  return names
