"""The one kind of error that a user's mistake raises, and how a command reports it."""

import functools
import sys
from collections.abc import Callable
from typing import Any


class UserError(Exception):
  """A user's mistake, told in one sentence: which file or field, what was found, what was expected, what to do."""


def command_line(main: Callable[..., Any]) -> Callable[..., int]:
  """Wraps a command's main function: returns its exit status, 2 after a `UserError` (said on stderr), 130 after Ctrl-C."""

  @functools.wraps(main)
  def run(*args, **kwargs) -> int:
    try:
      return main(*args, **kwargs) or 0
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      return 2
    except KeyboardInterrupt:
      print('interrupted', file=sys.stderr)
      return 130

  return run
