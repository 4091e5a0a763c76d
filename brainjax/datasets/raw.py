"""Reads a user's files: nothing in them is ever executed, and every fault is reported in one sentence.

A header is used only after it agrees with the sizes in the archive, so a false header cannot allocate memory.
"""

import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from brainjax.errors import UserError, as_user_error
from brainjax.unpickle import read_npy_header

MAX_ARRAY_BYTES = 2 << 30  # the largest published array (1,200 pictures of 256 pixels) has 236 MB
MAX_TEXT_BYTES = 16 << 20
AGAIN = 'copy or download the file again'
_KINDS = {'f': 'floating-point', 'i': 'integer', 'u': 'integer', 'b': 'true/false'}


def _check_header(stream: IO[bytes], file_size: int, where: str) -> tuple[tuple[int, ...], np.dtype]:
  """Shape and dtype from the head of .npy data of `file_size` bytes; refuses objects and sizes that do not fit."""
  shape, dtype = read_npy_header(stream)
  if dtype.hasobject:
    raise UserError(
      f'{where} holds pickled Python objects, which are never opened because they can run code; '
      'save it as a plain numeric array'
    )
  size = math.prod(shape) * dtype.itemsize
  if min(shape, default=0) < 0 or size + stream.tell() != file_size:
    raise UserError(f'{where} claims shape {shape} of {dtype} but has {file_size} bytes, so it is damaged; {AGAIN}')
  if (decoded := num_bytes(shape, dtype)) > MAX_ARRAY_BYTES:
    raise UserError(f'{where} would take {decoded / 2**30:.1f} GiB; at most 2 GiB is accepted')
  return shape, dtype


def num_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
  """Memory of an array once it is read; half precision becomes float32."""
  return math.prod(shape) * max(dtype.itemsize, 4 if dtype.kind == 'f' else 1)


def _check_kind(shape: tuple[int, ...], dtype: np.dtype, ndim: int | tuple[int, ...], kinds: str, where: str) -> None:
  choices = (ndim,) if isinstance(ndim, int) else ndim
  if len(shape) not in choices or dtype.kind not in kinds:
    wanted = ' or '.join(dict.fromkeys(_KINDS[kind] for kind in kinds))
    axes = ' or '.join(map(str, choices))
    raise UserError(f'{where} is {dtype} of shape {shape}; expected {axes} axes of {wanted} numbers')


def read_npy(path: Path, ndim: int | tuple[int, ...], kinds: str = 'fiu') -> np.ndarray:
  """The array of one .npy file, after its dimensions and kind of number are checked (`kinds`: NumPy kind letters).

  Raises:
    UserError: the file is missing, damaged or too large, or holds other dimensions or numbers.
  """
  with as_user_error(f'{path}: damaged or not a .npy file'), open(check_file(path), 'rb') as stream:
    if stream.read(4) == b'PK\x03\x04':
      raise UserError(f'{path}: an .npz archive under the name of an .npy file; save the one array with np.save')
    stream.seek(0)
    _check_kind(*_check_header(stream, path.stat().st_size, str(path)), ndim, kinds, str(path))
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def find_folder(raw: str | os.PathLike, needed: str, what: str) -> Path:
  """`raw` or `raw/npz`, whichever holds a file or folder that matches the pattern `needed`.

  Raises:
    UserError: neither folder holds such a file.
  """
  raw = Path(raw)
  if not raw.is_dir():
    raise UserError(f'{raw}: no such folder; expected the folder of {what} (see data/README.md)')
  for folder in (raw, raw / 'npz'):
    if folder.is_dir() and any(folder.glob(needed)):
      return folder
  raise UserError(
    f'{raw}: neither it nor its subfolder npz holds {needed}; expected the folder of {what} (see data/README.md)'
  )


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
  """Folders below and including `folder`, and the sorted names of the files in each. Links are followed, but never in a circle."""
  # os.walk goes through 1,113 subjects x hundreds of files faster than Path.rglob.
  seen = set()
  for place, folders, names in os.walk(folder, followlinks=True):
    status = os.stat(place)
    if (status.st_dev, status.st_ino) in seen:
      folders.clear()
      continue
    seen.add((status.st_dev, status.st_ino))
    folders.sort()
    yield Path(place), sorted(names)


def check_file(path: Path) -> Path:
  """Returns the path of an existing file.

  Raises:
    UserError: it is missing or a folder.
  """
  if path.is_dir():
    raise UserError(f'{path}: a folder; expected a file')
  if path.is_symlink() and not path.exists():
    raise UserError(f'{path}: a link to a file that does not exist; give the file itself')
  if path.exists() and not path.is_file():
    raise UserError(f'{path}: not a regular file; copy its content to a file')
  if not path.is_file():
    raise UserError(f'{path}: no such file')
  return path


