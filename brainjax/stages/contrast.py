"""Phase 1: the double-contrastive masked autoencoder learns fMRI (paper, section 3.1)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from brainjax import sharding
from brainjax.checkpoints import load_weights
from brainjax.models.dense import cast_kernels
from brainjax.models.fmri_mae import FmriMAE
from brainjax.ops import losses, patches
from brainjax.stages import common
from brainjax.stages import data as stage_data
from brainjax.stages.stage import Stage
from brainjax.torch_convert import hand_over

# Sin-cos position tables are constants that lie among the parameters; they never train here.
TRAINABLE = r'^(?!.*(pos_embed|position_embeddings))'


def model(config: ConfigDict, num_voxels: int) -> FmriMAE:
  """The phase-1 autoencoder for so many voxels."""
  return FmriMAE(
    num_voxels=num_voxels,
    decoder_depth=config.contrast.decoder_depth,
    remat=config.remat,
    dtype=common.compute_dtype(config),
    **config.fmri_mae.to_dict(),
  )


class Weights(NamedTuple):
  """Weights of the terms of `contrast_loss`."""

  mask: float = 1.0
  self_contrast: float = 1.0
  cross_contrast: float = 0.5
  outer: float = 1.0
  separate: bool = False


def contrast_loss(
  views: dict[str, jax.Array],
  fmri: jax.Array,
  weights: Weights,
  info_nce=losses.info_nce,
  self_info_nce=None,
  row_weight: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Masked error of view 1, reconstruction against input, view 1 against view 2 (paper, equations 1 to 3).

  Args:
    views: the autoencoder's result on the batch stacked once per view: pred (views B) L p, mask (views B) L.
    fmri: B V.
    weights: of the terms; a term whose weight is 0 is not computed.
    info_nce: (queries B V, keys B V, row weight B) -> B, with the negatives that are wanted.
    self_info_nce: another one for the self term; by default the same.
    row_weight: B, 0 for rows that only fill the batch: they count nowhere.

  Returns:
    The scalar total, and each unweighted term with the mean correlation of reconstruction and input.
  """
  batch, patch_size = fmri.shape[0], views['pred'].shape[-1]
  target = patches.patchify_1d(fmri, patch_size)
  reconstructed = patches.unpatchify_1d(views['pred'])  # (views B) V
  first, second = reconstructed[:batch], reconstructed[batch:]
  self_info_nce = self_info_nce or info_nce
  row_weight = jnp.ones(batch) if row_weight is None else row_weight
  mean = partial(losses.weighted_mean, weight=row_weight)
  total, metrics = jnp.zeros(()), {'correlation': mean(losses.correlation(first, fmri))}
  if weights.mask:
    mask = views['mask'][:batch] * row_weight[:, None]
    metrics['mask_loss'] = losses.masked_mse(views['pred'][:batch], target, mask).mean()
    total += weights.mask * metrics['mask_loss']
  # With one sample there are no negatives and the self term is a constant.
  if weights.self_contrast and batch > 1:
    metrics['self_contrast'] = mean(self_info_nce(first, fmri, row_weight))
    total += weights.outer * weights.self_contrast * metrics['self_contrast']
  if weights.cross_contrast:
    metrics['cross_contrast'] = mean(info_nce(first, second, row_weight))
    total += weights.outer * weights.cross_contrast * metrics['cross_contrast']
    if weights.separate and batch > 1:
      metrics['self_contrast_view2'] = mean(self_info_nce(second, fmri, row_weight))
      total += weights.outer * weights.self_contrast * metrics['self_contrast_view2']
  return total, metrics


def loss_weights(config: ConfigDict) -> Weights:
  """What `config.contrast` and the quirks in `config.released` say."""
  stage, released = config.contrast, config.released
  return Weights(
    mask=float(stage.mask_loss and not released.no_mask_loss),
    self_contrast=(0.5 if released.self_weight_half else stage.self_weight) * stage.self_contrast,
    cross_contrast=stage.cross_weight * stage.cross_contrast,
    outer=0.5 if released.contrast_outer_half else 1.0,
    separate=stage.separate_loss,
  )


def contrasts(negatives: str, temperature: float, mesh: Mesh) -> tuple[Callable, Callable | None]:
  """`info_nce` and `self_info_nce` of `contrast_loss` for a value of config.contrast.negatives."""
  info_nce = partial(losses.info_nce, temperature=temperature)
  if negatives == 'per_device':
    spec = PartitionSpec(sharding.AXES)
    info_nce = jax.shard_map(info_nce, mesh=mesh, in_specs=(spec, spec, spec), out_specs=spec)
  return info_nce, partial(losses.info_nce_paired, temperature=temperature) if negatives == 'paired' else None


def make(config: ConfigDict, mesh: Mesh) -> Stage:
  """The stage; its weights are those of one `FmriMAE`."""
  config = config.copy_and_resolve_references()
  stage = config.contrast
  before, sizes = {}, {}
  if stage.init_from:
    before, sizes = common.fmri_side(*load_weights(stage.init_from))
    common.take_sizes(config.fmri_mae, sizes, stage.init_from)
    common.take_sizes(stage, {name: sizes[name] for name in ('decoder_depth',) if name in sizes}, stage.init_from)
  data = stage_data.contrast(config)
  mae = model(config, data.num_voxels)
  weights = loss_weights(config)
  num_views = 2 if weights.cross_contrast else 1
  info_nce, self_info_nce = contrasts(stage.negatives, stage.temperature, mesh)

  def init(key):
    return mae.init(key, jnp.zeros((1, data.num_voxels)))['params']

  def loss(params, batch, key):
    params, fmri = cast_kernels(params, mae.dtype), batch['fmri']
    # Both views in one pass: the batch twice, each copy with its own mask. A key for each view, so that the draws of a
    # row do not depend on how many rows fill the batch up.
    shape = (len(fmri), mae.num_patches)
    noise = jnp.concatenate([jax.random.uniform(view, shape) for view in jax.random.split(key, num_views)])
    views = mae.apply({'params': params}, jnp.concatenate([fmri] * num_views), noise, stage.mask_ratio)
    total, metrics = contrast_loss(views, fmri, weights, info_nce, self_info_nce, batch['weight'])
    return total, metrics | common.extremes(batch['weight'], latent=views['latent'], prediction=views['pred'])

  pretrained = {}
  if before:
    common.tell_resized('contrast', stage.init_from, sizes, data.num_voxels)
    pretrained = hand_over.contrast_to_attend(before, common.fresh_shapes(init), stage.init_from)

  return Stage(
    init=init,
    pretrained=pretrained,
    trainable=TRAINABLE,
    loss=loss,
    batches=data.train,
    validation=data.validation,
    info={
      'num_voxels': data.num_voxels,
      'inputs': data.inputs | common.digests({'contrast.init_from': before}),
      'settings': common.settings(mae),
    },
    **common.training_fields(config, 'contrast', data.steps_per_epoch, decay_all=False),
  )
