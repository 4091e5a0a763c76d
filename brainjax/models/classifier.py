"""Image classifiers that judge reconstructions: the Vision Transformer, and a small convolutional network."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from brainjax.models.blocks import NORMAL, Block, PatchEmbed, layer_norm, run_stack
from brainjax.models.conv_layers import conv3x3, dense, group_norm
from brainjax.ops import patches
from brainjax.ops.types import Array

EPSILON = 1e-6
SMALL_NUM_GROUPS = 8


class ViT(nn.Module):
  """Vision Transformer (Dosovitskiy et al. 2021); the defaults are ViT-H/14 at 518 pixels, as torchvision lays it out.

  Attributes:
    num_classes: number of logits.
    image_size: side of the square images, in pixels; a multiple of the patch size.
    patch_size: side of a patch, in pixels.
    width: D.
    depth: number of blocks.
    num_heads: heads of each attention.
    mlp_dim: hidden width of the blocks' MLPs.
    dtype: of the computation; parameters are float32.
  """

  num_classes: int = 1000
  image_size: int = 518
  patch_size: int = 14
  width: int = 1280
  depth: int = 32
  num_heads: int = 16
  mlp_dim: int = 5120
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, 'B {self.image_size} {self.image_size} 3'], return_features: bool = False
  ) -> Float[Array, 'B D']:
    """Returns the logits of images that are normalised as the weights expect, or the features before them; float32."""
    tokens = patches.patchify_2d(image, self.patch_size)  # B L (p*p*3)
    kernel_shape = (self.patch_size, self.patch_size, 3)
    x = PatchEmbed(self.width, kernel_shape, self.dtype, name='patch_embed')(tokens)
    class_token = self.param('class_token', nn.initializers.zeros, (1, 1, self.width)).astype(self.dtype)
    x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, self.width)), x], axis=1)  # B 1+L D
    x += self.param('pos_embed', NORMAL, (1, *x.shape[1:])).astype(self.dtype)
    block = partial(Block, self.num_heads, self.mlp_dim, epsilon=EPSILON, dtype=self.dtype)
    x = run_stack(block, self.depth, 'nothing', x)
    x = layer_norm(EPSILON, self.dtype, 'norm')(x[:, 0])
    if return_features:
      return x.astype(jnp.float32)
    return dense(self.num_classes, self.dtype, 'head', zero=True)(x).astype(jnp.float32)

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: images 1 H W 3."""
    return (jnp.zeros((1, self.image_size, self.image_size, 3)),)


class SmallClassifier(nn.Module):
  """Residual convolutional classifier for small images; 0.4 M parameters with the default widths.

  Attributes:
    num_classes: number of logits.
    widths: channels of each stage, multiples of 8; every stage halves height and width.
    dtype: of the computation; parameters are float32.
  """

  num_classes: int
  widths: tuple[int, ...] = (24, 48, 72, 96)
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, image: Float[Array, 'B H W C'], return_features: bool = False) -> Float[Array, 'B D']:
    """Returns the logits of images in [-1, 1], or the features before them; float32."""

    def activate(name, x):
      return nn.silu(group_norm(EPSILON, self.dtype, name, SMALL_NUM_GROUPS)(x))

    x = image.astype(self.dtype)
    for i, width in enumerate(self.widths):
      x = conv3x3(width, self.dtype, f'stage_{i}_down', stride=2)(x)
      h = conv3x3(width, self.dtype, f'stage_{i}_conv1')(activate(f'stage_{i}_norm1', x))
      x += conv3x3(width, self.dtype, f'stage_{i}_conv2', zero=True)(activate(f'stage_{i}_norm2', h))
    features = jnp.mean(activate('norm', x).astype(jnp.float32), axis=(1, 2))  # B width
    if return_features:
      return features
    return dense(self.num_classes, jnp.float32, 'head')(features)

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: images 1 H W 3 of the smallest size."""
    side = 2 ** len(self.widths)
    return (jnp.zeros((1, side, side, 3)),)
