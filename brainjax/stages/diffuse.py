"""Phase 3: the fMRI encoder conditions a latent diffusion model (paper, section 3.3)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax.datasets import transforms
from brainjax.errors import UserError
from brainjax.models.autoencoder import KLModel, VQModel
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.dense import cast_kernels
from brainjax.models.unet import UNet
from brainjax.ops import diffusion, losses
from brainjax.stages import common
from brainjax.stages import data as stage_data
from brainjax.stages import first_stage as first_stage_module
from brainjax.stages.stage import Stage
from brainjax.torch_convert import hand_over
from brainjax.trees import add_prefix, lists_to_tuples, subtree


class Models(NamedTuple):
  """The three parts of the latent diffusion model; the fields are the first parts of their parameters' paths."""

  conditioner: FmriConditioner
  unet: UNet
  first_stage: VQModel | KLModel


def models(config: ConfigDict, num_voxels: int, sizes: Mapping[str, Any] | None = None) -> Models:
  """The parts as the config sizes them, for so many voxels.

  Args:
    config: the run's.
    num_voxels: V.
    sizes: constructor arguments of `unet` and `first_stage` that the weights of a prior bring along: they win.
  """
  dtype = common.compute_dtype(config)
  mae, sizes = config.fmri_mae, sizes or {}
  unet_sizes = {'remat': config.remat} | config.unet.to_dict()
  if 'unet' in sizes:  # the releases say no number of groups: theirs is the default
    unet_sizes |= {'num_groups': UNet.num_groups} | lists_to_tuples(sizes['unet'])
  context = {'context_dim': unet_sizes['context_dim'], **config.conditioner.to_dict()}
  time_cond = context.pop('time_condition')
  if unet_sizes.get('time_cond'):  # such as that of a fine-tuned model
    time_cond = True
    context |= {name: unet_sizes[name] for name in ('context_tokens', 'global_pool') if name in unet_sizes}
  conditioner = FmriConditioner(
    num_voxels=num_voxels,
    patch_size=mae.patch_size,
    width=mae.width,
    depth=mae.depth,
    num_heads=mae.num_heads,
    mlp_ratio=mae.mlp_ratio,
    remat=config.remat,
    dtype=dtype,
    **context,
  )
  first_stage = first_stage_module.model(config, sizes.get('first_stage'))
  unet_sizes |= {
    'in_channels': first_stage.embed_dim,
    'out_channels': first_stage.embed_dim,
    'context_tokens': conditioner.context_tokens,
    'time_cond': time_cond,
    'global_pool': conditioner.global_pool,
  }
  unet = UNet(**unet_sizes, dtype=dtype)
  return Models(conditioner, unet, first_stage)


def latent_shape(first_stage: VQModel | KLModel) -> tuple[int, int, int]:
  """h w C of the latent of one picture."""
  side = first_stage.resolution // 2 ** (len(first_stage.ch_mult) - 1)
  return side, side, first_stage.embed_dim


def init(parts: Models, key: jax.Array) -> dict[str, Any]:
  """All parameters: `conditioner/...`, `unet/...`, `first_stage/...`."""
  keys = jax.random.split(key, 3)
  tokens = 1 if parts.conditioner.global_pool else parts.conditioner.context_tokens
  size = parts.first_stage.resolution
  return {
    'conditioner': parts.conditioner.init(keys[0], jnp.zeros((1, parts.conditioner.num_voxels)))['params'],
    'unet': parts.unet.init(
      keys[1],
      jnp.zeros((1, *latent_shape(parts.first_stage))),
      jnp.zeros(1, jnp.int32),
      jnp.zeros((1, tokens, parts.unet.context_dim)),
    )['params'],
    'first_stage': parts.first_stage.init(keys[2], jnp.zeros((1, size, size, 3)))['params'],
  }


def trainable(config: ConfigDict) -> str:
  """The conditioner without its constants, and the UNet's conditioning layers."""
  constants = 'cls_token|mask_token' + ('' if config.released.train_conditioner_positions else '|pos_embed')
  return rf'^conditioner/(?!mae/({constants})$)|^unet/(.*/)?({config.diffuse.train_unet})'


