"""Command line of the scores: comparison of two runs, rows of published tables, scores of any reconstructions."""

import sys
from collections.abc import Sequence
from pathlib import Path

from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.evaluation import published_table
from brainjax.evaluation.compare import compare
from brainjax.evaluation.images import Images, read_images
from brainjax.evaluation.score import evaluate
from brainjax.files import write_json

__all__ = ['Images', 'compare', 'evaluate', 'read_images']


def _print_comparison(result: dict[str, dict]) -> None:
  print(f'{"score (mean over samples)":32} {"A":>10} {"B":>10} {"A - B":>10} {"95 % interval":>23} {"p":>8}')
  for name, row in result.items():
    low, high = row['interval']
    better = 'A' if (low > 0) == row['higher_is_better'] else 'B'
    verdict = f'{better} better' if low > 0 or high < 0 else ''
    interval = f'[{low:.4f}, {high:.4f}]'
    numbers = f'{row["a"]:10.4f} {row["b"]:10.4f} {row["difference"]:10.4f} {interval:>23} {row["p_value"]:8.4f}'
    print(f'{name:32} {numbers} {verdict}')


@command_line
def main(argv: Sequence[str] | None = None) -> None:
  """Command line: `compare RUN_A RUN_B`, `table RUN ...`, `score IMAGES.npz --out=DIR` (image scores only: no classifier).

  Raises:
    UserError: an option or a result cannot be used, or an output exists.
  """
  parser = ArgumentParser(prog='brainjax evaluate', description=__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  comparison = commands.add_parser('compare', help='paired bootstrap of two runs on the same stimuli')
  comparison.add_argument('run_a', type=Path)
  comparison.add_argument('run_b', type=Path)
  comparison.add_argument('--json', type=Path, help='also write the result here')
  table = commands.add_parser('table', help='a row for each run in the columns of published tables')
  table.add_argument('runs', type=Path, nargs='+')
  table.add_argument('--format', choices=published_table.FORMATS, default='markdown')
  scoring = commands.add_parser('score', help='image scores of an images.npz, without class accuracy')
  scoring.add_argument('images', type=Path)
  scoring.add_argument('--out', type=Path, required=True)
  for command in (comparison, scoring):
    command.add_argument('--seed', type=int, default=0)
  options = parser.parse_args(argv)
  if options.command == 'table':
    print(published_table.make(options.runs, options.format), end='')
    return
  if options.seed < 0:
    raise UserError(f'--seed is {options.seed}; expected 0 or more.')
  for name, path in (('--json', getattr(options, 'json', None)), ('--out', getattr(options, 'out', None))):
    if path and path.exists():
      raise UserError(f'{name}={path} exists already; nothing is overwritten, choose another path.')
  if options.command == 'compare':
    result = compare(options.run_a, options.run_b, seed=options.seed)
    _print_comparison(result)
    if options.json:
      write_json(options.json, result)
    return
  result = evaluate(read_images(options.images), None, None, seed=options.seed, out=options.out)
  for name, entry in result['scores'].items():
    mean = entry['mean_of_samples']
    print(f'{name:32} {mean["value"]:10.4f} [{mean["interval"][0]:.4f}, {mean["interval"][1]:.4f}]')


if __name__ == '__main__':
  sys.exit(main())
