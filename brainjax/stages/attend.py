"""Phase 2: fMRI and image autoencoders reconstruct each other's masked input by cross-attention (paper, section 3.2)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from brainjax.datasets import arrays, transforms
from brainjax.errors import UserError
from brainjax.models.dense import cast_kernels
from brainjax.models.fmri_mae import FmriMAE, fmri_kwargs, fmri_weights
from brainjax.models.image_mae import ImageMAE
from brainjax.ops import losses, masking, patches
from brainjax.rules import INNER_SHARE, NOT_NEGATIVE, POSITIVE, Rule
from brainjax.stages import common, transfer
from brainjax.stages import data as stage_data
from brainjax.stages.problem import Training
from brainjax.stages.registry import Release, Sizes, StageSpec, WeightsField
from brainjax.trees import add_prefix, subtree

# All of the fMRI side trains, and the cross-attention and decoder of the image side. Position tables are constants.
TRAINABLE = r'^(fmri|image/(encoder/cross|decoder))/(?!(.*/)?pos_embed)'
# Quirk B15: the decoder's table trains too.
TRAINABLE_B15 = TRAINABLE + r'|^image/decoder/pos_embed'
OPTIMIZER = {'clip_groups': ('fmri/', 'image/')}
# What contrast has trained; the cross-attention is new.
ENCODER = ('fmri/encoder/patch_embed/', 'fmri/encoder/blocks/')


def models(config: ConfigDict, num_voxels: int) -> tuple[FmriMAE, ImageMAE]:
  """The fMRI and the image autoencoder for `num_voxels` voxels."""
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
    # The image encoder is frozen, apart from its cross-attention.
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
    fmri: B V. image: B H W 3, as ImageNet normalises. weight: B 1, 0 for padding.
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
    # All predicted values with all true values. The release compares two predicted patches under this name (B4).
    'image_correlation': losses.weighted_mean(
      losses.correlation(image_out['pred'].reshape(rows, -1), image_target.reshape(rows, -1)), weight[:, 0]
    ),
  }
  return loss_weights[0] * fmri_loss + loss_weights[1] * image_loss, metrics


def make(config: ConfigDict, mesh: Mesh) -> Training:
  """The stage; its weights are `fmri/...` and `image/...`.

  Raises:
    UserError: the start weights are missing or do not fit.
  """
  del mesh
  stage = config.attend
  phase1, info = transfer.load_start_weights(config, 'attend')
  vit, _ = transfer.load_start_weights(config, 'attend', 'image_init_from')
  kwargs = fmri_kwargs(info)
  if (depth := kwargs.get('decoder_depth', stage.decoder_depth)) < stage.decoder_depth:
    raise UserError(
      f'config.attend.decoder_depth is {stage.decoder_depth}, but the weights {stage.init_from} have {depth} decoder '
      f'layers; choose at most {depth}.'
    )
  pretrained_width = kwargs.get('num_voxels') if config.released.wrap_to_pretrained_width else None
  data = stage_data.paired(config, 'attend', config.image_mae.image_size, num_voxels=pretrained_width)
  fmri_mae, image_mae = models(config, data.num_voxels)
  shapes = transfer.init_shapes(lambda key: init(fmri_mae, image_mae, key))
  pretrained = {}
  if phase1:
    transfer.log_resized('attend', stage.init_from, kwargs, data.num_voxels)
    fmri = transfer.mae_to_mae(fmri_weights(phase1), subtree(shapes, 'fmri'), stage.init_from)
    pretrained |= add_prefix('fmri', fmri)
  if vit:
    image = transfer.mae_to_mae(_image_part(vit, subtree), subtree(shapes, 'image'), stage.image_init_from)
    pretrained |= add_prefix('image', image)

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

  return common.training(
    config,
    'attend',
    data,
    init=lambda key: init(fmri_mae, image_mae, key),
    loss=loss,
    trainable=TRAINABLE_B15 if config.released.train_decoder_positions else TRAINABLE,
    models={'fmri': common.kwargs_of(fmri_mae), 'image': common.kwargs_of(image_mae)},
    pretrained=pretrained,
    start={'init_from': phase1, 'image_init_from': vit},
    optimizer=OPTIMIZER | {'slowed': dict.fromkeys(ENCODER, stage.encoder_rate)},
  )


def _image_part(tree: Mapping[str, Any], get: Callable[[Mapping[str, Any], str], Any]) -> Mapping[str, Any]:
  """The image autoencoder, which the demo's prior and weights of attend have beside other parts."""
  return get(tree, 'image_mae') or get(tree, 'image') or tree


