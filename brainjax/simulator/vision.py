"""Features of pictures that drive the voxels: Gabor energy, luminance, colour on a grid, attributes of the scene."""

import dataclasses
import functools
import itertools

import numpy as np

from brainjax.simulator import stimuli

IMAGE_SIZE = 64  # pixels of the pictures that the Gabor filters see
GRID = 16  # the filters' maps are averaged to this many cells along each side
_PADDING = 8
FREQUENCIES = (2.0, 4.0, 8.0, 16.0)  # cycles per picture
ORIENTATIONS = 4
NUM_ENERGY = len(FREQUENCIES) * ORIENTATIONS
NUM_CHANNELS = NUM_ENERGY + 6  # + light, dark, red, green, yellow, blue
_NUM_REFERENCE = 512
PAIRS = tuple(itertools.combinations(range(len(stimuli.NUM_VALUES)), 2))  # of attributes
PAIR_SIZES = tuple(stimuli.NUM_VALUES[a] * stimuli.NUM_VALUES[b] for a, b in PAIRS)


@dataclasses.dataclass(frozen=True)
class Features:
  """Features of N pictures."""

  maps: np.ndarray  # (C, N, GRID**2) float32, not negative: pooled Gabor energy, luminance and opponent colours
  one_hot: np.ndarray  # (N, 37) float32 attributes
  pairs: np.ndarray  # (N, 10) int: column of each attribute pair's combination
  parameters: np.ndarray  # (N, 11) float32


def extract_features(images: np.ndarray, scenes: stimuli.Scenes) -> Features:
  """Extracts the features that every subject's voxels see.

  Args:
    images: N S S 3 uint8, S a multiple of 64; averaged to 64 pixels.
    scenes: N, what was rendered.

  Raises:
    ValueError: the numbers differ, or the pictures are not square or of another side.
  """
  count, size = images.shape[:2]
  if size % IMAGE_SIZE or images.shape[1:] != (size, size, 3) or count != len(scenes):
    raise ValueError(
      f'{len(scenes)} scenes need as many square pictures of side n * {IMAGE_SIZE}, found {images.shape}'
    )
  maps = np.empty((NUM_CHANNELS, count, GRID**2), np.float32)
  block = size // IMAGE_SIZE
  for start in range(0, count, 32):
    part = images[start : start + 32]
    # N S S 3 -> mean over block x block -> N 64 64 3
    small = part.reshape(len(part), IMAGE_SIZE, block, IMAGE_SIZE, block, 3).mean((2, 4), dtype=np.float32) / 255
    maps[:, start : start + 32] = _channel_maps(small)
  attributes = scenes.attributes
  one_hot = np.concatenate(
    [np.eye(n, dtype=np.float32)[attributes[:, i]] for i, n in enumerate(stimuli.NUM_VALUES)], axis=1
  )
  offsets = np.concatenate([[0], np.cumsum(PAIR_SIZES)[:-1]])
  pairs = np.stack(
    [
      offset + attributes[:, a] * stimuli.NUM_VALUES[b] + attributes[:, b]
      for offset, (a, b) in zip(offsets, PAIRS, strict=True)
    ],
    axis=1,
  )
  return Features(maps, one_hot, pairs, scenes.parameters())


@functools.cache
def _gabor_bank() -> np.ndarray:
  """One-sided Gabor transfer functions, (16, P, P): the inverse transform's modulus is the quadrature energy."""
  side = IMAGE_SIZE + 2 * _PADDING
  axis = np.fft.fftfreq(side) * IMAGE_SIZE  # cycles per picture
  fx, fy = axis[None, :], axis[:, None]
  bank = []
  for frequency in FREQUENCIES:
    for k in range(ORIENTATIONS):
      angle = np.pi * k / ORIENTATIONS
      along, across = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
      width = 0.42 * frequency  # an octave of bandwidth
      bank.append(np.exp(-((along - frequency) ** 2 + across**2) / (2 * width**2)))
      bank[-1][0, 0] = 0
  return np.array(bank, np.float32)


def _channel_maps(images: np.ndarray) -> np.ndarray:
  """images: N 64 64 3 in [0, 1] -> (C, N, GRID**2)."""
  red, green, blue = images[..., 0], images[..., 1], images[..., 2]
  luminance = 0.299 * red + 0.587 * green + 0.114 * blue
  padded = np.pad(luminance, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING)), mode='symmetric')
  spectrum = np.fft.fft2(padded)
  inner = slice(_PADDING, -_PADDING)
  red_green, blue_yellow = red - green, blue - 0.5 * (red + green)
  channels = [np.abs(np.fft.ifft2(spectrum * transfer)[:, inner, inner]) for transfer in _gabor_bank()]
  channels += [
    luminance,
    1 - luminance,
    *(np.maximum(c, 0) for c in (red_green, -red_green, -blue_yellow, blue_yellow)),
  ]
  cell = IMAGE_SIZE // GRID
  # C N 64 64 -> mean over cell x cell -> C N 256
  pooled = [c.reshape(-1, GRID, cell, GRID, cell).mean((2, 4)) for c in channels]
  return np.array(pooled, np.float32).reshape(NUM_CHANNELS, -1, GRID**2)


@functools.cache
def reference_features() -> Features:
  """Returns features of fixed random scenes: they set the unit of responses and the covariance at rest."""
  rng = np.random.default_rng(20080305)
  images, scenes = stimuli.render(stimuli.random_attributes(rng, _NUM_REFERENCE), rng, IMAGE_SIZE, return_scenes=True)
  return extract_features(images, scenes)


@functools.cache
def channel_scale() -> np.ndarray:
  """Returns the typical size of each channel over random scenes, (C,), the unit of its weights."""
  return reference_features().maps.mean((1, 2)) + reference_features().maps.std((1, 2))
