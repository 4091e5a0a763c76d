"""Phase 1: the double-contrastive masked autoencoder learns fMRI (paper, section 3.1)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from brainjax import sharding
from brainjax.datasets import arrays, god, hcp
from brainjax.datasets.hcp_cifti import AREAS
from brainjax.errors import UserError
from brainjax.models.dense import cast_kernels
from brainjax.models.fmri_mae import FmriMAE
from brainjax.ops import losses, patches
from brainjax.stages import common, transfer
from brainjax.stages import data as stage_data
from brainjax.stages.problem import Training
from brainjax.stages.registry import Release, Sizes, Source, StageSpec, WeightsField
from brainjax.stages.rules import INNER_SHARE, NAMES, NOT_NEGATIVE, POSITIVE, SHARE, Rule, one_of


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
    info_nce: (queries B V, keys B V, row weight B) -> B; decides which rows are negatives.
    self_info_nce: used for the self term instead of `info_nce`.
    row_weight: B, 0 for padding, which does not affect the result.

  Returns:
    The scalar total, and metrics: each unweighted term, and the mean correlation of reconstruction and input.
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
  """The weights that `config.contrast` and the quirks in `config.released` set."""
  stage, released = config.contrast, config.released
  return Weights(
    mask=float(stage.mask_loss and not released.no_mask_loss),
    self_contrast=(0.5 if released.self_weight_half else stage.self_weight) * stage.self_contrast,
    cross_contrast=stage.cross_weight * stage.cross_contrast,
    outer=0.5 if released.contrast_outer_half else 1.0,
    separate=stage.separate_loss,
  )


def make_contrasts(negatives: str, temperature: float, mesh: Mesh) -> tuple[Callable, Callable | None]:
  """`info_nce` and `self_info_nce` of `contrast_loss` for a value of config.contrast.negatives."""
  info_nce = partial(losses.info_nce, temperature=temperature)
  if negatives == 'per_device':
    spec = PartitionSpec(sharding.AXES)
    info_nce = jax.shard_map(info_nce, mesh=mesh, in_specs=(spec, spec, spec), out_specs=spec)
  return info_nce, partial(losses.info_nce_paired, temperature=temperature) if negatives == 'paired' else None


def train_rows(config: ConfigDict) -> arrays.JoinedDataset:
  """Resting-state windows, and the training fMRI of `contrast_god_subjects`, repeated to the width of the widest.

  Raises:
    UserError: the config names no data, or they are missing or damaged.
  """
  parts = []
  if config.data.hcp:
    parts.append(
      hcp.load(
        config.data.prepared,
        config.data.hcp_rois,
        max_subjects=config.data.hcp_subject_limit or None,
        patch_size=config.fmri_mae.patch_size,
        augmentation_times=config.data.hcp_augmentation,
        augmentation_seed=config.seed,
        full_extra_patch=config.released.full_extra_patch,
      )
    )
  if config.data.contrast_god_subjects:
    parts.append(_god_rows(config, 'train'))
  if not parts:
    raise UserError(
      'config.data.hcp and config.data.contrast_god_subjects are both empty: contrast has no data to learn from.'
    )
  return arrays.JoinedDataset(parts, max(part.num_voxels for part in parts))


def _god_rows(config: ConfigDict, split: str) -> arrays.ArrayDataset:
  options = stage_data.row_options(config) | {'image_size': 0}
  if config.data.dataset != god.DATA_SET.name:  # whose ROIs have other names
    options['roi'] = god.DATA_SET.default_roi
  return god.load(config.data.prepared, config.data.contrast_god_subjects, split=split, **options)


def _data(config: ConfigDict) -> stage_data.StageData:
  train, val, transforms = train_rows(config), None, []
  if config.data.contrast_god_subjects:
    transforms = [t.with_width(train.num_voxels) for t in train.parts[-1].info['transforms'].values()]
    if config.data.num_val_stimuli:
      val = arrays.JoinedDataset([_god_rows(config, 'val')], train.num_voxels)
  return stage_data.make(config, 'contrast', sources(config), train, val, transforms)


def make(config: ConfigDict, mesh: Mesh) -> Training:
  """The stage; its weights are those of one `FmriMAE`.

  Raises:
    UserError: the start weights are missing or do not fit.
  """
  stage = config.contrast
  start, start_info = transfer.load_start_weights(config, 'contrast')
  start = transfer.fmri_weights(start)
  data = _data(config)
  mae = model(config, data.num_voxels)
  weights = loss_weights(config)
  num_views = 2 if weights.cross_contrast else 1
  info_nce, self_info_nce = make_contrasts(stage.negatives, stage.temperature, mesh)

  def init(key):
    return mae.init(key, *mae.example_inputs())['params']

  def loss(params, batch, key):
    params, fmri = cast_kernels(params, mae.dtype), batch['fmri']
    # Both views in one pass: the batch twice, each copy with its own mask. Each view has its own key, so that the draws
    # of a row do not depend on the padding of the batch.
    shape = (len(fmri), mae.num_patches)
    noise = jnp.concatenate([jax.random.uniform(view, shape) for view in jax.random.split(key, num_views)])
    views = mae.apply({'params': params}, jnp.concatenate([fmri] * num_views), noise, stage.mask_ratio)
    total, metrics = contrast_loss(views, fmri, weights, info_nce, self_info_nce, batch['weight'])
    return total, metrics | common.extremes(batch['weight'], latent=views['latent'], prediction=views['pred'])

  pretrained = {}
  if start:
    transfer.log_resized('contrast', stage.init_from, transfer.fmri_kwargs(start_info), data.num_voxels)
    pretrained = transfer.mae_to_mae(start, transfer.init_shapes(init), stage.init_from)

  return common.training(
    config,
    'contrast',
    data,
    init=init,
    loss=loss,
    trainable=common.ALL_BUT_POSITIONS,
    models=common.kwargs_of(mae),
    pretrained=pretrained,
    start={'init_from': start},
  )


def sources(config: ConfigDict) -> list[Source]:
  """The prepared data that contrast reads."""
  subjects = tuple(config.data.contrast_god_subjects)
  return [Source(god.DATA_SET.name, subjects)] * bool(subjects) + [Source(hcp.DATA_SET.name)] * bool(config.data.hcp)


def _sizes(config: ConfigDict, infos: Mapping[str, Mapping[str, Any]]) -> list[Sizes]:
  if 'init_from' not in infos:
    return []
  kwargs, source = transfer.fmri_kwargs(infos['init_from']), config.contrast.init_from
  depth = {name: kwargs[name] for name in ('decoder_depth',) if name in kwargs}
  return [Sizes('fmri_mae', kwargs, source), Sizes('contrast', depth, source)]


def _rules(config: ConfigDict) -> dict[str, Rule]:
  stage = config.contrast
  masked = stage.mask_loss and not config.released.no_mask_loss
  contrasted = stage.self_contrast and stage.self_weight or stage.cross_contrast and stage.cross_weight
  return {
    'contrast.mask_ratio': INNER_SHARE if masked else SHARE,
    'contrast.temperature': POSITIVE,
    'contrast.self_weight': NOT_NEGATIVE,
    'contrast.cross_weight': NOT_NEGATIVE,
    'contrast.mask_loss': Rule(
      lambda _: masked or contrasted,
      'True, where no contrastive loss is on with a weight: nothing is learned otherwise',
    ),
    'contrast.separate_loss': Rule(
      lambda x: not x or stage.cross_contrast and stage.cross_weight,
      'False where contrast.cross_contrast is off or has no weight: there is no second view then',
    ),
    'contrast.negatives': one_of('global', 'per_device', 'paired'),
    'contrast.decoder_depth': POSITIVE,
    'data.contrast_god_subjects': NAMES,
    'data.hcp_rois': Rule(
      lambda x: len(x) > 0 and NAMES.holds(x) and set(x) <= set(AREAS), f'some of {", ".join(AREAS)}'
    ),
    'data.hcp_subject_limit': NOT_NEGATIVE,
    'data.hcp_augmentation': Rule(lambda x: 1 <= x <= 100, 'between 1 and 100'),
  }


def _check(config: ConfigDict, stages: tuple[str, ...]) -> None:
  if config.contrast.select == 'best' and not config.data.contrast_god_subjects:
    raise UserError(
      'config.contrast.select is best, but config.data.contrast_god_subjects is empty. Only GOD stimuli '
      'are held out, so there is nothing to select by.'
    )


def rebuild(
  config: ConfigDict, params: Any, kwargs: Mapping[str, Any], fmri: np.ndarray, rows: arrays.ArrayDataset
) -> Mapping[str, jax.Array]:
  """Masked fMRI rebuilt by the stage's weights, for the report: fmri B V -> 'pred' B L P, 'mask' B L."""
  del rows
  mae = FmriMAE(**kwargs)
  noise = jax.random.uniform(jax.random.key(config.seed), (len(fmri), mae.num_patches))
  return jax.jit(mae.apply, static_argnums=3)({'params': params}, fmri, noise, config.contrast.mask_ratio)


STAGE = StageSpec(
  'contrast',
  make=make,
  weights=(WeightsField('init_from'),),
  sources=sources,
  train_rows=train_rows,
  sizes=_sizes,
  rules=_rules,
  check=_check,
  unused=('image_mae', 'first_stage', 'unet', 'conditioner'),
  uses_devices=lambda config: config.contrast.negatives == 'per_device',  # each contrasts its own rows
  rebuild=rebuild,
  release=Release('phase1'),
)
