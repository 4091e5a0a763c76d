"""Damages one file of a raw data folder in a drawn way; used by test_corruptions.py."""

import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

BOMB_BYTES = 3 << 30


def truncate(path: Path, rng: np.random.Generator) -> None:
  """Cuts the file off."""
  data = path.read_bytes()
  path.write_bytes(data[: int(rng.random() * len(data))])


def flip(path: Path, rng: np.random.Generator) -> None:
  """Inverts up to 20 bytes, half of the time near the start."""
  data = bytearray(path.read_bytes())
  stop = len(data) if rng.random() < 0.5 else min(len(data), 600)
  for place in rng.integers(stop, size=rng.integers(1, 20)) if stop else ():
    data[place] ^= rng.integers(1, 256)
  path.write_bytes(data)


def empty(path: Path, rng: np.random.Generator) -> None:
  """Zero bytes."""
  path.write_bytes(b'')


def delete(path: Path, rng: np.random.Generator) -> None:
  """Gone."""
  path.unlink()


def folder(path: Path, rng: np.random.Generator) -> None:
  """A folder in its place."""
  path.unlink()
  path.mkdir()


def loop(path: Path, rng: np.random.Generator) -> None:
  """A link to itself."""
  path.unlink()
  path.symlink_to(path.name)


def rename(path: Path, rng: np.random.Generator) -> None:
  """Another name, not ASCII."""
  path.rename(path.with_name('Größe ' + path.name))


def append(path: Path, rng: np.random.Generator) -> None:
  """Noise at the end."""
  with open(path, 'ab') as file:
    file.write(rng.bytes(5000))


def noise(path: Path, rng: np.random.Generator) -> None:
  """Noise instead of everything."""
  path.write_bytes(rng.bytes(3000))