def make(config: ConfigDict, fmri_weights: str) -> Stage:
  """The stage; its weights are those of `Models`.

  Args:
    config: the run's.
    fmri_weights: of the attend or contrast stage, or a converted phase-1 or phase-2 checkpoint; or of a model that is
      fine-tuned already, whose conditioner goes on.
  """
  config = config.copy_and_resolve_references()
  stage = config.diffuse
  prior, prior_info = common.start_weights(
    stage.prior_init_from, 'diffuse.prior_init_from', 'a UNet and its first stage, such as label2img', stage.random_init
  )
  fmri, fmri_info = common.start_weights(
    fmri_weights, 'diffuse.init_from', 'the fMRI encoder of phase 2', stage.random_init
  )
  fine_tuned = subtree(fmri, 'conditioner')
  if fine_tuned:
    fmri_sizes = fmri_info['settings']['conditioner']
    common.take_sizes(config.conditioner, fmri_sizes, fmri_weights)
  else:
    fmri, fmri_sizes = common.fmri_side(fmri, fmri_info)
  common.take_sizes(config.fmri_mae, fmri_sizes, fmri_weights)
  sizes = prior_info.get('settings', {})
  if prior:
    check_prior(stage.prior_init_from, sizes, config.data.image_size)
  encode, transform = None, _crop(stage)
  if stage.cached_crops:
    first_stage = first_stage_module.model(config, sizes.get('first_stage'))
    encode, transform = partial(_encode, config, first_stage, subtree(prior, 'first_stage')), _one_of_the_crops
  data = stage_data.paired(config, 'diffuse', config.data.image_size, transform=transform, encode=encode)
  parts = models(config, data.num_voxels, sizes)
  shapes = common.fresh_shapes(lambda key: init(parts, key))
  pretrained = {path: x for path, x in prior.items() if path.startswith(('unet/', 'first_stage/'))}
  wanted = subtree(shapes, 'conditioner')
  if fmri and not fine_tuned:
    common.tell_resized('diffuse', fmri_weights, fmri_sizes, data.num_voxels)
    drop_norms = config.released.pool_drops_norms and parts.conditioner.global_pool
    pretrained |= add_prefix('conditioner', hand_over.mae_to_conditioner(fmri, wanted, drop_norms, fmri_weights))
  elif fine_tuned:
    if fmri_sizes['num_voxels'] != data.num_voxels:
      raise UserError(
        f'diffuse.init_from = {fmri_weights!r} is a fine-tuned model for {fmri_sizes["num_voxels"]} voxels, these data have '
        f'{data.num_voxels}; it has layers over its patches, which cannot be resized. Start from weights of phase 1 or 2.'
      )
    pretrained |= add_prefix('conditioner', hand_over.conditioner_again(fine_tuned, wanted, fmri_weights))
  noise = {'schedule': sizes['schedule']} if 'schedule' in sizes else {}  # the prior's, where its file says it
  schedule = diffusion.make_schedule(**noise.get('schedule', {}))

  def loss(params, batch, key):
    params = {name: cast_kernels(params[name], getattr(parts, name).dtype) for name in parts._fields}
    if stage.cached_crops:
      latent = batch['latent']
    else:  # the first stage is frozen and its input is data: no gradient is asked for
      latent = parts.first_stage.apply({'params': params['first_stage']}, batch['image'], method='to_latent')
    key_t, key_eps = jax.random.split(key)
    t = jax.random.randint(key_t, latent.shape[:1], 0, schedule.num_steps)
    eps = jax.random.normal(key_eps, latent.shape)
    pred, context = predict_eps(parts, params, schedule, latent, batch['fmri'], t, eps)
    value = losses.weighted_mean(diffusion.eps_loss(pred, eps), batch['weight'])
    return value, common.extremes(batch['weight'], context=context, prediction=pred)

  fields = common.training_fields(config, 'diffuse', data.steps_per_epoch, cosine=stage.cosine_schedule, decay_all=True)
  return Stage(
    init=lambda key: init(parts, key),
    pretrained=pretrained,
    trainable=trainable(config),
    loss=loss,
    batches=data.train,
    validation=data.validation,
    info={
      'num_voxels': data.num_voxels,
      'inputs': data.inputs | common.digests({'diffuse.init_from': fmri, 'diffuse.prior_init_from': prior}),
      'settings': {name: common.settings(part) for name, part in parts._asdict().items()} | noise,
      'statistics': data.facts['statistics'],
    },
    **fields,
  )


