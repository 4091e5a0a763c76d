"""What the compilers of TPUs and GPUs make of our full-size programs. Needs no TPU and no GPU.

python -m benchmarks.compiled --target=v5e --programs=contrast,attend [--devices=8] [--json=FILE] [--docs]

TPUs: `pip install -e '.[compiled]'` brings their compiler (libtpu), which runs on any Linux machine. Every instruction of
the compiled text carries the cycles that the compiler expects. Their sum over all loops, divided by the clock, is the
predicted time. Our own kernels carry none; they are counted by their roofline divided by 0.6 and shown apart.
GPUs: `pip install -e '.[compiled-gpu]'`. Their compiler predicts no times: only counts and memory are shown.

How far to trust it: the cycles are the compiler's model of one instruction after the other. It ranks two versions of one
program well and finds copies and slow products. It leaves out waiting for memory that does not overlap, and gaps between
programs, so a chip is slower. It is no measurement: do not compare it with times of other chips or libraries.

`config.remat` is 'everything' here, for every chip; `--set=remat=cheap` tries the other way.
"""

import argparse
import functools
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import compiled_text
from benchmarks.rows import VOXELS, Row
from benchmarks.table import ROOT, put_between

# A roofline is what nobody reaches; good kernels reach 0.6 of it.
KERNEL_EFFICIENCY = 0.6
RIDGE = 'ridge regression runs in NumPy on the host; nothing is compiled for the chip'


class Chip(NamedTuple):
  """One device, as its maker describes it.

  Attributes:
    flops: bfloat16 operations a second.
    bandwidth: bytes a second.
    clock: cycles a second; 0 where the compiler predicts none.
    exponentials: a second: one vector register of 1,024 a cycle and core.
    topology: smallest slice, as JAX calls it.
  """

  flops: float
  bandwidth: float
  clock: float = 0.0
  exponentials: float = 0.0
  topology: str = ''


# Slices of so many v5e chips, as JAX calls them.
SLICES = {8: 'v5e:2x4', 64: 'v5e:8x8', 256: 'v5e:16x16'}
CHIPS = {
  'v5e': Chip(197e12, 819e9, 1.5e9, 1024 * 1.5e9, 'v5e:2x2'),
  'v5p': Chip(459e12, 2765e9, 1.75e9, 2 * 1024 * 1.75e9, 'v5p:2x2x1'),
  'v6e': Chip(918e12, 1640e9, 1.75e9, 1024 * 1.75e9, 'v6e:2x2'),
  'h100': Chip(989e12, 3350e9),
  'h200': Chip(989e12, 4800e9),
}
# Program -> (stage, rows); reconstruct is the sampler.
PROGRAMS = {
  'contrast': ('contrast', 250),
  'attend': ('attend', 4),
  'attend-32': ('attend', 32),
  'diffuse': ('diffuse', 8),
  'diffuse-32': ('diffuse', 32),
  'reconstruct': ('reconstruct', 40),
  'ridge': ('ridge', 0),
}


