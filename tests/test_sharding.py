"""Meshes and layouts on eight virtual devices, in a process of its own."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from brainjax import sharding
from brainjax.errors import UserError

SCRIPT = """
import os
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
import numpy as np
from brainjax import sharding
mesh = sharding.make_mesh(-1, 2)
assert mesh.shape == {'data': 4, 'fsdp': 2}, mesh.shape
wide = sharding.put_param('a/kernel', np.arange(512 * 256, dtype=np.float32).reshape(256, 512), mesh)
assert wide.addressable_shards[0].data.shape == (256, 256), wide.sharding
odd = sharding.put_param('a/kernel', np.ones((7, 8), np.float32), mesh)
assert odd.addressable_shards[0].data.shape == (7, 4)
small = sharding.put_param('a/bias', np.ones((7, 8), np.float32), mesh)
assert small.addressable_shards[0].data.shape == (7, 8)
batch = sharding.put_batch({'x': np.arange(16.0)}, mesh)['x']
assert [float(s.data[0]) for s in batch.addressable_shards] == [0, 2, 4, 6, 8, 10, 12, 14]
# Rows in evaluation: nine in batches of eight, every parameter split over all devices.
kernel, rows = np.arange(56, dtype=np.float32).reshape(7, 8), np.arange(63, dtype=np.float32).reshape(9, 7)
mapped = sharding.RowMap(lambda params, x: x @ params['a']['kernel'], {'a': {'kernel': kernel}}, 3)
assert mapped.params['a']['kernel'].addressable_shards[0].data.shape == (7, 1)
np.testing.assert_array_equal(mapped(rows), rows @ kernel)
"""


def test_layouts_on_eight_devices():
  done = subprocess.run([sys.executable, '-c', SCRIPT], capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr


@dataclasses.dataclass(frozen=True)
class Chip:
  id: int
  process_index: int


# Four hosts of 2 x 2 chips in a 4 x 4 torus whose chips are numbered along its rows: no host has four in a row.
@pytest.mark.parametrize('data, fsdp', [(16, 1), (4, 4), (2, 8), (1, 16)])
def test_a_host_has_its_part_of_the_rows_wherever_its_chips_lie(data, fsdp):
  chips = [Chip(row * 4 + column, row // 2 * 2 + column // 2) for row in range(4) for column in range(4)]
  mesh = sharding.make_mesh(data, fsdp, chips)
  assert mesh.shape == {'data': data, 'fsdp': fsdp}
  rows = sharding.batch_sharding(mesh).devices_indices_map((32,))
  for host in range(4):
    held = np.concatenate([np.arange(32)[rows[chip]] for chip in chips if chip.process_index == host])
    assert sorted(held) == list(range(8 * host, 8 * host + 8))


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
  with pytest.raises(UserError, match='config.mesh'):
    sharding.make_mesh(3, 5)
  assert sharding.make_mesh(-1, 1).size >= 1
