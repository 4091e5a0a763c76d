"""Several hosts in one run: how they join, what only the first does, and how all stop when one stops."""

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

# Seconds that a step may take to end after SIGTERM; schedulers wait 30 or more before they kill.
GRACE = 25.0
_AT_SIGTERM: list[Callable[[], None]] = []  # SIGTERM calls the last one


def join(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Joins the other hosts of the run. Without arguments JAX detects a TPU pod, SLURM, Kubernetes or MPI job.

  Args:
    coordinator_address: HOST:PORT of process 0.
    num_processes: number of hosts.
    process_id: of this host, from 0.

  Raises:
    UserError: some arguments are missing, or the other hosts cannot be reached.
  """
  try:
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  except (ValueError, TypeError) as error:
    given = (coordinator_address or os.environ.get('JAX_COORDINATOR_ADDRESS'), num_processes, process_id)
    if all(value is None for value in given):
      return  # JAX detected no cluster: one host
    raise UserError(
      f'found --coordinator_address={given[0]}, --num_processes={given[1]}, --process_id={given[2]}; several hosts need '
      f'--coordinator_address=HOST:PORT (of process 0), --num_processes and --process_id (from 0) together ({error}).'
    ) from error
  except RuntimeError as error:
    raise UserError(
      f'the other hosts cannot be reached: {str(error).splitlines()[0]}; run the same command on every host at the same '
      'time, and check that the others can connect to the first one.'
    ) from error


def is_first() -> bool:
  """Whether this is the first host, the one that writes files."""
  return jax.process_index() == 0


def log(text: str) -> None:
  """Prints a line on the first host."""
  if is_first():
    print(text, flush=True)


def share(rows: int) -> slice:
  """Returns this host's part of the rows of a batch.

  Raises:
    UserError: the number of rows is not a multiple of the number of hosts.
  """
  each, rest = divmod(rows, jax.process_count())
  if rest:
    raise UserError(f'a batch of {rows} rows cannot be divided among {jax.process_count()} hosts; choose a multiple.')
  return slice(jax.process_index() * each, (jax.process_index() + 1) * each)


def from_first(value: int) -> int:
  """Sends a whole number from the first host to all. Every host must call it."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if jax.process_count() > 1 else value


def all_equal(text: str) -> bool:
  """Whether a text is the same on every host. Every host must call it."""
  sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(text.encode())))
  return len(np.unique(sums)) == 1


def on_first(work: Callable[..., Any], *args: Any) -> None:
  """Calls `work(*args)` on the first host while the others wait; if it fails, all hosts fail.

  Raises:
    UserError: the work failed; raised on the other hosts. The first host raises the error of the work.
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
    raise UserError('the first host stopped; its own output says why.')


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """Context in which an error on one of several hosts ends this process at once; SIGTERM ends a single host, too.

  An ordinary exit would hang: it waits for the other hosts at JAX's shutdown barrier, while they wait for this host in a
  collective. The others end as well, because their connection breaks or JAX's coordination service ends them.
  """
  try:
    # Training saves at SIGTERM. At other times the signal would be ignored: by JAX's own handler on several hosts, and by
    # the kernel for process 1 of a container.
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
      f'{this} stopped: {(str(error) or type(error).__name__).splitlines()[0]}. If this is about a connection, another '
      'host has ended: see its output. To resume from the last checkpoint, run the same command on every host.',
      1,
    )


def end_now(sentence: str, status: int) -> None:
  """Prints an error and ends this process at once, from any thread, even if nobody reads the output any more."""
  with contextlib.suppress(OSError):
    sys.stdout.flush()
    print(f'error: {sentence}', file=sys.stderr, flush=True)
  os._exit(status)


@contextlib.contextmanager
def at_sigterm(work: Callable[[], None]) -> Iterator[None]:
  """Context in which SIGTERM calls `work` at once, in its own thread, and does nothing else. The innermost counts.

  A handler of Python would wait for the main thread, which may compile for minutes.
  """
  with contextlib.ExitStack() as stack:
    if not _AT_SIGTERM:
      stack.enter_context(_listening())
    _AT_SIGTERM.append(work)
    stack.callback(_AT_SIGTERM.pop)
    yield


class StopSignal:
  """Notices SIGTERM, so that a loop can save and leave; the hosts of one run agree on the step through JAX's notice."""

  def __init__(self):
    self._asked = False
    self._timer = threading.Timer(GRACE, self._give_up)
    self._timer.daemon = True
    self._noticing = at_sigterm(self._ask)

  def __enter__(self) -> 'StopSignal':
    self._noticing.__enter__()
    return self

  def __exit__(self, kind, error, trace) -> None:
    self._timer.cancel()
    self._noticing.__exit__(kind, error, trace)
    if self._asked and error is None:  # it arrived after the last step: send it again
      os.kill(os.getpid(), signal.SIGTERM)

  def asked(self, step: int) -> bool:
    """Whether to save after this step and leave. To be called at every step."""
    return self._asked if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)

  def begin_save(self) -> None:
    """Cancels the time limit, so that a save is not cut off."""
    self._timer.cancel()

  def _ask(self) -> None:
    if not self._asked:
      self._asked = True
      self._timer.start()

  def _give_up(self) -> None:
    # In the middle of a compilation or a validation that takes longer than schedulers wait.
    end_now(
      f'stopped by SIGTERM in a step that takes more than {GRACE:.0f} s; the same command resumes from the last checkpoint.',
      Stopped.status,
    )


@contextlib.contextmanager
def _listening() -> Iterator[None]:
  read, write = os.pipe()
  # A handler in C that writes to the pipe. On several hosts JAX's handler runs, too: it informs the others.
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
  end_now('stopped by SIGTERM; to resume, run the same command on every host.', Stopped.status)
