"""Reads PyTorch checkpoints (zip and legacy files) and safetensors as data, without PyTorch, one tensor at a time."""

import io
import json
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from brainjax.errors import UserError
from brainjax.torch_convert.writer import METADATA
from brainjax.unpickle import TensorMaker, Unpickler

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_HEADER = 100_000_000  # bytes of a safetensors header, the limit of that format
_SAFETENSORS_DTYPES = {
  'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'I64': 'int64', 'I32': 'int32',
  'I16': 'int16', 'I8': 'int8', 'U8': 'uint8', 'BOOL': 'bool',
}  # fmt: skip


def _dtype(name: str) -> np.dtype:
  return np.dtype(ml_dtypes.bfloat16) if name == 'bfloat16' else np.dtype(name)


class Storage:
  """A run of values inside a file: element type, where it begins (bytes; known late in legacy files) and its length."""

  def __init__(self, path: Path, dtype: np.dtype, numel: int, position: int | None = None, crc: int = 0):
    self.path = path
    self.dtype = dtype
    self.numel = numel
    self.position = position
    self.crc = crc  # of its bytes; 0: not known


class LazyTensor:
  """A tensor that is read from its file when NumPy asks for it.

  Attributes: shape, dtype (as stored), strides (in elements), offset (elements from the start of its storage).
  """

  def __init__(self, storage: Storage, dtype: np.dtype, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
    size, path = math.prod(shape), storage.path
    if storage.dtype.itemsize != dtype.itemsize and storage.dtype != np.uint8:
      raise ValueError(f'a {dtype} tensor in a storage of {storage.dtype}')
    available = storage.numel * storage.dtype.itemsize // dtype.itemsize
    if type(offset) is not int or offset < 0 or len(shape) != len(strides):
      raise ValueError(f'tensor of shape {shape} with strides {strides} at offset {offset!r}')
    self._extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) if size else 0
    if offset + self._extent > available or size > available:
      raise UserError(
        f'{path} describes a tensor of shape {shape} (strides {strides}, offset {offset}) in a storage of only {available} '
        'values: the file is damaged or malicious'
      )
    self._storage = storage
    self.offset, self.shape, self.strides, self.dtype = offset, shape, strides, dtype

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
    storage, dtype = self._storage, self.dtype
    if storage.position is None:
      raise UserError(f'{storage.path} names a tensor storage that it does not hold: the file is damaged')
    if not self._extent:
      return np.empty(self.shape, dtype.newbyteorder('='))
    start = storage.position + self.offset * dtype.itemsize
    flat = np.fromfile(storage.path, dtype, self._extent, offset=start)
    if len(flat) != self._extent:
      raise UserError(f'{storage.path} ends early (truncated, or changed while it was read)')
    if storage.crc and flat.nbytes == storage.numel * storage.dtype.itemsize:
      if zlib.crc32(flat.view(np.uint8)) != storage.crc:
        raise UserError(
          f'{storage.path} is damaged: the checksum of a tensor of shape {self.shape} is wrong; download it again'
        )
      storage.crc = 0  # once is enough
    if not dtype.isnative:
      flat = flat.astype(dtype.newbyteorder('='))
    strides = tuple(stride * flat.itemsize for stride in self.strides)
    return np.lib.stride_tricks.as_strided(flat, self.shape, strides)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    """The values as float32 if they are floating point, else as stored."""
    values = self.read()
    if values.dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
      values = values.astype(np.float32)
    return values if dtype is None else values.astype(dtype, copy=False)


class Content(NamedTuple):
  """What a file holds: `value` as saved (nested containers, stand-ins, `LazyTensor`s) and sentences to tell the user."""

  path: Path
  form: str
  value: Any
  notes: tuple[str, ...] = ()


