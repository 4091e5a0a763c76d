"""The memory that a training step needs on a device, without compiling it: the choice behind `config.remat = 'auto'`."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from brainjax import sharding
from brainjax.models import recompute
from brainjax.stages.problem import Problem
from brainjax.train import cast_frozen
from brainjax.trees import flatten, split, unflatten

# Of a device's memory, for what `step_bytes` counts. The rest is for what one block computes, and for the compiler.
SHARE = 0.7


def choose_remat(problem: Problem, batch: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh, memory: int | None) -> str:
  """Returns what 'auto' stands for: 'cheap' where such a step fits into a device, else 'everything'.

  Args:
    problem: of the stage.
    batch: shapes of a whole batch.
    mesh: of all devices.
    memory: bytes of a device; None: 'everything' (see `memory_to_use`).
  """
  return 'cheap' if memory and step_bytes(problem, batch, mesh, 'cheap') <= SHARE * memory else 'everything'


def memory_to_use(mesh: Mesh) -> int | None:
  """Bytes that JAX may use of a GPU; None on a CPU and on a TPU.

  A CPU has its memory for other things too. A TPU is faster when it recomputes: what a scan keeps is copied
  (docs/performance.md).
  """
  device = mesh.local_devices[0]
  return device.memory_stats()['bytes_limit'] if device.platform == 'gpu' else None


def step_bytes(problem: Problem, batch: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh, remat: str) -> int:
  """Bytes on a device at the end of the forward pass: state, gradients, and all that the backward pass reads.

  Where `config.remat` is 'auto', it stands for `remat`.
  """
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(lambda k: flatten(problem.init(k)), key)
  trained, frozen = split(params, problem.trainable)
  optimizer = jax.eval_shape(problem.optimizer.init, trained)
  frozen = jax.eval_shape(lambda x: cast_frozen(problem, x, mesh), frozen)
  # Copies of parameters, cast or in layers of a scan, are as large on each device as the parameters; the rest is rows.
  copies = {shape for x in params.values() for shape in (x.shape, x.shape[1:])}
  kept = 0

  def forward(trained: Any, frozen: Any, batch: Any, key: Any) -> None:
    nonlocal kept
    loss = lambda trained: problem.loss(unflatten({**frozen, **trained}), batch, key)
    _, backward, _ = jax.vjp(loss, trained, has_aux=True)
    known = {id(x) for x in jax.tree.leaves((trained, frozen))}
    arrays = {id(x): x for x in jax.tree.leaves(backward) if id(x) not in known}
    kept = sum(_bytes(x) // (1 if x.shape in copies else mesh.size) for x in arrays.values())

  with recompute.auto_means(remat):
    jax.eval_shape(sharding.on_mesh(mesh, forward), trained, frozen, batch, key)
  return kept + sum(_shard_bytes(mesh, tree) for tree in (trained, trained, optimizer, frozen))


def _bytes(x: Any) -> int:
  return x.size * x.dtype.itemsize


def _shard_bytes(mesh: Mesh, tree: Any) -> int:
  """Bytes of a tree on a device, laid out by path."""
  leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(sharding.tree_shardings(mesh, tree)), strict=True)
  return sum(math.prod(layout.shard_shape(x.shape)) * x.dtype.itemsize for x, layout in leaves)
