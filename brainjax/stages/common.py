"""What training stages share: compute precision, optimizer and schedule from the stage's config, metrics of activations."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from brainjax import optim
from brainjax.stages.problem import Batches, Loss, Problem, Training


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
  *,
  init: Callable[[jax.Array], Any],
  loss: Loss,
  trainable: str,
  pretrained: Mapping[str, np.ndarray],
  batches: Batches,
  validation: Callable[[], Iterable[Mapping[str, np.ndarray]]] | None,
  steps_per_epoch: int,
  info: Mapping[str, Any],
  optimizer: Mapping[str, Any],
  cosine: bool = True,
) -> Training:
  """A stage's `Training`: optimizer, schedule and length from `config.<name>`, everything else as given.

  Args:
    config: the run's.
    name: of the stage.
    init, loss, trainable, pretrained: see `Problem`.
    batches, validation, info: see `Training`.
    steps_per_epoch: the unit of the config's epochs.
    optimizer: arguments of `optim.make` that the config does not have.
    cosine: whether the rate decays.
  """
  stage = config[name]
  rate = schedule(stage, steps_per_epoch, cosine)
  problem = Problem(init, pretrained, trainable, loss, optimizer_of(stage, rate, **optimizer), rate)
  return Training(problem, batches, validation, num_steps(stage, steps_per_epoch), info)


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
