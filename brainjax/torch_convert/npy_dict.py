"""Reads BOLD5000's `img_dict.npy` (a pickled dictionary of images) as data, without running anything in it."""

import os
from pathlib import Path

import numpy as np

from brainjax.errors import UserError
from brainjax.torch_convert.unpickle import Unpickler


def read_img_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Image name -> uint8 image H W 3 (or H W).

  Raises:
    UserError: not such a file, damaged, or it asks for anything but data.
  """
  path = Path(path)
  if not path.is_file():
    what = 'is a directory' if path.is_dir() else 'does not exist'
    raise UserError(f'{path} {what}; expected img_dict.npy of BOLD5000 (see data/README.md)')
  with open(path, 'rb') as handle:
    head = handle.read(64)
    handle.seek(0)
    try:
      version = np.lib.format.read_magic(handle)
      read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}.get(version[0])
      if read_header is None:
        raise ValueError(f'version {version}')
      shape, _, dtype = read_header(handle)
    except ValueError as error:
      message = str(error).split('\n')[0][:120]
      kind = 'a Git LFS pointer' if head.startswith(b'version https://git-lfs') else f'not a NumPy file ({message})'
      raise UserError(f'{path} is {kind}; download img_dict.npy again') from None
    if shape != () or dtype.kind != 'O':
      raise UserError(
        f'{path} holds an array {shape} of {dtype}, expected one dictionary of images (img_dict.npy of BOLD5000)'
      )
    value = Unpickler(handle, path).load()
  if isinstance(value, np.ndarray) and value.shape == () and value.dtype == object:
    value = value[()]
  if not isinstance(value, dict):
    raise UserError(f'{path} holds a {type(value).__name__}, expected a dictionary from image name to uint8 image')
  images = {}
  for name, image in value.items():
    name = name.decode('latin1') if isinstance(name, bytes) else name
    if (
      not isinstance(name, str)
      or not isinstance(image, np.ndarray)
      or image.dtype != np.uint8
      or image.ndim not in (2, 3)
    ):
      found = f'{image.dtype} {image.shape}' if isinstance(image, np.ndarray) else type(image).__name__
      raise UserError(f'{path}: entry {str(name)[:80]!r} is {found}, expected a uint8 image of height, width, 3')
    images[name] = image
  return images
