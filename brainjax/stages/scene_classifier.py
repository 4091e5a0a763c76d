"""Trains the small classifier that scores the demo: 200 categories of rendered scenes, rendered for each batch."""

import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from brainjax.datasets import transforms
from brainjax.models.classifier import SmallClassifier
from brainjax.simulator import stimuli
from brainjax.simulator.batches import RenderedBatches
from brainjax.stages import common
from brainjax.stages.data import StageData
from brainjax.stages.problem import Training
from brainjax.stages.registry import StageSpec, WeightsField


def make(config: ConfigDict, mesh: Mesh) -> Training:
  """The stage; its weights are those of one `SmallClassifier`.

  Raises:
    UserError: the start weights cannot be read.
  """
  del mesh
  stage = config.scene_classifier
  size = config.data.image_size
  classifier = SmallClassifier(len(stimuli.categories().names))

  def loss(params, batch, key):
    del key
    logits = classifier.apply({'params': params}, transforms.to_signed_unit(batch['image']))
    error = optax.softmax_cross_entropy_with_integer_labels(logits, batch['class_index'])
    return error.mean(), {'accuracy': (logits.argmax(-1) == batch['class_index']).mean()}

  data = StageData(
    RenderedBatches(stage.batch_size, size, config.seed + 4, classes='categories'),
    lambda: RenderedBatches(stage.batch_size, size, config.seed + 5, classes='categories', length=8),
  )
  return common.prior_training(
    config,
    'scene_classifier',
    data,
    init=lambda key: classifier.init(key, *classifier.example_inputs())['params'],
    loss=loss,
    trainable='',
    models=common.kwargs_of(classifier),
    categories=list(stimuli.categories().names),
  )


STAGE = StageSpec(
  'scene_classifier',
  make=make,
  weights=(WeightsField('init_from'),),
  curves={'accuracy': 'share of scenes whose category is the most probable one'},
)
