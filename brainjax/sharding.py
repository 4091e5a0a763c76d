"""Meshes: how batches and parameters are laid out on the devices of all hosts. No other module knows the layout."""

import functools
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
# Paths of parameters that `fsdp` splits. The others (biases, scales, tokens, position tables) are small: every device has
# them whole.
SPLIT = re.compile(r'(^|/)(kernel|embedding|codebook)\Z')
# Stacked layers: the first axis is never split, because a scan reads one layer at a time.
STACKED = re.compile(r'(^|/)blocks/')


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Makes a mesh `('data', 'fsdp')`.

  Devices are sorted by host: host k has the k-th part of the rows of every batch, wherever its chips are in a pod.
  (`jax.make_mesh` follows the wires between chips, and spreads the rows of a host.)

  Args:
    data: devices along `data`; -1: as many as `fsdp` leaves.
    fsdp: devices along `fsdp`, over which parameters are split; -1: as many as `data` leaves.
    devices: to use; None: all devices of all hosts.

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
  """Returns the layout of arrays whose first axis is the batch: split over every device."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the layout of arrays that every device has whole."""
  return NamedSharding(mesh, PartitionSpec())


def param_sharding(mesh: Mesh, path: str, shape: Sequence[int]) -> NamedSharding:
  """Returns the layout of the parameter at a path: `fsdp` splits its largest axis that it divides, or none."""
  fsdp = mesh.shape['fsdp']
  if fsdp > 1 and SPLIT.search(path):
    axes = range(1 if STACKED.search(path) else 0, len(shape))
    for axis in sorted(axes, key=lambda axis: -shape[axis]):
      if shape[axis] % fsdp == 0:
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, 'fsdp'))
  return replicated(mesh)


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
  """Returns the layout of every leaf of a tree of arrays or ShapeDtypeStructs.

  The keys of mappings on the way to a leaf are its path: parameters, gradients and an optimizer's moments of one path have
  the same layout. A leaf without a path (a counter) is on every device.
  """

  def layout(keys, leaf):
    path = '/'.join(key.key for key in keys if isinstance(key, jax.tree_util.DictKey))
    return param_sharding(mesh, path, leaf.shape)

  return jax.tree_util.tree_map_with_path(layout, tree)


def on_mesh(mesh: Mesh, function: Callable) -> Callable:
  """The function, to be jitted, traced inside the mesh: attention then knows which devices share the batch."""

  @functools.wraps(function)
  def traced(*args, **kwargs):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args, **kwargs)

  return traced


def constrain(mesh: Mesh, tree: Any) -> Any:
  """Inside jit: lays every leaf out by `tree_shardings` instead of the compiler's choice."""
  return jax.lax.with_sharding_constraint(tree, tree_shardings(mesh, tree))


def put_param(path: str, array: np.ndarray, mesh: Mesh) -> jax.Array:
  """Puts a parameter, which every host has whole, on the devices by `param_sharding`."""
  return _put(array, param_sharding(mesh, path, array.shape))


def put_rows(rows: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Splits batches that every host has whole over all devices (first axis: batch)."""
  return {name: _put(np.asarray(array), batch_sharding(mesh)) for name, array in rows.items()}


def put_same(tree: Any, mesh: Mesh) -> Any:
  """Puts a tree of arrays and keys, the same on every host, on every device."""

  def put(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    return _put(np.asarray(x), replicated(mesh))

  return jax.tree.map(put, tree)


def _put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Puts this host's rows of a batch on its devices (first axis: batch).

  Raises:
    UserError: the number of rows is not a multiple of the number of devices.
  """
  sharding = batch_sharding(mesh)
  local = len(sharding.addressable_devices)
  for name, array in batch.items():
    if len(array) % local:
      raise UserError(
        f'a batch of {len(array)} rows per host ({name}) cannot be divided among its {local} devices; choose a batch size '
        'that is a multiple of the number of all devices.'
      )
  return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batch.items()}


def padded(rows: int, devices: int | None = None) -> int:
  """Rounds a number of rows up to a multiple of the number of devices (None: all devices of all hosts)."""
  devices = devices or jax.device_count()
  return -(-rows // devices) * devices


def to_host(tree: Any) -> Any:
  """Gathers whole NumPy arrays on every host. Every host must call it."""

  def whole(x):
    return np.asarray(
      x if x.is_fully_addressable or x.is_fully_replicated else multihost_utils.process_allgather(x, tiled=True)
    )

  return jax.tree.map(whole, tree)


class RowMap:
  """Applies a function to any number of rows on this host's devices, in batches of one shape (compiled once).

  Rows and parameters are split over the devices: a big classifier need not fit on one.

  Args:
    apply: (params, rows of the batch) -> rows.
    params: a nested tree, or path -> array.
    batch_size: rows at a time; rounded up to a multiple of the number of devices.
    prepare: applied to each batch on the host first.

  Attributes:
    params: on the devices; another map can share them.

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
    self._apply, self._prepare = jax.jit(on_mesh(self._mesh, apply)), prepare

  def __call__(self, rows: np.ndarray, done: Callable[[int], Any] = lambda count: None) -> np.ndarray:
    """Maps rows N ... to NumPy rows N ...; calls `done` with the number of rows of each finished batch."""
    results, running = [], ()  # a batch is fetched once the next one runs

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
