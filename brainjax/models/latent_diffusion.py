"""The latent diffusion model as a whole: fMRI conditioner, UNet and first stage (paper, section 3.3)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from brainjax.models.autoencoder import KLModel, VQModel, first_stage
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.unet import UNet
from brainjax.trees import lists_to_tuples


class LatentDiffusion(NamedTuple):
  """The three parts; the names of the fields are the first part of their parameters' paths."""

  conditioner: FmriConditioner
  unet: UNet
  first_stage: VQModel | KLModel

  def init_params(self, key: jax.Array) -> dict[str, Any]:
    """New parameters: `conditioner/...`, `unet/...`, `first_stage/...`."""
    keys = jax.random.split(key, len(self))
    return {
      name: part.init(part_key, *part.example_inputs())['params']
      for part_key, (name, part) in zip(keys, self._asdict().items(), strict=True)
    }


def latent_diffusion(
  kwargs: Mapping[str, Mapping[str, Any]], dtype: DTypeLike = jnp.float32, remat: str = 'nothing'
) -> LatentDiffusion:
  """Builds the three parts so that they fit each other.

  The channels of the UNet are those of the latent, its context is that of the conditioner, whatever its own kwargs.

  Args:
    kwargs: constructor arguments of `conditioner`, `unet` and `first_stage`; lists, as in JSON, become tuples.
    dtype: of the computation.
    remat: what the backward pass recomputes of the conditioner and the UNet, see `recompute`.
  """
  shared = {'dtype': dtype, 'remat': remat}
  conditioner = FmriConditioner(**lists_to_tuples(kwargs['conditioner']) | shared)
  autoencoder = first_stage(kwargs['first_stage'], dtype)
  fit = {
    'in_channels': autoencoder.embed_dim,
    'out_channels': autoencoder.embed_dim,
    'context_dim': conditioner.context_dim,
    'context_tokens': conditioner.context_tokens,
    'global_pool': conditioner.global_pool,
  }
  return LatentDiffusion(conditioner, UNet(**lists_to_tuples(kwargs['unet']) | fit | shared), autoencoder)
