"""Voxel responses of a simulated visual cortex: Gabor energy in V1-V4, semantic features in LOC, FFA and PPA.

The early areas follow the voxel model of Kay et al. (2008): Gabor energy and colour opponency, pooled in a receptive
field that grows with eccentricity and from area to area, then a compressive power law. The single-trial variance of each
response is 1: the sum of the signal, a few global noise components and noise of the voxel.
"""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np

from brainjax.simulator import stimuli, vision

EARLY = ('V1', 'V2', 'V3', 'V4')
HIGHER = ('LOC', 'FFA', 'PPA')
ROIS = (*EARLY, *HIGHER)
UNIONS = {'LVC': ('V1', 'V2', 'V3'), 'HVC': HIGHER, 'VC': ROIS}

_ECCENTRICITY_SCALE, _MAX_ECCENTRICITY = 0.4, 1.2  # cortical magnification; picture half widths

# Per early area: receptive field size at the fovea (picture half widths) and its growth with eccentricity, preferred
# frequency at the fovea (cycles per picture), and the shares of Gabor energy, luminance and colour in the mean weight.
_AREAS = {
  'V1': (0.09, 0.10, 9.0, (0.60, 0.20, 0.20)),
  'V2': (0.11, 0.15, 7.5, (0.55, 0.20, 0.25)),
  'V3': (0.13, 0.21, 6.0, (0.50, 0.20, 0.30)),
  'V4': (0.17, 0.30, 5.0, (0.35, 0.15, 0.50)),
}
# Per higher area: the mean square weight of shape, colour, texture, background, layout, and of the parameters.
_SEMANTICS = {
  'LOC': (1.0, 0.6, 0.6, 0.3, 0.8, 0.8),
  'FFA': (1.0, 0.9, 0.6, 0.2, 0.3, 0.5),
  'PPA': (0.3, 0.3, 0.4, 1.0, 0.9, 1.0),
}


@dataclasses.dataclass(frozen=True)
class CortexConfig:
  """Sizes of the areas and the noise of a subject; written beside the data."""

  num_voxels: int = 4643
  # Shares of the voxels; an area that is not listed has none.
  roi_shares: tuple[tuple[str, float], ...] = (
    ('V1', 0.23),
    ('V2', 0.22),
    ('V3', 0.18),
    ('V4', 0.13),
    ('LOC', 0.11),
    ('FFA', 0.06),
    ('PPA', 0.07),
  )
  median_explainable_variance: float = 0.15  # of a single trial, median over all voxels
  explainable_variance_spread: float = 0.6  # standard deviation of its logarithm over voxels that respond
  max_explainable_variance: float = 0.9
  subject_spread: float = 0.12  # largest deviation of a subject's log explainable variance
  pure_noise_fraction: float = 0.1  # voxels that do not respond to pictures at all
  shared_noise_fraction: float = 0.5  # of the noise variance, in global components
  num_shared_components: int = 6
  noise_neighbour_weight: float = 0.3  # weight of the noise of the two neighbours in that of a voxel
  conjunction_variance: float = 0.2  # of a semantic response, from pairs of attributes
  power: float = 0.5  # exponent of the response to the pooled energy
  # How much receptive fields and tuning differ between subjects. 0: all subjects share one sheet, as if aligned without
  # error; 1: nothing is shared. Signal-to-noise ratio and noise are never shared.
  subject_jitter: float = 1.0
  session_drift: float = 0.0  # standard deviation of a voxel's baseline from session to session; a trial has 1

  def roi_sizes(self) -> dict[str, int]:
    """Returns the voxels of each area, which add up to `num_voxels` (method of the largest remainder)."""
    names, shares = zip(*self.roi_shares, strict=True)
    exact = np.array(shares) / np.sum(shares) * self.num_voxels
    sizes = np.floor(exact).astype(int)
    sizes[np.argsort(sizes - exact, kind='stable')[: self.num_voxels - sizes.sum()]] += 1
    return dict(zip(names, sizes.tolist(), strict=True))


