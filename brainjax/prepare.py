"""Command: raw files of a data set -> TFDS data sets of ArrayRecord files.

brainjax prepare god --raw=data/Kamitani [--out=data/prepared] [--subjects=sbj_1,sbj_3]
brainjax prepare hcp --raw=data/HCP
brainjax prepare own --betas=betas.npy --events=events.tsv --images=pictures
brainjax prepare check data/prepared
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from brainjax.datasets import overview, overview_page, registry
from brainjax.errors import ArgumentParser, UserError, as_user_error, command_line

MESSAGES = {
  'kept': 'is prepared already, raw files unchanged',
  'built': 'prepared',
  'rebuilt': 'prepared again, because raw files changed: {}',
}


def for_run(name: str, raw: str, out: str, subjects: Sequence[str] = ()) -> None:
  """Makes sure that a run finds its data: prepares raw files that are new or have changed.

  Prepared data are used as they are if the raw files are gone, or if only the command can convert them (see
  `DataSet.needs_command`).

  Raises:
    UserError: the data are neither prepared nor can they be.
  """
  data_set, folder = registry.get(name), Path(raw)
  is_prepared = data_set.is_prepared(out, subjects)
  if is_prepared and not data_set.has_raw(folder):
    print(f'{name}: no raw files in {raw}; the prepared data in {out} are used')
    return
  if is_prepared and data_set.needs_command(folder):
    return
  values = {'raw': raw} | ({'subjects': subjects} if subjects else {})
  for what, (status, changed) in data_set.run_prepare(out, values).items():
    if status == 'rebuilt':
      print(format_status(what, status, changed), flush=True)


def format_status(name: str, status: str, changed: Sequence[str]) -> str:
  """What was done with a data set, for people."""
  return f'{name}: {MESSAGES[status].format(", ".join(changed[:5]))}'


def _check(folder: Path, pages: Path) -> None:
  if not folder.is_dir():
    kind = 'not a folder' if folder.exists() else 'no such folder'
    raise UserError(f'{folder}: {kind}; give one of raw or of prepared data')
  found = overview.find_prepared(folder)
  if not found:
    data_set = next((data_set for data_set in registry.DATA_SETS.values() if data_set.has_raw(folder)), None)
    if data_set is None:
      raise UserError(
        f'{folder}: neither prepared data nor raw files found there; known data sets: {", ".join(registry.DATA_SETS)}'
      )
    print('raw files: prepared into a temporary folder first')
    with tempfile.TemporaryDirectory(prefix='brainjax_check_') as prepared:
      data_set.run_prepare(prepared, {'raw': folder})
      return _check(Path(prepared), pages)
  for name, folders in found.items():
    subjects = overview.check_prepared(name, folders)
    print('\n'.join(overview.format_report(name, subjects)))
    page = pages / f'check_{name}.png'
    with as_user_error(f'{page}: cannot be written', 'choose another folder with --pages', (OSError,)):
      overview_page.draw(name, subjects, page)
    print(f'  drawn in {page}')


def _parser() -> ArgumentParser:
  parser = ArgumentParser(prog='brainjax prepare', description='Raw files -> TFDS (ArrayRecord).')
  registry.add_plugins_option(parser)
  commands = parser.add_subparsers(dest='command', required=True)
  for data_set in registry.DATA_SETS.values():
    command = commands.add_parser(data_set.name, help=data_set.title, description=data_set.title)
    for argument in data_set.arguments:
      command.add_argument(
        f'--{argument.name}',
        help=argument.help,
        metavar=argument.value,
        type=argument.type,
        required=argument.required,
      )
    command.add_argument(
      '--out', default='data/prepared', help='folder of all prepared data sets; default: data/prepared'
    )
  check = commands.add_parser(
    'check', help='looks over a folder of raw or prepared data: facts, and a page of pictures'
  )
  check.add_argument('folder', help='folder of raw or prepared data')
  check.add_argument('--pages', help='folder for check_<data set>.png; default: the same folder')
  return parser


@command_line
def main(argv: Sequence[str] | None = None) -> None:
  """Prepares one data set and says what was done.

  Raises:
    UserError: options or files are wrong.
  """
  argv = registry.take_plugins(sys.argv[1:] if argv is None else argv)
  args = _parser().parse_args(argv)
  if args.command == 'check':
    _check(Path(args.folder), Path(args.pages or args.folder))
    return
  data_set = registry.get(args.command)
  values = {argument.name: getattr(args, argument.name) for argument in data_set.arguments}
  for name, (status, changed) in data_set.run_prepare(args.out, values).items():
    print(format_status(name, status, changed))


if __name__ == '__main__':
  sys.exit(main())
