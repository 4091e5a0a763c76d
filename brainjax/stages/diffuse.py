"""Phase 3: the fMRI encoder conditions a latent diffusion model (paper, section 3.3)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from brainjax.datasets import transforms
from brainjax.errors import UserError
from brainjax.models.autoencoder import VQModel
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.unet import UNet
from brainjax.ops import diffusion, losses
from brainjax.stages import common
from brainjax.stages import data as stage_data
from brainjax.stages import first_stage as first_stage_module
from brainjax.stages.stage import Stage
from brainjax.torch_convert import hand_over
from brainjax.trees import below, put_below


class Models(NamedTuple):
  """The three parts of the latent diffusion model; the fields are the first parts of their parameters' paths."""

  conditioner: FmriConditioner
  unet: UNet
  first_stage: VQModel


def models(config: ConfigDict, num_voxels: int) -> Models:
  """The parts as the config sizes them, for so many voxels."""
  dtype = common.compute_dtype(config)
  mae = config.fmri_mae
  context = {'context_dim': config.unet.context_dim, **config.conditioner.to_dict()}
  time_cond = context.pop('time_condition')
  conditioner = FmriConditioner(
    num_voxels=num_voxels,
    patch_size=mae.patch_size,
    width=mae.width,
    depth=mae.depth,
    num_heads=mae.num_heads,
    mlp_ratio=mae.mlp_ratio,
    remat=mae.remat,
    dtype=dtype,
    **context,
  )
  first_stage = first_stage_module.model(config)
  unet = UNet(
    in_channels=first_stage.embed_dim,
    out_channels=first_stage.embed_dim,
    context_tokens=conditioner.context_tokens,
    time_cond=time_cond,
    global_pool=conditioner.global_pool,
    dtype=dtype,
    **config.unet.to_dict(),
  )
  return Models(conditioner, unet, first_stage)


def latent_shape(first_stage: VQModel) -> tuple[int, int, int]:
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
    fmri_weights: of the attend or contrast stage, or a converted phase-1 or phase-2 checkpoint.
  """
  config = config.copy_and_resolve_references()
  stage = config.diffuse
  prior, prior_info = common.start_weights(
    stage.prior_init_from, 'diffuse.prior_init_from', 'the UNet and first stage of label2img', stage.random_init
  )
  fmri, fmri_info = common.start_weights(
    fmri_weights, 'diffuse.init_from', 'the fMRI encoder of phase 2', stage.random_init
  )
  fmri, fmri_sizes = common.fmri_side(fmri, fmri_info)
  common.take_sizes(config.fmri_mae, fmri_sizes)
  sizes = prior_info.get('settings', {})
  unknown = {'num_head_channels': None, 'transformer_depth': 1}
  if any(sizes.get('unet', {}).get(name, value) != value for name, value in unknown.items()):
    raise UserError(
      f'diffuse.prior_init_from = {stage.prior_init_from!r} has a UNet with {", ".join(unknown)} other than label2img; '
      'such a prior cannot be fine-tuned here yet.'
    )
  if prior and 'first_stage/codebook' not in prior:
    raise UserError(
      f'diffuse.prior_init_from = {stage.prior_init_from!r} has no VQ first stage (Stable Diffusion has a KL one); '
      'only priors with a VQ first stage, such as label2img, can be fine-tuned here.'
    )
  for part in ('unet', 'first_stage'):
    common.take_sizes(config[part], sizes.get(part, {}))
  cached = stage.cache_latents
  if cached and not prior:
    raise UserError('config.diffuse.cache_latents encodes with the first stage of diffuse.prior_init_from, which is not there.')
  encode = (
    partial(first_stage_module.encode_pictures, first_stage_module.model(config), below(prior, 'first_stage'))
    if cached
    else None
  )
  crop = None if cached else _crop(stage)
  data = stage_data.paired(config, 'diffuse', config.data.image_size, transform=crop, encode=encode)
  parts = models(config, data.num_voxels)
  shapes = common.fresh_shapes(lambda key: init(parts, key))
  pretrained = {path: x for path, x in prior.items() if path.startswith(('unet/', 'first_stage/'))}
  if fmri:
    common.tell_resized('diffuse', fmri_weights, fmri_sizes, data.num_voxels)
    taken = hand_over.mae_to_conditioner(
      fmri, below(shapes, 'conditioner'), config.released.pool_drops_norms and config.conditioner.global_pool, fmri_weights
    )
    pretrained |= put_below('conditioner', taken)
  noise = {'schedule': sizes['schedule']} if 'schedule' in sizes else {}  # the prior's, where its file says it
  schedule = diffusion.make_schedule(**noise.get('schedule', {}))

  def loss(params, batch, key):
    if cached:
      latent = batch['latent']
    else:  # the first stage is frozen and its input is data: no gradient is asked for
      latent = parts.first_stage.apply({'params': params['first_stage']}, batch['image'], method='encode')
    key_t, key_eps = jax.random.split(key)
    t = jax.random.randint(key_t, latent.shape[:1], 0, schedule.num_steps)
    eps = jax.random.normal(key_eps, latent.shape)
    pred, context = predict_eps(parts, params, schedule, latent, batch['fmri'], t, eps)
    value = losses.weighted_mean(diffusion.eps_loss(pred, eps), batch['weight'])
    return value, common.extremes(context=context, prediction=pred)

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
      'voxels_of': data.facts['num_voxels'],
      'settings': {name: common.settings(part) for name, part in parts._asdict().items()} | noise,
      'statistics': data.facts['statistics'],
    },
    **fields,
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
  """(predicted noise B h w C, context B T D) of noised latents; arguments as `eps_loss`."""
  context = parts.conditioner.apply({'params': params['conditioner']}, fmri)
  return parts.unet.apply({'params': params['unet']}, diffusion.q_sample(schedule, latent, t, eps), t, context), context


def eps_loss(
  parts: Models,
  params: Any,
  schedule: diffusion.Schedule,
  latent: jax.Array,
  fmri: jax.Array,
  t: jax.Array,
  eps: jax.Array,
) -> jax.Array:
  """Squared error of the predicted noise of each sample (Ho et al. 2020, eq. 14).

  Args:
    latent: B h w C. fmri: B V. t: B, diffusion steps. eps: B h w C, the noise.

  Returns:
    B.
  """
  pred, _ = predict_eps(parts, params, schedule, latent, fmri, t, eps)
  return diffusion.eps_loss(pred, eps)


def _crop(stage: ConfigDict):
  def transform(item, rng):
    return {**item, 'image': transforms.random_crop(item['image'], rng, stage.crop_share, stage.crop_probability)}

  return transform if stage.crop_probability else None
