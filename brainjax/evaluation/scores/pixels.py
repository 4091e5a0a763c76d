"""Scores of pixels, every sample against every stimulus: MSE, PCC, SSIM, and SSIM as published tables have it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainjax.evaluation.scores.correlation import correlation_table

WINDOW = 7  # side of the uniform SSIM window, scikit-image's default
DATA_RANGE = 255.0
HIGHER_IS_BETTER = {'mse': False, 'pcc': True, 'ssim': True}
# As MindEye compares pictures: of 256 pixels, enlarged to 425. SSIM is that of grey pictures with a Gaussian window.
PUBLISHED_SSIM, PUBLISHED_SIDE, COMPARED_SIDE = 'ssim_grey', 256, 425
GREY = np.array([0.2125, 0.7154, 0.0721], np.float32)  # scikit-image's rgb2gray
GAUSSIAN = np.exp(-0.5 * np.square(np.arange(-5, 6) / 1.5))  # of deviation 1.5, cut off at 3.5 deviations
GAUSSIAN = (GAUSSIAN / GAUSSIAN.sum()).astype(np.float32)

# Arithmetic on uint8 wraps, so each image becomes float32 first. A prepared image holds what depends on it alone,
# computed once per image and not once per pair.
Prepared = dict[str, jax.Array]


def resize(images: jax.Array, side: int) -> jax.Array:
  """Resizes as MindEye does: to 256 pixels, then to `side`; bilinear without antialiasing, not rounded: B H W C -> B side side C."""
  for size in (PUBLISHED_SIDE, side):
    if images.shape[1:3] != (size, size):
      images = jax.image.resize(images, (len(images), size, size, images.shape[3]), 'linear', antialias=False)
  return images


def _uniform_mean(x: jax.Array) -> jax.Array:
  """Mean over each whole 7x7 window: H W C -> H-6 W-6 C."""
  return lax.reduce_window(x, 0.0, lax.add, (WINDOW, WINDOW, 1), (1, 1, 1), 'valid') / WINDOW**2


def _gaussian_mean(x: jax.Array) -> jax.Array:
  """Weighted mean over each whole 11x11 window: H W C -> H-10 W-10 C."""
  for axis in (0, 1):
    size = x.shape[axis] - len(GAUSSIAN) + 1
    x = sum(weight * lax.slice_in_dim(x, i, i + size, axis=axis) for i, weight in enumerate(GAUSSIAN))
    x = lax.optimization_barrier(x)  # fused, both axes would take 121 products a pixel
  return x


def _prepare_mse(image: jax.Array) -> Prepared:
  return {'pixels': image}


def _pair_mse(a: Prepared, b: Prepared) -> jax.Array:
  # Rows first, then the sum over rows: two short sums lose less in float32 than a long one.
  return jnp.mean(jnp.mean(jnp.square(a['pixels'] - b['pixels']), axis=(1, 2)))


def _prepare_ssim(mean_of: Callable[[jax.Array], jax.Array], image: jax.Array) -> Prepared:
  # Variances do not depend on an offset; around zero they lose less to rounding.
  centred = image - DATA_RANGE / 2
  mean = mean_of(centred)
  return {'centred': centred, 'mean': mean, 'variance': mean_of(jnp.square(centred)) - jnp.square(mean)}


def _pair_ssim(mean_of: Callable[[jax.Array], jax.Array], sample: float, a: Prepared, b: Prepared) -> jax.Array:
  c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
  covariance = mean_of(a['centred'] * b['centred']) - a['mean'] * b['mean']
  mean_a, mean_b = a['mean'] + DATA_RANGE / 2, b['mean'] + DATA_RANGE / 2
  top = (2 * mean_a * mean_b + c1) * (2 * sample * covariance + c2)
  bottom = (jnp.square(mean_a) + jnp.square(mean_b) + c1) * (sample * (a['variance'] + b['variance']) + c2)
  return jnp.mean(jnp.mean(top / bottom, axis=(1, 2)))


def _prepare_grey(image: jax.Array) -> Prepared:
  grey = jnp.sum(image * GREY, axis=-1, keepdims=True)
  return _prepare_ssim(_gaussian_mean, resize(grey[None], COMPARED_SIDE)[0])


_SCORES: dict[str, tuple[Callable[[jax.Array], Prepared], Callable[[Prepared, Prepared], jax.Array]]] = {
  'mse': (_prepare_mse, _pair_mse),
  'ssim': (
    functools.partial(_prepare_ssim, _uniform_mean),
    functools.partial(_pair_ssim, _uniform_mean, WINDOW**2 / (WINDOW**2 - 1)),  # scikit-image divides by n - 1
  ),
  PUBLISHED_SSIM: (_prepare_grey, functools.partial(_pair_ssim, _gaussian_mean, 1.0)),
}


def _check(score: str, a: np.ndarray, b: np.ndarray) -> None:
  if score not in (*HIGHER_IS_BETTER, PUBLISHED_SSIM):
    raise ValueError(f'no image score named {score!r}; there are {sorted((*HIGHER_IS_BETTER, PUBLISHED_SSIM))}')
  if a.shape[-3:] != b.shape[-3:]:
    raise ValueError(f'images differ in shape: {a.shape[-3:]} and {b.shape[-3:]}')
  if score == 'ssim' and min(a.shape[-3:-1]) < WINDOW:
    raise ValueError(f'SSIM needs images of at least {WINDOW}x{WINDOW} pixels, found {a.shape[-3]}x{a.shape[-2]}')


@functools.partial(jax.jit, static_argnames=('score', 'block'))
def _table(samples: jax.Array, stimuli: jax.Array, score: str, block: int) -> jax.Array:
  prepare, pair = _SCORES[score]
  prepared = jax.lax.map(lambda stimulus: prepare(stimulus.astype(jnp.float32)), stimuli)

  def row(sample):
    sample = prepare(sample.astype(jnp.float32))
    return jax.lax.map(lambda stimulus: pair(sample, stimulus), prepared, batch_size=block)

  return jax.lax.map(row, samples)


def table(score: str, samples: np.ndarray, stimuli: np.ndarray, block_bytes: int = 2**20) -> np.ndarray:
  """Scores every sample against every stimulus.

  Args:
    score: 'mse' (on 0..255), 'pcc' (Pearson over all pixels and channels; 0 for a constant image) or 'ssim' (Wang et al.
      2004 as scikit-image computes it: 7x7 uniform window, whole windows only, sample covariance, data range 255, mean
      over channels), or 'ssim_grey' (of grey pictures at 425 pixels, 11x11 Gaussian window of deviation 1.5, no sample
      covariance: scikit-image with MindEye's options).
    samples: N S H W C, values 0..255, uint8 or float.
    stimuli: U H W C.
    block_bytes: how many bytes of float32 images are worked on at once.

  Returns:
    N S U float32: entry (n, s, u) is the score of sample s of item n against stimulus u.

  Raises:
    ValueError: an unknown score, images of two sizes, or images smaller than the window of SSIM.
  """
  _check(score, samples, stimuli)
  block = max(1, min(len(stimuli), block_bytes // (4 * int(np.prod(stimuli.shape[1:])))))
  if score == 'pcc':
    rows = samples.reshape(*samples.shape[:2], -1)  # N S H W C -> N S P
    return correlation_table(rows, stimuli.reshape(len(stimuli), -1), block)
  flat = jnp.asarray(samples).reshape(-1, *samples.shape[2:])  # N S H W C -> N*S H W C
  return np.asarray(_table(flat, jnp.asarray(stimuli), score, block)).reshape(*samples.shape[:2], len(stimuli))


def released_mse_u8(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """The release's MSE, which wraps modulo 256 in the difference and in its square: uint8 N H W C each -> N float64.

  Raises:
    ValueError: the images are not uint8.
  """
  if a.dtype != np.uint8 or b.dtype != np.uint8:
    raise ValueError(f'the released MSE is defined on uint8, found {a.dtype} and {b.dtype}')
  difference = a - b
  return np.mean((difference * difference).astype(np.float64), axis=(1, 2, 3))