class _Tuning(NamedTuple):
  """What makes voxels respond.

  Attributes:
    fields: V_early 3, see `Subject`.
    channel_weights: V_early C, not negative.
    semantic_weights: of attributes, pairs and parameters, each K V_higher; none without higher areas.
  """

  fields: np.ndarray
  channel_weights: np.ndarray
  semantic_weights: list[np.ndarray]

  @classmethod
  def draw(cls, rng: np.random.Generator, sizes: Mapping[str, int], conjunction: float) -> Self:
    """Draws the voxels of all areas: area -> number of voxels."""
    early = [_retinotopy(rng, roi, sizes[roi]) for roi in EARLY if sizes.get(roi)]
    fields = np.concatenate([fields for fields, _ in early]) if early else np.empty((0, 3), np.float32)
    weights = np.concatenate([w for _, w in early]) if early else np.empty((0, vision.NUM_CHANNELS), np.float32)
    higher = [_semantics(rng, roi, sizes[roi], conjunction) for roi in HIGHER if sizes.get(roi)]
    return cls(fields, weights, [np.concatenate(w, axis=1) for w in zip(*higher, strict=True)])

  def jittered(self, own: Self, jitter: float) -> Self:
    """This sheet with a share `jitter` of a subject's own tuning; both follow the same curve over the visual field."""
    between = lambda shared, own: ((1 - jitter) * shared + jitter * own).astype(np.float32)
    kept = np.sqrt(1 - jitter**2)  # so that the variance of Gaussian weights stays
    weights = zip(self.semantic_weights, own.semantic_weights, strict=True)
    return type(self)(
      between(self.fields, own.fields),
      between(self.channel_weights, own.channel_weights),
      [(kept * shared + jitter * drawn).astype(np.float32) for shared, drawn in weights],
    )


