"""Shapes, textures and backgrounds of scenes as functions of coordinates; edges are analytic, smoothed over a pixel."""

import numpy as np


def cover(distance: np.ndarray, footprint) -> np.ndarray:
  """Computes the share of a pixel of width `footprint` that is inside (distance < 0)."""
  return np.clip(0.5 - distance / footprint, 0, 1)


def _wave(t: np.ndarray) -> np.ndarray:
  """Triangle wave of period 1, from -0.25 (at 0) to 0.25: the signed distance to a zero crossing, in periods."""
  return 0.25 - np.abs(t - np.floor(t) - 0.5)


def _dots(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
  """Signed distance to a square lattice (period 1) of dots."""
  return np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5) - radius


def _checker(u: np.ndarray, v: np.ndarray, footprint) -> np.ndarray:
  """Weight of the second field of a checkerboard with period 1 along both axes."""
  a, b = cover(_wave(u), footprint), cover(_wave(v), footprint)
  return a + b - 2 * a * b


def texture(kind: str, u: np.ndarray, v: np.ndarray, phase: np.ndarray, footprint) -> np.ndarray | float:
  """Computes the weight of the second colour at object coordinates u, v (the object has radius 1)."""
  if kind == 'plain':
    return 0.0
  if kind == 'shaded':
    return np.clip(0.5 + 0.55 * v + 0.3 * (phase[0] - 0.5), 0, 1)
  density = {'striped': 2.0, 'dotted': 1.9, 'checkered': 1.5}[kind]
  a, b = density * u + phase[0], density * v + phase[1]
  if kind == 'striped':
    return cover(_wave(a), density * footprint)
  if kind == 'dotted':
    return cover(_dots(a, b, 0.33), density * footprint)
  return _checker(a, b, density * footprint)


def backdrop(kind: str, x: np.ndarray, y: np.ndarray, pattern: np.ndarray, pixel: np.float32) -> np.ndarray:
  """Computes the weight of the background's second colour.

  Args:
    kind: of the background.
    x, y: coordinates of the pixels, picture = [-1, 1].
    pattern: scale, tilt in radians, phase x and phase y, each (N, 1, 1).
    pixel: width of a pixel.
  """
  scale, tilt, phase_x, phase_y = pattern
  u, v = np.cos(tilt) * x + np.sin(tilt) * y, np.cos(tilt) * y - np.sin(tilt) * x
  if kind in ('night', 'snow', 'sky', 'dusk'):
    return np.clip(0.5 + 0.5 * scale * v + 0.2 * (phase_y - 0.5), 0, 1)
  density = scale * {'tiles': 1.6, 'meadow': 3.0, 'sand': 2.6, 'ocean': 2.2}[kind]
  footprint = density * pixel
  if kind == 'tiles':
    return _checker(density * u + phase_x, density * v + phase_y, footprint)
  if kind == 'sand':
    return cover(_dots(density * u + phase_x, density * v + phase_y, 0.28), footprint)
  if kind == 'meadow':
    return cover(_wave(density * u + phase_x), footprint)
  return cover(_wave(density * v + phase_y + 0.2 * np.sin(6 * u + 6.28 * phase_x)), footprint)


def signed_distance(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Computes the distance to the edge of a shape of radius about 1; negative inside, (nearly) exact near the edge."""
  if kind == 'disc':
    return np.hypot(u, v) - 0.88
  if kind == 'square':
    return np.maximum(np.abs(u), np.abs(v)) - 0.76
  if kind == 'triangle':
    return np.maximum(0.866 * np.abs(u) - 0.5 * v, v) - 0.52
  if kind == 'star':
    # Fold the plane onto the half sector of one point; its edge runs from (0, 1) to the inner corner.
    sector = np.pi / 5
    angle = np.abs(np.mod(np.arctan2(u, -v) + sector, 2 * sector) - sector)
    length = np.hypot(u, v)
    inner = 0.45
    edge_x, edge_y = inner * np.sin(sector), inner * np.cos(sector) - 1
    norm = np.hypot(edge_x, edge_y)
    return (edge_x * (length * np.cos(angle) - 1) - edge_y * length * np.sin(angle)) / norm
  if kind == 'ring':
    return np.abs(np.hypot(u, v) - 0.68) - 0.23
  if kind == 'cross':
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.92, b - 0.29), np.maximum(a - 0.29, b - 0.92))
  if kind == 'crescent':
    return np.maximum(np.hypot(u, v) - 0.9, 0.72 - np.hypot(u - 0.42, v))
  if kind == 'heart':
    side = 0.52
    a, b = np.abs(u), -v - side * 0.25
    middle = side / np.sqrt(2)  # of the upper edge of a square on its corner, where a lobe is centred
    return np.minimum((a + np.abs(b)) / np.sqrt(2) - side, np.hypot(a - middle, b - middle) - side)
  if kind == 'hexagon':
    a, b = np.abs(u), np.abs(v)
    return np.maximum(0.866 * a + 0.5 * b, b) - 0.8
  a, b = np.abs(u + v) / np.sqrt(2), np.abs(u - v) / np.sqrt(2)  # the bar lies on the diagonal
  return np.maximum(a - 0.28, b - 1.0)


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
  """Converts colours N 3 from HSV, with hue in turns, to RGB in [0, 1]."""
  hue, saturation, value = (hsv[:, i, None] for i in range(3))
  k = (np.array([5, 3, 1], np.float32) + 6 * hue) % 6
  return (value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)
