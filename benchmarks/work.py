"""A piece of work that is measured, and the process that does it on request."""

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.rows import PLMS_STEPS

# Sampling steps that are measured where all of them would take too long: {quick: (few, more)}. Not 1: from 2 on n steps
# of diffusers' PLMS are n + 1 passes, as ours, but 1 step is one pass.
FEW = {False: (2, 5), True: (2, 10)}
LEAST = 0.3  # seconds that one repetition lasts at least


class Work(NamedTuple):
  """One of the two: a call that is timed from outside, or one that returns its seconds, with what warms it up."""

  call: Callable[[], object] | None = None
  timed: Callable[[], float] | None = None
  warm: Callable[[], object] | None = None

  def seconds(self) -> float:
    """Of one call."""
    if self.timed:
      return self.timed()
    return elapsed(self.call)


def elapsed(call: Callable[[], object]) -> float:
  """Seconds of a call."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def extrapolated(seconds: Callable[[int], float], few: tuple[int, int], steps: int = PLMS_STEPS) -> float:
  """Seconds of a sampler of so many steps, from two shorter ones: what comes once, and what comes with each step."""
  less, more = few
  first, second = seconds(less), seconds(more)
  each = (second - first) / (more - less)
  return first + (steps - less) * each


def peak_bytes() -> int:
  """The largest resident memory of this process so far (Linux)."""
  with open('/proc/self/status') as file:
    return 1024 * next(int(line.split()[1]) for line in file if line.startswith('VmHWM'))


def serve(build: Callable[[str], Work], device_bytes: Callable[[], int | None]) -> None:
  """Answers on standard output, a line of JSON for each line of standard input.

  'build ROW' makes the work of a row, 'first' calls it once (compilation and warm-up), 'run' once more and then as often as
  one repetition needs, 'memory' tells the peak. What goes wrong is answered as {'failed': why}.
  """
  out = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)  # what libraries print does not belong into the answers
  work, calls = None, 1
  for line in sys.stdin:
    command, *key = line.split()
    start = time.perf_counter()
    try:
      if command == 'build':
        work, calls = None, 1  # the old one goes before the new one comes
        work = build(*key)
        answer = {'seconds': time.perf_counter() - start}
      elif command == 'first':
        work.warm() if work.warm else work.seconds()
        answer = {'seconds': time.perf_counter() - start}
        if work.timed is None:
          calls = max(1, round(LEAST / max(work.seconds(), 1e-6)))
      elif command == 'run':
        if work.call:  # as in a loop: while another process had its turn, this one's memory grew cold
          work.call()
        answer = {'seconds': statistics.median(work.seconds() for _ in range(calls))}
      else:
        answer = {'bytes': device_bytes() or peak_bytes()}
    except Exception as error:  # of any library; the parent reports it
      traceback.print_exc()
      answer = {'failed': (str(error).strip().splitlines() or [type(error).__name__])[0][:200]}
    out.write(json.dumps(answer) + '\n')
