"""Reads PyTorch checkpoints (zip and legacy files) and safetensors as data, without PyTorch, one tensor at a time."""

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from brainjax.checkpoints import open_safetensors
from brainjax.errors import UserError, as_user_error, list_names
from brainjax.torch_convert.writer import METADATA
from brainjax.unpickle import TensorMaker, Unpickler

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_AGAIN = 'download it again'
_MAX_HEADER = 100_000_000  # bytes of a safetensors header, the limit of that format
# Values of a file in tensors that are larger than their storage (`tensor.expand`): 256 MB in float32.
MAX_REPEATED = 1 << 26
_SAFETENSORS_DTYPES = {
  'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'I64': 'int64', 'I32': 'int32',
  'I16': 'int16', 'I8': 'int8', 'U8': 'uint8', 'BOOL': 'bool',
}  # fmt: skip


class LazyTensor:
  """A tensor that is read from its file when NumPy asks for it.

  Attributes: shape; dtype, as stored.
  """

  def __init__(self, dtype: np.dtype, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
    self.dtype, self.shape, self._read = dtype, shape, read

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def ndim(self) -> int:
    return len(self.shape)

  def __repr__(self) -> str:
    return f'LazyTensor({self.dtype}{list(self.shape)})'

  def read(self) -> np.ndarray:
    """The values as stored, read from disk."""
    return self._read()

  def part(self, index: int, count: int) -> 'LazyTensor':
    """One of `count` equal parts of the first axis."""
    rows = self.shape[0] // count
    read = lambda: self._read()[index * rows : (index + 1) * rows]
    return LazyTensor(self.dtype, (rows, *self.shape[1:]), read)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    """The values as float32 if they are floating point, else as stored."""
    values = self.read()
    if values.dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
      values = values.astype(np.float32)
    return values if dtype is None else values.astype(dtype, copy=False)


class _Storage:
  """A run of values inside a PyTorch file.

  Attributes:
    position: of its first byte; in legacy files it is known after the tensors.
    crc: checksum of its bytes; 0 if the file has none.
  """

  def __init__(self, path: Path, dtype: np.dtype, numel: int, position: int | None = None, crc: int = 0):
    self.path, self.dtype, self.numel, self.position, self.crc = path, dtype, numel, position, crc

  def read(self, dtype: np.dtype, offset: int, extent: int) -> np.ndarray:
    """`extent` values from place `offset` on, in the byte order of this machine.

    Raises:
      UserError: the file is damaged or ends early.
    """
    if self.position is None:
      raise UserError(f'{self.path} names a tensor storage that it does not hold: the file is damaged')
    values = np.fromfile(self.path, dtype, extent, offset=self.position + offset * dtype.itemsize)
    if len(values) != extent:
      raise UserError(f'{self.path} ends early (truncated, or changed while it was read)')
    if self.crc and values.nbytes == self.numel * self.dtype.itemsize:
      if zlib.crc32(values.view(np.uint8)) != self.crc:
        raise UserError(
          f'{self.path} is damaged: the checksum of a tensor of {extent} values is wrong; download it again'
        )
      self.crc = 0  # once is enough
    return values if dtype.isnative else values.astype(dtype.newbyteorder('='))


class _Tensors:
  """Makes the tensors of one PyTorch file, and bounds what a small file can claim."""

  def __init__(self, path: Path):
    self._path = path
    self._repeated = 0

  def make(
    self, storage: _Storage, dtype_name: str | None, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
  ) -> LazyTensor:
    """A tensor over a storage; `offset` and `strides` in values.

    Raises:
      UserError: the tensor does not fit into its storage.
      ValueError: the description is no tensor.
    """
    if not isinstance(storage, _Storage):
      raise ValueError('tensor without a storage')
    dtype, size = np.dtype(dtype_name) if dtype_name else storage.dtype, math.prod(shape)
    if storage.dtype.itemsize != dtype.itemsize and storage.dtype != np.uint8:
      raise ValueError(f'a {dtype} tensor in a storage of {storage.dtype}')
    if type(offset) is not int or offset < 0 or len(shape) != len(strides):
      raise ValueError(f'tensor of shape {shape} with strides {strides} at offset {offset!r}')
    available = storage.numel * storage.dtype.itemsize // dtype.itemsize
    extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) if size else 0
    place = (
      f'{self._path} describes a tensor of shape {shape} (strides {strides}, offset {offset}) in a storage of only '
    )
    if offset + extent > available:
      raise UserError(f'{place}{available} values: the file is damaged')
    if size > available:  # an expanded tensor repeats values
      self._repeated += size
      if self._repeated > MAX_REPEATED:
        raise UserError(
          f'{place}{available} values. At most {MAX_REPEATED} repeated values are read from a file; save '
          'tensor.contiguous() instead'
        )

    def read() -> np.ndarray:
      if not size:
        return np.empty(shape, dtype.newbyteorder('='))
      flat = storage.read(dtype, offset, extent)
      return np.lib.stride_tricks.as_strided(flat, shape, tuple(stride * flat.itemsize for stride in strides))

    return LazyTensor(dtype, shape, read)


