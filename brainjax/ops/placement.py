"""Where a program will run, as its trace sees it: the platform, and the devices that share the batch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh inside which this is traced (`sharding.on_mesh`), or JAX's default."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  name = device.platform if device else jax.default_backend()
  return 'gpu' if name in ('cuda', 'rocm') else name


def num_devices() -> int:
  """Devices that share the batch: all of that mesh."""
  return math.prod(jax.sharding.get_abstract_mesh().shape.values())


def runs_kernels(batch: int) -> bool:
  """Whether a TPU kernel can run on this batch. One that the devices cannot share is that of an initialisation."""
  return platform() == 'tpu' and batch % num_devices() == 0


def on_each_device(work: Callable[..., Any], *batches: jax.Array, shared: Sequence[jax.Array] = ()) -> Any:
  """work(*batches, *shared) with each device's part of the batches (axis 0) and all of the shared arrays.

  The compiler cannot split a kernel itself.
  """
  if num_devices() == 1:
    return work(*batches, *shared)
  rows = PartitionSpec(tuple(jax.sharding.get_abstract_mesh().axis_names))
  specs = (rows,) * len(batches) + (PartitionSpec(),) * len(shared)
  return jax.shard_map(work, in_specs=specs, out_specs=rows, check_vma=False)(*batches, *shared)