class NpzReader:
  """Named arrays of one .npz file, read one at a time. Use in a `with` statement."""

  def __init__(self, path: str | os.PathLike):
    """Opens the archive.

    Raises:
      UserError: the file is missing or no .npz file, or two arrays have the same name.
    """
    self.path = check_file(Path(path))
    self._sizes: dict[str, int] = {}  # bytes of the arrays read so far
    with as_user_error(f'{self.path}: damaged or not an .npz file'):
      self._zip = zipfile.ZipFile(self.path)
      members = [info for info in self._zip.infolist() if info.filename.endswith('.npy')]
    self._members = {info.filename.removesuffix('.npy'): info for info in members}
    if len(self._members) != len(members):
      self._zip.close()
      raise UserError(f'{self.path}: two arrays carry the same name; write the file again')

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_) -> None:
    self._zip.close()

  @property
  def names(self) -> list[str]:
    """Names of the arrays, in file order."""
    return list(self._members)

  def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array, checked against the size that the archive states.

    Raises:
      UserError: the array is missing, or its header is damaged.
    """
    if name not in self._members:
      raise UserError(f'{self.path}: array {name!r} is missing; it holds {", ".join(self.names) or "nothing"}')
    member = self._members[name]
    with as_user_error(f'{self.path}: array {name!r} is damaged'), self._zip.open(member) as stream:
      return _check_header(stream, member.file_size, f'{self.path}: array {name!r}')

  def read(self, name: str, ndim: int, kinds: str = 'fiu') -> np.ndarray:
    """The array, after its dimensions and kind of number are checked (`kinds`: NumPy kind letters).

    Raises:
      UserError: the array is missing, damaged, too large, or of other dimensions or numbers.
    """
    shape, dtype = self.header(name)
    _check_kind(shape, dtype, ndim, kinds, f'{self.path}: array {name!r}')
    self._sizes[name] = num_bytes(shape, dtype)
    if (total := sum(self._sizes.values())) > MAX_ARRAY_BYTES:
      raise UserError(f'{self.path}: its arrays would take {total / 2**30:.1f} GiB; at most 2 GiB is accepted')
    with as_user_error(f'{self.path}: array {name!r} is damaged'), self._zip.open(self._members[name]) as stream:
      return np.lib.format.read_array(stream, allow_pickle=False)

  def read_fmri(self, name: str, num_voxels: int | None = None) -> np.ndarray:
    """An fMRI matrix `rows V` as float32.

    Raises:
      UserError: as `read` and `check_fmri`.
    """
    return check_fmri(self.read(name, ndim=2, kinds='f'), f'{self.path}: array {name!r}', num_voxels)


def check_fmri(
  fmri: np.ndarray, where: str, num_voxels: int | None = None, places: np.ndarray | None = None
) -> np.ndarray:
  """An fMRI matrix `rows V` as float32.

  Args:
    fmri: rows V.
    where: begins the message of an error.
    num_voxels: V, if it is known.
    places: V D, where each voxel lies in the file, for the message.

  Raises:
    UserError: it is empty or constant, has another width than `num_voxels`, or holds NaN or infinity.
  """
  if 0 in fmri.shape:
    raise UserError(f'{where} is empty (shape {fmri.shape}); expected rows of voxels')
  if num_voxels is not None and fmri.shape[1] != num_voxels:
    raise UserError(f'{where} has {fmri.shape[1]} voxels; expected {num_voxels}, as in the rest of the data')
  with np.errstate(over='ignore'):
    fmri = fmri.astype(np.float32, copy=False)
  # A finite sum of a row means finite entries, except for overflow, which is looked at again.
  bad = ~np.isfinite(fmri) if not np.isfinite(fmri.sum()) else np.zeros((1, 1), bool)
  if bad.any():
    row, voxel = np.argwhere(bad)[0]
    place = voxel if places is None else ', '.join(map(str, places[voxel]))
    raise UserError(
      f'{where} has {int(bad.sum())} NaN or infinite values, the first in row {row}, voxel {place}; '
      'leave those voxels or trials out, or interpolate them'
    )
  if fmri.min() == fmri.max():
    raise UserError(f'{where}: all its {fmri.size} values are {fmri.flat[0]:g}; expected responses, which differ')
  return fmri


def read_bytes(path: Path, most: int = MAX_TEXT_BYTES) -> bytes:
  """A small file, of at most so many bytes.

  Raises:
    UserError: it is missing, larger or unreadable.
  """
  check_file(path)
  if path.stat().st_size > most:
    raise UserError(
      f'{path}: {path.stat().st_size} bytes are too many for this text file; at most {most >> 20} MiB are accepted'
    )
  with as_user_error(f'{path}: cannot be read', 'give yourself the right to read it'):
    return path.read_bytes()


def read_text(path: Path, most: int = MAX_TEXT_BYTES) -> str:
  """A small UTF-8 text file, of at most so many bytes.

  Raises:
    UserError: it cannot be read, or is not UTF-8.
  """
  with as_user_error(f'{path}: not readable as UTF-8 text', 'save it as UTF-8, or download it again'):
    return io.StringIO(read_bytes(path, most).decode('utf-8-sig'), newline=None).read()


def read_json(path: Path, most: int = MAX_TEXT_BYTES) -> Any:
  """A small JSON file, of at most so many bytes.

  Raises:
    UserError: it cannot be read, or is not JSON.
  """
  with as_user_error(f'{path}: not valid JSON'):
    return json.loads(read_text(path, most))
