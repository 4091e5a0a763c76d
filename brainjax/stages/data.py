"""Which rows each training stage reads, from the config: the bridge from `config.data` to datasets and loaders."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax.datasets import arrays, bold5000, god, hcp, loader, own, transforms
from brainjax.errors import UserError
from brainjax.stages.stage import Batches

DATASETS = {'god': god, 'bold5000': bold5000, 'own': own}  # config.data.dataset


class StageData(NamedTuple):
  """Training and validation batches of one stage, and their fMRI width V."""

  num_voxels: int
  train: Batches
  validation: Callable[[], Iterable[Mapping[str, np.ndarray]]] | None
  steps_per_epoch: int
  facts: dict[str, Any]  # of the rows: subjects, statistics, voxel counts


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
  """fMRI with pictures of `config.data.subjects`, then of `other_subjects`; options are those of `paired.load`."""
  data = config.data
  subjects = (*data.subjects, *data.other_subjects)
  shares = {data.subjects[0]: data.target_train_proportion}
  options = _options(config) | {'train_proportion': shares} | options
  return DATASETS[data.dataset].load(data.prepared, subjects, split=split, **options)


def target_rows(config: ConfigDict, split: str, **options: Any) -> arrays.ArrayDataset:
  """`rows` without those of `other_subjects`; as wide as with them."""
  found = rows(config, split, **options)
  return found.take(np.flatnonzero(found.columns['subject'] < len(config.data.subjects)))


def contrast(config: ConfigDict) -> StageData:
  """Resting-state windows, and the training fMRI of `contrast_god_subjects`, wrap-padded to the widest."""
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
    options = _options(config) | {'image_size': 0}
    for split in ('train', 'val') if data.num_val_stimuli else ('train',):
      parts[split].append(god.load(data.prepared, data.contrast_god_subjects, split=split, **options))
  if not parts['train']:
    raise UserError('config.data.hcp and config.data.contrast_god_subjects are both empty: contrast has no data to learn from.')
  width = max(part.num_voxels for part in parts['train'])
  train = arrays.JoinedDataset(parts['train'], width)
  val = arrays.JoinedDataset(parts['val'], width) if parts['val'] else None
  return _stage_data(config, 'contrast', train, val, width, _sparse(config))


def paired(
  config: ConfigDict,
  name: str,
  image_size: int,
  *,
  transform: loader.Transform | None = None,
  num_voxels: int | None = None,
  encode: Callable[[np.ndarray], np.ndarray] | None = None,
) -> StageData:
  """fMRI and pictures of `config.data.subjects`.

  Args:
    config: the run's.
    name: of the stage.
    image_size: pixels.
    transform: of one training item.
    num_voxels: wrap or cut fMRI to this width.
    encode: pictures P H W 3 uint8 -> latents P h w C; the batches then hold 'latent' instead of 'image'.
  """
  options = {'image_size': image_size, 'signed_unit': encode is None, 'num_voxels': num_voxels}

  def load(split: str) -> arrays.ArrayDataset:
    found = rows(config, split, **options)
    return dataclasses.replace(found, pictures=encode(found.pictures), picture_name='latent') if encode else found

  train = load('train')
  val = load('val') if config.data.num_val_stimuli else None
  return _stage_data(config, name, train, val, train.num_voxels, _chain(_sparse(config), transform))


def test(config: ConfigDict) -> arrays.ArrayDataset:
  """Averaged test trials of `config.data.subjects` with their pictures, uint8; for reconstruct and evaluate only."""
  raw_scale = config.released.god_test_raw_scale and config.data.dataset == 'god'
  return target_rows(config, 'test', image_size=config.data.image_size, test_raw_scale=raw_scale)


def _stage_data(config, name, train, val, width, transform) -> StageData:
  hosts = {'shard_index': jax.process_index(), 'shard_count': jax.process_count()}
  batch_size = (2 if name == 'diffuse' and config.released.batch_of_two else config[name].batch_size) // hosts[
    'shard_count'
  ]
  batches = loader.make_loader(train, batch_size, seed=config.seed, transform=transform, **hosts)

  # Contrast compares the rows of a batch, so a batch filled up with copies would mislead it.
  whole = name == 'contrast' and val is not None and len(val) >= batch_size * hosts['shard_count']

  def validation():
    return loader.make_loader(
      val, batch_size, seed=config.seed, shuffle=False, repeat=False, drop_remainder=whole, **hosts
    )

  return StageData(width, batches, validation if val is not None else None, batches.steps_per_epoch, dict(train.info))


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
