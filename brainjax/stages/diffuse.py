"""Phase 3: the fMRI encoder conditions a latent diffusion model (paper, section 3.3)."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from brainjax.datasets import transforms
from brainjax.errors import UserError
from brainjax.models.autoencoder import KLModel, VQModel
from brainjax.models.dense import cast_kernels
from brainjax.models.fmri_mae import fmri_kwargs, fmri_weights
from brainjax.models.latent_diffusion import LatentDiffusion, denoising_loss, drop_context, latent_diffusion
from brainjax.models.unet import UNet
from brainjax.ops import diffusion
from brainjax.rules import NOT_NEGATIVE, SHARE, Rule
from brainjax.stages import common, transfer
from brainjax.stages import data as stage_data
from brainjax.stages import first_stage as first_stage_module
from brainjax.stages.problem import Training
from brainjax.stages.registry import Release, Sizes, StageSpec, WeightsField
from brainjax.trees import add_prefix, flatten, subtree

OPTIMIZER = {'decay_all': True}
ENCODER = 'conditioner/mae/'  # what attend has trained; the rest of the conditioner is new


def models(config: ConfigDict, num_voxels: int) -> LatentDiffusion:
  """Conditioner, UNet and first stage for `num_voxels` voxels."""
  mae = config.fmri_mae
  conditioner = {
    'num_voxels': num_voxels,
    **{name: mae[name] for name in ('patch_size', 'width', 'depth', 'num_heads', 'mlp_ratio')},
    'context_dim': config.unet.context_dim,
    **config.conditioner.to_dict(),
  }
  time_cond = conditioner.pop('time_condition')
  kwargs = {
    'conditioner': conditioner,
    'unet': config.unet.to_dict() | {'time_cond': time_cond},
    'first_stage': first_stage_module.resolve_kwargs(config),
  }
  return latent_diffusion(kwargs, common.compute_dtype(config), config.remat)


def trainable(config: ConfigDict) -> str:
  """The conditioner without its constants, and the UNet's conditioning layers."""
  constants = 'cls_token|mask_token' + ('' if config.released.train_conditioner_positions else '|pos_embed')
  return rf'^conditioner/(?!mae/({constants})$)|^unet/(.*/)?({config.diffuse.train_unet})'


def make(config: ConfigDict, mesh: Mesh) -> Training:
  """The stage; its weights are those of a `LatentDiffusion`.

  `diffuse.init_from` names weights of the attend or contrast stage, a converted phase-1 or phase-2 checkpoint, or a
  fine-tuned model, whose conditioner trains further.

  Raises:
    UserError: the start weights are missing or do not fit.
  """
  del mesh
  stage = config.diffuse
  prior, _ = transfer.load_start_weights(config, 'diffuse', 'prior_init_from')
  fmri, fmri_info = transfer.load_start_weights(config, 'diffuse')
  encode, transform = None, _crop(stage)
  if stage.cached_crops:
    encode = partial(_encode, config, first_stage_module.model(config), subtree(prior, 'first_stage'))
    transform = _one_of_the_crops
  data = stage_data.paired(config, 'diffuse', config.data.image_size, transform=transform, encode=encode)
  parts = models(config, data.num_voxels)
  pretrained = {path: x for path, x in prior.items() if path.startswith(('unet/', 'first_stage/'))}
  if fmri:
    shapes = subtree(transfer.init_shapes(parts.init_params), 'conditioner')
    pretrained |= add_prefix('conditioner', _start_conditioner(config, parts, fmri, fmri_info, shapes))
  noise_schedule = config.noise_schedule.to_dict()
  schedule = diffusion.make_schedule(**noise_schedule)

  def loss(params, batch, key):
    params = {name: cast_kernels(params[name], getattr(parts, name).dtype) for name in parts._fields}
    if stage.cached_crops:
      latent = batch['latent']
    else:  # the first stage is frozen and its input is data: it needs no gradient
      latent = parts.first_stage.apply({'params': params['first_stage']}, batch['image'], method='to_latent')
    context = parts.conditioner.apply({'params': params['conditioner']}, batch['fmri'])
    if stage.condition_dropout:
      key, drop = jax.random.split(key)
      context = drop_context(context, stage.condition_dropout, drop)
    value, prediction = denoising_loss(
      parts.unet, params['unet'], schedule, latent, context, key, batch['weight'], stage.stratified_steps
    )
    return value, common.extremes(batch['weight'], context=context, prediction=prediction)

  return common.training(
    config,
    'diffuse',
    data,
    init=parts.init_params,
    loss=loss,
    trainable=trainable(config),
    models={name: common.kwargs_of(part) for name, part in parts._asdict().items()} | {'schedule': noise_schedule},
    pretrained=pretrained,
    start={'init_from': fmri, 'prior_init_from': prior},
    optimizer=OPTIMIZER | {'slowed': {ENCODER: stage.encoder_rate}},
    cosine=stage.cosine_schedule,
  )


def _start_conditioner(
  config: ConfigDict,
  parts: LatentDiffusion,
  weights: transfer.Flat,
  info: Mapping[str, Any],
  shapes: transfer.Shapes,
) -> dict[str, np.ndarray]:
  """Initial values of the conditioner, from an fMRI autoencoder or from a fine-tuned model."""
  source, num_voxels = config.diffuse.init_from, parts.conditioner.num_voxels
  if fine_tuned := subtree(weights, 'conditioner'):
    before = info['settings']['conditioner']['num_voxels']
    if before != num_voxels:
      raise UserError(
        f'diffuse.init_from = {source!r} is a fine-tuned model for {before} voxels, these data have {num_voxels}; it has '
        'layers over its patches, which cannot be resized. Start from weights of phase 1 or 2.'
      )
    return transfer.fit_all(fine_tuned, shapes, source)
  transfer.log_resized('diffuse', source, fmri_kwargs(info), num_voxels)
  drop_norms = config.released.pool_drops_norms and parts.conditioner.global_pool
  return transfer.mae_to_conditioner(fmri_weights(weights), shapes, drop_norms, source)


