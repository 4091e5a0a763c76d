"""The console command `brainjax COMMAND ...`; `python -m brainjax COMMAND ...` is the same."""

import importlib
import os
import sys
from collections.abc import Sequence

import brainjax
from brainjax.errors import UserError, command_line

# Command -> (module with its `main`, arguments that come first, what it does).
COMMANDS = {
  'demo': (
    'launch',
    ['--config=demo'],
    'simulates a visual cortex, trains, makes pictures, scores them; --quick takes a few minutes',
  ),
  'train': ('launch', [], 'runs the stages of a config: --config=NAME_OR_FILE'),
  'prepare': ('prepare', [], 'raw fMRI and pictures -> data sets; `prepare check` looks them over'),
  'simulate': ('simulate', [], 'writes fMRI of a simulated visual cortex in the real file formats'),
  'convert': ('convert', [], 'released PyTorch weights -> brainjax, and back'),
  'reconstruct': ('reconstruct', [], 'weights and responses -> pictures'),
  'evaluate': ('evaluate', [], 'compares two runs, prints rows for published tables, scores any reconstructions'),
  'interpret': ('interpret', [], 'which areas and voxels made the pictures of a run'),
  'report': ('report', [], 'figures of a run for a paper, their numbers, and the table of scores in LaTeX'),
  'fetch': ('fetch', [], 'takes public weights from where they are published, and converts them'),
  'pack': ('pack', [], 'the weights of a run -> one folder to share, with its model card'),
  'info': ('info', [], 'describes weights, a run, a data set or a raw file'),
  'parity': ('parity.__main__', [], 'compares with recorded numbers of the original code'),
}


def _help() -> str:
  lines = [
    f'brainjax {brainjax.__version__}: see what a brain saw',
    '',
    'brainjax COMMAND --help lists its options.',
    '',
  ]
  return '\n'.join([*lines, *(f'  {name:12} {what}' for name, (*_, what) in COMMANDS.items())])


@command_line
def main(argv: Sequence[str] | None = None) -> int:
  """Calls the main function of a command.

  Raises:
    UserError: no such command.
  """
  name, *rest = (sys.argv[1:] if argv is None else argv) or ['--help']
  if name in ('--help', '-h', 'help'):
    print(_help())
    return 0
  if name == '--version':
    print(brainjax.__version__)
    return 0
  if name not in COMMANDS:
    raise UserError(f'brainjax: no command {name!r}; the commands are {", ".join(COMMANDS)}.')
  if os.getcwd() not in sys.path:  # plugins may be there, as for `python -m`; packages come first
    sys.path.append(os.getcwd())
  module, first, _ = COMMANDS[name]
  if name == 'demo' and '--quick' in rest:
    first, rest = ['--config=demo_quick'], [arg for arg in rest if arg != '--quick']
  return command_line(importlib.import_module(f'brainjax.{module}').main)([*first, *rest])


if __name__ == '__main__':
  sys.exit(main())