def main(argv: list[str] | None = None) -> None:
  """Prints each program as soon as it is known."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--target', default='v5e', choices=CHIPS)
  parser.add_argument('--programs', default=','.join(PROGRAMS))
  parser.add_argument('--devices', type=int, default=1, choices=(1, *SLICES), help='v5e chips that share the batch')
  parser.add_argument('--json', type=Path, help='file for the rows')
  parser.add_argument('--docs', action='store_true', help='also put the rows into benchmarks/results and docs')
  parser.add_argument('--cache', type=Path, default=ROOT / 'runs/compiled', help='folder of compiled texts')
  parser.add_argument('--set', action='append', default=[], help='field=value of the config, to try another way')
  args = parser.parse_args(argv)
  if args.devices > 1 and (args.target != 'v5e' or args.docs):
    raise SystemExit('error: --devices is for --target=v5e, without --docs.')
  names = args.programs.split(',')
  if unknown := set(names) - set(PROGRAMS):
    raise SystemExit(f'error: --programs has {", ".join(sorted(unknown))}; there are {", ".join(PROGRAMS)}.')
  rows = []
  for name in names:
    if name == 'ridge':
      print(f'ridge: {RIDGE}', flush=True)
      continue
    text, memory = compile_program(name, args.target, args.devices, args.cache, args.set)
    rows.append(read(name, args.target, text, memory, args.devices))
    print(format_program(rows[-1], text), flush=True)
    if args.devices > 1:
      print(format_collectives(text), flush=True)
    if args.json:
      args.json.write_text(json.dumps({'rows': rows}, indent=1) + '\n')
  if args.docs:
    publish(args.target, rows)


def compile_program(
  name: str, target: str, devices: int, cache: Path, changes: list[str]
) -> tuple[str, dict[str, int]]:
  """(compiled text, bytes of memory by kind) of a full-size program, kept in the folder `cache`."""
  os.environ |= {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'}
  os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'  # there is no chip that two processes could share by mistake
  if not CHIPS[target].topology:
    # The compiler would time its choices on the chip.
    os.environ['XLA_FLAGS'] = '--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0'
  lowered = lower(name, target, devices, changes)
  compiler = 'libtpu' if CHIPS[target].topology else 'jax-cuda13-plugin'
  identity = f'{target} {importlib.metadata.version(compiler)} {lowered.as_text()}'
  file = cache / f'{name}_{target}_{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json.gz'
  if not file.is_file():
    compiled = lowered.compile()
    found = compiled.memory_analysis()
    kinds = ('argument', 'output', 'alias', 'temp')
    kept = {'text': compiled.as_text(), 'memory': {kind: getattr(found, f'{kind}_size_in_bytes') for kind in kinds}}
    cache.mkdir(parents=True, exist_ok=True)
    with gzip.open(temporary := file.with_suffix('.tmp'), 'wt') as out:
      json.dump(kept, out)
    temporary.replace(file)
  with gzip.open(file, 'rt') as kept:
    found = json.load(kept)
  return found['text'], found['memory']


@functools.cache
def describe(target: str, count: int) -> list[Any]:
  """So many devices of the target, which need not exist."""
  from jax.experimental import topologies

  if CHIPS[target].topology:
    topology = SLICES.get(count, CHIPS[target].topology)
    return list(topologies.get_topology_desc(topology, platform='tpu').devices)[:count]
  import jax_plugins.xla_cuda13

  jax_plugins.xla_cuda13.initialize()
  text = (Path(__file__).parent / f'targets/{target}.txt').read_text()
  return topologies.get_topology_desc(platform='cuda', target_config=text, topology='1x1x1').devices


def lower(name: str, target: str, devices: int, changes: list[str]) -> Any:
  """The program as JAX hands it to the compiler: published sizes, bfloat16, the batch shared by the devices."""
  from benchmarks import full_stages
  from brainjax import sharding
  from configs import god_sbj3

  mesh = sharding.make_mesh(-1, 1, describe(target, devices))
  config = god_sbj3.get_config()
  config.dtype, config.remat = 'bfloat16', 'everything'
  config.attend.random_init = config.diffuse.random_init = True  # there are no files to start from
  config.attend.image_init_from = config.diffuse.prior_init_from = ''
  config.update_from_flattened_dict(dict(change.split('=', 1) for change in changes))
  stage, rows = PROGRAMS[name]
  make = full_stages.abstract_sampler if stage == 'reconstruct' else full_stages.abstract_stage
  jitted, arguments = make(stage, config, mesh, sharding.padded(rows, devices), VOXELS)
  return jitted.trace(*arguments).lower()


def read(name: str, target: str, text: str, memory: dict[str, int], devices: int = 1) -> dict[str, Any]:
  """The row of a program; `work_flops` is that of all devices."""
  chip, program = CHIPS[target], compiled_text.parse(text)
  results = {one.name: one.result for part in program.computations.values() for one in part}
  cycles = copies = fused = moved = 0
  kernels = 0.0
  for one, times in compiled_text.executed(program):
    cycles += times * one.cycles
    copies += times * (one.opcode in ('copy', 'copy-start') and '[]' not in one.result.split('{')[0])
    fused += times * is_fused_attention(one)
    moved += times * compiled_text.moved_bytes(program, results, one)
    kernels += times * kernel_seconds(one, chip)
  stage, rows = PROGRAMS[name]
  work = work_flops(stage, rows)
  seconds = cycles / chip.clock + kernels if chip.clock else None
  return {
    'program': name,
    'target': target,
    'predicted_ms': 1e3 * seconds if seconds else None,
    'own_kernels_ms': 1e3 * kernels,
    'work_flops': work,
    'mfu': work / devices / chip.flops / seconds if seconds else None,
    'bytes': moved,
    'peak_gb': (memory['argument'] + memory['temp'] + memory['output'] - memory['alias']) / 1e9,
    'copies': copies,
    'fused_attentions': fused,
  }


def is_fused_attention(one: compiled_text.Instruction) -> bool:
  """Whether an instruction is attention as one kernel: ours on TPU, cuDNN's on GPU."""
  return one.opcode == 'custom-call' and bool(re.search(r'/attention_(forward|backward)/|__cudnn\$fmha', one.text))


