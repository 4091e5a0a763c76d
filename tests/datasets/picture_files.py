"""Writes PNG and TIFF files byte by byte, so that what they hold does not depend on Pillow."""

import struct
import zlib
from pathlib import Path

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # PNG colour types


def write_png(path: Path, values: np.ndarray, color: int, bits: int, chunks: dict[bytes, bytes] | None = None) -> None:
  """`H W` or `H W C` whole numbers of `bits` bits; `chunks` stand before the pixels."""
  height, width = values.shape[:2]
  rows = values.reshape(height, -1)
  if bits == 16:
    lines = [row.astype('>u2').tobytes() for row in rows]
  elif bits == 8:
    lines = [row.astype(np.uint8).tobytes() for row in rows]
  else:
    digits = [''.join(f'{value:0{bits}b}' for value in row.tolist()) for row in rows]
    lines = [int(line.ljust(-(-len(line) // 8) * 8, '0'), 2).to_bytes(-(-len(line) // 8)) for line in digits]
  data = zlib.compress(b''.join(b'\0' + line for line in lines))
  head = struct.pack('>IIBBBBB', width, height, bits, color, 0, 0, 0)
  parts = {b'IHDR': head, **(chunks or {}), b'IDAT': data, b'IEND': b''}
  with open(path, 'wb') as file:
    file.write(b'\x89PNG\r\n\x1a\n')
    for name, body in parts.items():
      file.write(struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body)))


def write_tiff(path: Path, values: np.ndarray, bits: int, order: str = '<', white_is_zero: bool = False) -> None:
  """Grey `H W` whole numbers of 12 or 16 bits, or float32, uncompressed."""
  height, width = values.shape
  if values.dtype.kind == 'f':
    data = values.astype(order + 'f4').tobytes()
  elif bits == 12:
    digits = [''.join(f'{value:012b}' for value in row.tolist()) for row in values]
    data = b''.join(int(line.ljust(-(-len(line) // 8) * 8, '0'), 2).to_bytes(-(-len(line) // 8)) for line in digits)
  else:
    data = values.astype(f'{order}u{bits // 8}').tobytes()
  tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8, 277: 1, 278: height}
  tags |= {279: len(data), 339: 3 if values.dtype.kind == 'f' else 1}
  entries = b''.join(
    struct.pack(order + 'HHI', tag, 4, 1) + struct.pack(order + 'I', tags[tag]) for tag in sorted(tags)
  )
  head = (b'II' if order == '<' else b'MM') + struct.pack(order + 'HI', 42, 8 + len(data))
  path.write_bytes(head + data + struct.pack(order + 'H', len(tags)) + entries + bytes(4))
