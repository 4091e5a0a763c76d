"""Trains a small masked autoencoder of images on rendered scenes: what ViT-MAE is to the paper, for the demo."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from brainjax.datasets import transforms
from brainjax.models.image_mae import ImageMAE
from brainjax.ops import losses, patches
from brainjax.rules import INNER_SHARE
from brainjax.simulator.batches import RenderedBatches
from brainjax.stages import common
from brainjax.stages.data import StageData
from brainjax.stages.problem import Training
from brainjax.stages.registry import StageSpec, WeightsField


def make(config: ConfigDict, mesh: Mesh) -> Training:
  """The stage; its weights are those of one `ImageMAE` without cross-attention.

  Raises:
    UserError: the start weights cannot be read.
  """
  del mesh
  stage = config.image_mae_training
  mae = ImageMAE(
    decoder_depth=config.attend.image_decoder_depth, dtype=common.compute_dtype(config), **config.image_mae.to_dict()
  )
  size = config.image_mae.image_size

  def loss(params, batch, key):
    image = transforms.imagenet_normalise(batch['image'].astype(jnp.float32) / 255)
    noise = jax.random.uniform(key, (len(image), mae.num_patches))
    out = mae.apply({'params': params}, image, noise, stage.mask_ratio)
    target = patches.patchify_2d(image, mae.patch_size)
    return losses.masked_mse(out['pred'], target, out['mask']).mean(), {}

  data = StageData(
    RenderedBatches(stage.batch_size, size, config.seed + 6),
    lambda: RenderedBatches(stage.batch_size, size, config.seed + 7, length=4),
  )
  return common.prior_training(
    config,
    'image_mae_training',
    data,
    init=lambda key: mae.init(key, *mae.example_inputs())['params'],
    loss=loss,
    trainable=common.ALL_BUT_POSITIONS,
    models=common.kwargs_of(mae),
  )


STAGE = StageSpec(
  'image_mae_training',
  make=make,
  weights=(WeightsField('init_from'),),
  rules=lambda config: {'image_mae_training.mask_ratio': INNER_SHARE},
)
