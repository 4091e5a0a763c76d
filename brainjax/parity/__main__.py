"""Command: how far is this port from the numbers of the original PyTorch code?

python -m brainjax.parity tests/golden/phase1.npz tests/golden/unet.npz [--json OUT]

The kind of each file follows from its contents, every size from its config_json and the shapes of its arrays.
"""

import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.files import atomic_write
from brainjax.parity import cond, data, diffusion, golden, phase1, phase2, unet, vqvae
from brainjax.parity.golden import Golden, Result

# Kind -> arrays that tell it, and its replay.
KINDS: dict[str, tuple[tuple[str, ...], Callable[[Golden], None]]] = {
  'phase1': (('state/cls_token', 'noise/view1', 'noise/view2'), phase1.check),
  'phase2': (('state_fmri/cls_token', 'pixel_values', 'noise/img_masked'), phase2.check),
  'cond': (('ckpt/cls_token', 'ckpt/decoder_pos_embed'), cond.check),
  'unet': (('state/time_embed.0.weight', 'context', 'probe'), unet.check),
  'vqvae': (('state/encoder.conv_in.weight', 'quantize/indices'), vqvae.check),
  'diffusion': (('schedule/betas', 'x_T'), diffusion.check),
  'data': (('normalize/in', 'metrics/gt_u8'), data.check),
}


def kind_of(file: Golden) -> str:
  """The kind of a golden file.

  Raises:
    UserError: it is of none.
  """
  for kind, (marks, _) in KINDS.items():
    if all(mark in file for mark in marks):
      return kind
  some = ', '.join(file.names[:4]) or 'none'
  raise UserError(f'{file.path}: of no known kind ({len(file.names)} arrays: {some}); known are {", ".join(KINDS)}')


def replay(file: Golden) -> None:
  """Compares every array of a file.

  Raises:
    UserError: the file contradicts itself.
  """
  try:
    with jax.default_matmul_precision('highest'):
      KINDS[kind_of(file)][1](file)
  except UserError:
    raise
  except KeyError as error:
    raise UserError(f'{file.path}: config_json has no field {error}, which a file of its kind has') from error
  except Exception as error:  # sizes that contradict each other fail anywhere
    reason = f'{type(error).__name__}: {error}'.split('\n')[0]
    raise UserError(f'{file.path}: its arrays and config_json do not fit together ({reason})') from error


def _row(cells: Sequence[str]) -> str:
  return f'{cells[0]:<72} {cells[1]:>10} {cells[2]:>10}  {cells[3]}'


def _bound(result: Result) -> str:
  return {'relative': f'{result.bound:.0e}', 'absolute': f'{result.bound:.0e} abs', 'unequal': 'equal'}[result.measure]


def _print(file: Golden, kind: str, seconds: float) -> None:
  print(f'\n{file.path}: {kind}, {seconds:.0f} s')
  print(_row(('quantity', 'error', 'bound', 'ok')))
  quantities: dict[tuple[str, str], Result] = {}
  for result in file.results:
    key = result.quantity, _bound(result)
    if key not in quantities or result.error > quantities[key].error or not result.ok > quantities[key].ok:
      quantities[key] = max(result, quantities.get(key, result), key=lambda r: (not r.ok, r.error))
  for (quantity, bound), result in quantities.items():
    print(_row((quantity, f'{result.error:.1e}', bound, 'ok' if result.ok else f'NO: {result.name}')))
  for title, found in (('skipped', file.skipped()), ('in part', file.partly)):
    reasons: dict[str, list[str]] = {}
    for name, reason in found.items():
      reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
      print(f'{title}  {len(names)} arrays such as {names[0]}: {reason}')
  for name in file.unaccounted():
    print(f'NO: {name}: nothing here knows this array')


def _failures(file: Golden) -> int:
  return sum(not result.ok for result in file.results) + len(file.unaccounted())


def _summary(files: Sequence[Golden]) -> tuple[int, int, int, Result]:
  """(checked, arrays, skipped, worst), config_json counted as an array that is an input."""
  checked = sum(len(file.compared()) for file in files)
  arrays = sum(len(file.names) + 1 for file in files)
  skipped = sum(len(file.skipped()) for file in files)
  results = [r._replace(name=f'{file.path.name}/{r.name}') for file in files for r in file.results]
  return checked, arrays, skipped, max(results, key=lambda r: r.error)


def _report(files: Sequence[tuple[Golden, str]]) -> dict[str, Any]:
  """Everything that was found, as plain numbers and text."""
  checked, arrays, skipped, worst = _summary([file for file, _ in files])

  def entry(r: Result) -> dict[str, Any]:
    error = r.error if math.isfinite(r.error) else None
    return {'name': r.name, 'error': error, 'bound': r.bound, 'measure': r.measure, 'is_array': r.is_array, 'ok': r.ok}

  return {
    'checked': checked,
    'arrays': arrays,
    'skipped': skipped,
    'worst': entry(worst),
    'ok': not any(_failures(file) for file, _ in files),
    'files': [
      {
        'path': str(file.path),
        'kind': kind,
        'results': [entry(result) for result in file.results],
        'skipped': file.skipped(),
        'in_part': file.partly,
        'unknown': file.unaccounted(),
      }
      for file, kind in files
    ],
  }


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(f'--json {path} cannot be written ({error.strerror}); name another place') from error


def _is_report(path: Path) -> bool:
  try:
    return {'files', 'checked', 'skipped', 'ok'} <= json.loads(path.read_text()).keys()
  except (ValueError, AttributeError):
    return False


def _check_writable(path: Path) -> None:
  with _telling(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
      raise UserError(f'--json {path} is a directory; name a file in it')
    if path.exists() and not _is_report(path):
      raise UserError(f'--json {path} exists already and is no report of this command; choose another file')
    tempfile.TemporaryFile(dir=path.parent).close()


@command_line
def main(argv: Sequence[str] | None = None) -> int:
  """Replays golden files and prints the errors.

  Returns:
    0: everything within bounds and every array accounted for; 1: not so; 2: a file cannot be replayed.
  """
  parser = ArgumentParser(prog='python -m brainjax.parity', description=__doc__.splitlines()[0])
  parser.add_argument('files', nargs='+', type=Path, metavar='FILE.npz', help='golden files of the original code')
  parser.add_argument('--json', type=Path, metavar='OUT', help='also write every number there')
  args = parser.parse_args(argv)
  if args.json:
    _check_writable(args.json)  # before minutes of computing
  files = [golden.read(path) for path in args.files]
  kinds = [kind_of(file) for file in files]  # of all files before any is computed
  for file, kind in zip(files, kinds, strict=True):
    started = time.monotonic()
    replay(file)
    _print(file, kind, time.monotonic() - started)
  if args.json:
    report = json.dumps(_report(list(zip(files, kinds, strict=True))), indent=1)
    with _telling(args.json), atomic_write(args.json) as temporary:
      temporary.write_text(report)
  checked, arrays, skipped, worst = _summary(files)
  failures = sum(map(_failures, files))
  if failures:
    print(f'\n{failures} failures, marked NO above', end='')
  print(
    f'\nparity: {checked} of {arrays} arrays checked, {skipped} skipped (inputs and documented exclusions), '
    f'worst error {worst.error:.1e} at {worst.name}'
  )
  return int(failures > 0)


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')  # the numbers were made there
  sys.exit(main())
