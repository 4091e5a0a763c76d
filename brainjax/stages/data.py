"""Which rows each training stage reads, from the config: the bridge from `config.data` to datasets and loaders."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax import hosts, sharding
from brainjax.datasets import arrays, god, hcp, loader, paired_rows, registry, store, transforms
from brainjax.errors import UserError
from brainjax.ops import masking
from brainjax.stages.stage import Batches


class StageData(NamedTuple):
  """Training and validation batches of one stage, and their fMRI width V."""

  num_voxels: int
  train: Batches
  validation: Callable[[], Iterable[Mapping[str, np.ndarray]]] | None
  steps_per_epoch: int
  facts: dict[str, Any]  # of the rows: subjects, statistics, voxel counts
  inputs: dict[str, str]  # see `inputs`


def _options(config: ConfigDict) -> dict[str, Any]:
  """Arguments of `load` that are the same for every split and stage."""
  return {
    'roi': config.data.roi,
    'num_val_stimuli': config.data.num_val_stimuli,
    'val_seed': config.seed,
    'patch_size': config.fmri_mae.patch_size,
    'full_extra_patch': config.released.full_extra_patch,
  }


def rows(config: ConfigDict, split: str, **options: Any) -> arrays.ArrayDataset:
  """fMRI with pictures of `config.data.subjects`, then of `other_subjects`; options are those of `paired_rows.load`."""
  data = config.data
  subjects = (*data.subjects, *data.other_subjects)
  shares = {data.subjects[0]: data.target_train_proportion}
  options = _options(config) | {'train_proportion': shares} | options
  return paired_rows.load(registry.get(data.dataset), data.prepared, subjects, split=split, **options)


def target_rows(config: ConfigDict, split: str, **options: Any) -> arrays.ArrayDataset:
  """`rows` without those of `other_subjects`; as wide as with them."""
  found = rows(config, split, **options)
  return found.take(np.flatnonzero(found.columns['subject'] < len(config.data.subjects)))


def inputs(config: ConfigDict, name: str) -> dict[str, str]:
  """The raw files behind the data of a stage: what they are -> SHA-256 of all of them."""
  data = config.data
  data_set = god.DATA_SET if name == 'contrast' else registry.get(data.dataset)
  subjects = data.contrast_god_subjects if name == 'contrast' else (*data.subjects, *data.other_subjects)
  sources = {f'{data_set.name}/{subject}': data_set.open(data.prepared, subject) for subject in subjects}
  if name == 'contrast' and data.hcp:
    sources['hcp'] = hcp.DATA_SET.open(data.prepared)
  return {f'raw files of {source}': store.raw_digest(builder) for source, builder in sources.items()}


def check(config: ConfigDict, stages: Sequence[str]) -> None:
  """Opens the training data of all stages, so that what does not fit is told before the first one trains for days.

  Raises:
    UserError: an unknown ROI, nothing left to train on, a batch larger than the data, too few patches.
  """
  size = config.fmri_mae.patch_size
  train_rows = rows(config, 'train', image_size=0) if {'attend', 'diffuse'} & set(stages) else None
  for name in ('contrast', 'attend', 'diffuse'):
    if name not in stages:
      continue
    train = _contrast_rows(config)[0] if name == 'contrast' else train_rows
    patches = train.num_voxels // size
    if _batch_size(config, name) > len(train):
      raise UserError(
        f'config.{name}.batch_size is {config[name].batch_size}, but there are only {len(train)} training samples; '
        'choose a smaller one'
      )
    if patches < 2 or name != 'diffuse' and not masking.num_kept(patches, config[name].mask_ratio):
      raise UserError(
        f'config.fmri_mae.patch_size is {size}, which makes {patches} patches of {train.num_voxels} voxels: too few for '
        f'{name} and its mask ratio; choose smaller patches or an ROI with more voxels'
      )


def contrast(config: ConfigDict) -> StageData:
  """Resting-state windows, and the training fMRI of `contrast_god_subjects`, wrap-padded to the widest."""
  train, val = _contrast_rows(config)
  return _stage_data(config, 'contrast', train, val, train.num_voxels, _sparse(config))


def _contrast_rows(config: ConfigDict) -> tuple[arrays.JoinedDataset, arrays.JoinedDataset | None]:
  data = config.data
  parts: dict[str, list[arrays.Dataset]] = {'train': [], 'val': []}
  if data.hcp:
    parts['train'].append(
      hcp.load(
        data.prepared,
        data.hcp_rois,
        max_subjects=data.hcp_subject_limit or None,
        patch_size=config.fmri_mae.patch_size,
        augmentation_times=data.hcp_augmentation,
        augmentation_seed=config.seed,
        full_extra_patch=config.released.full_extra_patch,
      )
    )
  if data.contrast_god_subjects:
    # ROIs of other data sets have other names.
    options = _options(config) | {'image_size': 0} | ({} if data.dataset == 'god' else {'roi': 'VC'})
    for split in ('train', 'val') if data.num_val_stimuli else ('train',):
      parts[split].append(god.load(data.prepared, data.contrast_god_subjects, split=split, **options))
  if not parts['train']:
    raise UserError(
      'config.data.hcp and config.data.contrast_god_subjects are both empty: contrast has no data to learn from.'
    )
  width = max(part.num_voxels for part in parts['train'])
  train = arrays.JoinedDataset(parts['train'], width)
  return train, arrays.JoinedDataset(parts['val'], width) if parts['val'] else None


def paired(
  config: ConfigDict,
  name: str,
  image_size: int,
  *,
  transform: loader.Transform | None = None,
  num_voxels: int | None = None,
  encode: Callable[[np.ndarray, str], np.ndarray] | None = None,
) -> StageData:
  """fMRI and pictures of `config.data.subjects`.

  Args:
    config: the run's.
    name: of the stage.
    image_size: pixels.
    transform: of one training item.
    num_voxels: wrap or cut fMRI to this width.
    encode: (pictures P H W 3 uint8, split) -> latents P ...; the items then hold 'latent' instead of 'image'.
  """
  options = {'image_size': image_size, 'signed_unit': encode is None, 'num_voxels': num_voxels}

  def load(split: str) -> arrays.ArrayDataset:
    found = rows(config, split, **options)
    if not encode:
      return found
    return dataclasses.replace(found, pictures=encode(found.pictures, split), picture_name='latent')

  train = load('train')
  val = load('val') if config.data.num_val_stimuli else None
  return _stage_data(config, name, train, val, train.num_voxels, _chain(_sparse(config), transform))


def test(config: ConfigDict) -> arrays.ArrayDataset:
  """Averaged test trials of `config.data.subjects` with their pictures, uint8; for reconstruct and evaluate only."""
  raw_scale = config.released.god_test_raw_scale and config.data.dataset == 'god'
  return target_rows(config, 'test', image_size=config.data.image_size, test_raw_scale=raw_scale)


def _stage_data(config, name, train, val, width, transform) -> StageData:
  batch_size = _batch_size(config, name)
  shares = loader_shares(name, batch_size)
  batches = loader.make_loader(train, batch_size, seed=config.seed, transform=transform, **shares)

  def validation():
    return loader.make_loader(val, batch_size, seed=config.seed, shuffle=False, repeat=False, **shares)

  held_out = validation if val is not None else None
  return StageData(width, batches, held_out, batches.steps_per_epoch, dict(train.info), inputs(config, name))


def _batch_size(config: ConfigDict, name: str) -> int:
  return 2 if name == 'diffuse' and config.released.batch_of_two else config[name].batch_size


def loader_shares(name: str, batch_size: int) -> dict[str, int]:
  """Arguments of `make_loader` that give this host its part of a batch, filled up so that all devices share it evenly."""
  filled = sharding.padded(batch_size)
  if filled != batch_size:
    hosts.log(
      f'{name}: a batch of {batch_size} rows on {jax.device_count()} devices is filled up to {filled} rows, whose filling '
      'does not count; a multiple of the devices would use them all'
    )
  return {'filled_size': filled, 'shard_index': jax.process_index(), 'shard_count': jax.process_count()}


def _sparse(config: ConfigDict) -> loader.Transform | None:
  share = config.data.sparse_augmentation
  if not share:
    return None

  def transform(item, rng):
    return {**item, 'fmri': transforms.sparse(item['fmri'], rng, share)}

  return transform


def _chain(*steps: loader.Transform | None) -> loader.Transform | None:
  steps = [step for step in steps if step]
  if not steps:
    return None

  def transform(item, rng):
    for step in steps:
      item = step(item, rng)
    return item

  return transform
