"""The one kind of error that a user's mistake raises, and how a command reports it."""

import argparse
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import logging

# What a full disk, a full quota or a limit on file sizes says.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a path says that cannot be written or read.
NO_PLACE = (
  errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOENT,
)  # fmt: skip


class UserError(Exception):
  """A user's mistake, told in one sentence: which file or field, what was found, what was expected, what to do."""

  status = 2  # of the command that ends with it


class Stopped(UserError):
  """SIGTERM asked a run to stop, and it has saved its state."""

  status = 128 + signal.SIGTERM


class ArgumentParser(argparse.ArgumentParser):
  """Its faults are `UserError`s, and names of options are written in full."""

  def __init__(self, **kwargs: Any):
    super().__init__(allow_abbrev=False, **kwargs)

  def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
    """As argparse, but an empty value is a fault: it comes of a shell variable that is not set."""
    args = sys.argv[1:] if args is None else list(args)
    for arg in args:
      if not arg or arg.startswith('--') and arg.endswith('='):
        self.error(f'argument {arg or "(without a name)"} is empty')
    return super().parse_args(args, namespace)

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{self.prog}: {message}; --help shows what there is.')


def disk_full_reason(text: str) -> str:
  """The reason out of `NO_ROOM` that a library's message holds, for errors that carry no number; empty if none."""
  return next((reason for reason in map(os.strerror, NO_ROOM) if reason in text), '')


def describe_disk_error(error: BaseException) -> str:
  """What to tell of a full disk or a path that cannot be used; empty for any other error."""
  if not isinstance(error, OSError) or error.errno not in NO_ROOM + NO_PLACE:
    return ''
  advice = 'Make room on that disk; the same command goes on.' if error.errno in NO_ROOM else 'Choose another path.'
  where = f'{error.filename}: ' if error.filename else ''
  return f'{where}{error.strerror}; files that were complete before are intact. {advice}'


def command_line(main: Callable[..., Any]) -> Callable[..., int]:
  """Wraps a command's main function and returns its exit status.

  It is 2 after a `UserError` or a full disk (said on stderr), 143 when SIGTERM stopped the run, 130 after Ctrl-C, 141
  when nobody reads what it prints any more.
  """

  @functools.wraps(main)
  def run(*args, **kwargs) -> int:
    logging.set_verbosity(logging.FATAL)  # what Orbax logs as an error it raises as well, and it is told once
    try:
      status = main(*args, **kwargs) or 0
      sys.stdout.flush()
      return status
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      return error.status
    except BrokenPipeError:  # the reader of `... | head` has left; what Python would still write at its end as well
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 128 + signal.SIGPIPE
    except OSError as error:
      if not (sentence := describe_disk_error(error)):
        raise
      print(f'error: {sentence}', file=sys.stderr)
      return UserError.status
    except KeyboardInterrupt:
      print('interrupted', file=sys.stderr)
      return 130

  return run
