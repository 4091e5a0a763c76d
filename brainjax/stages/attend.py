"""Phase 2: fMRI and image autoencoders reconstruct each other's masked input by cross-attention (paper, section 3.2)."""

from typing import Any

import jax
from ml_collections import ConfigDict

from brainjax.datasets import transforms
from brainjax.errors import UserError
from brainjax.models.dense import cast_kernels
from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.ops import losses, patches
from brainjax.stages import common
from brainjax.stages import data as stage_data
from brainjax.stages.stage import Stage
from brainjax.torch_convert import hand_over
from brainjax.trees import add_prefix, subtree

# The fMRI side trains whole; of the image side the cross-attention and the decoder. Position tables are constants.
TRAINABLE = r'^(fmri|image/(encoder/cross|decoder))/(?!(.*/)?pos_embed)'
# Quirk B15: the decoder's table trains too.
TRAINABLE_B15 = TRAINABLE + r'|^image/decoder/pos_embed'


def models(config: ConfigDict, num_voxels: int) -> tuple[FmriMAE, ImageMAE]:
  """The two autoencoders for so many voxels."""
  stage = config.attend
  dtype = common.compute_dtype(config)
  depth = stage.cross_depth if stage.cross_attention else 0
  fmri = FmriMAE(
    num_voxels=num_voxels,
    decoder_depth=stage.decoder_depth,
    cross_depth=depth,
    cross_width=config.image_mae.width,
    cross_heads=config.image_mae.num_heads,
    cross_mlp_dim=config.image_mae.mlp_dim,
    cross_residual=stage.cross_residual,
    remat=config.remat,
    dtype=dtype,
    **config.fmri_mae.to_dict(),
  )
  image = ImageMAE(
    remat=config.remat,
    decoder_depth=stage.image_decoder_depth,
    cross_depth=depth,
    fmri_width=config.fmri_mae.width,
    dtype=dtype,
    **config.image_mae.to_dict(),
  )
  return fmri, image


def init(fmri_mae: FmriMAE, image_mae: ImageMAE, key: jax.Array) -> dict[str, Any]:
  """All parameters: `fmri/...` and `image/...`."""
  keys = jax.random.split(key)
  return {
    'fmri': fmri_mae.init(keys[0], *fmri_mae.example_inputs())['params'],
    'image': image_mae.init(keys[1], *image_mae.example_inputs())['params'],
  }


