"""Command: which areas and voxels made the pictures of a run: brainjax interpret --run=DIR [--method=lesion,...]

Writes interpret/interpret.json and interpret/interpret.npz into the workdir. Methods that are left out keep their earlier
result where model, items and settings are the same. docs/interpretation.md says what each method shows, and what it does not.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from brainjax import all_stages as _all_stages  # noqa: F401 - registers the stages
from brainjax import checkpoints, config_check, hosts, workdirs
from brainjax.datasets import registry
from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.evaluation.interpretation import maps, stage
from brainjax.evaluation.interpretation.methods import METHODS
from brainjax.stages import reconstruct
from configs import base

# Options that are fields of config.interpret: name -> what they do. Their defaults are those of configs/base.py.
FIELDS = {
  'areas': 'ROIs of the data set, or unions such as V1+V2+V3',
  'attribute': 'saliency of the direction to training pictures whose name has this text, such as left',
  'num_samples': 'pictures of each item and lesion',
  'num_steps': 'of the sampler',
  'num_points': 'of integrated gradients and SmoothGrad',
}


def read_run(run: Path, changes: dict[str, Any]) -> ConfigDict:
  """The config of a finished run with changes of `config.interpret`.

  Raises:
    UserError: the run is not finished, or a value is impossible.
  """
  if not run.is_dir():
    raise UserError(f'--run={run} is no folder; give the workdir of a finished run.')
  config = workdirs.read_config(run, (stage.STAGE.after, reconstruct.STAGE.name))
  registry.import_plugins(config.plugins)
  config.interpret.update(changes)
  config_check.check(config, (stage.STAGE.name,))
  return config


def _numbers(text: str) -> tuple[int, ...]:
  """'0,3,7-9' -> 0, 3, 7, 8, 9."""
  result: list[int] = []
  for part in text.split(','):
    found = re.fullmatch('([0-9]{1,6})(?:-([0-9]{1,6}))?', part)
    first, last = (int(number) for number in (found[1], found[2] or found[1])) if found else (1, 0)
    if last < first:
      raise UserError(f'--items={text}: expected numbers of test items from 0, such as 0,3,7-9.')
    result += range(first, last + 1)
  return tuple(result)


def _write_map(run: Path, name: str, subject: str | None, out: Path) -> list[Path]:
  if out.exists():
    raise UserError(f'--out={out} exists already; nothing is overwritten, choose another file.')
  config = read_run(run, {})
  info = checkpoints.read_info(reconstruct.weights_of(run))
  fitted = {each.subject: each for each in map(InputTransform.from_json, info.get('input', []))}
  return maps.write_of_run(config, run, fitted, name, subject or config.data.subjects[0], out)


@command_line
def main(argv: Sequence[str] | None = None) -> None:
  """Command line.

  Raises:
    UserError: an option, the run or its data cannot be used.
  """
  parser = ArgumentParser(prog='brainjax interpret', description=__doc__.splitlines()[0])
  parser.add_argument('--run', type=Path, required=True, help='workdir of a finished run')
  defaults = base.get_config().interpret
  parser.add_argument('--method', default=','.join(METHODS), help=f'some of {", ".join(METHODS)} (default: all)')
  parser.add_argument(
    '--items', help=f'test items from 0, such as 0,3,7-9 (default: the first {defaults.num_items} of each subject)'
  )
  for name, text in FIELDS.items():
    kind = int if isinstance(defaults[name], int) else str
    # Empty: all areas, no attribute.
    default = defaults[name] or {'areas': 'all'}.get(name, 'none')
    parser.add_argument(f'--{name}', type=kind, help=f'{text} (default: {default})')
  parser.add_argument('--map', help=f'write a map of voxels to --out: {", ".join(maps.KINDS)}')
  parser.add_argument('--subject', help='of --map (default: the first of the run)')
  parser.add_argument('--out', type=Path, help='of --map: .png, .svg, .pdf, .nii.gz, .dscalar.nii or .func.gii')
  args = parser.parse_args(argv)
  if (args.map is None) != (args.out is None):
    raise UserError('--map and --out go together: which quantity, and the file that it is written to.')
  if args.subject and not args.map:
    raise UserError('--subject is whose --map is written; the methods explain all subjects of the run.')
  if args.map:
    print(*_write_map(args.run, args.map, args.subject, args.out), sep='\n')
    return
  methods = tuple(args.method.split(','))
  changes = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
  if 'areas' in changes:
    changes['areas'] = tuple(changes['areas'].split(','))
    if not all(part for name in changes['areas'] for part in name.split('+')):
      raise UserError(f'--areas={args.areas}: expected ROIs or unions of them, such as V1,V2+V3.')
  config = read_run(args.run, {'methods': methods, **changes})
  workdir = args.run.absolute()
  with workdirs.lock(workdir):
    plain = stage.interpret(config, workdir, methods, _numbers(args.items) if args.items else ())
  if not plain:
    raise UserError(f'--method={args.method} cannot be used on this run; the lines above say why.')
  for line in stage.summarise(plain):
    hosts.log(line)


if __name__ == '__main__':
  sys.exit(main())