class Content(NamedTuple):
  """What a file holds: `value` as saved (nested containers, stand-ins, `LazyTensor`s) and sentences for the user."""

  path: Path
  form: str
  value: Any
  notes: tuple[str, ...] = ()


def read_file(path: str | os.PathLike) -> Content:
  """Opens a PyTorch file (zip or legacy) or a safetensors file, whatever its suffix; tensors are read when asked for.

  Raises:
    UserError: it is missing, a directory, empty, truncated, an HTML page, a Git LFS pointer, of another format, damaged,
      or names a function of the operating system, of import or of code execution.
  """
  path = Path(path)
  if not path.exists():
    raise UserError(f'{path} does not exist; expected a file of weights (.pth, .ckpt, .bin or .safetensors)')
  if path.is_dir():
    if any(path.glob('*.distcp')):
      raise UserError(
        f'{path} is a distributed checkpoint of PyTorch, which is not read here; make one file of it with '
        'python -m torch.distributed.checkpoint.format_utils dcp_to_torch'
      )
    held = list_names((entry.name for entry in path.iterdir()), 8) or 'nothing'
    raise UserError(f'{path} is a directory, expected a file of weights; name the file inside it (it holds: {held})')
  size = path.stat().st_size
  if not size:
    raise UserError(f'{path} is empty (0 bytes): the download wrote nothing; download it again')
  with (
    as_user_error(f'{path} cannot be read', 'give yourself the right to read it', (OSError,)),
    open(path, 'rb') as handle,
  ):
    head = handle.read(1024)
    handle.seek(0)
    return _read(path, handle, head, size)


def _read(path: Path, handle: BinaryIO, head: bytes, size: int) -> Content:
  text = head.lstrip().lower()
  if text.startswith(b'version https://git-lfs'):
    raise UserError(f'{path} is a Git LFS pointer, not the weights; run `git lfs pull` where you cloned it')
  if text.startswith((b'<!doctype', b'<html', b'<head', b'<?xml', b'<body')):
    raise UserError(
      f'{path} is an HTML page saved under the name of a checkpoint (a login or confirmation page?); download the file '
      'itself, in a browser if need be'
    )
  if head.startswith(b'PK'):
    return _read_zip(path, handle, size)
  if head[8:9] == b'{' and 2 <= int.from_bytes(head[:8], 'little') <= _MAX_HEADER:
    return _read_safetensors(path)
  if head[:1] == b'\x80' and b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.' in head[:32]:
    return _read_legacy(path, handle, size)
  if head[:2] == b'\x1f\x8b':
    raise UserError(f'{path} is compressed with gzip; unpack it (gunzip) and name the file that comes out')
  if head[257:262] == b'ustar':
    raise UserError(
      f'{path} is a tar archive (PyTorch before 0.2, or not unpacked); unpack it, or save it again with torch.save'
    )
  if path.suffix == '.safetensors':
    raise UserError(f'{path} does not begin with a safetensors header (it begins with {head[:8]!r}); download it again')
  raise UserError(f'{path} is neither a PyTorch nor a safetensors file: it begins with {head[:8]!r}')


def _note_stand_ins(names: Collection[str]) -> tuple[str, ...]:
  if not names:
    return ()
  return (f'objects of these classes were not built, only their plain fields were read: {list_names(names)}',)


def _parse_reference(unpickler: Unpickler, pid: tuple) -> tuple[np.dtype, str, int]:
  """Element type, key and number of values of the storage that a persistent id names."""
  if len(pid) < 5 or pid[0] != 'storage' or not isinstance(pid[2], str | int) or type(pid[4]) is not int:
    raise ValueError('unknown kind of reference')
  return np.dtype(unpickler.dtype_name(pid[1])), str(pid[2]), pid[4]