def check_prior(source: str, sizes: Mapping[str, Any]) -> None:
  """Raises a `UserError` where weights of these sizes cannot be the prior of `diffuse`."""
  field = f'diffuse.prior_init_from = {source!r}'
  if lacking := [name for name in ('unet', 'first_stage') if name not in sizes]:
    raise UserError(
      f'{field} holds no {" and no ".join(lacking)}; convert a file with both, such as label2img or Stable Diffusion 1.'
    )
  unet, first_stage = sizes['unet'], sizes['first_stage']
  needed = {'unet': ('in_channels', 'out_channels', 'channel_mult'), 'first_stage': ('embed_dim', 'ch_mult')}
  if lacking := [f'{part}.{name}' for part, names in needed.items() for name in names if name not in sizes[part]]:
    raise UserError(
      f'{field} does not say its {", ".join(lacking)}. brainjax.convert writes them into weights.json; convert the release again.'
    )
  channels = unet['in_channels'], unet['out_channels'], first_stage['embed_dim']
  if len(set(channels)) != 1:
    raise UserError(
      f'{field} has a UNet from {channels[0]} to {channels[1]} channels and a first stage whose latents have '
      f'{channels[2]}; they must be equal (priors for inpainting or image conditions cannot be used).'
    )


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


def _sizes(config: ConfigDict, infos: Mapping[str, Mapping[str, Any]]) -> list[Sizes]:
  stage, sizes = config.diffuse, []
  if 'init_from' in infos:
    kwargs = infos['init_from'].get('settings', {}).get('conditioner')
    if kwargs:  # a fine-tuned model
      sizes.append(Sizes('conditioner', kwargs, stage.init_from))
    sizes.append(Sizes('fmri_mae', kwargs or fmri_kwargs(infos['init_from']), stage.init_from))
  if 'prior_init_from' not in infos:
    return sizes
  prior, source = infos['prior_init_from'].get('settings', {}), stage.prior_init_from
  check_prior(source, prior)
  # The releases name no number of groups: theirs is the default.
  unet = config.unet.to_dict() | {'num_groups': UNet.num_groups} | prior['unet']
  # The conditioner decides these, also where the prior knew another condition.
  conditioning = {name: unet.pop(name) for name in ('context_tokens', 'global_pool') if name in unet}
  if unet.pop('time_cond', False):  # such as that of a fine-tuned model
    sizes.append(Sizes('conditioner', {'time_condition': True, **conditioning}, source))
  sizes.append(Sizes('unet', unet, source, whole=True))
  if 'schedule' in prior:
    sizes.append(Sizes('noise_schedule', prior['schedule'], source))
  sizes.append(
    Sizes('first_stage', first_stage_module.resolve_kwargs(config, prior['first_stage']), source, whole=True)
  )
  return sizes


def _rules(config: ConfigDict) -> dict[str, Rule]:
  stage = config.diffuse
  return {
    'diffuse.crop_probability': Rule(lambda x: 0 <= x <= 1, 'between 0 and 1'),
    'diffuse.crop_share': SHARE,
    'diffuse.encoder_rate': NOT_NEGATIVE,
    'diffuse.condition_dropout': SHARE,
    'diffuse.cached_crops': Rule(
      lambda x: x >= 0 and (not x or stage.prior_init_from) and (x < 2 or stage.crop_probability),
      '0 or more. Without diffuse.prior_init_from only 0 is possible, because no first stage can encode the crops. With '
      'diffuse.crop_probability = 0 more than 1 is refused, because all crops would be the same',
    ),
  }


def _check(config: ConfigDict, stages: tuple[str, ...]) -> None:
  """Checks here what trains: a pattern that matches nothing would stop the run after days in earlier stages."""
  pattern = config.diffuse.train_unet
  try:
    re.compile(pattern)
  except re.error as error:
    raise UserError(
      f'config.diffuse.train_unet is {pattern!r}, which is not a regular expression ({error}); see docs/options.md.'
    ) from error
  parts = models(config, 64 * config.fmri_mae.patch_size)  # the UNet's paths do not depend on the voxels
  paths = [f'unet/{path}' for path in flatten(jax.eval_shape(parts.init_params, jax.random.key(0))['unet'])]
  if not any(re.search(trainable(config), path) for path in paths):
    raise UserError(
      f'config.diffuse.train_unet is {pattern!r}, which matches no path of the UNet; a path is for example {paths[0]}.'
    )


STAGE = StageSpec(
  'diffuse',
  after='attend',
  make=make,
  weights=(
    WeightsField(
      'prior_init_from',
      needed=True,
      origin='brainjax fetch label2img',
    ),
    WeightsField('init_from'),
  ),
  sources=stage_data.paired_sources,
  train_rows=stage_data.train_rows,
  sizes=_sizes,
  rules=_rules,
  check=_check,
  release=Release('ldm'),
  batch_size=lambda config: 2 if config.released.batch_of_two else config.diffuse.batch_size,  # quirk B7
)
