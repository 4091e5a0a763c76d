"""Which rows each training stage reads, from the config: the bridge from `config.data` to datasets and loaders."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax.datasets import arrays, god, hcp, loader, transforms
from brainjax.train import Batches


class StageData(NamedTuple):
  """Training and validation batches of one stage, and their fMRI width V."""

  num_voxels: int
  train: Batches
  validation: Callable[[], Iterable[Mapping[str, np.ndarray]]] | None
  steps_per_epoch: int
  facts: dict[str, Any]  # of the rows: subjects, statistics, voxel counts


def god_options(config: ConfigDict) -> dict[str, Any]:
  """Arguments of `god.load` that are the same for every split and stage."""
  data = config.data
  return {
    'roi': data.roi,
    'num_val_stimuli': data.num_val_stimuli,
    'val_seed': config.seed,
    'patch_size': config.fmri_mae.patch_size,
    'full_extra_patch': config.released.full_extra_patch,
    'train_proportion': {data.subjects[0]: data.target_train_proportion},
  }


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
    options = god_options(config) | {'train_proportion': {}, 'image_size': 0}
    for split in ('train', 'val') if data.num_val_stimuli else ('train',):
      parts[split].append(god.load(data.prepared, data.contrast_god_subjects, split=split, **options))
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
  data = config.data
  options = god_options(config) | {'image_size': image_size, 'signed_unit': encode is None, 'num_voxels': num_voxels}

  def load(split: str) -> arrays.ArrayDataset:
    rows = god.load(data.prepared, data.subjects, split=split, **options)
    return dataclasses.replace(rows, pictures=encode(rows.pictures), picture_name='latent') if encode else rows

  train = load('train')
  val = load('val') if data.num_val_stimuli else None
  return _stage_data(config, name, train, val, train.num_voxels, _chain(_sparse(config), transform))


def test(config: ConfigDict) -> arrays.ArrayDataset:
  """Averaged test trials of `config.data.subjects` with their pictures, uint8; for reconstruct and evaluate only."""
  options = god_options(config) | {'test_raw_scale': config.released.god_test_raw_scale}
  return god.load(config.data.prepared, config.data.subjects, split='test', image_size=config.data.image_size, **options)


def _stage_data(config, name, train, val, width, transform) -> StageData:
  hosts = {'shard_index': jax.process_index(), 'shard_count': jax.process_count()}
  batch_size = (2 if name == 'diffuse' and config.released.batch_of_two else config[name].batch_size) // hosts['shard_count']
  batches = loader.make_loader(train, batch_size, seed=config.seed, transform=transform, **hosts)

  def validation():
    return loader.make_loader(
      val, batch_size, seed=config.seed, shuffle=False, repeat=False, drop_remainder=False, **hosts
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