def kernel_seconds(one: compiled_text.Instruction, chip: Chip) -> float:
  """Of a kernel of ours, which says itself what it computes: its roofline over what good kernels reach of it."""
  found = re.search(r'"cost_estimate":\{"flops":"(\d+)","transcendentals":"(\d+)","bytes_accessed":"(\d+)"', one.text)
  if not found or not chip.clock:
    return 0.0
  flops, exponentials, moved = (int(number) for number in found.groups())
  return max(flops / chip.flops, exponentials / chip.exponentials, moved / chip.bandwidth) / KERNEL_EFFICIENCY


def work_flops(stage: str, rows: int) -> float:
  """Operations that the result needs, counted by hand; nothing recomputed."""
  from benchmarks import limits

  return limits.by_hand(Row('sample' if stage == 'reconstruct' else stage, rows, (), {}), quick=False)


def format_program(row: dict[str, Any], text: str, count: int = 10) -> str:
  """A row in words, then its heaviest operations with the place in our code."""
  chip, program = CHIPS[row['target']], compiled_text.parse(text)
  lines = [
    ', '.join(f'{name} {value:.4g}' if isinstance(value, float) else f'{name} {value}' for name, value in row.items())
  ]
  seconds = Counter()
  for one, times in compiled_text.executed(program):
    cost = kernel_seconds(one, chip) + (one.cycles / chip.clock if chip.clock else 0.0)
    seconds[f'{one.name} x {times}: {one.result[:60]} {one.source[-110:]}'] += times * cost
  lines += [f'  {1e3 * cost:8.2f} ms  {what}' for what, cost in seconds.most_common(count) if cost]
  return '\n'.join(lines)


def format_collectives(text: str) -> str:
  """What the devices exchange in one run: a line for each kind, with how often and how many bytes a device receives."""
  program = compiled_text.parse(text)
  counts, moved = Counter(), Counter()
  for one, times in compiled_text.executed(program):
    kind = one.opcode.removesuffix('-start')
    if kind in compiled_text.COLLECTIVES:
      counts[kind] += times
      moved[kind] += times * compiled_text.array_bytes(one.result, everywhere=True)
  return '\n'.join(f'  {kind}: {counts[kind]} times, {moved[kind] / 1e6:,.1f} MB' for kind in counts)


def publish(target: str, rows: list[dict[str, Any]]) -> None:
  """Adds the rows to benchmarks/results/compiled.json and writes all of them into docs/performance.md."""
  file = ROOT / 'benchmarks/results/compiled.json'
  known = json.loads(file.read_text())['rows'] if file.is_file() else []
  table = {(row['program'], row['target']): row for row in known + rows}
  file.write_text(json.dumps({'rows': list(table.values())}, indent=1) + '\n')
  before = json.loads((file.parent / 'compiled_before.json').read_text())['rows']
  put_between('compiled', format_table(list(table.values()), before))


def format_table(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
  """Markdown: a line per program and target, with the time and memory of the version before."""
  earlier = {(row['program'], row['target']): row for row in before}
  number = lambda value, form: '' if value is None else format(value, form)
  lines = [
    '| program | target | before | predicted | of which our kernels | MFU | GB moved | peak GB (before) | copies | fused attentions |',
    '|---|---|---|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    old = earlier.get((row['program'], row['target']), {})
    ms = [
      number(value, ',.0f') + ' ms' if value else ''
      for value in (old.get('predicted_ms'), row['predicted_ms'], row['own_kernels_ms'])
    ]
    peak = f'{row["peak_gb"]:.1f}' + (f' ({old["peak_gb"]:.1f})' if 'peak_gb' in old else '')
    cells = [row['program'], row['target'], *ms, number(row['mfu'], '.0%'), f'{row["bytes"] / 1e9:.0f}', peak]
    lines.append('| ' + ' | '.join([*cells, f'{row["copies"]:,}', f'{row["fused_attentions"]:,}']) + ' |')
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main())
