"""Damages one file of a raw data folder in a drawn way; used by test_corruptions.py."""

import collections
import gzip
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


def _spoil_array(
  path: Path, rng: np.random.Generator, change: Callable[[np.ndarray], np.ndarray], kinds='fiub'
) -> None:
  """Changes one array of the kinds."""
  if path.suffix == '.npy':
    np.save(path, change(np.load(path)))
    return
  arrays = _arrays(path)
  name = str(rng.choice([name for name, array in arrays.items() if array.dtype.kind in kinds]))
  np.savez(path, **arrays | {name: change(arrays[name])})


def not_finite(path: Path, rng: np.random.Generator) -> None:
  """NaN or infinity where responses are."""
  value = np.float32(rng.choice([np.nan, np.inf, -np.inf]))

  def change(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[rng.integers(array.size, size=3)] = value
    return array

  if path.suffix == '.h5':
    import h5py

    with h5py.File(path, 'r+') as file:
      file['dataset'][3, 4] = value  # a voxel
  elif path.suffix in ('.nii', '.gz'):
    data = path.read_bytes()
    data = zlib.decompress(data, 31) if path.suffix == '.gz' else data
    last = 12 if path.suffix == '.gz' else 91282  # the last volume, or the last frame
    data = data[: -4 * last] + last * value.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  else:
    _spoil_array(path, rng, change, 'f')


def wrong_dtype(path: Path, rng: np.random.Generator) -> None:
  """Another kind of number, or none."""
  to = rng.choice(['complex64', 'U4', 'M8[s]', 'bool', 'float16', 'int64'])
  _spoil_array(path, rng, lambda array: array.astype(to) if array.size < 1e5 else array.astype('c8')[:2])


def fewer_rows(path: Path, rng: np.random.Generator) -> None:
  """Unequal length."""
  _spoil_array(path, rng, lambda array: array[:-1])


def fewer_columns(path: Path, rng: np.random.Generator) -> None:
  """Unequal width."""
  _spoil_array(path, rng, lambda array: array[..., :-1])


def zero_size(path: Path, rng: np.random.Generator) -> None:
  """An array without rows."""
  _spoil_array(path, rng, lambda array: array[:0])


def zeros(path: Path, rng: np.random.Generator) -> None:
  """Nothing but 0."""
  _spoil_array(path, rng, np.zeros_like)


def other_axes(path: Path, rng: np.random.Generator) -> None:
  """An axis more or all in one."""
  _spoil_array(path, rng, lambda array: array[None] if rng.random() < 0.5 else array.ravel())


def other_order(path: Path, rng: np.random.Generator) -> None:
  """Another order of bytes and of axes in memory: still valid."""
  _spoil_array(path, rng, lambda array: np.asfortranarray(array.astype(array.dtype.newbyteorder())))


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


def _spoil_lines(path: Path, rng: np.random.Generator, change: Callable[[bytes], bytes]) -> None:
  """Changes one line."""
  lines = path.read_bytes().splitlines(keepends=True)
  place = int(rng.integers(len(lines)))
  path.write_bytes(b''.join([*lines[:place], change(lines[place]), *lines[place + 1 :]]))


def lost_or_doubled_line(path: Path, rng: np.random.Generator) -> None:
  """A line less or more."""
  _spoil_lines(path, rng, lambda line: b'' if rng.random() < 0.5 else 2 * line)


def other_columns(path: Path, rng: np.random.Generator) -> None:
  """Columns of another table."""
  path.write_bytes(b'name\tvalue,other;columns\n' + path.read_bytes())


def control_character(path: Path, rng: np.random.Generator) -> None:
  """A zero byte in the text."""
  _spoil_lines(path, rng, lambda line: b'\0' + line)


def unicode_names(path: Path, rng: np.random.Generator) -> None:
  """Letters of many scripts."""
  _spoil_lines(path, rng, lambda line: '脳とä̈ 🧠\n'.encode())


def path_traversal(path: Path, rng: np.random.Generator) -> None:
  """A path that climbs out of the folder."""
  if path.name == 'events.tsv':
    path.write_bytes(path.read_bytes().replace(b'p03.png', b'../../../../etc/passwd'))
  else:
    _spoil_lines(path, rng, lambda line: b'../../../../etc/passwd\t' + line)


def long_field(path: Path, rng: np.random.Generator) -> None:
  """More in one field than the reader of tables takes."""
  _spoil_lines(path, rng, lambda line: 200_000 * b'x' + line)


def other_encoding(path: Path, rng: np.random.Generator) -> None:
  """UTF-16, or lines as Windows ends them (still valid)."""
  data = path.read_bytes()
  path.write_bytes(data.decode().encode('utf-16') if rng.random() < 0.5 else data.replace(b'\n', b'\r\n'))


def other_separators(path: Path, rng: np.random.Generator) -> None:
  """Commas for tabs, other quotes."""
  path.write_bytes(path.read_bytes().replace(b'\t', b',').replace(b'"', b"'"))


def spoil_table(path: Path, rng: np.random.Generator) -> None:
  """BData: lost or renamed metadata, fewer rows or columns, another type."""
  import h5py

  with h5py.File(path, 'r+') as file:
    kind = rng.integers(5)
    table = file['dataset'][:]
    if kind == 0:
      del file['metadata' if rng.random() < 0.5 else 'metadata/value']
    elif kind == 1:
      key = file['metadata/key'][:]
      key[rng.integers(len(key))] = b'\xff\xfe'
      del file['metadata/key']
      file['metadata/key'] = key
    else:
      del file['dataset']
      file['dataset'] = {2: table[:-1], 3: table[:, :-1], 4: table.astype('S8')}[int(kind)]


Kind = Callable[[Path, np.random.Generator], None]
ANY: tuple[Kind, ...] = (truncate, flip, empty, delete, folder, loop, rename, append, noise, pickled)
ARRAYS = (not_finite, wrong_dtype, fewer_rows, fewer_columns, zero_size, zeros, other_axes, other_order)
LINES = (
  lost_or_doubled_line, other_columns, control_character, unicode_names, path_traversal, long_field, other_encoding,
  other_separators,
)  # fmt: skip
BY_ENDING: dict[str, tuple[Kind, ...]] = {
  '.npz': (*ARRAYS, drop_array, swap_arrays, climb, bomb),
  '.npy': (*ARRAYS, big_header),
  '.tsv': LINES,
  '.csv': LINES,
  '.txt': LINES,
  '.json': LINES,
  '.nii': (big_header, not_finite),
  '.gz': (big_header, not_finite),
  '.h5': (spoil_table, not_finite),
}
# What every run of the test must have tried.
REQUIRED: dict[str, tuple[Kind, ...]] = {
  'cut off': (truncate,),
  'bytes flipped': (flip,),
  'arrays swapped': (swap_arrays,),
  'wrong dtype': (wrong_dtype,),
  'missing key': (drop_array,),
  'NaN or infinity': (not_finite,),
  'zero size': (zero_size, empty),
  'header that claims too much': (big_header,),
  'zip bomb': (bomb,),
  'path traversal': (path_traversal, climb),
  'pickle': (pickled,),
  'csv with other columns': (other_columns,),
  'unicode names': (unicode_names, rename),
  'unequal length': (fewer_rows, fewer_columns, lost_or_doubled_line),
}


def kinds_of(path: Path) -> tuple[Kind, ...]:
  """The ways to damage a file."""
  kinds = ANY if path.name == 'img_dict.npy' else ANY + BY_ENDING.get(path.suffix, ())
  of_masks = path.suffix in ('.npy', '.gz') and 'betas' not in path.name or path.name == 'images_256.npz'
  return tuple(kind for kind in kinds if not (of_masks and kind is not_finite))


def corrupt(root: Path, rng: np.random.Generator, counts: collections.Counter) -> tuple[Kind, Path]:
  """Damages a drawn file below `root` in the way that `counts` has least of, and counts it."""
  files = sorted(path for path in root.rglob('*') if path.is_file())
  choices: dict[Kind, list[Path]] = {}
  for path in files:
    for kind in kinds_of(path):
      choices.setdefault(kind, []).append(path)
  kind = min(choices, key=lambda kind: (counts[kind], rng.random()))
  # Each ending is as likely, however many files have it.
  endings = sorted({path.suffix for path in choices[kind]})
  ending = endings[rng.integers(len(endings))]
  path = str(rng.choice([str(path) for path in choices[kind] if path.suffix == ending]))
  kind(Path(path), rng)
  counts[kind] += 1
  return kind, Path(path).relative_to(root)
