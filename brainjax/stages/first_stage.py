"""Trains a small VQ autoencoder on rendered scenes: the first stage of the demo's prior."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax.models.autoencoder import VQModel
from brainjax.simulator.batches import RenderedBatches
from brainjax.stages import common
from brainjax.train import Stage


def model(config: ConfigDict) -> VQModel:
  """The first stage of `config.first_stage` at the picture size of the data."""
  return VQModel(**config.first_stage.to_dict(), resolution=config.data.image_size, dtype=common.compute_dtype(config))


def make(config: ConfigDict) -> Stage:
  """The stage; its weights are `first_stage/...`."""
  vq = model(config)
  size = config.data.image_size

  # Codes of about the size of an untrained encoder's latents: with the published start near zero few of them are ever used.
  rng = np.random.default_rng(config.seed)
  codebook = 0.5 * rng.standard_normal((config.first_stage.n_embed, config.first_stage.embed_dim), np.float32)

  def init(key):
    return {'first_stage': vq.init(key, jnp.zeros((1, size, size, 3)))['params']}

  def loss(params, batch, key):
    del key
    image, quantized = vq.apply({'params': params['first_stage']}, batch['image'])
    absolute = jnp.abs(image - batch['image']).mean()
    squared = jnp.square(image - batch['image']).mean()
    used = jnp.zeros(config.first_stage.n_embed).at[quantized.indices.reshape(-1)].set(1.0).mean()
    metrics = {'absolute_error': absolute, 'psnr': 10 * jnp.log10(4 / squared), 'codes_used': used}
    return absolute + squared + quantized.loss.mean(), metrics

  return Stage(
    init=init,
    pretrained={'first_stage/codebook': codebook},
    trainable='^first_stage/',
    loss=loss,
    validation_loss=loss,
    batches=RenderedBatches(config.first_stage_training.batch_size, size, config.seed),
    validation=lambda: RenderedBatches(config.first_stage_training.batch_size, size, config.seed + 1, length=4),
    info={'models': {'first_stage': common.settings(vq)}},
    **common.training_fields(config, 'first_stage_training', steps_per_epoch=1, decay_all=False),
  )
