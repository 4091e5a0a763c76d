"""Command: raw files of a data set -> TFDS data sets of ArrayRecord files.

python -m brainjax.prepare god --raw=data/Kamitani --out=data/prepared [--subjects=sbj_1,sbj_3]
python -m brainjax.prepare hcp --raw=data/HCP --out=data/prepared
"""

import argparse
import sys
from collections.abc import Sequence

from brainjax.datasets import god, hcp
from brainjax.errors import command_line

MESSAGES = {
  'kept': 'is prepared already, raw files unchanged',
  'built': 'prepared',
  'rebuilt': 'prepared again, because raw files changed: {}',
}


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m brainjax.prepare', description='Raw files -> TFDS (ArrayRecord).')
  commands = parser.add_subparsers(dest='dataset', required=True)
  for name, text in (
    ('god', 'Generic Object Decoding, published .npz folder'),
    ('hcp', 'HCP resting state, .npz folders'),
  ):
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument('--raw', required=True, help='folder of the raw files')
    command.add_argument('--out', required=True, help='folder of all prepared data sets')
  commands.choices['god'].add_argument('--subjects', help='such as sbj_1,sbj_3; default: all that are there')
  return parser


@command_line
def main(argv: Sequence[str] | None = None) -> int:
  """Prepares one data set and says what was done; exit status 0, or 2 after a user's mistake."""
  args = _parser().parse_args(argv)
  if args.dataset == 'god':
    done = god.prepare(args.raw, args.out, args.subjects.split(',') if args.subjects else None)
    results = {f'god/{subject}': result for subject, result in done.items()}
  else:
    results = {'hcp': hcp.prepare(args.raw, args.out)}
  for name, (status, changed) in results.items():
    print(f'{name}: {MESSAGES[status].format(", ".join(changed[:5]))}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