class Evil:
  """Its pickle would make a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return (open, (self.path, 'w'))


def pickled(path: Path, rng: np.random.Generator) -> None:
  """A pickle that would run code, as the file or inside an array file."""
  value = Evil(marker(path))
  if path.suffix == '.npy':
    array = np.empty(1, object)
    array[0] = value
    np.save(path, array, allow_pickle=True)
  elif path.suffix == '.npz':
    arrays = _arrays(path)
    array = np.empty(1, object)
    array[0] = value
    arrays[str(rng.choice(list(arrays)))] = array
    np.savez(path, **arrays)
  else:
    path.write_bytes(pickle.dumps(value))
  marker(path).unlink(missing_ok=True)


def marker(path: Path) -> Path:
  """What must never come to exist."""
  return Path('/tmp') / f'brainjax_executed_{os.getpid()}'


def _arrays(path: Path) -> dict[str, np.ndarray]:
  with np.load(path) as archive:
    return dict(archive)


def _changed(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """One array, spoilt."""
  kind = rng.integers(9)
  if kind == 0 and array.dtype.kind == 'f':
    array = array.copy()
    array.flat[rng.integers(array.size, size=3)] = rng.choice([np.nan, np.inf, -np.inf])
  elif kind == 1:
    array = (
      array.astype(rng.choice(['complex64', 'U4', 'M8[s]', 'bool', 'float16', 'int64']))
      if array.size < 1e5
      else array[:0]
    )
  elif kind == 2:
    array = array[:-1]
  elif kind == 3:
    array = array[..., :-1]
  elif kind == 4:
    array = array[:0]
  elif kind == 5:
    array = array[None]
  elif kind == 6:
    array = np.zeros_like(array)
  elif kind == 7:
    array = np.asfortranarray(array.astype(array.dtype.newbyteorder()))  # still valid
  else:
    array = array.ravel()
  return array


def spoil_array(path: Path, rng: np.random.Generator) -> None:
  """Another dtype, shape, length, NaN, zeros, byte order."""
  if path.suffix == '.npy':
    np.save(path, _changed(np.load(path), rng))
    return
  arrays = _arrays(path)
  name = str(rng.choice(list(arrays)))
  np.savez(path, **arrays | {name: _changed(arrays[name], rng)})


def drop_array(path: Path, rng: np.random.Generator) -> None:
  """A missing key."""
  arrays = _arrays(path)
  arrays.pop(str(rng.choice(list(arrays))))
  np.savez(path, **arrays)


def swap_arrays(path: Path, rng: np.random.Generator) -> None:
  """Two arrays exchanged."""
  arrays = _arrays(path)
  a, b = rng.choice(list(arrays), 2)
  np.savez(path, **arrays | {str(a): arrays[str(b)], str(b): arrays[str(a)]})


def climb(path: Path, rng: np.random.Generator) -> None:
  """An archive member whose name leads out of any folder, and one with letters of many scripts."""
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('../../../brainjax_climbed.npy', b'x')
    archive.writestr('脳/Größe.npy', b'x')


def bomb(path: Path, rng: np.random.Generator) -> None:
  """A member that unpacks to 3 GiB of zeros, in an archive of 3 MB."""
  arrays = _arrays(path)
  name = str(rng.choice(list(arrays)))
  header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 78), }" % (BOMB_BYTES // 312)
  header = b'\x93NUMPY\x01\x00' + struct.pack('<H', 118) + header.ljust(117) + b'\n'
  packer = zlib.compressobj(9, zlib.DEFLATED, -15)
  first = packer.compress(header + bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
  block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
  packed = first + block * (BOMB_BYTES // (1 << 20) - 1) + packer.flush()
  size = len(header) + BOMB_BYTES // 312 * 312
  np.savez(path, **{key: array for key, array in arrays.items() if key != name})
  with zipfile.ZipFile(path, 'a') as archive:
    info = zipfile.ZipInfo(f'{name}.npy')
    archive.writestr(info, packed)  # stored; the directory below says deflated
    info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, size
    archive.filelist[-1] = archive.NameToInfo[info.filename] = info
  data = bytearray(path.read_bytes())
  start = data.rindex(b'PK\x03\x04', 0, data.index(packed))
  data[start + 8 : start + 10] = struct.pack('<H', zipfile.ZIP_DEFLATED)
  data[start + 22 : start + 26] = struct.pack('<I', size)
  path.write_bytes(data)


def big_header(path: Path, rng: np.random.Generator) -> None:
  """A header that claims an enormous array, or enormous volumes."""
  if path.suffix == '.npy':
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 9), }" % 10 ** rng.integers(7, 30)
    header = b'\x93NUMPY\x01\x00' + struct.pack('<H', 118) + text.ljust(117) + b'\n'
    path.write_bytes(header + path.read_bytes()[128:])
    return
  data = bytearray(path.read_bytes())
  if data[:2] == b'\x1f\x8b':
    data = bytearray(zlib.decompress(data, 31))
    fields = {42: b'\xff\x7f' * 4, 70: b'\x40\x00', 108: struct.pack('<f', 3e9), 40: b'\x07\x00', 112: b'\xff' * 4}
  else:
    fields = {16: b'\x07', 56: b'\xff' * 6, 64: b'\xff' * 6, 168: b'\xff' * 6, 12: b'\x40\x00', 544: b'\xff' * 4}
  place = int(rng.choice(list(fields)))
  data[place : place + len(fields[place])] = fields[place]
  packed = zlib.compressobj(9, zlib.DEFLATED, 31)
  path.write_bytes(packed.compress(data) + packed.flush() if path.suffix == '.gz' else data)


def spoil_lines(path: Path, rng: np.random.Generator) -> None:
  """Lines lost or doubled, other columns, other encodings, control characters, paths that climb."""
  data = path.read_bytes()
  lines = data.splitlines(keepends=True)
  place = int(rng.integers(len(lines)))
  kind = rng.integers(9)
  if kind == 0:
    lines.pop(place)
  elif kind == 1:
    lines.insert(place, lines[place])
  elif kind == 2:
    lines.insert(0, b'name\tvalue,other;columns\n')
  elif kind == 3:
    lines[place] = b'\0' + lines[place]
  elif kind == 4:
    lines[place] = '脳とä̈ 🧠\n'.encode()
  elif kind == 5:
    lines[place] = b'../../../../etc/passwd\t' + lines[place]
  elif kind == 6:
    lines = [data.decode().encode('utf-16')]
  elif kind == 7:
    lines = [data.replace(b'\n', b'\r\n')]  # still valid
  else:
    lines = [data.replace(b'\t', b',').replace(b'"', b"'")]
  path.write_bytes(b''.join(lines))


def spoil_table(path: Path, rng: np.random.Generator) -> None:
  """BData: NaN, lost or renamed metadata, fewer rows, another type."""
  import h5py

  with h5py.File(path, 'r+') as file:
    kind = rng.integers(6)
    table = file['dataset'][:]
    if kind == 0:
      file['dataset'][rng.integers(len(table)), rng.integers(table.shape[1])] = np.nan
    elif kind == 1:
      del file['metadata' if rng.random() < 0.5 else 'metadata/value']
    elif kind == 2:
      key = file['metadata/key'][:]
      key[rng.integers(len(key))] = b'\xff\xfe'
      del file['metadata/key']
      file['metadata/key'] = key
    else:
      del file['dataset']
      other = {3: table[:-1], 4: table[:, :-1], 5: table.astype('S8')}[int(kind)]
      file['dataset'] = other


ANY = (truncate, flip, flip, empty, delete, folder, loop, rename, append, noise, pickled)
BY_ENDING: dict[str, tuple[Callable, ...]] = {
  '.npz': (spoil_array, spoil_array, spoil_array, drop_array, swap_arrays, climb, bomb),
  '.npy': (spoil_array, spoil_array, spoil_array, big_header),
  '.tsv': (spoil_lines,) * 9,
  '.csv': (spoil_lines,) * 9,
  '.txt': (spoil_lines,) * 9,
  '.json': (spoil_lines,) * 3,
  '.nii': (big_header,) * 5,
  '.gz': (big_header,) * 5,
  '.h5': (spoil_table,) * 6,
}


def corrupt(root: Path, rng: np.random.Generator) -> str:
  """Damages one drawn file below `root`; says how."""
  files = sorted(path for path in root.rglob('*') if path.is_file())
  endings = sorted({path.suffix for path in files})
  # Each kind of file is as likely, however many there are of it.
  ending = endings[rng.integers(len(endings))]
  path = [path for path in files if path.suffix == ending][rng.integers(sum(p.suffix == ending for p in files))]
  choices = ANY + BY_ENDING.get(ending, ())
  if path.name == 'img_dict.npy':
    choices = ANY
  how = choices[rng.integers(len(choices))]
  how(path, rng)
  return f'{how.__name__} {path.relative_to(root)}'
