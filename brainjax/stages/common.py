"""What training stages share: compute precision, optimizer and schedule from the stage's config, metrics of activations."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from brainjax import optim
from brainjax.checkpoints import weights_digest
from brainjax.stages import transfer
from brainjax.stages.data import StageData
from brainjax.stages.problem import Loss, Problem, Training

# What trains in a masked autoencoder: sin-cos position tables are stored as parameters and never train.
ALL_BUT_POSITIONS = r'^(?!.*(pos_embed|position_embeddings))'


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
    return optim.warmup_constant(stage.learning_rate, stage.warmup_epochs, steps_per_epoch)
  epochs = num_steps(stage, steps_per_epoch) / steps_per_epoch
  return optim.warmup_cosine(stage.learning_rate, min(stage.warmup_epochs, epochs / 2), epochs, steps_per_epoch)


def optimizer_of(
  stage: ConfigDict, learning_rate: optax.ScalarOrSchedule, **options: Any
) -> optax.GradientTransformation:
  """The optimizer of a stage's config; `options` are the other arguments of `optim.make`."""
  return optim.make(
    stage.optimizer,
    learning_rate,
    betas=tuple(stage.betas),
    weight_decay=stage.weight_decay,
    clip_norm=stage.clip_norm,
    **options,
  )


def training(
  config: ConfigDict,
  name: str,
  data: StageData,
  *,
  init: Callable[[jax.Array], Any],
  loss: Loss,
  trainable: str,
  models: Mapping[str, Any],
  pretrained: Mapping[str, np.ndarray] | None = None,
  start: Mapping[str, Mapping[str, np.ndarray]] | None = None,
  optimizer: Mapping[str, Any] | None = None,
  cosine: bool = True,
  **info: Any,
) -> Training:
  """A stage's `Training`: optimizer, schedule and length from `config.<name>`, everything else as given.

  Args:
    config: the run's.
    name: of the stage.
    data: its batches.
    init, loss, trainable, pretrained: see `Problem`.
    models: constructor arguments, which the finished weights carry.
    start: field of the stage's config -> the weights that it names (path -> array; empty: a random start).
    optimizer: arguments of `optim.make` that the config does not have.
    cosine: whether the rate decays.
    **info: more to save with the finished weights.
  """
  stage = config[name]
  rate = schedule(stage, data.steps_per_epoch, cosine)
  digests = {
    f'weights of {name}.{field}': weights_digest(flat) if flat else 'none' for field, flat in (start or {}).items()
  }
  info = {'inputs': data.inputs | digests, 'settings': models, **info}
  if data.num_voxels:
    info |= {'num_voxels': data.num_voxels, 'input': [transform.to_json() for transform in data.transforms]}
  optimizer = optimizer_of(stage, rate, **(optimizer or {}))
  problem = Problem(init, pretrained or {}, trainable, loss, optimizer, rate, compute_dtype(config))
  return Training(problem, data.train, data.validation, num_steps(stage, data.steps_per_epoch), info)


def prior_training(config: ConfigDict, name: str, data: StageData, **parts: Any) -> Training:
  """`training` of a stage that starts from the weights that its `init_from` names, if any.

  Raises:
    UserError: the start weights cannot be read.
  """
  start, _ = transfer.load_start_weights(config, name)
  return training(config, name, data, **{'pretrained': start, 'start': {'init_from': start}} | parts)


def extremes(weight: jax.Array, **activations: jax.Array) -> dict[str, jax.Array]:
  """`max_<name>` -> the largest magnitude of each array: metrics that show divergence before the loss does.

  Args:
    weight: B, of the rows. Padding has weight 0 and does not count.
    activations: B ..., or several views of the batch, one after the other.
  """

  def largest(x):
    rows = jnp.abs(jax.lax.stop_gradient(x)).reshape(len(x), -1).max(axis=1)
    return jnp.where(jnp.tile(weight, len(x) // len(weight)) > 0, rows, 0).max().astype(jnp.float32)

  return {f'max_{name}': largest(x) for name, x in activations.items()}


def kwargs_of(model: nn.Module) -> dict[str, Any]:
  """The constructor arguments of a model that decide its parameters: they are saved with its weights."""
  names = [field.name for field in dataclasses.fields(model) if field.name not in ('parent', 'name', 'dtype', 'remat')]
  return {name: getattr(model, name) for name in names}