def _sizes(config: ConfigDict, infos: Mapping[str, Mapping[str, Any]]) -> list[Sizes]:
  stage, sizes = config.attend, []
  if 'init_from' in infos:
    kwargs = fmri_kwargs(infos['init_from'])
    sizes.append(Sizes('fmri_mae', kwargs, stage.init_from))
    if stage.cross_attention and kwargs.get('cross_depth'):  # weights of phase 2
      sizes.append(Sizes('attend', {'cross_depth': kwargs['cross_depth']}, stage.init_from))
  if 'image_init_from' in infos:
    kwargs = _image_part(infos['image_init_from'].get('settings', {}), Mapping.get)
    sizes.append(Sizes('image_mae', kwargs, stage.image_init_from))
  return sizes


def _rules(config: ConfigDict) -> dict[str, Rule]:
  stage, image = config.attend, config.image_mae
  num_patches = (image.image_size // image.patch_size) ** 2 if image.patch_size > 0 else 0
  return {
    'attend.decoder_depth': POSITIVE,
    'attend.encoder_rate': NOT_NEGATIVE,
    'attend.image_decoder_depth': POSITIVE,
    'attend.cross_depth': POSITIVE,
    'attend.mask_ratio': INNER_SHARE,
    'attend.image_mask_ratio': Rule(
      lambda x: INNER_SHARE.holds(x) and masking.num_kept(num_patches, x) > 0,
      f'{INNER_SHARE.expected}, so that at least one of the {num_patches} patches of image_mae is left',
    ),
    'attend.fmri_weight': Rule(
      lambda x: x >= 0 and x + stage.image_weight > 0, '0 or more, and not 0 together with attend.image_weight'
    ),
    'attend.image_weight': NOT_NEGATIVE,
  }


def _check(config: ConfigDict, stages: tuple[str, ...]) -> None:
  depth = config.attend.decoder_depth
  if not (config.attend.init_from or config.contrast.init_from) and depth > config.contrast.decoder_depth:
    raise UserError(
      f'config.attend.decoder_depth is {depth}; expected at most config.contrast.decoder_depth, '
      f'{config.contrast.decoder_depth}: attend starts with the decoder of contrast.'
    )


def rebuild(
  config: ConfigDict, params: Any, kwargs: Mapping[str, Any], fmri: np.ndarray, rows: arrays.ArrayDataset
) -> Mapping[str, jax.Array]:
  """Masked fMRI rebuilt with the help of the pictures, for the report: fmri B V -> 'pred' B L P, 'mask' B L."""
  fmri_mae, image_mae = FmriMAE(**kwargs['fmri']), ImageMAE(**kwargs['image'])
  pictures = rows.pictures[rows.picture_row[: len(fmri)]]
  pictures = np.stack([transforms.resize_image(picture, image_mae.image_size) for picture in pictures])
  image = transforms.imagenet_normalise((transforms.to_signed_unit(pictures) + 1) / 2, config.released.double_rescale)
  fmri_noise, image_noise = (
    jax.random.uniform(key, (len(fmri), mae.num_patches))
    for key, mae in zip(jax.random.split(jax.random.key(config.seed)), (fmri_mae, image_mae), strict=True)
  )
  ratios = config.attend.mask_ratio, config.attend.image_mask_ratio

  @jax.jit
  def masked_pass(params, fmri, image, fmri_noise, image_noise):
    return forward(fmri_mae, image_mae, params, fmri, image, fmri_noise, image_noise, *ratios)[0]

  return masked_pass(params, fmri, image, fmri_noise, image_noise)


STAGE = StageSpec(
  'attend',
  after='contrast',
  make=make,
  weights=(
    WeightsField(
      'image_init_from',
      needed=True,
      origin='brainjax fetch vit_mae',
    ),
    WeightsField('init_from', origin='brainjax convert FILE --kind=phase1 --out=weights/phase1'),
  ),
  sources=stage_data.paired_sources,
  train_rows=stage_data.train_rows,
  sizes=_sizes,
  rules=_rules,
  check=_check,
  unused=('first_stage', 'unet', 'conditioner'),
  curves={
    'fmri_loss': 'mean squared error of masked fMRI; 1: no better than the mean',
    'image_loss': 'mean squared error of masked picture patches',
    'fmri_correlation': 'of predicted with real masked fMRI',
    'image_correlation': 'of predicted with real masked picture patches',
  },
  rebuild=rebuild,
  release=Release('phase2', part='fmri'),
)
