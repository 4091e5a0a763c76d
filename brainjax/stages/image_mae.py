"""Trains a small masked autoencoder of images on rendered scenes: what ViT-MAE is to the paper, for the demo."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from brainjax.datasets import transforms
from brainjax.models.image_mae import ImageMAE
from brainjax.ops import losses, patches
from brainjax.simulator.batches import RenderedBatches
from brainjax.stages import common
from brainjax.stages.contrast import TRAINABLE
from brainjax.stages.stage import Stage


def make(config: ConfigDict) -> Stage:
  """The stage; its weights are those of one `ImageMAE` without cross-attention."""
  stage = config.image_mae_training
  mae = ImageMAE(
    decoder_depth=config.attend.image_decoder_depth, dtype=common.compute_dtype(config), **config.image_mae.to_dict()
  )
  size = config.image_mae.image_size

  def init(key):
    return mae.init(key, jnp.zeros((1, size, size, 3)))['params']

  def loss(params, batch, key):
    image = transforms.imagenet_normalise((batch['image'] + 1) / 2)
    noise = jax.random.uniform(key, (len(image), mae.num_patches))
    out = mae.apply({'params': params}, image, noise, stage.mask_ratio)
    target = patches.patchify_2d(image, mae.patch_size)
    return losses.masked_mse(out['pred'], target, out['mask']).mean(), {}

  return Stage(
    init=init,
    pretrained={},
    trainable=TRAINABLE,
    loss=loss,
    batches=RenderedBatches(stage.batch_size, size, config.seed + 6),
    validation=lambda: RenderedBatches(stage.batch_size, size, config.seed + 7, length=4),
    info={'settings': common.settings(mae)},
    **common.training_fields(config, 'image_mae_training', steps_per_epoch=1, decay_all=False),
  )
