"""Runs a command of brainjax in a process of its own, notes its moments, and kills it with SIGKILL at one of them.

A moment is an operation on files below a folder (Python tells of each before it happens), or a batch that goes to the
devices. So the kills lie where things can break: before and after every rename, between the files of a checkpoint, in a
step, in the hand-over between stages. With a delay they lie in what libraries do without Python, such as the writing of
arrays.
"""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

# The processes are forked from one that has imported everything: a kill costs the run, not the imports.
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['brainjax.launch', 'brainjax.pipeline', 'brainjax.convert'])
NUMBERS = itertools.count()
FILE_EVENTS = ('os.rename', 'os.mkdir', 'os.remove', 'os.rmdir')


class Run:
  """A command that runs.

  Args:
    argv: arguments of launch.py, or of `python -m brainjax.convert` where `convert`.
    folder: moments are operations below it.
    after: moments count from the first below `folder`/`after` on.
    kill_at: number of the moment, from 0; None: no kill.
    delay: seconds after it.
    moments: file for one line per moment.
  """

  def __init__(self, argv, folder: Path, *, after='', kill_at=None, delay=0.0, moments=None, convert=False):
    folder.parent.mkdir(parents=True, exist_ok=True)
    self._output = folder.parent / f'{folder.name}.output{next(NUMBERS)}'
    arguments = (list(argv), folder, after, kill_at, delay, moments, convert, self._output)
    self._output.write_text('')
    self.process = CONTEXT.Process(target=_run, args=arguments)
    self.process.start()

  def end(self, timeout=900):
    """(exit status, output); the status is -9 after a kill."""
    self.process.join(timeout)
    assert not self.process.is_alive(), f'still running after {timeout} s:\n{self.output}'
    return self.process.exitcode, self.output

  @property
  def output(self):
    return self._output.read_text()


def _run(argv, folder, after, kill_at, delay, moments, convert, output):
  descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
  os.dup2(descriptor, 1)
  os.dup2(descriptor, 2)
  from brainjax import launch, sharding
  from brainjax.convert import main as convert_main
  from brainjax.errors import command_line

  notes = os.open(moments, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if moments else None
  root, count, begun = str(folder), 0, not after

  def moment(kind, path):
    nonlocal count, begun
    begun = begun or Path(path).is_relative_to(folder / after)
    if not begun:
      return
    if notes is not None:
      os.write(notes, f'{kind} {path}\n'.encode())
    if count == kill_at:
      kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
      threading.Timer(delay, kill).start() if delay else kill()
    count += 1

  def hook(event, args):
    if event == 'open':
      path, written = args[0], (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    elif event in FILE_EVENTS:
      path, written = args[0], True
    else:
      return
    path = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ''
    if written and path.startswith(root):
      moment(event, path)

  for name in ('put_batch', 'put_rows'):
    setattr(sharding, name, _announced(getattr(sharding, name), moment))
  sys.addaudithook(hook)
  sys.exit(command_line(convert_main)(argv) if convert else launch.main(argv))


def _announced(function, moment):
  def announced(*args):
    moment('batch', '/')
    return function(*args)

  return announced
