"""The error that a user's mistake raises, and how commands report it."""

import argparse
import contextlib
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from absl import logging

# A full disk, a full quota, a limit on file sizes.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A path that cannot be read or written.
NO_PLACE = (
  errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOENT,
)  # fmt: skip


class UserError(Exception):
  """A user's mistake, in one sentence: which file or field, what was found, what was expected, what to do."""

  status = 2  # exit status of the command


def format_error(error: BaseException) -> str:
  """The text of an exception on one line (the reason alone of an `OSError`), or the name of its class if it has none."""
  return ' '.join(str(getattr(error, 'strerror', None) or error).split())[:200] or type(error).__name__


def list_names(names: Iterable[str], most: int = 20) -> str:
  """Sorted names for a message: 'a, b', or the first ones 'and 7 more'."""
  names = sorted(names)
  return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')


@contextlib.contextmanager
def as_user_error(
  problem: str, remedy: str = 'copy or download it again', kinds: tuple[type[Exception], ...] = (Exception,)
) -> Iterator[None]:
  """Turns exceptions of libraries into a `UserError`: the problem, the library's message, the remedy.

  By default it catches all of them, because damaged files make libraries fail in any way.

  Raises:
    UserError: the body raised one, or an exception of these kinds.
  """
  try:
    yield
  except UserError:
    raise
  except kinds as error:
    raise UserError(f'{problem} ({format_error(error)}); {remedy}') from error


class Stopped(UserError):
  """A run has saved its state and stops, because it received SIGTERM."""

  status = 128 + signal.SIGTERM


class ArgumentParser(argparse.ArgumentParser):
  """An `argparse` parser that raises `UserError`, and wants names of options in full."""

  def __init__(self, **kwargs: Any):
    super().__init__(allow_abbrev=False, **kwargs)

  def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
    """Parses as argparse does, but refuses an empty value: a shell variable was not set.

    Raises:
      UserError: a value is empty, or an argument unknown or wrong.
    """
    args = sys.argv[1:] if args is None else list(args)
    for arg in args:
      if not arg or arg.startswith('--') and arg.endswith('='):
        self.error(f'argument {arg or "(without a name)"} is empty')
    return super().parse_args(args, namespace)

  def error(self, message: str) -> NoReturn:
    """Reports a command line that cannot be parsed.

    Raises:
      UserError: always, with the message of argparse.
    """
    raise UserError(f'{self.prog}: {message}; --help lists the options.')


def disk_full_reason(text: str) -> str:
  """Finds one of the `NO_ROOM` reasons in the message of an error without a number; empty if there is none."""
  return next((reason for reason in map(os.strerror, NO_ROOM) if reason in text), '')


def describe_disk_error(error: BaseException) -> str:
  """Describes a full disk or an unusable path in one sentence; empty for any other error."""
  if not isinstance(error, OSError) or error.errno not in NO_ROOM + NO_PLACE:
    return ''
  advice = 'Make room on that disk and run the command again.' if error.errno in NO_ROOM else 'Choose another path.'
  where = f'{error.filename}: ' if error.filename else ''
  return f'{where}{error.strerror}; complete files are intact. {advice}'


def command_line(main: Callable[..., Any]) -> Callable[..., int]:
  """Wraps the main function of a command, so that it reports errors in one sentence and returns its exit status.

  The status is 0; 2 after a `UserError`, a full disk or an unusable path; 143 after SIGTERM; 130 after Ctrl-C; 141 if
  the reader of its output has gone.
  """

  @functools.wraps(main)
  def run(*args, **kwargs) -> int:
    logging.set_verbosity(logging.FATAL)  # Orbax raises what it logs; it is reported once
    try:
      status = main(*args, **kwargs) or 0
      sys.stdout.flush()
      return status
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      return error.status
    except BrokenPipeError:  # the reader, such as `head`, has gone; Python must not write at its exit, either
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
