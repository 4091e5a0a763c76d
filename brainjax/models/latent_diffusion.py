"""The latent diffusion model as a whole: fMRI conditioner, UNet and first stage (paper, section 3.3)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from brainjax.models.autoencoder import KLModel, VQModel, first_stage
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.unet import UNet
from brainjax.ops import diffusion, losses
from brainjax.ops.types import Array
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


def unet_for(kwargs: Mapping[str, Any], autoencoder: VQModel | KLModel, **options: Any) -> UNet:
  """A UNet whose channels are those of the latents of `autoencoder`. `options` replace constructor arguments in `kwargs`."""
  channels = {'in_channels': autoencoder.embed_dim, 'out_channels': autoencoder.embed_dim}
  return UNet(**lists_to_tuples(kwargs) | channels | options)


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
  context = {name: getattr(conditioner, name) for name in ('context_dim', 'context_tokens', 'global_pool')}
  return LatentDiffusion(conditioner, unet_for(kwargs['unet'], autoencoder, **context, **shared), autoencoder)


def predict_noise(
  unet: UNet,
  params: Any,
  schedule: diffusion.Schedule,
  latent: Float[Array, 'B h w C'],
  context: Float[Array, 'B T D'],
  t: Int[Array, ' B'],
  eps: Float[Array, 'B h w C'],
) -> Float[Array, 'B h w C']:
  """The UNet's prediction of the noise `eps` that was added to `latent` at the diffusion steps `t`."""
  return unet.apply({'params': params}, diffusion.q_sample(schedule, latent, t, eps), t, context)


def denoising_loss(
  unet: UNet,
  params: Any,
  schedule: diffusion.Schedule,
  latent: Float[Array, 'B h w C'],
  context: Float[Array, 'B T D'],
  key: jax.Array,
  weight: Float[Array, ' B'],
  stratified: bool = False,
) -> tuple[Float[Array, ''], Float[Array, 'B h w C']]:
  """The training loss of a latent diffusion model (Rombach et al. 2022, equation 3), with its draws of t and noise.

  Args:
    unet, params: the model.
    schedule: of the noise.
    latent, context: pictures and their condition.
    key: of the draws.
    weight: 0 for padding.
    stratified: spread the steps t of a batch evenly, with one draw for all (Kingma et al. 2021), instead of one
      draw for each row. The gradient has the same mean and less variance.

  Returns:
    The loss, and the predicted noise.
  """
  key_t, key_eps = jax.random.split(key)
  draw = diffusion.stratified_steps if stratified else diffusion.uniform_steps
  t = draw(key_t, len(latent), schedule.num_steps)
  eps = jax.random.normal(key_eps, latent.shape)
  prediction = predict_noise(unet, params, schedule, latent, context, t, eps)
  return losses.weighted_mean(diffusion.eps_loss(prediction, eps), weight), prediction


def drop_context(context: Float[Array, 'B T E'], share: float, key: jax.Array) -> Float[Array, 'B T E']:
  """The context with zeros in a drawn share of its rows: what guidance extrapolates from (Ho and Salimans 2022)."""
  return context * jax.random.bernoulli(key, 1 - share, (len(context), 1, 1))
