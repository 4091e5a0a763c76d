"""Stimuli and their reconstructions as the reconstruct stage writes them, read and checked."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from brainjax import files
from brainjax.errors import UserError, as_user_error
from brainjax.evaluation.scores.pixels import WINDOW


@dataclasses.dataclass(frozen=True)
class Images:
  """Stimuli and their reconstructions.

  Attributes:
    stimuli: N H W 3 uint8, the ground truth of each item.
    samples: N S H W 3 uint8.
    stimulus: N integers; items with the same number show the same picture (single trials).
    class_index: N integers, -1 where unknown.
    categories: N str, or None.
  """

  stimuli: np.ndarray
  samples: np.ndarray
  stimulus: np.ndarray
  class_index: np.ndarray
  categories: np.ndarray | None = None


def _check(images: Images, source: str) -> None:
  """Raises a UserError where the arrays of `source` do not fit together; it names the field."""
  n = images.stimuli.shape[0] if images.stimuli.ndim else 0
  for name, rank in (('stimuli', 4), ('samples', 5)):
    array = getattr(images, name)
    if array.dtype != np.uint8:
      raise UserError(f'{source}: {name} has dtype {array.dtype}, expected uint8 (values 0..255)')
    if array.ndim != rank or array.shape[-1] != 3:
      raise UserError(f'{source}: {name} has shape {array.shape}, expected {"N S H W 3" if rank == 5 else "N H W 3"}')
    if 0 in array.shape:
      raise UserError(f'{source}: {name} is empty (shape {array.shape})')
  if images.samples.shape[0] != n:
    raise UserError(f'{source}: {n} stimuli but samples of {images.samples.shape[0]} items; expected as many')
  if images.samples.shape[2:] != images.stimuli.shape[1:]:
    raise UserError(
      f'{source}: samples are {images.samples.shape[2]}x{images.samples.shape[3]} pixels, stimuli '
      f'{images.stimuli.shape[1]}x{images.stimuli.shape[2]}; they must have one size'
    )
  if min(images.stimuli.shape[1:3]) < WINDOW:
    raise UserError(f'{source}: images are smaller than {WINDOW} pixels, the window of SSIM')
  for name in ('stimulus', 'class_index'):
    array = getattr(images, name)
    if array.shape != (n,) or not np.issubdtype(array.dtype, np.integer):
      raise UserError(f'{source}: {name} has shape {array.shape} and dtype {array.dtype}, expected {n} integers')
  if images.categories is not None and (images.categories.shape != (n,) or images.categories.dtype.kind != 'U'):
    raise UserError(f'{source}: categories has shape {images.categories.shape}, expected {n} strings')
  first, index = np.unique(images.stimulus, return_index=True, return_inverse=True)[1:]
  if not np.array_equal(images.stimuli, images.stimuli[first][index]):
    raise UserError(f'{source}: two items have the same number in stimulus but different pictures in stimuli')
  if len(first) < 2:
    raise UserError(f'{source}: all items show one stimulus; identification needs at least 2 different ones')


def read_images(path: str | os.PathLike) -> Images:
  """Reads images.npz as `reconstruct` writes it.

  Raises:
    UserError: the file is missing or damaged, or an array has an unexpected shape or type.
  """
  path = Path(path)
  if not path.is_file():
    raise UserError(f'{path} does not exist; run the reconstruct stage first')
  with as_user_error(f'{path} is not a readable .npz of plain arrays', 'run reconstruct again'):
    arrays = files.read_npz(path)
  fields = [field.name for field in dataclasses.fields(Images)]
  missing = [name for name in fields if name not in arrays and name != 'categories']
  if missing:
    raise UserError(f'{path} lacks the arrays {", ".join(missing)}; it has {", ".join(sorted(arrays)) or "none"}')
  images = Images(**{name: arrays.get(name) for name in fields})
  _check(images, str(path))
  return images
