"""Simulates HCP at full scale, prepares it and streams an epoch; prints memory and samples per second.

python -m benchmarks.loader --folder=DIR [--subjects=1113] [--voxels=4192]    # raw files of 20 MB a subject

The files stay in the folder. If you start the command again, it continues.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import limits, rows
from brainjax.datasets import hcp, loader, transforms
from brainjax.files import atomic_write
from brainjax.progress import progress
from brainjax.simulator import cortex
from brainjax.simulator import hcp as simulated_hcp

BATCH_SIZE = 250  # of contrast
NUM_CORTICES = 8
FLOPS = 989e12  # of an H100 in a second, dense bfloat16


def simulate(folder: Path, subjects: int, voxels: int) -> str:
  """Writes missing resting-state files of 1,200 frames. A few cortices are simulated; the others are shifted in time."""
  files = {number: folder / 'HCP/npz' / simulated_hcp.subject_file(number) for number in range(1, subjects + 1)}
  missing = [number for number, file in files.items() if not file.is_file()]
  with progress(subjects, 'simulate', subjects - len(missing)) as bar:
    for number in missing:
      if number <= NUM_CORTICES:
        simulated_hcp.write_subject(folder / 'HCP/npz', number, cortex.CortexConfig(num_voxels=voxels), seed=0)
      else:
        rounds, first = divmod(number - 1, NUM_CORTICES)
        with np.load(files[1 + first]) as areas, atomic_write(files[number]) as path:
          np.savez(path, **{area: np.roll(series, 13 * rounds, axis=0) for area, series in areas.items()})
      bar.update()
  return f'{len(missing)} of {subjects} subjects written'


def prepare(folder: Path) -> str:
  """Prepares the TFDS data set from the raw files."""
  status, _ = hcp.prepare(folder / 'HCP', folder / 'prepared')['hcp']
  size = sum(path.stat().st_size for path in (folder / 'prepared' / 'hcp').rglob('*') if path.is_file())
  return f'{status}, {size / 1e9:.2f} GB'


def stream(folder: Path) -> str:
  """Streams two shuffled epochs: rows as they are, and with a fifth of the voxels set to zero."""
  rows = hcp.load(folder / 'prepared')

  def sparse(item: dict, rng: np.random.Generator) -> dict:
    return {**item, 'fmri': transforms.sparse(item['fmri'], rng)}

  for name, transform in (('plain', None), ('sparse', sparse)):
    batches = loader.make_loader(rows, BATCH_SIZE, transform=transform)
    next(batches)  # starts the threads
    start, cpu = time.monotonic(), time.process_time()
    count = 0
    for _ in range(batches.steps_per_epoch):
      count += len(next(batches)['fmri'])
    wall, cpu = time.monotonic() - start, time.process_time() - cpu
    print(f'  {name}: {count} samples, {count / wall:.0f} a second, {count / cpu:.0f} a second of CPU time', flush=True)
  return f'{len(rows)} rows of {rows.num_voxels} voxels'


def measure(step: Callable[..., str], *arguments) -> None:
  """Runs a step in a new process, and prints its time and largest memory."""
  context = multiprocessing.get_context('spawn')
  process = context.Process(target=_run, args=(step, arguments))
  process.start()
  process.join()
  if process.exitcode:
    raise SystemExit(process.exitcode)


def _run(step: Callable[..., str], arguments: tuple) -> None:
  start, cpu = time.monotonic(), time.process_time()
  result = step(*arguments)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  seconds = f'{time.monotonic() - start:.0f} s ({time.process_time() - cpu:.0f} s of CPU time)'
  print(f'{step.__name__}: {result}; {seconds}, at most {peak:.2f} GiB of memory', flush=True)


def main() -> None:
  """Runs the three steps, and prints how many samples a GPU needs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--folder', type=Path, required=True, help='for about 20 MB a subject')
  parser.add_argument('--subjects', type=int, default=1113, help='default: as many as HCP has')
  parser.add_argument('--voxels', type=int, default=4192, help='of each subject')
  args = parser.parse_args()
  measure(simulate, args.folder, args.subjects, args.voxels)
  measure(prepare, args.folder)
  measure(stream, args.folder)
  flops = limits.contrast_step(rows.config(quick=False), args.voxels)  # of one sample
  print(
    f'contrast: {flops / 1e9:.0f} GFLOP a sample: {FLOPS / 2 / flops:.0f} samples a second on an H100 at half its peak'
  )


if __name__ == '__main__':
  main()
