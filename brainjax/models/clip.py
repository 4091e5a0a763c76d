"""The image tower of CLIP (Radford et al. 2021), whose embeddings compare pictures by meaning."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Float

from brainjax.models.blocks import NORMAL, Block, exact_gelu, layer_norm, run_stack
from brainjax.models.dense import Dense
from brainjax.ops.types import Array

EPSILON = 1e-5


def quick_gelu(x: Float[Array, '...']) -> Float[Array, '...']:
  """Applies the approximation of GELU that OpenAI's weights were trained with."""
  return x * nn.sigmoid(1.702 * x)


ACTIVATIONS = {'quick_gelu': quick_gelu, 'gelu': exact_gelu}


class ClipVision(nn.Module):
  """CLIP's Vision Transformer; the defaults are OpenAI's ViT-L/14. It embeds pictures and has no classes.

  Attributes:
    image_size: side of the square images, in pixels; a multiple of the patch size.
    patch_size: side of a patch, in pixels.
    width: D.
    depth: number of blocks.
    num_heads: heads of each attention.
    mlp_dim: hidden width of the blocks' MLPs.
    projection_dim: E, width of the space shared with texts; 0: no projection, E is D.
    activation: of the MLPs: 'quick_gelu' (OpenAI) or 'gelu' (OpenCLIP).
  """

  image_size: int = 224
  patch_size: int = 14
  width: int = 1024
  depth: int = 24
  num_heads: int = 16
  mlp_dim: int = 4096
  projection_dim: int = 768
  activation: str = 'quick_gelu'

  @nn.compact
  def __call__(self, image: Float[Array, 'B {self.image_size} {self.image_size} 3']) -> Float[Array, 'B E']:
    """Embeds images that are normalised with CLIP's mean and deviation; float32.

    Raises:
      ValueError: the activation is unknown.
    """
    if self.activation not in ACTIVATIONS:
      raise ValueError(f'activation {self.activation}, expected {" or ".join(ACTIVATIONS)}')
    side = (self.patch_size, self.patch_size)
    x = nn.Conv(self.width, side, side, 'VALID', use_bias=False, name='patch_embed')(image)
    x = rearrange(x, 'b h w d -> b (h w) d')
    class_token = self.param('class_token', NORMAL, (self.width,))
    x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, self.width)), x], axis=1)  # B 1+L D
    x += self.param('pos_embed', NORMAL, x.shape[1:])
    x = layer_norm(EPSILON, jnp.float32, 'norm_before')(x)
    block = partial(
      Block, self.num_heads, self.mlp_dim, fused_qkv=False, epsilon=EPSILON, activation=ACTIVATIONS[self.activation]
    )
    x = run_stack(block, self.depth, 'nothing', x)
    x = layer_norm(EPSILON, jnp.float32, 'norm')(x[:, 0])
    return Dense(self.projection_dim, use_bias=False, name='project')(x) if self.projection_dim else x

  def example_inputs(self) -> tuple[jax.Array, ...]:
    """Zeros to initialise with: images 1 H W 3."""
    return (jnp.zeros((1, self.image_size, self.image_size, 3)),)
