"""Files and folders that appear under their name when they are complete, checksums, and a lock between processes."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

SUMS = 'SHA256SUMS'  # as the command sha256sum writes and checks it


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
  """Gives a temporary sibling of `path` to write to; on success it is flushed to disk and renamed to `path`.

  If the body raises, `path` stays as it was and the temporary file is removed. Parent folders are created. Temporary files
  of killed processes are removed.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # The suffix stays last: np.savez and PIL choose by it.
  temporary = _temporary(path, path.stem, path.suffix)
  try:
    yield temporary
    _flush(temporary)
    os.replace(temporary, path)
    _flush(path.parent)
  except OSError as error:
    if error.errno and not error.filename:  # a write to an open file (a full disk) has no name
      error.filename = os.fspath(path)
    raise
  finally:
    temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a JSON file by `atomic_write`.

  Raises:
    ValueError: a number is not finite, which JSON does not have.
  """
  with atomic_write(path) as temporary:
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + '\n')


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """All arrays of an .npz file. Pickled objects are refused.

  Raises:
    Exception: the file is missing or damaged. NumPy raises many kinds.
  """
  with np.load(path, allow_pickle=False) as archive:
    return dict(archive)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
  """As `atomic_write`, for a new folder: the body creates the temporary sibling, and `path` must not exist."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(path, path.name, '')
  try:
    yield temporary
    to_disk(temporary)
    os.rename(temporary, path)
    _flush(path.parent)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def to_disk(folder: Path) -> None:
  """Waits until a folder and everything in it are on disk, so that a power cut does not lose them."""
  for path in (*folder.rglob('*'), folder):
    _flush(path)


def _flush(path: Path) -> None:
  """Waits until a file, or the list of names of a folder, is on disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  except OSError:
    if not path.is_dir():  # some network file systems cannot do this for folders
      raise
  finally:
    os.close(handle)


def _temporary(path: Path, stem: str, suffix: str) -> Path:
  for left in path.parent.glob(f'.{glob.escape(stem)}.tmp*{suffix}'):
    owner = left.name.removeprefix(f'.{stem}.tmp').removesuffix(suffix)
    # Our own number belonged to a killed process: process 1 of a container that was started again.
    if owner.isdecimal() and (int(owner) == os.getpid() or not _is_alive(int(owner))):
      shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
  return path.with_name(f'.{stem}.tmp{os.getpid()}{suffix}')


def _is_alive(process: int) -> bool:
  """Whether a process with this number runs on this machine."""
  try:
    os.kill(process, 0)
  except PermissionError:
    return True  # another user's
  except (ProcessLookupError, OverflowError):
    return False
  return True


def lock(file: Path, busy: Callable[[], None]) -> IO[str]:
  """Locks a file for this process and returns it open. The lock ends with `close`, or with the process, however it ends.

  Args:
    file: created if missing, with its folder; its holder may remove both.
    busy: called if another process holds the lock. It may raise an error; if it returns, the other process is waited for.
  """
  # The library filelock polls where this waits, and does not give the open file, in which a run writes who holds it.
  while True:
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
      handle = opened.enter_context(open(file, 'a'))
      try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        busy()
        fcntl.flock(handle, fcntl.LOCK_EX)
      if os.fstat(handle.fileno()).st_nlink:  # else the former holder removed the file
        opened.pop_all()
        return handle


def put_aside(path: Path) -> Path:
  """Renames `path` to the first of `path.1`, `path.2`, ... that is free, and gives that name."""
  number = 1
  while (aside := path.with_name(f'{path.name}.{number}')).exists():
    number += 1
  return path.rename(aside)


def sha256(path: str | os.PathLike) -> str:
  """Hexadecimal SHA-256 of a file's bytes, read in blocks."""
  with open(path, 'rb') as handle:
    return hashlib.file_digest(handle, 'sha256').hexdigest()


def write_sums(folder: Path, without: Collection[str] = ()) -> None:
  """Writes the checksums of all files below `folder`, except those named in `without`, to its `SHA256SUMS`."""
  lines = [f'{sha256(folder / name)}  {name}\n' for name in _names(folder) if name not in without]
  with atomic_write(folder / SUMS) as path:
    path.write_text(''.join(lines))


def find_damage(folder: Path) -> str:
  """Describes a fault in a folder that has `SHA256SUMS`; empty if every file is as it was written."""
  try:
    lines = (folder / SUMS).read_text('utf-8').splitlines()
    sums = {name: digest for digest, name in (line.split('  ', 1) for line in lines)}
  except OSError:
    return f'{SUMS} is missing'
  except ValueError:
    return f'{SUMS} is damaged'
  present = set(_names(folder))
  for name, digest in sums.items():
    if name not in present:
      return f'{name} is missing ({SUMS} names it)'
    if sha256(folder / name) != digest:
      return f'{name} is not as it was written (its SHA-256 differs from that in {SUMS})'
  return '' if sums else f'{SUMS} is empty'


def signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
  """Name, size and time of change (ns) of every file below a folder: what differs if a file was written again."""
  stats = ((name, (folder / name).stat()) for name in _names(folder))
  return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _names(folder: Path) -> list[str]:
  files = (path for path in folder.rglob('*') if path.is_file() and path != folder / SUMS)
  return sorted(path.relative_to(folder).as_posix() for path in files)
