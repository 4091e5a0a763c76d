"""Meshes: how batches and parameters lie on the devices of all hosts. The only place that knows about meshes."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from brainjax.errors import UserError

AXES = ('data', 'fsdp')
# What `fsdp` splits, by path; everything else (biases, scales, tokens, position tables) is small and stays whole.
SPLIT = re.compile(r'(^|/)(kernel|embedding|codebook)\Z')
# Stacked layers: the first axis counts them, and a scan takes one at a time, so that axis is never split.
STACKED = re.compile(r'(^|/)blocks/')


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh `('data', 'fsdp')` over some devices, by default all of all hosts; -1 takes what the other axis leaves.

  The devices of a host follow each other, host after host: host k has the k-th part of the rows of every batch, however
  its chips lie in a pod. (`jax.make_mesh` would follow the wires instead, and spread a host's rows.)

  Raises:
    UserError: the product is not the number of devices.
  """
  devices = sorted(jax.devices() if devices is None else devices, key=lambda device: (device.process_index, device.id))
  count = len(devices)
  sizes = [data, fsdp]
  if sizes.count(-1) == 1:
    known = math.prod(size for size in sizes if size != -1)
    if known > 0 and count % known == 0:
      sizes[sizes.index(-1)] = count // known
  if math.prod(sizes) != count or min(sizes) < 1:
    raise UserError(
      f'config.mesh is data={data}, fsdp={fsdp}, but there are {count} devices; the product must be {count} (-1: the rest).'
    )
  return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays whose first axis is the batch: split over every device."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def param_sharding(mesh: Mesh, path: str, shape: Sequence[int]) -> NamedSharding:
  """Layout of the parameter at a path: its largest axis that `fsdp` divides is split; what is small stays whole."""
  fsdp = mesh.shape['fsdp']
  if fsdp > 1 and SPLIT.search(path):
    axes = range(1 if STACKED.search(path) else 0, len(shape))
    for axis in sorted(axes, key=lambda axis: -shape[axis]):
      if shape[axis] % fsdp == 0:
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, 'fsdp'))
  return replicated(mesh)


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
  """The layout of every leaf of a tree of arrays or ShapeDtypeStructs.

  Parameters, their gradients and an optimizer's moments lie in mappings whose keys are paths or parts of them, and all
  follow the path's rule; what has no path (counters) is on every device.
  """

  def layout(keys, leaf):
    path = '/'.join(key.key for key in keys if isinstance(key, jax.tree_util.DictKey))
    return param_sharding(mesh, path, leaf.shape)

  return jax.tree_util.tree_map_with_path(layout, tree)


def constrain(mesh: Mesh, tree: Any) -> Any:
  """Inside jit: gives every leaf its `tree_shardings`, whatever the compiler would have chosen."""
  return jax.lax.with_sharding_constraint(tree, tree_shardings(mesh, tree))


def put_param(path: str, array: np.ndarray, mesh: Mesh) -> jax.Array:
  """An array that every host holds whole, laid out by `param_sharding`."""
  return _put(array, param_sharding(mesh, path, array.shape))


def put_rows(rows: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Batches that every host holds whole (first axis: batch), split over all devices."""
  return {name: _put(np.asarray(array), batch_sharding(mesh)) for name, array in rows.items()}


def put_same(tree: Any, mesh: Mesh) -> Any:
  """A tree of host arrays and keys, the same on every host, to every device."""

  def put(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    return _put(np.asarray(x), replicated(mesh))

  return jax.tree.map(put, tree)


def _put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This host's share of a batch (first axis: batch) to the devices.

  Raises:
    UserError: the share cannot be split over this host's devices.
  """
  sharding = batch_sharding(mesh)
  local = len(sharding.addressable_devices)
  for name, array in batch.items():
    if len(array) % local:
      raise UserError(
        f'a batch of {len(array)} items per host ({name}) cannot be split over {local} devices; choose a batch size that is a multiple.'
      )
  return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batch.items()}


def padded(rows: int, devices: int | None = None) -> int:
  """The next multiple of the number of devices (by default all of all hosts)."""
  devices = devices or jax.device_count()
  return -(-rows // devices) * devices


def to_host(tree: Any) -> Any:
  """Whole NumPy arrays on every host, from arrays that may be split over devices of other hosts. Every host must call it."""

  def whole(x):
    return np.asarray(
      x if x.is_fully_addressable or x.is_fully_replicated else multihost_utils.process_allgather(x, tiled=True)
    )

  return jax.tree.map(whole, tree)


class RowMap:
  """Applies a function to any number of rows, over this host's devices, in batches of one shape (compiled once).

  Rows and parameters are split over all of them: a big classifier need not fit on one.

  Args:
    apply: (params, rows of the batch) -> rows.
    params: what the function needs, a nested tree or path -> array.
    batch_size: rows at a time; rounded up to the number of devices.
    prepare: applied to each batch on the host first.

  Attributes:
    params: as they lie on the devices; another map may take them.

  Example:
    encode = RowMap(lambda params, x: model.apply({'params': params}, x), params, 32)
    latents = encode(pictures)
  """

  def __init__(
    self,
    apply: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    batch_size: int,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
  ):
    self._mesh = make_mesh(1, -1, devices=jax.local_devices())
    self.params = jax.device_put(params, tree_shardings(self._mesh, params))
    self._size = padded(batch_size, self._mesh.size)
    self._apply, self._prepare = jax.jit(apply), prepare

  def __call__(self, rows: np.ndarray, done: Callable[[int], Any] = lambda count: None) -> np.ndarray:
    """Rows N ... -> N ..., as NumPy; `done` is told of each batch how many rows it had."""
    results, running = [], ()  # a batch is fetched when the next one is on its way

    def fetch(result: jax.Array, count: int) -> None:
      results.append(np.asarray(result)[:count])
      done(count)

    for start in range(0, len(rows), self._size):
      part = rows[start : start + self._size]
      count = len(part)
      part = self._prepare(part) if self._prepare else part
      part = np.concatenate([part, np.zeros((self._size - count, *part.shape[1:]), part.dtype)])
      ahead = self._apply(self.params, jax.device_put(part, batch_sharding(self._mesh))), count
      if running:
        fetch(*running)
      running = ahead
    fetch(*running)
    return np.concatenate(results)
