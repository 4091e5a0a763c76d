"""Files that appear under their name only when they are whole."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
  """Gives a temporary sibling of `path` to write to; on success it is flushed to disk and renamed to `path`.

  If the body raises, `path` is left as it was and the temporary file is removed. Parent folders are made.
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # The suffix stays last: np.savez and PIL choose by it.
  temporary = path.with_name(f'.{path.stem}.tmp{os.getpid()}{path.suffix}')
  try:
    yield temporary
    with open(temporary, 'rb+') as handle:
      os.fsync(handle.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
  """Hexadecimal SHA-256 of a file's bytes, read in blocks."""
  with open(path, 'rb') as handle:
    return hashlib.file_digest(handle, 'sha256').hexdigest()
