"""Meshes: how batches and parameters lie on the devices of all hosts. The only place that knows about meshes."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from brainjax.errors import UserError

AXES = ('data', 'fsdp')
# Below this size a parameter costs less to keep whole on every device than to gather at each use.
MIN_SHARDED_SIZE = 2**16


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
  """A mesh `('data', 'fsdp')` over all devices of all hosts; -1 takes what the other axis leaves.

  Raises:
    UserError: the product is not the number of devices.
  """
  count = jax.device_count()
  sizes = [data, fsdp]
  if sizes.count(-1) == 1:
    known = math.prod(size for size in sizes if size != -1)
    if known > 0 and count % known == 0:
      sizes[sizes.index(-1)] = count // known
  if math.prod(sizes) != count or min(sizes) < 1:
    raise UserError(
      f'config.mesh is data={data}, fsdp={fsdp}, but there are {count} devices; the product must be {count} (-1: the rest).'
    )
  return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays whose first axis is the batch: split over every device."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def param_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
  """Splits the largest axis that `fsdp` divides; small arrays stay whole.

  Optimizer state has the shapes of its parameters and so falls under the same rule.
  """
  fsdp = mesh.shape['fsdp']
  if fsdp > 1 and math.prod(shape) >= MIN_SHARDED_SIZE:
    for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis]):
      if shape[axis] % fsdp == 0:
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, 'fsdp'))
  return replicated(mesh)


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
  """`param_sharding` of every leaf of a tree of arrays or ShapeDtypeStructs."""
  return jax.tree.map(lambda leaf: param_sharding(mesh, leaf.shape), tree)


def put_param(array: np.ndarray, mesh: Mesh) -> jax.Array:
  """An array that every host holds whole, laid out by `param_sharding`."""
  return jax.make_array_from_callback(array.shape, param_sharding(mesh, array.shape), lambda index: array[index])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This host's share of a batch (first axis: batch) to the devices.

  Raises:
    UserError: the share cannot be split over this host's devices.
  """
  sharding = batch_sharding(mesh)
  local = jax.local_device_count()
  for name, array in batch.items():
    if len(array) % local:
      raise UserError(
        f'a batch of {len(array)} items per host ({name}) cannot be split over {local} devices; choose a batch size that is a multiple.'
      )
  return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batch.items()}
