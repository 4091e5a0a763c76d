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
from brainjax.datasets import arrays, paired_rows
from brainjax.datasets import registry as data_sets
from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import UserError
from brainjax.models.dense import cast_kernels
from brainjax.models.fmri_mae import FmriMAE, fmri_kwargs, fmri_weights
from brainjax.ops import losses, patches
from brainjax.rules import INNER_SHARE, NAMES, NOT_NEGATIVE, POSITIVE, SHARE, Rule, one_of
from brainjax.stages import common, transfer
from brainjax.stages import data as stage_data
from brainjax.stages.problem import Training
from brainjax.stages.registry import HeldOut, Release, Sizes, Source, StageSpec, WeightsField


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


def _unpaired(config: ConfigDict) -> list[str]:
  """The data sets without pictures that the config has raw folders of: names."""
  return [name for name, each in data_sets.DATA_SETS.items() if each.unpaired and config.data.get(each.raw_field)]


def _subject_fields(config: ConfigDict) -> dict[str, str]:
  """Data set with pictures -> field of `config.data` that names the subjects whose training fMRI contrast reads."""
  fields = {name: f'contrast_{name}_subjects' for name in data_sets.with_pictures()}
  return {name: field for name, field in fields.items() if field in config.data}


def _paired(config: ConfigDict) -> dict[str, tuple[str, ...]]:
  """Data set with pictures -> subjects whose training fMRI contrast reads."""
  return {name: tuple(config.data[field]) for name, field in _subject_fields(config).items() if config.data[field]}


def train_rows(config: ConfigDict) -> arrays.JoinedDataset:
  """Data without pictures, then the training fMRI of data with pictures, repeated to the width of the widest.

  Raises:
    UserError: the config names no data, or they are missing or damaged.
  """
  parts: list[arrays.Dataset] = _unpaired_rows(config, 'train')
  parts += _paired_rows(config, 'train')
  if not parts:
    fields = [each.raw_field for each in data_sets.DATA_SETS.values() if each.unpaired]
    fields += _subject_fields(config).values()
    raise UserError(
      f'contrast has no data to learn from: config.data.{", config.data.".join(fields)} are empty; fill one in.'
    )
  return arrays.JoinedDataset(parts, max(part.num_voxels for part in parts))


def _unpaired_rows(config: ConfigDict, split: str) -> list[arrays.Dataset]:
  """The rows without pictures of each data set that has some in this split."""
  parts = []
  for name in _unpaired(config):
    data_set = data_sets.get(name)
    options = {field: config.data[field] for field in data_set.fields}
    part = data_set.unpaired(
      config.data.prepared,
      split,
      patch_size=config.fmri_mae.patch_size,
      full_extra_patch=config.released.full_extra_patch,
      seed=config.seed,
      **options,
    )
    parts += [] if part is None else [part]
  return parts


def _paired_rows(
  config: ConfigDict, split: str, fitted: Mapping[str, InputTransform] | None = None
) -> list[arrays.ArrayDataset]:
  options = stage_data.row_options(config) | {'image_size': 0, 'fitted': fitted}
  parts = []
  for name, subjects in _paired(config).items():
    data_set = data_sets.get(name)
    own = {}
    if name != config.data.dataset:  # other data have other ROIs and sessions
      zscore = 'voxel' if options['zscore'] == 'voxel_session' else options['zscore']
      own = {'roi': data_set.default_roi, 'zscore': zscore, 'train_sessions': 0}
    parts.append(paired_rows.load(data_set, config.data.prepared, subjects, split=split, **options | own))
  return parts


def _data(config: ConfigDict) -> stage_data.StageData:
  train = train_rows(config)
  fitted = {
    subject: transform for part in train.parts for subject, transform in part.info.get('transforms', {}).items()
  }
  transforms = [transform.with_width(train.num_voxels) for transform in fitted.values()]
  held_out: list[arrays.Dataset] = _unpaired_rows(config, 'val')
  if fitted and config.data.num_val_stimuli:
    held_out += [
      part for part in _paired_rows(config, 'val', fitted) if len(part)
    ]  # held out may be what nobody here saw
  val = arrays.JoinedDataset(held_out, train.num_voxels) if held_out else None
  return stage_data.make(config, 'contrast', sources(config), train, val, transforms)


def make(config: ConfigDict, mesh: Mesh) -> Training:
  """The stage; its weights are those of one `FmriMAE`.

  Raises:
    UserError: the start weights are missing or do not fit.
  """
  stage = config.contrast
  start, start_info = transfer.load_start_weights(config, 'contrast')
  start = fmri_weights(start)
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
    transfer.log_resized('contrast', stage.init_from, fmri_kwargs(start_info), data.num_voxels)
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
  return [Source(*each) for each in _paired(config).items()] + [Source(name) for name in _unpaired(config)]


def _sizes(config: ConfigDict, infos: Mapping[str, Mapping[str, Any]]) -> list[Sizes]:
  if 'init_from' not in infos:
    return []
  kwargs, source = fmri_kwargs(infos['init_from']), config.contrast.init_from
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
      'True while no contrastive loss is on, because nothing would be learned',
    ),
    'contrast.separate_loss': Rule(
      lambda x: not x or stage.cross_contrast and stage.cross_weight,
      'False while contrast.cross_contrast is off or its weight is 0, because there is no second view',
    ),
    'contrast.negatives': one_of('global', 'per_device', 'paired'),
    'contrast.decoder_depth': POSITIVE,
    **{f'data.{field}': NAMES for field in _subject_fields(config).values()},
  }


def _held_out(config: ConfigDict) -> HeldOut:
  paired = config.data.num_val_stimuli and any(_paired(config).values())
  fields = ', '.join(f'config.data.{field}' for field in _subject_fields(config).values())
  return HeldOut(
    bool(paired or config.data.hcp and config.data.hcp_val_subjects),
    'no data are held out to select by: set config.data.hcp_val_subjects (with config.data.hcp), or config.data.num_val_stimuli '
    f'with one of {fields}',
  )


def _check(config: ConfigDict, stages: tuple[str, ...]) -> None:
  subjects = [subject for of_set in _paired(config).values() for subject in of_set]
  if len(set(subjects)) < len(subjects):
    raise UserError(
      f'contrast would learn from two subjects with the same name: {", ".join(map(str, _paired(config).items()))}; weights '
      'identify subjects by name. Leave one out, or prepare it under another name.'
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
  held_out=_held_out,
  rules=_rules,
  check=_check,
  unused=('image_mae', 'first_stage', 'unet', 'conditioner'),
  uses_devices=lambda config: config.contrast.negatives == 'per_device',  # each contrasts its own rows
  curves={
    'mask_loss': 'mean squared error of masked patches; 1: no better than the mean',
    'self_contrast': 'reconstruction against its own input; chance: log of the batch size',
    'self_contrast_view2': 'the same for the second view',
    'cross_contrast': 'two masked views against each other; chance: log of the batch size',
    'correlation': 'of predicted with real masked patches',
  },
  rebuild=rebuild,
  release=Release('phase1'),
)