def read_file(path: str | os.PathLike) -> Content:
  """Opens a PyTorch file (zip or legacy) or a safetensors file, whatever its suffix; tensors are read when asked for.

  Raises:
    UserError: it is missing, a directory, empty, truncated, an HTML page, a Git LFS pointer, of another format, damaged,
      or asks for anything but data.
  """
  path = Path(path)
  if not path.exists():
    raise UserError(f'{path} does not exist; expected a file of weights (.pth, .ckpt, .bin or .safetensors)')
  if path.is_dir():
    held = sorted(entry.name for entry in path.iterdir())[:8]
    raise UserError(
      f'{path} is a directory, expected a file of weights; name the file inside it (it holds: {", ".join(held) or "nothing"})'
    )
  size = path.stat().st_size
  if not size:
    raise UserError(f'{path} is empty (0 bytes): the download wrote nothing; download it again')
  try:
    with open(path, 'rb') as handle:
      head = handle.read(1024)
      handle.seek(0)
      return _read(path, handle, head, size)
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror or error}') from None


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
    return Content(path, 'PyTorch zip', _read_zip(path, handle))
  header = int.from_bytes(head[:8], 'little')
  if head[8:9] == b'{' and 2 <= header <= _MAX_HEADER:
    note = (
      ()
      if path.suffix == '.safetensors'
      else (f'{path.name} is a safetensors file under another suffix; read as that',)
    )
    return Content(path, 'safetensors', _read_safetensors(path, handle, header, size), note)
  if head[:1] == b'\x80' and b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.' in head[:32]:
    return Content(path, 'PyTorch legacy', _read_legacy(path, handle, size))
  if head[257:262] == b'ustar':
    raise UserError(
      f'{path} is a tar archive (PyTorch before 0.2, or not unpacked); unpack it, or save it again with torch.save'
    )
  if path.suffix == '.safetensors':
    raise UserError(f'{path} does not begin with a safetensors header (it begins with {head[:8]!r}); download it again')
  raise UserError(f'{path} is neither a PyTorch nor a safetensors file: it begins with {head[:8]!r}; download it again')


