"""Which rows each stage reads, from the config: the bridge from `config.data` to datasets and loaders."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax import hosts, sharding
from brainjax.datasets import arrays, loader, paired_rows, registry, store, transforms
from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import UserError
from brainjax.ops import masking
from brainjax.stages.problem import Batches
from brainjax.stages.registry import STAGES, Source


class StageData(NamedTuple):
  """What a stage trains on.

  Attributes:
    train: this host's share of the training batches.
    validation: gives this host's share of the validation batches; None where nothing is held out.
    steps_per_epoch: training steps.
    num_voxels: V, the width of the fMRI rows; 0 without fMRI.
    transforms: how the responses of each subject became rows.
    inputs: see `inputs`.
  """

  train: Batches
  validation: Callable[[], Iterable[Mapping[str, np.ndarray]]] | None
  steps_per_epoch: int = 1
  num_voxels: int = 0
  transforms: Sequence[InputTransform] = ()
  inputs: Mapping[str, str] = MappingProxyType({})


def row_options(config: ConfigDict) -> dict[str, Any]:
  """Arguments of `paired_rows.load` that are the same for every split and stage."""
  data_set = registry.get(config.data.dataset)
  return {
    'roi': config.data.roi,
    'num_val_stimuli': config.data.num_val_stimuli,
    'val_seed': config.seed,
    'patch_size': config.fmri_mae.patch_size,
    'train_sessions': config.data.train_sessions,
    'zscore': registry.zscore_of(config.data.dataset, config.data.zscore),
    'full_extra_patch': config.released.full_extra_patch,
    'test_scale': config.data.test_scale,
    'test_raw_scale': config.released.god_test_raw_scale and data_set.released_raw_scale,
  }


def rows(config: ConfigDict, split: str, subjects: Sequence[str] = (), **options: Any) -> arrays.ArrayDataset:
  """fMRI with pictures.

  Args:
    config: the run's.
    split: see `paired_rows.load`.
    subjects: whose; empty: `config.data.subjects`, then `other_subjects`.
    **options: of `paired_rows.load`, in place of the config's.

  Raises:
    UserError: as `paired_rows.load`, or the data set is unknown.
  """
  data = config.data
  subjects = subjects or (*data.subjects, *data.other_subjects)
  shares = {name: data.target_train_proportion for name in data.subjects[:1] if name in subjects}
  options = row_options(config) | {'train_proportion': shares} | options
  return paired_rows.load(registry.get(data.dataset), data.prepared, subjects, split=split, **options)


def target_rows(config: ConfigDict, split: str, **options: Any) -> arrays.ArrayDataset:
  """`rows` without those of `other_subjects`; as wide as with them.

  Raises:
    UserError: as `rows`.
  """
  everything = rows(config, split, **options)
  return everything.take(np.flatnonzero(everything.columns['subject'] < len(config.data.subjects)))


def training_rows(config: ConfigDict, split: str, **options: Any) -> arrays.ArrayDataset:
  """`rows` that attend and diffuse train on or validate with: with `data.leave_out_subjects` those of `other_subjects` alone."""
  everything = rows(config, split, **options)
  if not config.data.leave_out_subjects:
    return everything
  return everything.take(np.flatnonzero(everything.columns['subject'] >= len(config.data.subjects)))


def train_rows(config: ConfigDict) -> arrays.ArrayDataset:
  """Training rows of attend and diffuse, without pictures.

  Raises:
    UserError: as `rows`.
  """
  return training_rows(config, 'train', image_size=0)


def test(config: ConfigDict, fitted: Mapping[str, InputTransform] | None = None) -> arrays.ArrayDataset:
  """Averaged test trials of `config.data.subjects` with their pictures, uint8; for reconstruct and evaluate only.

  Args:
    config: the run's.
    fitted: subject -> the input transform of the weights in use, see `paired_rows.load`.

  Raises:
    UserError: as `rows`.
  """
  return target_rows(config, 'test', image_size=config.data.image_size, fitted=fitted)


def paired_sources(config: ConfigDict) -> list[Source]:
  """The prepared data of stages that read fMRI with pictures."""
  return [Source(config.data.dataset, (*config.data.subjects, *config.data.other_subjects))]


def inputs(config: ConfigDict, sources: Sequence[Source]) -> dict[str, str]:
  """The raw files behind prepared data: description -> SHA-256 of all of them.

  Raises:
    UserError: data are not prepared, or damaged.
  """
  builders = {
    f'{source.data_set}/{subject}' if subject else source.data_set: registry.get(source.data_set).open(
      config.data.prepared, subject
    )
    for source in sources
    for subject in source.subjects or ('',)
  }
  return {f'raw files of {name}': store.raw_digest(builder) for name, builder in builders.items()}


def check(config: ConfigDict, stages: Sequence[str]) -> None:
  """Opens the training data of all stages, so that a misfit is reported before the first one trains for days.

  Raises:
    UserError: an unknown ROI, nothing left to train on, a batch larger than the data, too few patches.
  """
  readers = {STAGES[name].train_rows for name in stages} - {None}
  datasets = {reader: reader(config) for reader in readers}
  for name in stages:
    if not (reader := STAGES[name].train_rows):
      continue
    data = datasets[reader]
    patch_size, width = config.fmri_mae.patch_size, data.num_voxels
    if batch_size(config, name) > len(data):
      raise UserError(
        f'config.{name}.batch_size is {batch_size(config, name)}, but there are only {len(data)} training samples; '
        'choose a smaller one'
      )
    num_patches = width // patch_size
    if num_patches < 2 or not masking.num_kept(num_patches, config[name].get('mask_ratio', 0.0)):
      raise UserError(
        f'config.fmri_mae.patch_size is {patch_size}, which makes {num_patches} patches of {width} voxels: too few for '
        f'{name} and its mask ratio; choose smaller patches or an ROI with more voxels'
      )


def paired(
  config: ConfigDict,
  stage: str,
  image_size: int,
  *,
  transform: loader.Transform | None = None,
  num_voxels: int | None = None,
  encode: Callable[[np.ndarray, str], np.ndarray] | None = None,
) -> StageData:
  """fMRI and pictures of `config.data.subjects` and `other_subjects`.

  Args:
    config: the run's.
    stage: name.
    image_size: pixels.
    transform: of one training item.
    num_voxels: repeat or cut voxels to this width.
    encode: (pictures P H W 3 uint8, split) -> latents P ...; the items then hold 'latent' instead of 'image'.

  Raises:
    UserError: as `rows` and `make`.
  """
  options = {'image_size': image_size, 'signed_unit': encode is None, 'num_voxels': num_voxels}

  def load(split: str, fitted: Mapping[str, InputTransform] | None = None) -> arrays.ArrayDataset:
    data = training_rows(config, split, fitted=fitted, **options)
    if not encode:
      return data
    return dataclasses.replace(data, pictures=encode(data.pictures, split), picture_name='latent')

  train = load('train')
  val = load('val', train.info['transforms']) if config.data.num_val_stimuli else None
  sources = paired_sources(config)
  return make(config, stage, sources, train, val, list(train.info['transforms'].values()), transform)


def make(
  config: ConfigDict,
  stage: str,
  sources: Sequence[Source],
  train: arrays.Dataset,
  val: arrays.Dataset | None,
  input_transforms: Sequence[InputTransform] = (),
  transform: loader.Transform | None = None,
) -> StageData:
  """The data of a stage.

  Args:
    config: the run's.
    stage: name.
    sources: the prepared data that the rows come from.
    train, val: rows.
    input_transforms: of the subjects in `train`.
    transform: of one training item, after `data.sparse_augmentation`.

  Raises:
    UserError: the batch is larger than the data, or prepared data are damaged.
  """
  size = batch_size(config, stage)
  shares = loader_shares(stage, size)
  if share := config.data.sparse_augmentation:
    transform = _sparse(share, transform)
  batches = loader.make_loader(
    train, size, seed=config.seed, transform=transform, balance=config.data.balance, **shares
  )

  def validation():
    return loader.make_loader(val, size, seed=config.seed, shuffle=False, repeat=False, **shares)

  return StageData(
    batches,
    None if val is None else validation,
    batches.steps_per_epoch,
    train.num_voxels,
    input_transforms,
    inputs(config, sources),
  )


def batch_size(config: ConfigDict, stage: str) -> int:
  """Rows of a batch over all devices."""
  own = STAGES[stage].batch_size
  return own(config) if own else config[stage].batch_size


def loader_shares(stage: str, size: int) -> dict[str, int]:
  """Arguments of `make_loader` that give this host its part of a batch, padded so that all devices share it evenly."""
  padded = sharding.padded(size)
  if padded != size:
    hosts.log(
      f'{stage}: a batch of {size} rows on {jax.device_count()} devices is padded to {padded} rows. The padding does not '
      'affect the loss; a multiple of the number of devices would use them all'
    )
  return {'filled_size': padded, 'shard_index': jax.process_index(), 'shard_count': jax.process_count()}


def _sparse(share: float, then: loader.Transform | None) -> loader.Transform:
  """Sets a share of the voxels to zero, then applies the other transform."""

  def transform(item, rng):
    item = {**item, 'fmri': transforms.sparse(item['fmri'], rng, share)}
    return then(item, rng) if then else item

  return transform
