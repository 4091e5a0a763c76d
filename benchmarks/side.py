"""The process of one side of the speed table, which benchmarks/turns.py starts: `python -m benchmarks.side WAY`."""

import argparse
import os

from benchmarks.rows import PEERS, Row
from benchmarks.work import Work, serve


def parse(key: str) -> Row:
  """The inverse of `Row.key`."""
  name, batch, *rest = key.split('-')
  return Row(name, int(batch), (), {}, *map(int, rest))


def main() -> None:
  """Computes rows in one way, on request."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('way', choices=('ours', *PEERS))
  parser.add_argument('--quick', action='store_true')
  parser.add_argument('--full', action='store_true')
  parser.add_argument('--data', default='', help='folder of prepared data, for the loader')
  parser.add_argument('--set', action='append', default=[], help='field=value of our config')
  args = parser.parse_args()
  os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'  # two processes share a GPU

  def loader(row: Row) -> Work:
    from benchmarks import rows_loader

    return rows_loader.build(row, args.way, args.data)

  if args.way == 'ours':
    import jax
    import yaml

    from benchmarks import rows_jax

    changes = {name: yaml.safe_load(value) for name, value in (change.split('=', 1) for change in args.set)}

    def build(key: str) -> Work:
      row = parse(key)
      return loader(row) if row.name == 'loader' else rows_jax.build(row, args.quick, args.full, changes)

    def device_bytes() -> int | None:
      return (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use')

  else:
    import torch

    from benchmarks import rows_torch

    def build(key: str) -> Work:
      row = parse(key)
      return loader(row) if row.name == 'loader' else rows_torch.build(row, args.way, args.quick, args.full)

    def device_bytes() -> int | None:
      return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None

  serve(build, device_bytes)


if __name__ == '__main__':
  main()
