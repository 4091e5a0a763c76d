"""Array transforms of fMRI rows and pictures: NumPy only, no global random state, every draw comes from the caller.

Paper: section 3 (data) and the appendix on pre-processing; the published code's deviations are named booleans.
"""

import numpy as np
from PIL import Image

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

# --- fMRI ---------------------------------------------------------------------------------------------------------


def fit_width(fmri: np.ndarray, num_voxels: int) -> np.ndarray:
  """Wraps (repeats from the start) or truncates the last axis to `num_voxels`: `... V` -> `... num_voxels`."""
  width = fmri.shape[-1]
  if width >= num_voxels:
    return fmri[..., :num_voxels]
  return np.take(fmri, np.arange(num_voxels) % width, axis=-1)


def padded_width(num_voxels: int, patch_size: int = 16, full_extra_patch: bool = False) -> int:
  """Width after wrap-padding to whole patches; `full_extra_patch`: a divisible width gains one (as released)."""
  missing = -num_voxels % patch_size
  if missing == 0 and full_extra_patch:
    missing = patch_size
  return num_voxels + missing


def pad_to_patch_size(fmri: np.ndarray, patch_size: int = 16, full_extra_patch: bool = False) -> np.ndarray:
  """Wrap-pads the last axis to a multiple of `patch_size`: `... V` -> `... V'`."""
  return fit_width(fmri, padded_width(fmri.shape[-1], patch_size, full_extra_patch))


def normalize(fmri: np.ndarray, mean: np.ndarray | None = None, std: np.ndarray | None = None) -> np.ndarray:
  """`(fmri - mean) / std`: `N V` -> `N V`. `mean` and `std` are scalars or `V`; test data need those of the TRAIN rows.

  By default they are one mean and one (population) deviation over all entries of `fmri`, summed in float64.
  """
  mean = np.mean(fmri, dtype=np.float64) if mean is None else mean
  std = np.std(fmri, dtype=np.float64) if std is None else std
  return ((fmri - np.float32(mean)) / np.float32(std)).astype(np.float32)


def frames_per_window(seconds: float = 8, repetition_time: float = 0.75) -> int:
  """Frames in one window of resting-state data: 10 by default (the published code rounds the TR of 0.72 s to 0.75)."""
  return int(seconds // repetition_time)


def window_means(series: np.ndarray, frames: int = 10) -> np.ndarray:
  """Means over consecutive windows of time: `T V` -> `T // frames V`; when uneven, earlier windows are one longer."""
  return np.stack([window.mean(axis=0) for window in np.array_split(series, len(series) // frames, axis=0)])


def interpolate_voxels(x: np.ndarray, y: np.ndarray, ratio: float = 0.5) -> np.ndarray:
  """`(1 - ratio) x + ratio y`."""
  return ((1 - ratio) * x + ratio * y).astype(np.float32)


def draw_pairs(num_rows: int, times: float, rng: np.random.Generator) -> np.ndarray:
  """Draws pairs of rows (with replacement) to interpolate: `int((times - 1) * num_rows) 2`."""
  return rng.integers(num_rows, size=(max(0, int((times - 1) * num_rows)), 2))


def sparse(fmri: np.ndarray, rng: np.random.Generator, share: float = 0.2) -> np.ndarray:
  """Sets a drawn `share` of the voxels to zero: `V` -> `V`.

  The paper's "random sparsification". The published code draws along the sample axis of a `1 V` array, that is,
  nothing ever; leave this transform out to reproduce it.
  """
  num_voxels = fmri.shape[-1]
  # Picking the smallest of uniform draws equals a choice without replacement and is several times faster.
  count = int(num_voxels * share)
  out = fmri.copy()
  if count:
    out[np.argpartition(rng.random(num_voxels, dtype=np.float32), count - 1)[:count]] = 0
  return out


def mean_by_label(fmri: np.ndarray, labels: list | np.ndarray) -> tuple[np.ndarray, list]:
  """Averages the rows of each label, labels in first-seen order: `N V` -> `K V`, labels."""
  rows: dict = {}
  for row, label in enumerate(labels):
    rows.setdefault(label, []).append(row)
  return np.stack([fmri[index].mean(axis=0) for index in rows.values()]), list(rows)


# --- pictures -----------------------------------------------------------------------------------------------------


def to_signed_unit(image: np.ndarray) -> np.ndarray:
  """uint8 0..255 -> float32 [-1, 1], any shape, NumPy or JAX."""
  return image.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1)


def to_uint8(image: np.ndarray) -> np.ndarray:
  """The nearest uint8 0..255 of float32 [-1, 1], any shape, NumPy or JAX. Values outside are clipped."""
  return ((image.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
  """Bilinear, antialiased resize of `H W 3` uint8 to `size size 3` uint8."""
  if image.shape[:2] == (size, size):
    return image
  return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def enlarge_image(image: np.ndarray, size: int) -> np.ndarray:
  """Bilinear enlargement (half-pixel centres): `H W C` -> `size size C` float32."""
  channels = [Image.fromarray(channel) for channel in np.moveaxis(image.astype(np.float32), -1, 0)]
  return np.stack([np.asarray(x.resize((size, size), Image.Resampling.BILINEAR)) for x in channels], axis=-1)


def random_crop(
  image: np.ndarray, rng: np.random.Generator, share: float = 0.2, probability: float = 0.5
) -> np.ndarray:
  """With `probability` a random square of side `H - int(share * H)`, enlarged back to H: `H H C` -> `H H C` float32.

  Side 205 of 256 as published; other sizes scale alike.
  """
  size = image.shape[0]
  if rng.random() >= probability:
    return image.astype(np.float32)
  side = size - int(share * size)
  top, left = rng.integers(size - side + 1, size=2)
  return enlarge_image(image[top : top + side, left : left + side], size)


def imagenet_normalise(image, double_rescale: bool = False):
  """Subtracts ImageNet's mean and divides by its deviation: `... 3` in [0, 1], NumPy or JAX.

  `double_rescale`: divide by 255 once more, as the published code does (values in [0, 1/255] before normalising).
  """
  if double_rescale:
    image = image * np.float32(1 / 255)
  return (image - IMAGENET_MEAN) / IMAGENET_STD