def forward(
  fmri_mae: FmriMAE,
  image_mae: ImageMAE,
  params: Any,
  fmri: jax.Array,
  image: jax.Array,
  fmri_noise: jax.Array,
  image_noise: jax.Array,
  mask_ratio: float,
  image_mask_ratio: float,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Both masked passes, each attending to the other modality unmasked.

  Args:
    fmri: B V. image: B H W 3, as ImageNet normalises. fmri_noise: B L, image_noise: B M, uniform draws of the masks.

  Returns:
    What the two autoencoders return. The unmasked passes are not shuffled: attention does not depend on the order.
  """
  image_tokens = fmri_tokens = None
  if fmri_mae.cross_depth:
    # Frozen, as all of the image encoder without its cross-attention is.
    image_tokens = jax.lax.stop_gradient(image_mae.apply({'params': params['image']}, image, method='encode'))
    fmri_tokens = fmri_mae.apply({'params': params['fmri']}, fmri, method='encode')
  fmri_out = fmri_mae.apply({'params': params['fmri']}, fmri, fmri_noise, mask_ratio, image_tokens)
  image_out = image_mae.apply({'params': params['image']}, image, image_noise, image_mask_ratio, fmri_tokens)
  return fmri_out, image_out


def attend_loss(
  fmri_out: dict[str, jax.Array],
  image_out: dict[str, jax.Array],
  fmri: jax.Array,
  image: jax.Array,
  weight: jax.Array,
  loss_weights: tuple[float, float],
  normalise_patches: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted sum of both masked errors (paper, section 3.2).

  Args:
    fmri_out, image_out: what `forward` returns.
    fmri: B V. image: B H W 3, as ImageNet normalises. weight: B 1, 0 for rows that only fill the batch.
    loss_weights: of the fMRI and of the image error.
    normalise_patches: image patches are predicted with mean 0 and variance 1.

  Returns:
    The scalar total, and both errors with both correlations of prediction and target.
  """
  fmri_target = patches.patchify_1d(fmri, fmri_out['pred'].shape[-1])
  patch_size = round((image_out['pred'].shape[-1] / image.shape[-1]) ** 0.5)
  image_target = patches.patchify_2d(image, patch_size)
  if normalise_patches:
    image_target = losses.normalise_patches(image_target)
  fmri_loss = losses.masked_mse(fmri_out['pred'], fmri_target, fmri_out['mask'] * weight).mean()
  image_loss = losses.masked_mse(image_out['pred'], image_target, image_out['mask'] * weight).mean()
  rows = len(fmri)
  metrics = {
    'fmri_loss': fmri_loss,
    'image_loss': image_loss,
    'fmri_correlation': losses.weighted_mean(
      losses.correlation(patches.unpatchify_1d(fmri_out['pred']), fmri), weight[:, 0]
    ),
    # Of all predicted with all true values; what the release calls so compares two predicted patches (B4).
    'image_correlation': losses.weighted_mean(
      losses.correlation(image_out['pred'].reshape(rows, -1), image_target.reshape(rows, -1)), weight[:, 0]
    ),
  }
  return loss_weights[0] * fmri_loss + loss_weights[1] * image_loss, metrics


def make(config: ConfigDict, fmri_weights: str) -> Stage:
  """The stage; its weights are `fmri/...` and `image/...`.

  Args:
    config: the run's.
    fmri_weights: of the contrast stage, or a converted phase-1 checkpoint.
  """
  config = config.copy_and_resolve_references()
  stage = config.attend
  phase1, info = common.start_weights(
    fmri_weights, 'attend.init_from', 'the fMRI autoencoder of phase 1', stage.random_init
  )
  vit, vit_info = common.start_weights(
    stage.image_init_from, 'attend.image_init_from', 'the image autoencoder (facebook/vit-mae-base)', stage.random_init
  )
  # The demo's prior holds its image autoencoder beside other parts.
  vit, vit_sizes = subtree(vit, 'image_mae') or vit, vit_info.get('settings', {})
  phase1, sizes = common.fmri_side(phase1, info)
  common.take_sizes(config.fmri_mae, sizes, fmri_weights)
  # The first decoder layers are taken; weights of phase 2 bring their cross-attention.
  if (depth := sizes.get('decoder_depth', stage.decoder_depth)) < stage.decoder_depth:
    raise UserError(
      f'config.attend.decoder_depth is {stage.decoder_depth}, but the weights {fmri_weights} have {depth} decoder layers; '
      f'choose at most {depth}.'
    )
  if stage.cross_attention and sizes.get('cross_depth'):
    common.take_sizes(stage, {'cross_depth': sizes['cross_depth']}, fmri_weights)
  common.take_sizes(config.image_mae, vit_sizes.get('image_mae', vit_sizes), stage.image_init_from)
  pretrained_width = sizes.get('num_voxels') if config.released.wrap_to_pretrained_width else None
  data = stage_data.paired(config, 'attend', config.image_mae.image_size, num_voxels=pretrained_width)
  fmri_mae, image_mae = models(config, data.num_voxels)
  shapes = common.fresh_shapes(lambda key: init(fmri_mae, image_mae, key))
  pretrained = {}
  if phase1:
    common.tell_resized('attend', fmri_weights, sizes, data.num_voxels)
    taken = hand_over.contrast_to_attend(phase1, subtree(shapes, 'fmri'), fmri_weights)
    pretrained |= add_prefix('fmri', taken)
  if vit:
    taken = hand_over.image_to_attend(vit, subtree(shapes, 'image'), stage.image_init_from)
    pretrained |= add_prefix('image', taken)

  def loss(params, batch, key):
    params = cast_kernels(params, fmri_mae.dtype)
    image = transforms.imagenet_normalise((batch['image'] + 1) / 2, config.released.double_rescale)
    fmri, weight = batch['fmri'], batch['weight'][:, None]
    keys = jax.random.split(key)
    fmri_noise = jax.random.uniform(keys[0], (len(fmri), fmri_mae.num_patches))
    image_noise = jax.random.uniform(keys[1], (len(fmri), image_mae.num_patches))
    ratios = stage.mask_ratio, stage.image_mask_ratio
    fmri_out, image_out = forward(fmri_mae, image_mae, params, fmri, image, fmri_noise, image_noise, *ratios)
    loss_weights = stage.fmri_weight, stage.image_weight
    total, metrics = attend_loss(fmri_out, image_out, fmri, image, weight, loss_weights, stage.normalise_patches)
    return total, metrics | common.extremes(
      batch['weight'],
      fmri_latent=fmri_out['latent'],
      fmri_prediction=fmri_out['pred'],
      image_latent=image_out['latent'],
      image_prediction=image_out['pred'],
    )

  fields = common.training_fields(
    config, 'attend', data.steps_per_epoch, decay_all=False, clip_groups=('fmri/', 'image/')
  )
  return Stage(
    init=lambda key: init(fmri_mae, image_mae, key),
    pretrained=pretrained,
    trainable=TRAINABLE_B15 if config.released.train_decoder_positions else TRAINABLE,
    loss=loss,
    batches=data.train,
    validation=data.validation,
    info={
      'num_voxels': data.num_voxels,
      'inputs': data.inputs | common.digests({'attend.init_from': phase1, 'attend.image_init_from': vit}),
      'settings': {'fmri': common.settings(fmri_mae), 'image': common.settings(image_mae)},
    },
    **fields,
  )