def _read_zip(path: Path, handle: BinaryIO) -> Any:
  try:
    archive = zipfile.ZipFile(handle)
    entries = archive.infolist()
  except (zipfile.BadZipFile, ValueError, struct.error, EOFError, NotImplementedError) as error:
    raise UserError(
      f'{path} is a truncated zip file: it begins like a PyTorch checkpoint, but its end is missing or damaged ({error}); '
      'download it again'
    ) from None
  by_name = {entry.filename: entry for entry in entries}
  if len(by_name) != len(entries):
    raise UserError(f'{path} is a zip file that holds an entry twice; PyTorch writes none like that')
  pickles = [name for name in by_name if name == 'data.pkl' or (name.endswith('/data.pkl') and name.count('/') == 1)]
  if len(pickles) != 1:
    held = ', '.join(sorted(by_name)[:5])
    raise UserError(
      f'{path} is a zip file, but not one of PyTorch: it holds {held}; if it is a packed folder, unpack it first'
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
    if position + entry.file_size > file_size:
      raise UserError(f'{path} ends early: {name} reaches past the end of the file; download it again')
    return position, entry.file_size

  def read_entry(name: str) -> bytes:
    position, length = locate(name)
    handle.seek(position)
    data = handle.read(length)
    if by_name[name].CRC and zlib.crc32(data) != by_name[name].CRC:
      raise UserError(f'{path} is damaged: the checksum of {name} in it is wrong; download it again')
    return data

  file_size = path.stat().st_size
  big_endian = root + 'byteorder' in by_name and read_entry(root + 'byteorder') == b'big'
  storages: dict[str, Storage] = {}

  def storage(unpickler: Unpickler, pid: tuple) -> Storage:
    if len(pid) < 5 or pid[0] != 'storage' or not isinstance(pid[2], str) or type(pid[4]) is not int:
      raise ValueError('unknown kind of reference')
    _, kind, key, _, numel = pid[:5]
    dtype = _dtype(unpickler.dtype_name(kind))
    if key not in storages:
      name = f'{root}data/{key}'
      position, length = locate(name)
      if length != numel * dtype.itemsize:
        raise UserError(
          f'{path} claims {numel} values of {dtype} in storage {key}, which has {length} bytes: the file is damaged or malicious'
        )
      storages[key] = Storage(
        path, dtype.newbyteorder('>') if big_endian else dtype, numel, position, by_name[name].CRC
      )
    return storages[key]

  return Unpickler(io.BytesIO(read_entry(pickles[0])), path, TensorMaker(storage, _tensor)).load()


def _tensor(
  storage: Storage, dtype: str | None, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> LazyTensor:
  if not isinstance(storage, Storage):
    raise ValueError('tensor without a storage')
  return LazyTensor(storage, _dtype(dtype) if dtype else storage.dtype, offset, shape, strides)


def _read_legacy(path: Path, handle: BinaryIO, size: int) -> Any:
  """Magic number, protocol, system facts, the object, the keys of its storages (five pickles); then each storage."""
  if Unpickler(handle, path).load() != _LEGACY_MAGIC or Unpickler(handle, path).load() != _LEGACY_PROTOCOL:
    raise UserError(f'{path} is a legacy PyTorch file of an unknown version')
  system = Unpickler(handle, path).load()
  big_endian = isinstance(system, dict) and system.get('little_endian') is False
  storages: dict[str, Storage] = {}

  def storage(unpickler: Unpickler, pid: tuple) -> Storage:
    if (
      pid[0] == 'module' and len(pid) > 1
    ):  # a whole pickled module: (class, source file, source); the class is named only
      return pid[1]
    if len(pid) < 5 or pid[0] != 'storage' or type(pid[4]) is not int:
      raise ValueError('unknown kind of reference')
    _, kind, key, _, numel = pid[:5]
    dtype = _dtype(unpickler.dtype_name(kind))
    if not 0 <= numel * dtype.itemsize <= size:
      raise UserError(
        f'{path} claims {numel} values of {dtype} in storage {key}, more than the file has: it is damaged or malicious'
      )
    base = storages.setdefault(str(key), Storage(path, dtype.newbyteorder('>') if big_endian else dtype, numel))
    if len(pid) > 5 and pid[5] is not None:
      raise UserError(f'{path} holds views of storages (PyTorch before 0.4); save it again with torch.save')
    return base

  value = Unpickler(handle, path, TensorMaker(storage, _tensor)).load()
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
      raise UserError(f'{path} ends early (a download that broke off?): storage {key} is cut; download it again')
    handle.seek(numel * storages[key].dtype.itemsize, io.SEEK_CUR)
  return value


def _read_safetensors(path: Path, handle: BinaryIO, header: int, size: int) -> dict[str, Any]:
  """The tensors; in a file of this package's own, below `state_dict` and with the values that its header holds."""

  def without_doubles(pairs: list[tuple[str, Any]]) -> dict:
    names = [name for name, _ in pairs]
    if doubled := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
      raise UserError(f'{path} holds tensors twice: {", ".join(doubled[:20])}')
    return dict(pairs)

  if 8 + header > size:
    raise UserError(f'{path} ends early: its safetensors header needs {header} bytes; download it again')
  handle.seek(8)
  tensors = {}
  try:
    table = json.loads(handle.read(header), object_pairs_hook=without_doubles)
    beside = json.loads(table.pop('__metadata__', {}).get(METADATA, 'null'))
    for name, entry in table.items():
      if entry['dtype'] not in _SAFETENSORS_DTYPES:
        raise UserError(f'{path}: tensor {name} has type {entry["dtype"]}, which is not read here')
      dtype, shape = _dtype(_SAFETENSORS_DTYPES[entry['dtype']]), tuple(entry['shape'])
      start, end = entry['data_offsets']
      if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        raise ValueError(f'tensor {name} with impossible sizes')
      if end - start != math.prod(shape) * dtype.itemsize:
        raise UserError(
          f'{path}: tensor {name} of shape {shape} does not fit its {end - start} bytes: the file is damaged'
        )
      if 8 + header + end > size:
        raise UserError(f'{path} ends early: tensor {name} reaches past the end of the file; download it again')
      strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
      tensors[name] = LazyTensor(Storage(path, dtype, math.prod(shape), 8 + header + start), dtype, 0, shape, strides)
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(f'{path} has a damaged safetensors header ({error}); download it again') from None
  return {**beside, 'state_dict': tensors} if isinstance(beside, dict) else tensors