def _read_zip(path: Path, handle: BinaryIO, size: int) -> Content:
  with as_user_error(
    f'{path} is a truncated zip file: it begins like a PyTorch checkpoint, but its end is missing', _AGAIN
  ):
    entries = zipfile.ZipFile(handle).infolist()
  by_name = {entry.filename: entry for entry in entries}
  if len(by_name) != len(entries):
    raise UserError(f'{path} is a zip file that holds an entry twice; PyTorch writes none like that')
  pickles = [name for name in by_name if name == 'data.pkl' or (name.endswith('/data.pkl') and name.count('/') == 1)]
  if len(pickles) != 1:
    raise UserError(
      f'{path} is a zip file, but not one of PyTorch: it holds {list_names(by_name, 5)}; if it is a packed folder, unpack it'
    )
  root = pickles[0].removesuffix('data.pkl')
  if root + 'constants.pkl' in by_name:
    raise UserError(f"{path} is a TorchScript program, not a file of weights; save the module's state_dict() instead")

  def locate(name: str) -> tuple[int, int]:
    """Where the bytes of a stored entry begin, and how many there are."""
    entry = by_name.get(name)
    if entry is None:
      raise UserError(f'{path} names the storage {name}, which it does not hold: the file is damaged')
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
      raise UserError(f'{path} holds compressed entries, which PyTorch never writes; save it again with torch.save')
    handle.seek(entry.header_offset)
    local = handle.read(30)
    if len(local) != 30 or local[:4] != b'PK\x03\x04':
      raise UserError(f'{path} is damaged: no zip entry where {name} should begin; download it again')
    position = entry.header_offset + 30 + sum(struct.unpack('<HH', local[26:30]))
    if position + entry.file_size > size:
      raise UserError(f'{path} ends early: {name} reaches past the end of the file; download it again')
    return position, entry.file_size

  def read_entry(name: str) -> bytes:
    position, length = locate(name)
    handle.seek(position)
    data = handle.read(length)
    if by_name[name].CRC and zlib.crc32(data) != by_name[name].CRC:
      raise UserError(f'{path} is damaged: the checksum of {name} in it is wrong; download it again')
    return data

  big_endian = root + 'byteorder' in by_name and read_entry(root + 'byteorder') == b'big'
  storages: dict[str, _Storage] = {}

  def storage(unpickler: Unpickler, pid: tuple) -> _Storage:
    dtype, key, numel = _parse_reference(unpickler, pid)
    if key not in storages:
      name = f'{root}data/{key}'
      position, length = locate(name)
      if length != numel * dtype.itemsize:
        raise UserError(
          f'{path} claims {numel} values of {dtype} in storage {key}, which has {length} bytes: the file is damaged'
        )
      dtype = dtype.newbyteorder('>') if big_endian else dtype
      storages[key] = _Storage(path, dtype, numel, position, by_name[name].CRC)
    return storages[key]

  unpickler = Unpickler(io.BytesIO(read_entry(pickles[0])), path, TensorMaker(storage, _Tensors(path).make))
  return Content(path, 'PyTorch zip', unpickler.load(), _note_stand_ins(unpickler.stand_ins))


def _read_legacy(path: Path, handle: BinaryIO, size: int) -> Content:
  """Magic number, protocol, system facts, the object, the keys of its storages (five pickles); then each storage."""
  if Unpickler(handle, path).load() != _LEGACY_MAGIC or Unpickler(handle, path).load() != _LEGACY_PROTOCOL:
    raise UserError(f'{path} is a legacy PyTorch file of an unknown version')
  system = Unpickler(handle, path).load()
  big_endian = isinstance(system, dict) and system.get('little_endian') is False
  storages: dict[str, _Storage] = {}

  def storage(unpickler: Unpickler, pid: tuple) -> Any:
    if pid[0] == 'module' and len(pid) > 1:  # a whole pickled module: (class, source file, source)
      return pid[1]
    dtype, key, numel = _parse_reference(unpickler, pid)
    if not 0 <= numel * dtype.itemsize <= size:
      raise UserError(
        f'{path} claims {numel} values of {dtype} in storage {key}, more than the file has: it is damaged'
      )
    if len(pid) > 5 and pid[5] is not None:
      raise UserError(f'{path} holds views of storages (PyTorch before 0.4); save it again with torch.save')
    return storages.setdefault(key, _Storage(path, dtype.newbyteorder('>') if big_endian else dtype, numel))

  unpickler = Unpickler(handle, path, TensorMaker(storage, _Tensors(path).make))
  value = unpickler.load()
  keys = Unpickler(handle, path).load()
  if not isinstance(keys, list):
    raise UserError(f'{path} has no list of storages: the file is damaged')
  for key in map(str, keys):
    claimed = handle.read(8)
    numel = int.from_bytes(claimed, 'big' if big_endian else 'little')
    if key not in storages or len(claimed) != 8 or numel != storages[key].numel or storages[key].position is not None:
      raise UserError(
        f'{path} ends early or is damaged: storage {key} is not as its pickle describes; download it again'
      )
    storages[key].position = handle.tell()
    if storages[key].position + numel * storages[key].dtype.itemsize > size:
      raise UserError(f'{path} ends early (did a download break off?): storage {key} is cut; download it again')
    handle.seek(numel * storages[key].dtype.itemsize, io.SEEK_CUR)
  return Content(path, 'PyTorch legacy', value, _note_stand_ins(unpickler.stand_ins))


def _read_safetensors(path: Path) -> Content:
  """The tensors; in a file of this package's own, below `state_dict` and with the values that its header holds."""
  notes = () if path.suffix == '.safetensors' else (f'{path.name} is a safetensors file under another suffix',)
  archive, beside = open_safetensors(path, METADATA)
  tensors = {name: _lazy(path, archive, name) for name in archive.keys()}  # noqa: SIM118 - not a mapping
  return Content(path, 'safetensors', {**beside, 'state_dict': tensors} if isinstance(beside, dict) else tensors, notes)


def _lazy(path: Path, archive: Any, name: str) -> LazyTensor:
  view = archive.get_slice(name)
  if view.get_dtype() not in _SAFETENSORS_DTYPES:
    raise UserError(f'{path}: tensor {name} has type {view.get_dtype()}, which is not read here')
  dtype = np.dtype(_SAFETENSORS_DTYPES[view.get_dtype()])
  return LazyTensor(dtype, tuple(view.get_shape()), lambda: archive.get_tensor(name))
