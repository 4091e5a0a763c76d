"""Measures the seconds from starting launch.py with configs/tiny.py to the end of the first training step."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from brainjax import pipeline
from configs import tiny

STAGE = 'contrast'


def prepare(folder: Path) -> None:
  """Simulates and prepares the data, so that only the start is measured."""
  run = (folder / 'run').absolute()
  settings = tiny.get_config()
  for field in ('hcp', 'god', 'prepared'):
    settings.data[field] = settings.data[field].format(workdir=run)
  with contextlib.redirect_stdout(sys.stderr):
    pipeline.prepare_data(settings, run, [STAGE])


def first_step(folder: Path, warm: bool) -> tuple[float, int]:
  """Returns the seconds to the first step, and the peak bytes of the process.

  Args:
    folder: after `prepare`.
    warm: use the compilation cache of the last call; otherwise start with an empty one.
  """
  cache = folder / 'cache'
  if not warm:
    shutil.rmtree(cache, ignore_errors=True)
  shutil.rmtree(folder / 'run' / STAGE, ignore_errors=True)
  metrics, log = folder / 'run' / STAGE / 'metrics.jsonl', folder / 'log'
  start = time.perf_counter()
  with open(log, 'wb') as file:
    process = subprocess.Popen(_command(folder, cache), stdout=file, stderr=file)
  seconds, ended = None, 0
  while not ended:
    if seconds is None and metrics.is_file() and metrics.read_text().count('\n'):
      seconds = time.perf_counter() - start
    time.sleep(0.01)
    ended, process.returncode, usage = os.wait4(process.pid, os.WNOHANG)  # memory of this process only
  if seconds is None or process.returncode:
    raise RuntimeError(f'launch.py failed: {log.read_text().strip().splitlines()[-1:]}')
  return seconds, usage.ru_maxrss * 1024


def _command(folder: Path, cache: Path | str) -> list[str]:
  options = [f'--workdir={folder / "run"}', f'--stages={STAGE}', f'--config.compilation_cache={cache}']
  return [sys.executable, 'launch.py', '--config=configs/tiny.py', '--config.contrast.num_steps=1', *options]