class Subject:
  """One subject's cortex, determined by (config, seed, group, number).

  Voxels are ordered by area. Within an early area they follow a space-filling curve over the visual field, so that
  neighbours in the array are neighbours on cortex.

  Attributes:
    config: sizes and noise.
    slices: area -> its voxels.
    fields: V_early 3, x, y and size of the receptive fields, in picture half widths.
    explainable_variance: V, the single-trial variance of the signal.
    loadings: K V, the weights of the global noise components.
  """

  def __init__(self, config: CortexConfig, seed: int, group: int, number: int):
    self.config = config
    rng = np.random.default_rng([seed, 3, group, number])
    sizes = config.roi_sizes()
    stops = np.cumsum(list(sizes.values())).tolist()
    self.slices = {roi: slice(stop - size, stop) for (roi, size), stop in zip(sizes.items(), stops, strict=True)}
    tuning = _Tuning.draw(rng, sizes, config.conjunction_variance)
    if config.subject_jitter < 1:
      sheet = _Tuning.draw(np.random.default_rng([seed, 6]), sizes, config.conjunction_variance)
      tuning = sheet.jittered(tuning, config.subject_jitter)
    self.fields, self._channel_weights, self._semantic_weights = tuning
    self._pooling = _pooling(self.fields)
    self.explainable_variance = _explainable_variance(rng, config)
    smoothness = max(2.0, 0.03 * config.num_voxels)
    self.loadings = _smooth_noise(rng, config.num_shared_components, config.num_voxels, smoothness)
    self.loadings[0] = np.abs(self.loadings[0]) + 0.5  # the global signal has one sign
    self.loadings *= np.sqrt(config.shared_noise_fraction) / np.linalg.norm(self.loadings, axis=0)
    raw = self._raw(vision.reference_features())
    self._mean, self._std = raw.mean(0), raw.std(0)

  def masks(self) -> dict[str, np.ndarray]:
    """Returns boolean masks (V,) of the areas and of their unions LVC, HVC and VC."""
    masks = {}
    for name, members in {**{roi: (roi,) for roi in ROIS}, **UNIONS}.items():
      masks[name] = np.zeros(self.config.num_voxels, bool)
      for roi in members:
        if roi in self.slices:
          masks[name][self.slices[roi]] = True
    return masks

  def signal(self, features: vision.Features) -> np.ndarray:
    """Computes responses without noise, N V float32; mean 0, variance `explainable_variance` over random scenes."""
    return (self._raw(features) - self._mean) * (np.sqrt(self.explainable_variance) / self._std)

  def noise(self, rng: np.random.Generator, trials: int) -> np.ndarray:
    """Draws single-trial noise, (trials, V) float32, of variance 1 - `explainable_variance`."""
    shared = rng.standard_normal((trials, len(self.loadings)), np.float32)
    own = rng.standard_normal((trials, self.config.num_voxels), np.float32)
    return self._mix_noise(shared, own)

  def rest(self, rng: np.random.Generator, frames: int) -> np.ndarray:
    """Draws resting data, (frames, V) float32, z-scored per voxel; signal and noise covary as in the task.

    Time courses are first-order autoregressive; those of signal and global components are slower than a voxel's noise.
    """
    signal = self.signal(vision.reference_features())
    signal -= signal.mean(0)
    drive = _autoregressive(rng, frames, len(signal), 0.85) / np.float32(np.sqrt(len(signal)))
    shared = _autoregressive(rng, frames, len(self.loadings), 0.9)
    own = _autoregressive(rng, frames, self.config.num_voxels, 0.4)
    data = drive @ signal + self._mix_noise(shared, own)
    return (data - data.mean(0)) / data.std(0)

  def _mix_noise(self, shared: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Unit-variance draws (T K) and (T V) -> noise (T V)."""
    side = self.config.noise_neighbour_weight
    # The first and last voxel are each other's neighbours: the variance is the same everywhere.
    mixed = own + side * (np.roll(own, 1, axis=1) + np.roll(own, -1, axis=1))
    mixed *= np.float32(np.sqrt((1 - self.config.shared_noise_fraction) / (1 + 2 * side**2)))
    mixed += shared @ self.loadings
    return mixed * np.sqrt(1 - self.explainable_variance)

  def _raw(self, features: vision.Features) -> np.ndarray:
    """Responses in arbitrary units, N V float32."""
    count, num_early = len(features.one_hot), len(self.fields)
    response = np.empty((count, self.config.num_voxels), np.float32)
    early = response[:, :num_early]
    early[:] = 0
    scale = vision.channel_scale()
    for channel, maps in enumerate(features.maps):
      early += (maps @ self._pooling) * (self._channel_weights[:, channel] / scale[channel])
    np.power(early, self.config.power, out=early)
    if self._semantic_weights:
      one_hot, pairs, parameters = self._semantic_weights
      late = features.one_hot @ one_hot + features.parameters @ parameters
      for column in features.pairs.T:
        late += pairs[column]
      response[:, num_early:] = late
    return response


def _retinotopy(rng: np.random.Generator, roi: str, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Receptive fields (count, 3) in cortical order, and channel weights (count, C), not negative."""
  base, growth, foveal_frequency, shares = _AREAS[roi]
  # Cortical magnification: as many voxels per unit of log(eccentricity + scale).
  span = np.log1p(_MAX_ECCENTRICITY / _ECCENTRICITY_SCALE)
  eccentricity = _ECCENTRICITY_SCALE * np.expm1(rng.random(count) * span)
  angle = 2 * np.pi * rng.random(count)
  x, y = eccentricity * np.cos(angle), eccentricity * np.sin(angle)
  order = np.argsort(_hilbert(x / (2 * _MAX_ECCENTRICITY) + 0.5, y / (2 * _MAX_ECCENTRICITY) + 0.5), kind='stable')
  x, y, eccentricity = x[order], y[order], eccentricity[order]
  size = (base + growth * eccentricity) * np.exp(0.2 * rng.standard_normal(count))
  # Tuning drifts along cortex, with scatter from voxel to voxel.
  drift = _smooth_noise(rng, 9, count, 4.0)
  preferred = np.log2(foveal_frequency / (1 + eccentricity)) + 0.7 * drift[0]
  frequency = np.exp(-((np.log2(vision.FREQUENCIES) - preferred[:, None]) ** 2) / 2)
  doubled = 2 * np.pi * np.arange(vision.ORIENTATIONS) / vision.ORIENTATIONS  # orientation repeats after half a turn
  orientation = np.exp(1.2 * np.cos(doubled - np.arctan2(drift[1], drift[2])[:, None]))
  energy = (frequency[:, :, None] * orientation[:, None, :]).reshape(count, vision.NUM_ENERGY)
  luminance, colour = np.exp(1.5 * drift[3:5].T), np.exp(1.5 * drift[5:9].T)
  parts = [part / part.sum(1, keepdims=True) for part in (energy, luminance, colour)]
  mix = rng.gamma(np.array(shares) * 4, size=(count, 3)) + 1e-3
  weights = np.concatenate([part * mix[:, i, None] for i, part in enumerate(parts)], axis=1)
  return np.stack([x, y, size], axis=1).astype(np.float32), weights.astype(np.float32)


def _pooling(fields: np.ndarray) -> np.ndarray:
  """Gaussian receptive fields over the grid's cells, (GRID**2, V), each adding up to 1."""
  centres = (np.arange(vision.GRID, dtype=np.float32) + 0.5) * 2 / vision.GRID - 1
  x, y, size = fields.T
  along_x = np.exp(-((centres[:, None] - x) ** 2) / (2 * size**2))
  along_y = np.exp(-((centres[:, None] - y) ** 2) / (2 * size**2))
  weights = (along_y[:, None] * along_x[None]).reshape(vision.GRID**2, -1)  # row, column -> cell
  return weights / weights.sum(0)


def _semantics(
  rng: np.random.Generator, roi: str, count: int, conjunction: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Weights of attributes (37, count), attribute pairs (540, count) and parameters (11, count), smooth along cortex."""
  *shares, parameter_share = _SEMANTICS[roi]
  rows = np.repeat(shares, stimuli.NUM_VALUES)
  one_hot = _smooth_noise(rng, len(rows), count, 1.5) * np.sqrt(rows)[:, None]
  parameters = _smooth_noise(rng, vision.reference_features().parameters.shape[1], count, 1.5)
  parameters *= np.sqrt(parameter_share / 5)
  # About unit variance from each unit of share: the pairs get their part of the total.
  rows = np.repeat([shares[a] * shares[b] for a, b in vision.PAIRS], vision.PAIR_SIZES)
  total = sum(shares) + parameter_share
  rows *= total * conjunction / (1 - conjunction) / sum(shares[a] * shares[b] for a, b in vision.PAIRS)
  pairs = _smooth_noise(rng, len(rows), count, 1.5) * np.sqrt(rows)[:, None]
  return one_hot.astype(np.float32), pairs.astype(np.float32), parameters.astype(np.float32)


def _explainable_variance(rng: np.random.Generator, config: CortexConfig) -> np.ndarray:
  """Single-trial explainable variance of each voxel, (V,) float32; zero for the pure noise voxels."""
  silent = config.pure_noise_fraction
  # The median over all voxels, silent ones included, is a lower quantile of the voxels that respond.
  quantile = statistics.NormalDist().inv_cdf((0.5 - silent) / (1 - silent))
  spread = config.explainable_variance_spread
  level = np.log(config.median_explainable_variance) - spread * quantile + rng.uniform(-1, 1) * config.subject_spread
  logarithm = level + spread * _smooth_noise(rng, 1, config.num_voxels, 1.0)[0]
  variance = np.minimum(np.exp(logarithm), config.max_explainable_variance)
  variance[rng.permutation(config.num_voxels)[: round(silent * config.num_voxels)]] = 0
  return variance.astype(np.float32)


def _smooth_noise(rng: np.random.Generator, rows: int, length: int, scale: float) -> np.ndarray:
  """Gaussian noise (rows, length) of unit variance, correlated along the second axis over about `scale` entries."""
  frequency = np.fft.rfftfreq(length)
  transfer = np.exp(-2 * (np.pi * frequency * scale) ** 2)
  noise = np.fft.irfft(np.fft.rfft(rng.standard_normal((rows, length))) * transfer, n=length)
  impulse = np.fft.irfft(transfer, n=length)
  return (noise / np.linalg.norm(impulse)).astype(np.float32)


def _autoregressive(rng: np.random.Generator, frames: int, columns: int, memory: float) -> np.ndarray:
  """Stationary first-order autoregressive courses, (frames, columns) float32, unit variance."""
  courses = rng.standard_normal((frames, columns), np.float32)
  innovation = np.float32(np.sqrt(1 - memory**2))
  for t in range(1, frames):
    courses[t] = np.float32(memory) * courses[t - 1] + innovation * courses[t]
  return courses


def _hilbert(x: np.ndarray, y: np.ndarray, bits: int = 6) -> np.ndarray:
  """Position of points of the unit square along the Hilbert curve."""
  limit = (1 << bits) - 1
  x, y = (np.clip((axis * (limit + 1)).astype(int), 0, limit) for axis in (x, y))
  distance = np.zeros_like(x)
  for level in reversed(range(bits)):
    right, upper = (x >> level) & 1, (y >> level) & 1
    distance += (1 << (2 * level)) * ((3 * right) ^ upper)
    # Turn the quadrant so that the curve enters and leaves it at the right corners.
    mirror = (upper == 0) & (right == 1)
    x, y = np.where(mirror, limit - x, x), np.where(mirror, limit - y, y)
    x, y = np.where(upper == 0, y, x), np.where(upper == 0, x, y)
  return distance
