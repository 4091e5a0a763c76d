"""Trains the demo's contrast stage at a tiny size for many steps, and checks that memory, open files and speed stay constant.

python -m benchmarks.soak --workdir=runs/soak [--steps=20000]

The run has 40 checkpoints and validations. Writes soak.json to the workdir. The exit status is 1 if a bound is exceeded. Needs
Linux.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainjax import pipeline, sharding
from brainjax.errors import UserError, command_line
from brainjax.files import atomic_write
from brainjax.stages import contrast
from brainjax.stages.problem import Batches
from brainjax.train import LoopOptions, train
from configs import demo

SAMPLES = 400  # over the whole run
# Largest growth of resident memory and of open files, and largest loss of speed, from the beginning to the end.
BOUNDS = {'memory_growth': 0.02, 'more_open_files': 0, 'slower': 0.05}


class Sample(NamedTuple):
  """State of the process at one step."""

  step: int
  seconds: float
  cpu_seconds: float  # of this process, all threads
  resident_bytes: int
  open_files: int


class Watched:
  """Batches that record the state of the process at regular steps."""

  def __init__(self, batches: Batches, every: int):
    self._batches, self._every, self._step = batches, every, 0
    self.samples: list[Sample] = []

  def __iter__(self) -> 'Watched':
    return self

  def __next__(self) -> Mapping[str, np.ndarray]:
    if self._step % self._every == 0:
      self.record()
    self._step += 1
    return next(self._batches)

  def record(self) -> None:
    """Records memory, open files and time."""
    resident = int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGESIZE')
    files = len(os.listdir('/proc/self/fd'))
    self.samples.append(Sample(self._step, time.monotonic(), time.process_time(), resident, files))

  def get_state(self) -> Any:
    return self._batches.get_state()

  def set_state(self, state: Any) -> None:
    self._batches.set_state(state)


def compare(samples: Sequence[Sample]) -> dict[str, Any]:
  """Compares the last tenth with the first in speed, and with the second in memory and files: the first still fills buffers."""
  tenth = len(samples) // 10
  second, last = samples[tenth : 2 * tenth], samples[-tenth:]

  def steps_per(clock: str, part: Sequence[Sample]) -> float:
    return (part[-1].step - part[0].step) / (getattr(part[-1], clock) - getattr(part[0], clock))

  # The first sample is before the compilation.
  parts = samples[1 : tenth + 1], samples[-tenth - 1 :]
  first_speed, last_speed = (steps_per('seconds', part) for part in parts)
  first_work, last_work = (1000 / steps_per('cpu_seconds', part) for part in parts)  # not slowed by other processes
  memory = [float(np.mean([sample.resident_bytes for sample in part])) for part in (second, last)]
  files = [float(np.median([sample.open_files for sample in part])) for part in (second, last)]
  return {
    'steps': samples[-1].step,
    'resident_mb_second_tenth': round(memory[0] / 1e6, 1),
    'resident_mb_last_tenth': round(memory[1] / 1e6, 1),
    'memory_growth': round(memory[1] / memory[0] - 1, 4),
    'open_files_second_tenth': files[0],
    'open_files_last_tenth': files[1],
    'more_open_files': files[1] - files[0],
    'steps_per_second_first_tenth': round(first_speed, 1),
    'steps_per_second_last_tenth': round(last_speed, 1),
    'slower': round(1 - last_speed / first_speed, 4),
    'steps_per_second_of_tenths': [
      round(steps_per('seconds', samples[k * tenth + 1 : (k + 1) * tenth + 1]), 1) for k in range(10)
    ],
    'cpu_ms_per_step_first_tenth': round(first_work, 2),
    'cpu_ms_per_step_last_tenth': round(last_work, 2),
  }


def soak(workdir: Path, num_steps: int) -> tuple[dict[str, Any], list[Sample]]:
  """Trains; returns the result of `compare`, and the samples."""
  config = demo.get_config()
  config.data.update({'hcp': f'{workdir}/simulated/HCP', 'god': f'{workdir}/simulated/Kamitani/npz'})
  config.data.prepared = f'{workdir}/prepared'
  config.simulate.update({'voxels': 128, 'hcp_subjects': 2, 'image_size': 64})
  config.fmri_mae.update(
    {'patch_size': 16, 'width': 24, 'depth': 2, 'num_heads': 2, 'decoder_width': 16, 'decoder_num_heads': 2}
  )
  config.contrast.update(
    {'num_steps': num_steps, 'batch_size': 8, 'eval_every': num_steps // 40, 'checkpoint_every': num_steps // 40}
  )
  pipeline.prepare_data(config, workdir, ('contrast',))
  mesh = sharding.make_mesh()
  stage = contrast.make(config, mesh)
  watched = Watched(stage.batches, max(1, num_steps // SAMPLES))
  options = LoopOptions.from_config(config, 'contrast')
  train(stage._replace(batches=watched), options, workdir / 'contrast', mesh, config.seed, {})
  return compare(watched.samples), watched.samples


@command_line
def main() -> int:
  """Command line."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.soak', description=__doc__)
  parser.add_argument('--workdir', required=True, type=Path, help='new folder')
  parser.add_argument('--steps', type=int, default=20_000)
  args = parser.parse_args()
  if args.steps < SAMPLES:
    raise UserError(f'--steps is {args.steps}; expected {SAMPLES} or more.')
  if (args.workdir / 'contrast').exists():
    raise UserError(f'--workdir={args.workdir} holds a run already; choose another folder.')
  results, samples = soak(args.workdir.absolute(), args.steps)
  with atomic_write(args.workdir / 'soak.json') as path:
    path.write_text(json.dumps(results | {'samples': samples}) + '\n')
  for name, value in results.items():
    bound = f'   (bound {BOUNDS[name]})' if name in BOUNDS else ''
    print(f'{name:<30} {value}{bound}')
  return int(any(results[name] > bound for name, bound in BOUNDS.items()))


if __name__ == '__main__':
  raise SystemExit(main())
