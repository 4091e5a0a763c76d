"""Compares our speed with PyTorch's: prints a table, and writes JSON and a chart.

python benchmarks/run.py [--device=cpu|gpu] [--quick] [--rows=contrast,diffuse-1] [--repetitions=3] [--out=DIR]
python benchmarks/run.py --curves [--docs]

Each side of each row runs in its own process; two processes run at a time and take turns. Rows stay in the JSON until they
are measured again.
"""

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # python benchmarks/run.py

from benchmarks import chart, rows  # noqa: E402
from benchmarks.rows import Row  # noqa: E402
from benchmarks.table import gpu_name, machine, publish, put_into_page, table, with_limits  # noqa: E402
from benchmarks.turns import Bench, Failed  # noqa: E402

NO_GPU = 'not measured: no GPU on this machine'


def count(row: Row, quick: bool) -> dict[str, float]:
  """Counts the floating-point operations of a row that computes."""
  from benchmarks import limits

  if row.name in ('copy', 'loader', 'start'):
    return {}
  hand = limits.by_hand(row, quick)
  return {'operations_by_hand': hand, 'operations': hand if row.name == 'matmul' else limits.xla(row, quick)}


def bytes_moved(row: Row, quick: bool) -> float:
  """Counts the bytes that a row of copying or loading reads and writes."""
  if row.name == 'copy':
    return 2.0 * row.batch * 2**20
  if row.name == 'loader':
    return 2.0 * row.batch * 4 * (rows.QUICK_VOXELS if quick else rows.VOXELS)
  return 0.0


def select(table_rows: list[Row], requested: str) -> list[Row]:
  """Selects rows by name or key, and the two rows that measure the peaks, in the order of the table."""
  names = requested.split(',') if requested else []
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
  parser.add_argument('--quick', action='store_true', help='tiny sizes: shows whether it works, not how fast')
  parser.add_argument(
    '--full', action='store_true', help='sample all 250 steps instead of computing their time from a few'
  )
  parser.add_argument('--rows', default='', help='names or keys, joined by commas; default: all')
  parser.add_argument('--repetitions', type=int, default=3, help='measurements of each side of a comparison')
  parser.add_argument('--out', type=Path, default=Path('runs/benchmarks'))
  parser.add_argument('--set', action='append', default=[], help='field=value of our config, to try a variant')
  parser.add_argument('--no_compile', action='store_true', help='skip torch.compile, which takes minutes')
  parser.add_argument('--curves', action='store_true', help='scaling curves instead of the table')
  parser.add_argument(
    '--docs',
    action='store_true',
    help='also write table and pictures to docs/, and the JSON to benchmarks/results/',
  )
  args = parser.parse_args(argv)
  os.environ['JAX_PLATFORMS'] = 'cpu'  # this process only counts operations
  os.chdir(ROOT)
  args.out.mkdir(parents=True, exist_ok=True)
  options = [f'--set={change}' for change in args.set] + (['--full'] if args.full else [])
  bench = Bench(args.device, args.quick, args.repetitions, args.out, options)
  if args.curves:
    from benchmarks import curves

    file = curves.run(bench, args.device, args.quick, args.out)
    if args.docs and not args.quick:
      publish(file, 'curves')
    return
  file = args.out / f'{args.device}{"_quick" if args.quick else ""}.json'
  before = json.loads(file.read_text())['rows'] if file.is_file() else {}
  all_rows = rows.rows(args.device, args.quick)
  results = {}
  no_gpu = args.device == 'gpu' and not gpu_name()
  selected = {row.key for row in select(all_rows, args.rows)}
  try:
    for row in all_rows:
      if args.no_compile:
        row = row._replace(peers=tuple(way for way in row.peers if way != 'compile'))
      result = before.get(row.key, {'not_measured': 'not measured'})
      if no_gpu:
        result = {'not_measured': NO_GPU}
      elif row.key in selected:
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
  results = with_limits(results)
  _write(file, args.device, results)
  print(table(results))
  chart.draw(results, file.with_suffix('.png'))
  print(f'\n{file} and {file.with_suffix(".png")}', file=sys.stderr)
  if args.docs and not args.quick:
    publish(file, 'speed')
    put_into_page(table(results), args.device)


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
