"""Speed beside PyTorch: one table on standard output, JSON and a chart.

python benchmarks/run.py [--device=cpu|gpu] [--quick] [--rows=contrast,diffuse-1] [--repetitions=3] [--out=DIR]
python benchmarks/run.py --curves

Each side of each row is a process of its own; two are alive at a time and take turns. Rows that were measured before stay
in the JSON; one that is measured again replaces itself.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import select
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # python benchmarks/run.py

from benchmarks import chart, rows, rows_loader, start  # noqa: E402
from benchmarks.rows import PEERS, Row  # noqa: E402

LIMIT = 1800  # seconds that one call may take; compilation by torch is slow on few cores
LOADER_SUBJECTS = {False: 8, True: 1}
NO_GPU = 'not measured: no GPU on this machine'
# Nothing is compiled ahead, and a quick run compiles quickly.
ENVIRONMENT = {
  'JAX_ENABLE_COMPILATION_CACHE': 'false',
  'TORCHINDUCTOR_FORCE_DISABLE_CACHES': '1',
  'TOKENIZERS_PARALLELISM': 'false',
}
QUICK_FLAGS = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'


class Failed(Exception):
  """A side could not do a row; the text says why."""


class Side:
  """A process that computes rows one way; see `work.serve`."""

  def __init__(self, way: str, device: str, quick: bool, log: Path, options: Sequence[str] = ()):
    environment = dict(os.environ) | ENVIRONMENT
    if device == 'cpu':
      environment |= {'JAX_PLATFORMS': 'cpu', 'CUDA_VISIBLE_DEVICES': ''}
    if quick:
      environment['XLA_FLAGS'] = QUICK_FLAGS
    self._log = open(log, 'ab')  # noqa: SIM115 - closed by close()
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'benchmarks.side', way, *(['--quick'] if quick else []), *options],
      cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1,
    )  # fmt: skip

  def ask(self, question: str) -> float:
    """The number in the answer; raises `Failed`."""
    try:
      self._process.stdin.write(question + '\n')
      ready, _, _ = select.select([self._process.stdout], [], [], LIMIT)
      line = self._process.stdout.readline() if ready else ''
    except BrokenPipeError:
      line = ''
    if not line:
      raise Failed(
        'no answer in time' if self._process.poll() is None else f'the process ended ({self._process.returncode})'
      )
    answer = json.loads(line)
    if 'failed' in answer:
      raise Failed(answer['failed'])
    return next(iter(answer.values()))

  def close(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    try:
      self._process.wait(20)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._log.close()


class Bench:
  """Measures rows; see the module."""

  def __init__(self, device: str, quick: bool, repetitions: int, folder: Path, options: Sequence[str] = ()):
    self._device, self._quick, self._repetitions, self._folder = device, quick, repetitions, folder
    self._options = list(options)
    self._kept: dict[str, Side] = {}  # quick: one process of each way does all rows

  def _side(self, way: str) -> Side:
    if way in self._kept:
      return self._kept[way]
    options = [f'--data={self._folder / "loader"}', *self._options]
    if way != 'ours':
      options = [option for option in options if not option.startswith('--set')]
    side = Side(way, self._device, self._quick, self._folder / f'{way}.log', options)
    if self._quick:
      self._kept[way] = side
    return side

  def _done(self, side: Side) -> None:
    if not self._quick:
      side.close()

  def close(self) -> None:
    """Ends what is still there."""
    for side in self._kept.values():
      side.close()

  def measure(self, row: Row) -> dict[str, Any]:
    """Everything about one row but what follows from other rows."""
    if row.name == 'start':
      return self._start(row)
    if row.name == 'loader':
      voxels = rows.QUICK_VOXELS if self._quick else rows.VOXELS
      rows_loader.make_data(self._folder / 'loader', LOADER_SUBJECTS[self._quick], voxels)
    ours = self._side('ours')
    try:
      result = {'ours': self._begin(ours, row), 'peers': {}}
      values = []
      for way in row.peers:
        result['peers'][way] = self._beside(ours, way, row, values)
      if not values:
        values = [ours.ask('run') for _ in range(self._repetitions)]
      result['ours'] |= {**_summary(values), 'bytes': int(ours.ask('memory'))}
    finally:
      self._done(ours)
    return result

  def _begin(self, side: Side, row: Row) -> dict[str, float]:
    return {'build_seconds': side.ask(f'build {row.key}'), 'first_seconds': side.ask('first')}

  def _beside(self, ours: Side, way: str, row: Row, values: list[float]) -> dict[str, Any]:
    side = self._side(way)
    try:
      result = self._begin(side, row)
      pairs = [(ours.ask('run'), side.ask('run')) for _ in range(self._repetitions)]
      mine, theirs = zip(*pairs, strict=True)
      values += mine
      ratio = statistics.median(mine) / statistics.median(theirs)
      return {**result, **_summary(theirs), 'bytes': int(side.ask('memory')), 'ours_over_this': ratio}
    except Failed as failure:
      return {'failed': str(failure)}
    finally:
      self._done(side)

  def _start(self, row: Row) -> dict[str, Any]:
    folder, warm = (self._folder / 'start').absolute(), row.batch > 0
    start.prepare(folder)  # what is there stays
    if warm and not (folder / 'cache').is_dir():
      start.first_step(folder, warm)  # fills it
    count = 1 if self._quick else self._repetitions
    found = [start.first_step(folder, warm) for _ in range(count)]
    return {'ours': {**_summary([s for s, _ in found]), 'bytes': max(b for _, b in found)}, 'peers': {}}


def _summary(values: Sequence[float]) -> dict[str, Any]:
  return {'seconds': statistics.median(values), 'least': min(values), 'most': max(values), 'values': list(values)}


def count(row: Row, quick: bool) -> dict[str, float]:
  """Floating-point operations of a row, where it is about them."""
  from benchmarks import limits

  if row.name in ('copy', 'loader', 'start'):
    return {}
  hand = limits.by_hand(row, quick)
  return {'operations_by_hand': hand, 'operations': hand if row.name == 'matmul' else limits.xla(row, quick)}


def bytes_moved(row: Row, quick: bool) -> float:
  """Bytes that a row must read and write, where it is about them."""
  if row.name == 'copy':
    return 2.0 * row.batch * 2**20
  if row.name == 'loader':
    return 2.0 * row.batch * 4 * (rows.QUICK_VOXELS if quick else rows.VOXELS)
  return 0.0


def with_limits(results: dict[str, dict], device: str) -> dict[str, dict]:
  """Adds what follows from the peaks, which are the best of both sides: share of the peak, shortest possible time."""

  def best(name: str) -> float:
    found = [part for key, result in results.items() if key.startswith(name) for part in _parts(result)]
    return max((amount / part['seconds'] for part, amount in found if 'seconds' in part), default=0.0)

  def _parts(result):
    amount = result.get('operations') or result.get('bytes_moved') or 0.0
    return [(part, amount) for part in (result.get('ours', {}), *result.get('peers', {}).values())]

  peaks = {'operations': best('matmul'), 'bytes_moved': best('copy')}
  for result in results.values():
    for kind, peak in peaks.items():
      if result.get(kind) and peak:
        result['limit_seconds'] = result[kind] / peak
        for part in (result.get('ours', {}), *result.get('peers', {}).values()):
          if 'seconds' in part:
            part['per_second'] = result[kind] / part['seconds']
            part['share_of_peak'] = part['per_second'] / peak
  return results


def machine(device: str) -> dict[str, Any]:
  """What the numbers depend on."""
  info = Path('/proc/cpuinfo')
  name = re.search(r'model name\s*:\s*(.*)', info.read_text()) if info.exists() else None
  versions = {}
  for package in ('jax', 'jaxlib', 'flax', 'torch', 'diffusers', 'transformers', 'numpy'):
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = 'missing'
  found = {
    'cpu': name.group(1) if name else platform.processor(),
    'cores': len(os.sched_getaffinity(0)),
    'python': platform.python_version(),
    'versions': versions,
  }
  if device == 'gpu':
    found['gpu'] = gpu_name()
  return found


def gpu_name() -> str | None:
  """Of the first GPU, or None."""
  try:
    said = subprocess.run(
      ['nvidia-smi', '--query-gpu=name', '--format=csv,noheader'], capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return said.stdout.splitlines()[0].strip() if said.stdout.strip() else None


def table(results: dict[str, dict]) -> str:
  """Markdown: a line per row and way."""
  lines = [
    '| row | way | median | least to most | ours / this | goal | first call | FLOP/s or B/s | share of peak | peak memory |',
    '|---|---|---|---|---|---|---|---|---|---|',
  ]
  for result in results.values():
    parts = [('brainjax', result['ours'])] if 'ours' in result else []
    parts += [(f'PyTorch, {PEERS[way]}', part) for way, part in result.get('peers', {}).items()]
    if not parts:
      lines.append(f'| {result["title"]} | {result["not_measured"]} ' + '| ' * 8 + '|')
    for number, (name, part) in enumerate(parts):
      way = [*['ours'], *result['peers']][number]
      lines.append('| ' + ' | '.join([result['title'] if number == 0 else '', name, *_cells(part, result, way)]) + ' |')
  return '\n'.join(lines)


def _cells(part: dict, result: dict, way: str) -> list[str]:
  if 'failed' in part:
    return [f'does not work: {part["failed"]}'.replace('|', '/'), *[''] * 7]
  goal = result.get('goal', {}).get(way)
  met = ratio = ''
  if 'ours_over_this' in part:
    ratio = f'{part["ours_over_this"]:.2f}'
    met = f'{goal:.2f} {"met" if part["ours_over_this"] <= goal else "missed"}' if goal else ''
  return [
    _time(part['seconds']),
    f'{_time(part["least"])} to {_time(part["most"])}',
    ratio,
    met,
    _time(part['first_seconds']) if 'first_seconds' in part else '',
    f'{part["per_second"] / 1e9:.4g} G' if 'per_second' in part else '',
    f'{part["share_of_peak"]:.0%}' if 'share_of_peak' in part else '',
    f'{part["bytes"] / 2**30:.2f} GiB',
  ]


def _time(seconds: float) -> str:
  return f'{seconds * 1e3:.3g} ms' if seconds < 1 else f'{seconds:.3g} s'


def publish(file: Path, text: str, device: str) -> None:
  """Puts a table between its markers in docs/performance.md, the chart beside the other images, the JSON beside this file."""
  about = machine(device)
  versions = ', '.join(f'{name} {version}' for name, version in about['versions'].items())
  where = (
    f'{about.get("gpu") or ""} {about["cores"]} cores of {about["cpu"]}; Python {about["python"]}, {versions}.'.strip()
  )
  page = ROOT / 'docs/performance.md'
  begin, end = f'<!-- {device} -->', f'<!-- end of {device} -->'
  head, _, rest = page.read_text().partition(begin)
  _, _, tail = rest.partition(end)
  page.write_text(f'{head}{begin}\n{where}\n\n{text}\n\n![Bars of each row](images/speed_{device}.png)\n{end}{tail}')
  shutil.copy(file.with_suffix('.png'), ROOT / f'docs/images/speed_{device}.png')
  (ROOT / 'benchmarks/results').mkdir(exist_ok=True)
  shutil.copy(file, ROOT / f'benchmarks/results/{device}.json')


def chosen(table_rows: list[Row], asked: str) -> list[Row]:
  """Rows whose name or key is asked for, with the two that tell the peaks, in the order of the table."""
  names = asked.split(',') if asked else []
  known = {name for row in table_rows for name in (row.name, row.key)}
  if unknown := set(names) - known:
    raise SystemExit(
      f'error: --rows has {", ".join(sorted(unknown))}; there are {", ".join(row.key for row in table_rows)}.'
    )
  return [row for row in table_rows if not names or row.name in ('matmul', 'copy') or {row.name, row.key} & set(names)]


def main(argv: list[str] | None = None) -> None:
  """Command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--device', default='cpu', choices=('cpu', 'gpu'))
  parser.add_argument('--quick', action='store_true', help='tiny sizes: whether it works, not how fast it is')
  parser.add_argument(
    '--full', action='store_true', help='sample all 250 steps instead of computing their time from a few'
  )
  parser.add_argument('--rows', default='', help='names or keys, joined by commas; default: all')
  parser.add_argument('--repetitions', type=int, default=3, help='of each side, beside each other way')
  parser.add_argument('--out', type=Path, default=Path('runs/benchmarks'))
  parser.add_argument(
    '--set', action='append', default=[], help='field=value of the config, to try another way on our side'
  )
  parser.add_argument('--no_compile', action='store_true', help='without torch.compile, which compiles for minutes')
  parser.add_argument('--curves', action='store_true', help='scaling curves instead of the table')
  parser.add_argument(
    '--docs',
    action='store_true',
    help='also put table and chart into docs/performance.md, JSON into benchmarks/results',
  )
  args = parser.parse_args(argv)
  os.environ['JAX_PLATFORMS'] = 'cpu'  # of this process, which only counts
  os.chdir(ROOT)
  args.out.mkdir(parents=True, exist_ok=True)
  options = [f'--set={change}' for change in args.set] + (['--full'] if args.full else [])
  bench = Bench(args.device, args.quick, args.repetitions, args.out, options)
  if args.curves:
    from benchmarks import curves

    curves.run(bench, args.device, args.quick, args.out)
    return
  file = args.out / f'{args.device}{"_quick" if args.quick else ""}.json'
  before = json.loads(file.read_text())['rows'] if file.is_file() else {}
  all_rows = rows.rows(args.device, args.quick)
  results = {}
  no_gpu = args.device == 'gpu' and not gpu_name()
  asked = chosen(all_rows, args.rows)
  try:
    for row in all_rows:
      if args.no_compile:
        row = row._replace(peers=tuple(way for way in row.peers if way != 'compile'))
      result = before.get(row.key, {'not_measured': 'not measured'})
      if no_gpu:
        result = {'not_measured': NO_GPU}
      elif row.key in {one.key for one in asked}:
        print(f'measuring {row.key}', file=sys.stderr, flush=True)
        try:
          result = bench.measure(row)
        except (Failed, RuntimeError) as failure:
          result = {'not_measured': f'brainjax failed: {failure}'}
        result |= {'day': datetime.date.today().isoformat(), 'changes': args.set}
      results[row.key] = {'title': rows.title(row), **result, 'goal': row.goal, **_work(row, args.quick, result)}
      if not no_gpu:
        _write(file, args.device, {**before, **results})
  finally:
    bench.close()
  results = with_limits(results, args.device)
  _write(file, args.device, results)
  print(table(results))
  chart.draw(results, file.with_suffix('.png'))
  print(f'\n{file} and {file.with_suffix(".png")}', file=sys.stderr)
  if args.docs and not args.quick:
    publish(file, table(results), args.device)


def _work(row: Row, quick: bool, result: dict) -> dict[str, float]:
  if 'not_measured' in result:
    return {}
  known = {name: result[name] for name in ('operations', 'operations_by_hand') if name in result}
  moved = bytes_moved(row, quick)
  return (known or count(row, quick)) | ({'bytes_moved': moved} if moved else {})


def _write(file: Path, device: str, results: dict[str, dict]) -> None:
  temporary = file.with_suffix('.tmp')
  temporary.write_text(json.dumps({'device': device, 'machine': machine(device), 'rows': results}, indent=1))
  temporary.replace(file)


if __name__ == '__main__':
  main()
