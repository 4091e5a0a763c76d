"""Tests over drawn examples: few in the quick suite, many in the slow one."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

QUICK, SLOW = 25, 600  # examples


def drawn(**strategies) -> Callable[[Callable], tuple[Callable, Callable]]:
  """Makes a check of drawn arguments a quick and a slow test: `test_x, test_x_slow = drawn(a=...)(check)`."""

  def tests(check: Callable) -> tuple[Callable, Callable]:
    quick, slow = (
      settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])(
        given(**strategies)(check)
      )
      for count in (QUICK, SLOW)
    )
    return quick, pytest.mark.slow(slow)

  return tests