def check_prior(source: str, sizes: Mapping[str, Any], image_size: int) -> None:
  """Raises a `UserError` where a prior with these sizes cannot be fine-tuned on pictures of this size."""
  field = f'diffuse.prior_init_from = {source!r}'
  if lacking := [name for name in ('unet', 'first_stage') if name not in sizes]:
    raise UserError(
      f'{field} holds no {" and no ".join(lacking)}; convert a file with both, such as label2img or Stable Diffusion 1.'
    )
  unet, first_stage = sizes['unet'], sizes['first_stage']
  needed = {'unet': ('in_channels', 'out_channels', 'channel_mult'), 'first_stage': ('embed_dim', 'ch_mult')}
  if lacking := [f'{part}.{name}' for part, names in needed.items() for name in names if name not in sizes[part]]:
    raise UserError(f'{field} does not say its {", ".join(lacking)}: its weights.json is not as convert writes it.')
  channels = unet['in_channels'], unet['out_channels'], first_stage['embed_dim']
  if len(set(channels)) != 1:
    raise UserError(
      f'{field} has a UNet from {channels[0]} to {channels[1]} channels and a first stage whose latents have '
      f'{channels[2]}; they must be equal (priors for inpainting or image conditions are of no use here).'
    )
  factor = 2 ** (len(first_stage['ch_mult']) + len(unet['channel_mult']) - 2)
  if image_size % factor:
    raise UserError(
      f'{field} halves pictures {factor.bit_length() - 1} times in all, so that config.data.image_size must be a multiple '
      f'of {factor}; it is {image_size}.'
    )


def predict_eps(
  parts: Models,
  params: Any,
  schedule: diffusion.Schedule,
  latent: jax.Array,
  fmri: jax.Array,
  t: jax.Array,
  eps: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """(predicted noise B h w C, context B T D) of noised latents.

  Args:
    latent: B h w C. fmri: B V. t: B, diffusion steps. eps: B h w C, the noise.
  """
  context = parts.conditioner.apply({'params': params['conditioner']}, fmri)
  return parts.unet.apply({'params': params['unet']}, diffusion.q_sample(schedule, latent, t, eps), t, context), context


def _encode(
  config: ConfigDict,
  first_stage: VQModel | KLModel,
  weights: Mapping[str, np.ndarray],
  pictures: np.ndarray,
  split: str,
) -> np.ndarray:
  """Latents, P h w C; of training pictures those of all their crops, P n h w C. Which crops follows from the seed."""
  if split != 'train':
    return first_stage_module.encode_pictures(first_stage, weights, pictures)
  count, crop = config.diffuse.cached_crops, _crop(config.diffuse)

  def cropped(numbers: np.ndarray) -> np.ndarray:
    items = [{'image': transforms.to_signed_unit(pictures[number // count])} for number in numbers]
    if crop:
      items = [crop(item, np.random.default_rng((config.seed, n))) for item, n in zip(items, numbers, strict=True)]
    return np.stack([item['image'] for item in items])

  latents = first_stage_module.encode_pictures(first_stage, weights, np.arange(len(pictures) * count), cropped)
  return latents.reshape(len(pictures), count, *latents.shape[1:])


def _one_of_the_crops(item, rng):
  return {**item, 'latent': item['latent'][rng.integers(len(item['latent']))]}


def _crop(stage: ConfigDict):
  def transform(item, rng):
    return {**item, 'image': transforms.random_crop(item['image'], rng, stage.crop_share, stage.crop_probability)}

  return transform if stage.crop_probability else None
