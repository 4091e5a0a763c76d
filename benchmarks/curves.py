"""Scaling curves: time against batch size, voxels, pictures sampled together, and devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from benchmarks import chart
from benchmarks.rows import Row

WAYS = ('engineer',)


def curves(device: str, quick: bool) -> dict[str, dict]:
  """Returns name -> title, varied quantity, and a row for each of its values."""
  if quick:
    batches, voxels, pictures = (1, 2), (80, 160), (1, 2)
  elif device == 'cpu':
    batches, voxels, pictures = (1, 2, 4, 8, 16), (1024, 4192, 8192, 16384, 32768), (1, 2, 4, 8)
  else:
    batches, voxels, pictures = (8, 32, 128, 250, 500), (1024, 4192, 8192, 16384, 32768), (1, 5, 20, 40, 80)
  fixed = 2 if device == 'cpu' else 32
  return {
    'batch': {
      'title': 'contrast step',
      'of': 'batch',
      'rows': {batch: Row('contrast', batch, WAYS, {}) for batch in batches},
    },
    'voxels': {
      'title': f'contrast step, batch {fixed}',
      'of': 'voxels',
      'rows': {count: Row('contrast', fixed, WAYS, {}, count) for count in voxels},
    },
    'items': {
      'title': 'one sampling step (UNet)',
      'of': 'pictures at once (test items x samples)',
      'rows': {count: Row('unet', count, WAYS, {}) for count in pictures},
    },
  }


def devices(device: str) -> list[int]:
  """Returns numbers of GPUs to measure, if there are several. CPU devices share their cores, so they are not measured."""
  if device == 'cpu':
    return []
  count = len(subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, check=True).stdout.splitlines())
  return [n for n in (1, 2, 4, 8) if n <= count] if count > 1 else []


def run(bench, device: str, quick: bool, folder: Path) -> Path:
  """Measures and prints all curves; writes a picture and JSON, and returns the path of the JSON."""
  results = {}
  try:
    for name, curve in curves(device, quick).items():
      seconds = {way: {} for way in ('ours', *WAYS)}
      for value, row in curve['rows'].items():
        print(f'measuring {name} {value}', file=sys.stderr, flush=True)
        result = bench.measure(row)
        for way, part in {'ours': result['ours'], **result['peers']}.items():
          if 'seconds' in part:
            seconds[way][value] = part['seconds']
      results[name] = {'title': curve['title'], 'of': curve['of'], 'seconds': seconds}
    counts = devices(device)
    seconds = {}
    for count in counts:
      with mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES=','.join(map(str, range(count)))):
        seconds[count] = bench.measure(Row('contrast', 32 * count, (), {}))['ours']['seconds']
    if counts:
      results['devices'] = {'title': 'contrast step, batch 32 a device', 'of': 'devices', 'seconds': {'ours': seconds}}
  finally:
    bench.close()
  for curve in results.values():
    print(f'{curve["title"]} against {curve["of"]}')
    for way, points in curve['seconds'].items():
      print(f'  {way}: ' + ', '.join(f'{value}: {seconds:.3g} s' for value, seconds in points.items()))
  if 'devices' not in results:
    print('against devices: not measured, there is only one')
  file = folder / f'{device}_curves{"_quick" if quick else ""}.json'
  file.write_text(json.dumps(results, indent=1))
  chart.draw_curves(results, file.with_suffix('.png'))
  return file
