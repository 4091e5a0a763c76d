"""The stages of a config without their data: for measuring what they cost."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from brainjax import reconstruct, sharding, train
from brainjax.ops import diffusion
from brainjax.stages import attend, contrast, diffuse, first_stage
from brainjax.stages import data as stage_data
from brainjax.stages.problem import Training
from brainjax.trees import flatten, split, subtree, unflatten

STEPS_PER_EPOCH = 150  # only the schedule depends on it


def make(name, config, mesh, num_voxels: int) -> Training:
  """The stage as `launch.py` makes it, but for its batches; random weights."""
  data = stage_data.StageData(None, None, STEPS_PER_EPOCH, num_voxels)
  with (
    mock.patch.object(contrast, '_data', lambda *_: data),
    mock.patch.object(stage_data, 'paired', lambda *_, **__: data),
    contextlib.redirect_stdout(sys.stderr),  # that there are no weights to start from
  ):
    return {'contrast': contrast, 'attend': attend, 'diffuse': diffuse}[name].make(config, mesh)


def shapes(name: str, config, num_rows: int, num_voxels: int) -> dict[str, tuple[int, ...]]:
  """Field of a batch -> its shape."""
  sides = {'attend': config.image_mae.image_size, 'diffuse': config.data.image_size}
  found = {'fmri': (num_rows, num_voxels), 'weight': (num_rows,)}
  if name == 'diffuse' and config.diffuse.cached_crops:
    found['latent'] = (num_rows, *first_stage.model(config).latent_shape)
  elif name in sides:
    found['image'] = (num_rows, sides[name], sides[name], 3)
  return found


def abstract_step(stage: Training, batch_shapes: Mapping[str, tuple[int, ...]], mesh) -> tuple[Callable, tuple]:
  """(the jitted step, its arguments: shapes with their layout on the mesh); nothing is allocated."""
  batch = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding.batch_sharding(mesh))
    for name, shape in batch_shapes.items()
  }
  problem, key = stage.problem, jax.eval_shape(lambda: jax.random.key(0))
  trained, frozen = split(laid_out(mesh, jax.eval_shape(lambda k: flatten(problem.init(k)), key)), problem.trainable)
  frozen = laid_out(mesh, jax.eval_shape(lambda params: train.cast_frozen(problem, params, mesh), frozen))
  optimizer_state = laid_out(mesh, jax.eval_shape(problem.optimizer.init, trained))
  counter = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh))
  state = train.TrainState(step=counter, nonfinite=counter, params=trained, opt_state=optimizer_state)
  step = train.make_step(problem.loss, problem.optimizer, problem.learning_rate, mesh)
  return step, (state, frozen, batch, key)


def abstract_stage(name: str, config, mesh, rows: int, num_voxels: int) -> tuple[Callable, tuple]:
  """(a stage's jitted step, its arguments): what `abstract_step` gives for a batch of so many rows."""
  stage = make(name, config, mesh, num_voxels)
  return abstract_step(stage, shapes(name, config, rows, num_voxels), mesh)


def abstract_sampler(name: str, config, mesh, rows: int, num_voxels: int) -> tuple[Callable, tuple]:
  """(the jitted sampler: conditioner, every step, decoder; its arguments). `name`: its section of the config."""
  parts = diffuse.models(config, num_voxels)
  key = jax.eval_shape(lambda: jax.random.key(0))
  flat = laid_out(mesh, jax.eval_shape(lambda k: flatten(parts.init_params(k)), key))
  params = {part: unflatten(subtree(flat, part)) for part in parts._fields}
  fields = {'fmri': ((rows, num_voxels), jnp.float32), 'item': ((rows,), jnp.int32), 'sample': ((rows,), jnp.int32)}
  batch = {
    field: jax.ShapeDtypeStruct(shape, kind, sharding=sharding.batch_sharding(mesh))
    for field, (shape, kind) in fields.items()
  }
  options = {field: config[name][field] for field in ('num_steps', 'sampler', 'eta', 'guidance')}
  options |= {'guided': options['guidance'] != 1, 'noisy': options['eta'] != 0}
  sample = sharding.on_mesh(mesh, partial(reconstruct._sample, parts, diffusion.make_schedule(), **options))
  return jax.jit(sample, out_shardings=sharding.replicated(mesh)), (params, batch, key)


def laid_out(mesh, tree: Any) -> Any:
  """ShapeDtypeStructs that carry the layout of the path's rule."""
  return jax.tree.map(
    lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), tree, sharding.tree_shardings(mesh, tree)
  )
