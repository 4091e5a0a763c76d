"""Several hosts, one run: how they join, what the first one does alone, and how all end when one does."""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from brainjax.errors import Stopped, UserError, describe_disk_error

_AT_SIGTERM: list[Callable[[], None]] = []  # what SIGTERM calls: the last of these


def join(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Joins the other hosts of a TPU pod, SLURM job, Kubernetes JobSet or MPI job as JAX finds them, or those of the arguments.

  Raises:
    UserError: half of the arguments are missing, or the other hosts cannot be reached.
  """
  try:
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  except (ValueError, TypeError) as error:
    given = (coordinator_address or os.environ.get('JAX_COORDINATOR_ADDRESS'), num_processes, process_id)
    if all(value is None for value in given):
      return  # one host: JAX found no cluster
    raise UserError(
      f'flags: several hosts need --coordinator_address=HOST:PORT (of process 0), --num_processes and --process_id '
      f'(0 to num_processes - 1) together; found {given[0]}, {given[1]}, {given[2]} ({error}).'
    ) from error
  except RuntimeError as error:
    raise UserError(
      f'the other hosts cannot be reached: {str(error).splitlines()[0]}; the same command must run on every host '
      'at the same time, and the first host must be reachable from the others.'
    ) from error


def is_first() -> bool:
  """Whether this is the host that writes."""
  return jax.process_index() == 0


def log(text: str) -> None:
  """Prints a line, on the first host only."""
  if is_first():
    print(text, flush=True)


def share(rows: int) -> slice:
  """This host's part of so many rows that every host holds.

  Raises:
    UserError: the hosts cannot share them evenly.
  """
  each, rest = divmod(rows, jax.process_count())
  if rest:
    raise UserError(f'a batch of {rows} rows cannot be shared by {jax.process_count()} hosts; choose a multiple.')
  return slice(jax.process_index() * each, (jax.process_index() + 1) * each)


def from_first(value: int) -> int:
  """The first host's value of a whole number, on every host. Every host must call it."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if jax.process_count() > 1 else value


def same(text: str) -> bool:
  """Whether a text is the same on every host. Every host must call it."""
  sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(text.encode())))
  return len(np.unique(sums)) == 1


def on_first(work: Callable[..., Any], *args: Any) -> None:
  """Does some work on the first host while the others wait; if it fails there, all hosts fail.

  Raises:
    UserError: on the other hosts, when the work failed. On the first one whatever the work raised.
  """
  failure = None
  if is_first():
    try:
      work(*args)
    except Exception as error:
      failure = error
  failed = from_first(failure is not None)
  if failure is not None:
    raise failure
  if failed:
    raise UserError('the first host stopped; its own output tells why.')


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """Inside it, an error on one of several hosts ends this process at once, so that the job never hangs; SIGTERM ends any.

  Leaving in the ordinary way would first wait for the other hosts at JAX's shutdown barrier, while they wait for this
  one in a collective. They notice: their connection breaks, or JAX's coordination service ends them.
  """
  try:
    # Training saves at SIGTERM. At other times JAX's own handler on several hosts, and the kernel for process 1 of a
    # container, would let it pass.
    with at_sigterm(_leave):
      yield
  except BaseException as error:
    if jax.process_count() == 1:
      raise
    this = f'host {jax.process_index()} of {jax.process_count()}'
    if isinstance(error, UserError):
      end_now(f'{this}: {error}', error.status)
    if sentence := describe_disk_error(error):
      end_now(f'{this}: {sentence}', UserError.status)
    with contextlib.suppress(OSError):
      traceback.print_exception(error)
    end_now(
      f'{this} stopped: {(str(error) or type(error).__name__).splitlines()[0]}. If that speaks of a connection, '
      'another host has ended: see its output. The same command on every host goes on from the last checkpoint.',
      1,
    )


def end_now(sentence: str, status: int) -> None:
  """Ends this process at once, from any thread, whether or not anybody reads the sentence any more."""
  with contextlib.suppress(OSError):
    sys.stdout.flush()
    print(f'error: {sentence}', file=sys.stderr, flush=True)
  os._exit(status)


@contextlib.contextmanager
def at_sigterm(work: Callable[[], None]) -> Iterator[None]:
  """Inside it, SIGTERM calls `work` at once, in a thread of its own, and does nothing else. The innermost counts.

  Python's own handlers would wait for the main thread, which may be in a compilation for minutes.
  """
  with contextlib.ExitStack() as stack:
    if not _AT_SIGTERM:
      stack.enter_context(_listening())
    _AT_SIGTERM.append(work)
    stack.callback(_AT_SIGTERM.pop)
    yield


@contextlib.contextmanager
def _listening() -> Iterator[None]:
  read, write = os.pipe()
  # A handler in C, which writes to the pipe; chained, because JAX's own tells the other hosts.
  faulthandler.register(signal.SIGTERM, file=write, all_threads=False, chain=jax.process_count() > 1)
  threading.Thread(target=_listen, args=(read,), daemon=True).start()
  try:
    yield
  finally:
    faulthandler.unregister(signal.SIGTERM)
    os.close(write)  # ends the thread


def _listen(read: int) -> None:
  while os.read(read, 2**16):
    for work in _AT_SIGTERM[-1:]:
      work()
  os.close(read)


def _leave() -> None:
  end_now('stopped by SIGTERM; the same command, on every host, goes on.', Stopped.status)
