"""Compares brainjax with recorded numbers of the original PyTorch code.

brainjax parity tests/golden/phase1.npz tests/golden/unet.npz [--json OUT]

The kind of a file follows from the names of its arrays; sizes follow from its config_json and the arrays' shapes. Optimizer,
loss weights and what trains come from configs/god_sbj3_released.py; where the file records another value, that is a failure.
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
from brainjax.files import write_json
from brainjax.parity import cond, data, diffusion, golden, phase1, phase2, unet, vqvae
from brainjax.parity.golden import Golden, Result

# Kind -> arrays that only this kind has, and its replay.
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
  """Returns the kind of a golden file.

  Raises:
    UserError: the kind is unknown.
  """
  for kind, (marks, _) in KINDS.items():
    if all(mark in file for mark in marks):
      return kind
  some = ', '.join(file.names[:4]) or 'none'
  raise UserError(f'{file.path}: of no known kind ({len(file.names)} arrays: {some}); known are {", ".join(KINDS)}')


def replay(file: Golden) -> None:
  """Compares every array of a file.

  Raises:
    UserError: arrays or fields are missing, or do not fit together.
  """
  try:
    with jax.default_matmul_precision('highest'):
      KINDS[kind_of(file)][1](file)
  except UserError:
    raise
  except KeyError as error:
    raise UserError(f'{file.path}: config_json has no field {error}; every golden file of this kind has it') from error
  except Exception as error:  # sizes that contradict each other fail anywhere
    reason = f'{type(error).__name__}: {error}'.split('\n')[0]
    raise UserError(f'{file.path}: its arrays and config_json do not fit together ({reason})') from error


def _format_row(cells: Sequence[str]) -> str:
  return f'{cells[0]:<72} {cells[1]:>10} {cells[2]:>10}  {cells[3]}'


def _format_bound(result: Result) -> str:
  return {'relative': f'{result.bound:.0e}', 'absolute': f'{result.bound:.0e} abs', 'unequal': 'equal'}[result.measure]


def _print(file: Golden, kind: str, seconds: float) -> None:
  print(f'\n{file.path}: {kind}, {seconds:.0f} s')
  print(_format_row(('quantity', 'error', 'bound', 'ok')))
  quantities: dict[tuple[str, str], Result] = {}
  for result in file.results:
    key = result.quantity, _format_bound(result)
    if key not in quantities or result.error > quantities[key].error or not result.ok > quantities[key].ok:
      quantities[key] = max(result, quantities.get(key, result), key=lambda r: (not r.ok, r.error))
  for (quantity, bound), result in quantities.items():
    print(_format_row((quantity, f'{result.error:.1e}', bound, 'ok' if result.ok else f'NO: {result.name}')))
  for title, names_of in (('skipped', file.skipped()), ('in part', file.partly)):
    reasons: dict[str, list[str]] = {}
    for name, reason in names_of.items():
      reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
      print(f'{title}  {len(names)} arrays such as {names[0]}: {reason}')
  for name in file.unaccounted():
    print(f'NO: {name}: nothing here knows this array')


def _count_failures(file: Golden) -> int:
  return sum(not result.ok for result in file.results) + len(file.unaccounted())


def _summary(files: Sequence[Golden]) -> tuple[int, int, int, Result]:
  """Returns (checked, arrays, skipped, worst). config_json counts as an array that is an input."""
  checked = sum(len(file.compared()) for file in files)
  arrays = sum(len(file.names) + 1 for file in files)
  skipped = sum(len(file.skipped()) for file in files)
  results = [r._replace(name=f'{file.path.name}/{r.name}') for file in files for r in file.results]
  return checked, arrays, skipped, max(results, key=lambda r: r.error)


def _report(files: Sequence[tuple[Golden, str]]) -> dict[str, Any]:
  """Returns all results as JSON values."""
  checked, arrays, skipped, worst = _summary([file for file, _ in files])

  def entry(r: Result) -> dict[str, Any]:
    error = r.error if math.isfinite(r.error) else None
    return {'name': r.name, 'error': error, 'bound': r.bound, 'measure': r.measure, 'is_array': r.is_array, 'ok': r.ok}

  return {
    'checked': checked,
    'arrays': arrays,
    'skipped': skipped,
    'worst': entry(worst),
    'ok': not any(_count_failures(file) for file, _ in files),
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
def _format_write_errors(path: Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(f'--json {path} cannot be written ({error.strerror}); choose another file') from error


def _is_report(path: Path) -> bool:
  try:
    return {'files', 'checked', 'skipped', 'ok'} <= json.loads(path.read_text()).keys()
  except (ValueError, AttributeError):
    return False


def _check_writable(path: Path) -> None:
  with _format_write_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
      raise UserError(f'--json {path} is a directory; name a file in it')
    if path.exists() and not _is_report(path):
      raise UserError(f'--json {path} exists already and is not a report of this command; choose another file')
    tempfile.TemporaryFile(dir=path.parent).close()


@command_line
def main(argv: Sequence[str] | None = None) -> int:
  """Replays golden files and prints the errors.

  Returns:
    0: every array was used, and all errors are within their bounds; 1: otherwise; 2: a file cannot be replayed.
  """
  parser = ArgumentParser(prog='brainjax parity', description=__doc__.splitlines()[0])
  parser.add_argument('files', nargs='+', type=Path, metavar='FILE.npz', help='golden files of the original code')
  parser.add_argument('--json', type=Path, metavar='OUT', help='also write all results to this file')
  args = parser.parse_args(argv)
  if args.json:
    _check_writable(args.json)  # before minutes of computing
  files = [golden.read(path) for path in args.files]
  kinds = [kind_of(file) for file in files]  # checked for all files before the first replay
  for file, kind in zip(files, kinds, strict=True):
    started = time.monotonic()
    replay(file)
    _print(file, kind, time.monotonic() - started)
  if args.json:
    with _format_write_errors(args.json):
      write_json(args.json, _report(list(zip(files, kinds, strict=True))))
  checked, arrays, skipped, worst = _summary(files)
  failures = sum(map(_count_failures, files))
  if failures:
    print(f'\n{failures} failures, marked NO above', end='')
  print(
    f'\nparity: {checked} of {arrays} arrays checked, {skipped} skipped (inputs and documented exclusions), '
    f'worst error {worst.error:.1e} at {worst.name}'
  )
  return int(failures > 0)


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')  # where the golden numbers were computed
  sys.exit(main())
