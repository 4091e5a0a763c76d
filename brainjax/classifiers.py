"""Loads an image classifier from weights: uint8 pictures -> probabilities, with a name for the scores."""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from brainjax.checkpoints import load_weights
from brainjax.datasets import transforms
from brainjax.errors import UserError
from brainjax.models.classifier import SmallClassifier, ViT
from brainjax.trees import unflatten

BATCH = 50


def load(source: str | os.PathLike) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
  """(name, classifier): the demo's, or a converted torchvision ViT. The classifier takes uint8 N H W 3, gives N C.

  Raises:
    UserError: there are no such weights, or they are of something else.
  """
  flat, info = load_weights(source)
  settings = info.get('settings', {})
  if 'num_classes' not in settings:
    raise UserError(
      f'evaluate.classifier = {source} holds no classifier; convert torchvision ViT-H/14 or leave the field empty.'
    )
  settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
  variables = jax.device_put({'params': unflatten(flat)})
  if 'widths' in settings:
    model = SmallClassifier(**settings)
    name = f'rendered-scene classifier, {settings["num_classes"]} categories'
    prepare = transforms.to_signed_unit
  else:
    model = ViT(**settings)
    name = f'ViT of width {settings["width"]} ({info.get("source", source)})'

    def prepare(images):
      # Bicubic, as torchvision's transform of these weights.
      size = (settings['image_size'],) * 2
      resized = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images])
      return transforms.imagenet_normalise(resized.astype(np.float32) / np.float32(255))

  apply = jax.jit(lambda variables, images: jax.nn.softmax(model.apply(variables, images).astype(jnp.float32), axis=-1))

  def classify(images: np.ndarray) -> np.ndarray:
    results = []
    for start in range(0, len(images), BATCH):
      chunk = prepare(images[start : start + BATCH])
      count = len(chunk)
      chunk = np.concatenate([chunk, np.zeros((BATCH - count, *chunk.shape[1:]), np.float32)])  # one compilation
      results.append(np.asarray(apply(variables, chunk))[:count])
    return np.concatenate(results)

  return name, classify
