"""Measures rows with two processes that take turns: ours, and a PyTorch version."""

import json
import os
import select
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import rows, rows_loader, start
from benchmarks.rows import Row

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1800  # seconds for one call; torch.compile is slow on few cores
LOADER_SUBJECTS = {False: 8, True: 1}
# Without caches of compiled programs.
ENVIRONMENT = {
  'JAX_ENABLE_COMPILATION_CACHE': 'false',
  'TORCHINDUCTOR_FORCE_DISABLE_CACHES': '1',
  'TOKENIZERS_PARALLELISM': 'false',
}
QUICK_FLAGS = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'  # compile quickly
WITHOUT_PEAK = ('matmul', 'copy', 'loader', 'start')  # rows that are not compared with the peak of a product


class Failed(Exception):
  """A side could not compute a row; the text gives the reason."""


class Side:
  """A process that computes rows in one way; see `work.serve`."""

  def __init__(self, way: str, device: str, quick: bool, log: Path, options: Sequence[str] = ()):
    environment = dict(os.environ) | ENVIRONMENT
    if device == 'cpu':
      environment |= {'JAX_PLATFORMS': 'cpu', 'CUDA_VISIBLE_DEVICES': ''}
    if quick:
      environment['XLA_FLAGS'] = QUICK_FLAGS
    self._way = way
    self._log = open(log, 'ab')  # noqa: SIM115 - closed by close()
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'benchmarks.side', way, *(['--quick'] if quick else []), *options],
      cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1,
    )  # fmt: skip

  def ask(self, question: str) -> float:
    """Sends a question and returns the number in the answer.

    Raises:
      Failed: the process cannot answer.
    """
    try:
      self._process.stdin.write(question + '\n')
      ready, _, _ = select.select([self._process.stdout], [], [], LIMIT)
      line = self._process.stdout.readline() if ready else ''
    except BrokenPipeError:
      line = ''
    if not line:
      ended = self._process.poll()
      raise Failed(f'{self._way}: ' + ('no answer in time' if ended is None else f'the process ended ({ended})'))
    answer = json.loads(line)
    if 'failed' in answer:
      raise Failed(f'{self._way}: {answer["failed"]}')
    return next(iter(answer.values()))

  def close(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    try:
      self._process.wait(20)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._log.close()


class Bench:
  """Measures rows. Two processes run at a time: ours and a peer."""

  def __init__(self, device: str, quick: bool, repetitions: int, folder: Path, options: Sequence[str] = ()):
    self._device, self._quick, self._repetitions, self._folder = device, quick, repetitions, folder
    self._options = list(options)
    self._kept: dict[str, Side] = {}  # quick: one process for each way computes all rows

  def _side(self, way: str) -> Side:
    if way in self._kept:
      return self._kept[way]
    options = [f'--data={self._folder / "loader"}', *self._options]
    if way != 'ours':
      options = [option for option in options if not option.startswith('--set')]
    side = Side(way, self._device, self._quick, self._folder / f'{way}.log', options)
    if self._quick:
      self._kept[way] = side
    return side

  def _done(self, side: Side) -> None:
    if not self._quick:
      side.close()

  def close(self) -> None:
    """Ends the remaining processes."""
    for side in self._kept.values():
      side.close()

  def measure(self, row: Row) -> dict[str, Any]:
    """Measures one row and its peers."""
    if row.name == 'start':
      return self._start(row)
    if row.name == 'loader':
      voxels = rows.QUICK_VOXELS if self._quick else rows.VOXELS
      rows_loader.make_data(self._folder / 'loader', LOADER_SUBJECTS[self._quick], voxels)
    ours = self._side('ours')
    try:
      result = {'ours': self._begin(ours, row), 'peers': {}}
      values = []
      for way in row.peers:
        result['peers'][way] = self._beside(ours, way, row, values)
      if not values:
        values = [ours.ask('run') for _ in range(self._repetitions)]
      result['ours'] |= {**_summary(values), 'bytes': int(ours.ask('memory'))}
      if row.name not in WITHOUT_PEAK:
        result['ours']['peak'] = self._peak(ours)
    finally:
      self._done(ours)
    return result

  def _begin(self, side: Side, row: Row) -> dict[str, float]:
    return {'build_seconds': side.ask(f'build {row.key}'), 'first_seconds': side.ask('first')}

  def _beside(self, ours: Side, way: str, row: Row, values: list[float]) -> dict[str, Any]:
    side = self._side(way)
    try:
      result = self._begin(side, row)
      seconds: dict[Side, list[float]] = {ours: [], side: []}
      for number in range(self._repetitions):
        for one in (ours, side) if number % 2 == 0 else (side, ours):
          seconds[one].append(one.ask('run'))
      values += seconds[ours]
      result |= {**_summary(seconds[side]), 'bytes': int(side.ask('memory'))}
      result['ours_over_this'] = statistics.median(seconds[ours]) / result['seconds']
      return result | ({} if row.name in WITHOUT_PEAK else {'peak': self._peak(side)})
    except Failed as failure:
      return {'failed': str(failure)}
    finally:
      self._done(side)

  def _peak(self, side: Side) -> float:
    """Measures operations per second of a large product at this time: on a shared machine it varies."""
    product = rows.rows(self._device, self._quick)[0]
    self._begin(side, product)
    return 2 * product.batch**3 / min(side.ask('run') for _ in range(self._repetitions))

  def _start(self, row: Row) -> dict[str, Any]:
    folder, warm = (self._folder / 'start').absolute(), row.batch > 0
    start.prepare(folder)  # existing data stay
    if warm and not (folder / 'cache').is_dir():
      start.first_step(folder, warm)  # fills it
    count = 1 if self._quick else self._repetitions
    runs = [start.first_step(folder, warm) for _ in range(count)]
    return {'ours': {**_summary([s for s, _ in runs]), 'bytes': max(b for _, b in runs)}, 'peers': {}}


def _summary(values: Sequence[float]) -> dict[str, Any]:
  return {'seconds': statistics.median(values), 'least': min(values), 'most': max(values), 'values': list(values)}
