"""Prints the memory that training steps and the sampler need on each device at full size, as the compiler computes it.

python -m benchmarks.memory --target=v5e --devices=1,8,64,256 --fsdp=1,8

Nothing is allocated. For TPUs, `pip install "libtpu==0.0.42.*"` (the version that jax[tpu] of the pinned jax has); no TPU is
needed, the compiler runs on any Linux machine. `--target=cpu` compiles for virtual CPU devices; docs/scale.md compares these
numbers with those of a GPU.
"""

import argparse
import contextlib
import os
import re
import sys
import time

from benchmarks.rows import VOXELS

FLAGS = (
  '--xla_force_host_platform_device_count={} --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true '
  # The order of operations that needs the least memory, as accelerators choose it, and not the most threads.
  '--xla_cpu_enable_concurrency_optimized_scheduler=false'
)
STAGES = ('contrast', 'attend', 'diffuse', 'reconstruct')
# Number of chips -> name of the slice in JAX. For other numbers the next larger slice is used.
SLICES = {
  'v5e': {4: 'v5e:2x2', 8: 'v5e:2x4', 64: 'v5e:8x8', 256: 'v5e:16x16'},
  'v4': {4: 'v4:2x2x1', 8: 'v4:2x2x2', 64: 'v4:4x4x4', 256: 'v4:4x8x8'},
}


def main() -> None:
  """Prints a Markdown table, each row as soon as it is compiled."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--target', default='v5e', choices=('v5e', 'v4', 'cpu'))
  parser.add_argument('--stages', default=','.join(STAGES))
  parser.add_argument('--devices', default='1,8,64,256')
  parser.add_argument('--fsdp', default='1,8', help='devices that share one copy of the parameters')
  parser.add_argument('--dtype', default='bfloat16', choices=('bfloat16', 'float32'))
  args = parser.parse_args()
  counts = [int(count) for count in args.devices.split(',')]
  # Arrays that the stages allocate while they are built are on the host.
  os.environ |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': FLAGS.format(max(counts)) if args.target == 'cpu' else ''}
  os.environ |= {'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'}  # libtpu: no queries about the machine
  print('| stage | devices | data x fsdp | rows on a device | state GB | step GB | together GB | compiled in |')
  print('|---|---|---|---|---|---|---|---|', flush=True)
  for stage in args.stages.split(','):
    for devices in counts:
      for fsdp in sorted({min(int(fsdp), devices) for fsdp in args.fsdp.split(',')}):
        row(stage, args.target, devices, fsdp, args.dtype)


def devices_of(target: str, count: int) -> list:
  """Returns devices of the smallest slice that has enough. They need not exist."""
  import jax
  from jax.experimental import topologies

  if target == 'cpu':
    return jax.devices()[:count]
  size = min(size for size in SLICES[target] if size >= count)
  return list(topologies.get_topology_desc(SLICES[target][size], platform='tpu').devices)[:count]


def row(name: str, target: str, devices: int, fsdp: int, dtype: str) -> None:
  """Compiles one program and prints its row."""
  import jax

  from benchmarks import full_stages
  from brainjax import sharding
  from brainjax.ops import attention
  from configs import god_sbj3

  config = god_sbj3.get_config()
  config.dtype = dtype
  if target == 'cpu':  # the code of accelerators without their kernels
    attention.platform, attention._choice = (lambda: 'gpu'), 'xla'
  config.attend.random_init = config.diffuse.random_init = True  # no weights files are needed
  config.attend.image_init_from = config.diffuse.prior_init_from = ''
  mesh = sharding.make_mesh(devices // fsdp, fsdp, devices_of(target, devices))
  rows = sharding.padded(config[name].batch_size, devices)
  started = time.monotonic()
  try:
    with contextlib.redirect_stdout(sys.stderr):  # the note about random weights
      make = full_stages.abstract_sampler if name == 'reconstruct' else full_stages.abstract_stage
      jitted, arguments = make(name, config, mesh, rows, VOXELS)
      compiled = jitted.trace(*arguments).lower().compile()
    memory = compiled.memory_analysis()
    # The new state replaces the old one (alias). Other outputs count as temporaries.
    state = memory.argument_size_in_bytes
    temporary = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    cells = [f'{x / 1e9:.2f}' for x in (state, temporary, state + temporary)]
  except jax.errors.JaxRuntimeError as error:
    too_much = re.search(r'Used ([\d.]+)G of ([\d.]+)G hbm', str(error))
    if not too_much:
      raise
    cells = ['', '', 'does not fit: {:.2f} of {:.2f}'.format(*(float(x) * 2**30 / 1e9 for x in too_much.groups()))]
  seconds = f'{time.monotonic() - started:.0f} s'
  print(
    '|',
    ' | '.join([name, str(devices), f'{devices // fsdp} x {fsdp}', str(rows // devices), *cells, seconds]),
    '|',
    flush=True,
  )


if __name__ == '__main__':
  main()
