"""What the stages share: compute precision, optimizer and schedule from a stage's config, starting weights."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from brainjax import hosts, optim
from brainjax.checkpoints import load_weights, weights_digest
from brainjax.errors import UserError
from brainjax.trees import flatten, lists_to_tuples, subtree


def compute_dtype(config: ConfigDict) -> Any:
  """`config.dtype`, where 'auto' is bfloat16 on accelerators and float32 on CPU."""
  if config.dtype == 'auto':
    return jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
  return jnp.dtype(config.dtype)


def num_steps(stage: ConfigDict, steps_per_epoch: int) -> int:
  """`num_steps` if given, else `num_epochs` of `steps_per_epoch`."""
  return stage.num_steps or round(stage.num_epochs * steps_per_epoch)


def schedule(stage: ConfigDict, steps_per_epoch: int, cosine: bool = True) -> optax.Schedule:
  """Learning rate by step: warm-up, then cosine over the whole run or constant."""
  if not cosine:
    return optax.linear_schedule(
      0.0 if stage.warmup_epochs else stage.learning_rate,
      stage.learning_rate,
      round(stage.warmup_epochs * steps_per_epoch),
    )
  epochs = num_steps(stage, steps_per_epoch) / steps_per_epoch
  return optim.warmup_cosine(stage.learning_rate, min(stage.warmup_epochs, epochs / 2), epochs, steps_per_epoch)


def training_fields(
  config: ConfigDict, name: str, steps_per_epoch: int, *, cosine: bool = True, **optimizer: Any
) -> dict:
  """The fields of `train.Stage` that follow from `config.<name>`; `optimizer` goes to `optim.make`."""
  stage = config[name]
  rate = schedule(stage, steps_per_epoch, cosine)
  return {
    'name': name,
    'optimizer': optim.make(
      stage.optimizer,
      rate,
      betas=tuple(stage.betas),
      weight_decay=stage.weight_decay,
      clip_norm=stage.clip_norm,
      **optimizer,
    ),
    'learning_rate': rate,
    'num_steps': num_steps(stage, steps_per_epoch),
    'eval_every': stage.eval_every,
    'checkpoint_every': stage.checkpoint_every,
    'log_every': config.log_every,
    'skip_nonfinite': config.skip_nonfinite,
    'select': stage.select,
  }


def start_weights(
  source: str, field: str, what: str, random_init: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Weights to start from, or none where `random_init` allows it: (path -> array, info).

  Raises:
    UserError: there is nothing at `source`.
  """
  if random_init and not (source and Path(source).exists()):
    hosts.log(f'{field} is {source!r}: nothing there; {what} starts from random weights, as random_init says')
    return {}, {}
  try:
    return load_weights(source)
  except UserError as error:
    raise UserError(f'{field} = {source!r} is to give {what}: {error}') from error


def digests(sources: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, str]:
  """Field that named weights -> weights (path -> array): what they are -> SHA-256; of none, for a random start, none."""
  return {f'weights of {field}': weights_digest(flat) if flat else 'none' for field, flat in sources.items()}


def extremes(weight: jax.Array, **activations: jax.Array) -> dict[str, jax.Array]:
  """`max_<name>` -> the largest magnitude of each array: metrics that tell of divergence before the loss does.

  Args:
    weight: of the rows, B; those of weight 0 fill the batch up and do not count.
    activations: B ..., or several views of the batch, one after the other.
  """

  def largest(x):
    rows = jnp.abs(jax.lax.stop_gradient(x)).reshape(len(x), -1).max(axis=1)
    return jnp.where(jnp.tile(weight, len(x) // len(weight)) > 0, rows, 0).max().astype(jnp.float32)

  return {f'max_{name}': largest(x) for name, x in activations.items()}


def fresh_shapes(init: Callable[[jax.Array], Any]) -> dict[str, tuple[int, ...]]:
  """Path -> shape of what a stage's `init` would make, without making it."""
  shapes = jax.eval_shape(init, jax.random.key(0))
  return {path: tuple(x.shape) for path, x in flatten(shapes).items()}


def fmri_side(
  weights: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
  """(parameters, sizes) of the fMRI autoencoder in the weights of attend, or in those of an autoencoder alone."""
  sizes = info.get('settings', {})
  return subtree(weights, 'fmri') or weights, sizes.get('fmri', sizes)


def take_sizes(section: ConfigDict, sizes: Mapping[str, Any], source: str = '') -> None:
  """Sets the fields of a model's config to the sizes that its weights have, so that weights of any size just work.

  Args:
    section: of the config.
    sizes: those of the weights.
    source: the weights; named when what changes is told. Empty: it is not told.
  """
  other = {name: value for name, value in lists_to_tuples(sizes).items() if name in section and section[name] != value}
  if other and source:
    told = ', '.join(f'{name} {value} (config: {section[name]})' for name, value in other.items())
    hosts.log(f'the sizes of the weights {source} count, not those of the config: {told}')
  section.update(other)


def tell_resized(stage: str, source: str, sizes: Mapping[str, Any], num_voxels: int) -> None:
  """Says so when weights of another voxel count are used: their position tables are resized."""
  before = sizes.get('num_voxels', num_voxels)
  if before != num_voxels:
    hosts.log(
      f'{stage}: {source} is for {before} voxels, these data have {num_voxels}; position tables are resized (nearest)'
    )


def settings(model: nn.Module) -> dict[str, Any]:
  """The constructor arguments of a model that decide its parameters: what is saved with its weights."""
  names = [field.name for field in dataclasses.fields(model) if field.name not in ('parent', 'name', 'dtype', 'remat')]
  return {name: getattr(model, name) for name in names}
