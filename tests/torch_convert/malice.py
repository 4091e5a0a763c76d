"""Pickles that would do harm if they were run, and a canary that tells."""

import builtins
import os
import pathlib
import subprocess


class Reduces:
  """Pickles to a call of any function."""

  def __init__(self, function, *args):
    self._call = function, args

  def __reduce__(self):
    return self._call


def attacks(canary: pathlib.Path) -> dict[str, object]:
  """Objects that create the file `canary` when they are unpickled by the ordinary pickle module."""
  code = f'open({str(canary)!r}, "w").close()'
  return {
    'os.system': Reduces(os.system, f'touch {canary}'),
    'eval': Reduces(builtins.eval, code.replace('.close()', '')),
    'exec': Reduces(builtins.exec, code),
    'open': Reduces(builtins.open, str(canary), 'w'),
    'getattr': Reduces(getattr, Reduces(pathlib.Path, str(canary)), 'touch'),
    'popen': Reduces(subprocess.Popen, ['touch', str(canary)]),
    'path_touch': Reduces(pathlib.Path.touch, Reduces(pathlib.Path, str(canary))),
    'makedirs': Reduces(os.makedirs, str(canary)),
  }
