"""The measured rows as a table: shares of the peaks, Markdown, and the page in docs with the machine."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.rows import PEERS

ROOT = Path(__file__).resolve().parent.parent


def with_limits(results: dict[str, dict]) -> dict[str, dict]:
  """Adds the share of the peak and the shortest possible time. The peak is the best of all sides of a row."""

  def parts(result: dict) -> list[dict]:
    return [part for part in (result.get('ours', {}), *result.get('peers', {}).values()) if 'seconds' in part]

  def best(kind: str, result: dict) -> float:
    return max((result[kind] / part['seconds'] for part in parts(result)), default=0.0)

  bandwidth = max((best('bytes_moved', result) for key, result in results.items() if key.startswith('copy')), default=0)
  for key, result in results.items():
    if 'operations' in result:
      product = best('operations', result) if key.startswith('matmul') else 0.0
      kind, peak = 'operations', max([product, *(part.get('peak', 0.0) for part in parts(result))])
    else:
      kind, peak = 'bytes_moved', bandwidth
    if result.get(kind) and peak:
      result['limit_seconds'] = result[kind] / peak
      for part in parts(result):
        part['per_second'] = result[kind] / part['seconds']
        part['share_of_peak'] = part['per_second'] / peak
  return results


def machine(device: str) -> dict[str, Any]:
  """Describes the machine and the versions that the numbers depend on."""
  info = Path('/proc/cpuinfo')
  fields = dict(re.findall(r'^([\w ]+\w)\s*:\s*(.*)$', info.read_text(), re.M)) if info.exists() else {}
  # Clouds hide the product's name, but not which generation it is.
  generation = f' (family {fields["cpu family"]}, model {fields["model"]})' if 'cpu family' in fields else ''
  versions = {}
  for package in ('jax', 'jaxlib', 'flax', 'torch', 'diffusers', 'transformers', 'numpy'):
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = 'missing'
  result = {
    'cpu': fields.get('model name', platform.processor()) + generation,
    'cores': len(os.sched_getaffinity(0)),
    'python': platform.python_version(),
    'versions': versions,
  }
  if device == 'gpu':
    result['gpu'] = gpu_name()
  return result


def gpu_name() -> str | None:
  """Returns the name of the first GPU, or None."""
  try:
    output = subprocess.run(
      ['nvidia-smi', '--query-gpu=name', '--format=csv,noheader'], capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return output.stdout.splitlines()[0].strip() if output.stdout.strip() else None


def table(results: dict[str, dict]) -> str:
  """Formats the results as Markdown: a line for each row and version."""
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
    least = result.get('limit_seconds', 0.0) / part['seconds']
    met += f' (limit {least:.2f})' if goal and least > goal else ''
  return [
    in_words(part['seconds']),
    f'{in_words(part["least"])} to {in_words(part["most"])}',
    ratio,
    met,
    in_words(part['first_seconds']) if 'first_seconds' in part else '',
    f'{part["per_second"] / 1e9:.4g} G' if 'per_second' in part else '',
    f'{part["share_of_peak"]:.0%}' if 'share_of_peak' in part else '',
    f'{part["bytes"] / 2**30:.2f} GiB',
  ]


def in_words(seconds: float) -> str:
  """Formats seconds with their unit."""
  if seconds < 1:
    return f'{seconds * 1e3:.3g} ms'
  return f'{seconds:.3g} s' if seconds < 100 else f'{seconds:,.0f} s'


def publish(file: Path, kind: str) -> None:
  """Copies the measurements, `<device>....json`, to benchmarks/results and their picture to docs/images."""
  (ROOT / 'benchmarks/results').mkdir(exist_ok=True)
  shutil.copy(file, ROOT / 'benchmarks/results')
  shutil.copy(file.with_suffix('.png'), ROOT / f'docs/images/{kind}_{file.stem.split("_")[0]}.png')


def put_into_page(text: str, device: str) -> None:
  """Writes a table between its markers in docs/performance.md."""
  about = machine(device)
  versions = ', '.join(f'{name} {version}' for name, version in about['versions'].items())
  where = (
    f'{about.get("gpu") or ""} {about["cores"]} cores of {about["cpu"]}; Python {about["python"]}, {versions}.'.strip()
  )
  put_between(device, f'{where}\n\n{text}\n\n![Bars of each row](images/speed_{device}.png)')


def put_between(name: str, text: str) -> None:
  """Writes a text between the markers of that name in docs/performance.md."""
  page = ROOT / 'docs/performance.md'
  begin, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
  head, _, rest = page.read_text().partition(begin)
  _, _, tail = rest.partition(end)
  page.write_text(f'{head}{begin}\n{text}\n{end}{tail}')
