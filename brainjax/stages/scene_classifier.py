"""Trains the small classifier that scores the demo: 200 categories of rendered scenes, in renderings of its own."""

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from brainjax.models.classifier import SmallClassifier
from brainjax.simulator import stimuli
from brainjax.simulator.batches import RenderedBatches
from brainjax.stages import common
from brainjax.stages.stage import Stage


def make(config: ConfigDict) -> Stage:
  """The stage; its weights are those of one `SmallClassifier`."""
  stage = config.scene_classifier
  size = config.data.image_size
  classifier = SmallClassifier(len(stimuli.categories().names))

  def init(key):
    return classifier.init(key, jnp.zeros((1, size, size, 3)))['params']

  def loss(params, batch, key):
    del key
    logits = classifier.apply({'params': params}, batch['image'])
    error = optax.softmax_cross_entropy_with_integer_labels(logits, batch['class_index'])
    return error.mean(), {'accuracy': (logits.argmax(-1) == batch['class_index']).mean()}

  return Stage(
    init=init,
    pretrained={},
    trainable='',
    loss=loss,
    batches=RenderedBatches(stage.batch_size, size, config.seed + 4, classes='categories'),
    validation=lambda: RenderedBatches(stage.batch_size, size, config.seed + 5, classes='categories', length=8),
    info={'settings': common.settings(classifier), 'categories': list(stimuli.categories().names)},
    **common.training_fields(config, 'scene_classifier', steps_per_epoch=1, decay_all=False),
  )
