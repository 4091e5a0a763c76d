"""The progress bar of every command."""

import os
import sys
from collections.abc import Iterable

from tqdm import tqdm

from brainjax import hosts


class _CompilingBar(tqdm):
  """A bar that starts to measure after its first update, which took the compiler's time."""

  def __init__(self, *args, **kwargs):
    self._compiling = True
    super().__init__(*args, postfix='compiling', **kwargs)

  def update(self, n=1):
    if self.disable or not self._compiling:
      return super().update(n)
    self._compiling, self.postfix = False, None
    self.n += n
    self.initial = self.last_print_n = self.n
    self.start_t = self.last_print_t = self._time()
    return None


def progress(
  total: int,
  name: str,
  initial: int = 0,
  *,
  steps: Iterable | None = None,
  unit: str = 'step',
  is_brief: bool = False,
  compiles: bool = False,
) -> tqdm:
  """Returns a progress bar with the time left, shown on the first host. Without a terminal: one line a minute.

  The environment variable BRAINJAX_PROGRESS=0 switches it off for every command.

  Args:
    total: number of steps.
    name: of the work.
    initial: steps that are done already.
    steps: counted while one iterates over the bar; None: `update` counts them.
    unit: what a step is.
    compiles: the first step compiles the program. The bar says so, and rate and time left count the steps after it.
    is_brief: one of many short bars: shown on a terminal only, and removed at its end. JAX is not asked which host this is.
  """
  watched = sys.stderr.isatty()
  return (_CompilingBar if compiles else tqdm)(
    steps,
    total=total,
    initial=initial,
    desc=name,
    unit=unit,
    disable=os.environ.get('BRAINJAX_PROGRESS') == '0' or not (watched if is_brief else hosts.is_first()),
    leave=not is_brief,
    mininterval=0.5 if watched else 60.0,
    maxinterval=10.0 if watched else 60.0,
    ascii=not watched,
    dynamic_ncols=watched,
    bar_format='{desc:<12} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} {rate_fmt}, {remaining} left{postfix}',
  )
