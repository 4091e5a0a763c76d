"""The work that is measured, and the process that runs it on request."""

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.rows import PLMS_STEPS

# Numbers of sampling steps to measure where all 250 would take too long: {quick: (few, more)}. At least 2: n steps of
# diffusers' PLMS are n + 1 passes, as ours, but 1 step is only one pass.
FEW = {False: (2, 5), True: (2, 10)}
LEAST = 0.3  # least seconds of one repetition


class Work(NamedTuple):
  """Either `call`, whose time is measured; or `timed`, which returns its own seconds, and `warm`, its warm-up."""

  call: Callable[[], object] | None = None
  timed: Callable[[], float] | None = None
  warm: Callable[[], object] | None = None

  def seconds(self) -> float:
    """Seconds of one call."""
    if self.timed:
      return self.timed()
    return elapsed(self.call)


def elapsed(call: Callable[[], object]) -> float:
  """Measures the seconds of a call."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


def extrapolated(seconds: Callable[[int], float], few: tuple[int, int], steps: int = PLMS_STEPS) -> float:
  """Extrapolates the seconds of a sampler of `steps` steps from two shorter runs: a constant, and a part for each step."""
  less, more = few
  first, second = seconds(less), seconds(more)
  each = (second - first) / (more - less)
  return first + (steps - less) * each


def peak_bytes() -> int:
  """Returns the largest resident memory of this process so far (Linux)."""
  with open('/proc/self/status') as file:
    return 1024 * next(int(line.split()[1]) for line in file if line.startswith('VmHWM'))


def serve(build: Callable[[str], Work], device_bytes: Callable[[], int | None]) -> None:
  """Answers on standard output, a line of JSON for each line of standard input.

  'build ROW' builds the work of a row. 'first' calls it once (compilation and warm-up). 'run' calls it once more, and then as
  often as one repetition needs. 'memory' answers with the peak. After an error the answer is {'failed': reason}.
  """
  out = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)  # output of libraries must not mix with the answers
  work, calls = None, 1
  for line in sys.stdin:
    command, *key = line.split()
    start = time.perf_counter()
    try:
      if command == 'build':
        work, calls = None, 1  # frees the old one before building the new one
        work = build(*key)
        answer = {'seconds': time.perf_counter() - start}
      elif command == 'first':
        work.warm() if work.warm else work.seconds()
        answer = {'seconds': time.perf_counter() - start}
        if work.timed is None:
          calls = max(1, round(LEAST / max(work.seconds(), 1e-6)))
      elif command == 'run':
        if work.call:  # warms up the caches after the other process's turn
          work.call()
        answer = {'seconds': statistics.median(work.seconds() for _ in range(calls))}
      else:
        answer = {'bytes': device_bytes() or peak_bytes()}
    except Exception as error:  # of any library; the parent process reports it
      traceback.print_exc()
      answer = {'failed': (str(error).strip().splitlines() or [type(error).__name__])[0][:200]}
    out.write(json.dumps(answer) + '\n')
