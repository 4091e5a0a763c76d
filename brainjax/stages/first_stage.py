"""Trains a small VQ autoencoder on rendered scenes: the first stage of the demo's prior."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax.datasets import transforms
from brainjax.models.autoencoder import VQModel
from brainjax.simulator.batches import RenderedBatches
from brainjax.stages import common
from brainjax.stages.stage import Stage
from brainjax.trees import unflatten


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
    batches=RenderedBatches(config.first_stage_training.batch_size, size, config.seed),
    validation=lambda: RenderedBatches(config.first_stage_training.batch_size, size, config.seed + 1, length=4),
    info={'settings': {'first_stage': common.settings(vq)}},
    **common.training_fields(config, 'first_stage_training', steps_per_epoch=1, decay_all=False),
  )


def unit_latents(vq: VQModel, weights: Mapping[str, np.ndarray], images: np.ndarray) -> dict[str, np.ndarray]:
  """The same autoencoder with latents of mean 0 (each channel) and deviation 1 (all together), as diffusion expects.

  Shift and scale move between the layers around the latent; reconstructions and chosen codes stay.

  Args:
    vq: the model.
    weights: its flat parameters.
    images: N H W 3 uint8, to measure the latents on.
  """
  latents = encode_pictures(vq, weights, images)
  mean, scale = latents.mean(axis=(0, 1, 2)), latents.std()
  kernel = weights['post_quant_conv/kernel']
  return dict(weights) | {
    'quant_conv/kernel': weights['quant_conv/kernel'] / scale,
    'quant_conv/bias': (weights['quant_conv/bias'] - mean) / scale,
    'codebook': (weights['codebook'] - mean) / scale,
    'post_quant_conv/kernel': kernel * scale,
    'post_quant_conv/bias': weights['post_quant_conv/bias'] + mean @ kernel,
  }


def encode_pictures(vq: VQModel, weights: Mapping[str, np.ndarray], pictures: np.ndarray) -> np.ndarray:
  """Latents of pictures, for training on them without the encoder: P H W 3 uint8 -> P h w C float32."""
  variables = jax.device_put({'params': unflatten(weights)})
  apply = jax.jit(lambda variables, image: vq.apply(variables, image, method='encode'))
  latents, size = [], 32
  for start in range(0, len(pictures), size):
    chunk = transforms.to_signed_unit(pictures[start : start + size])
    count = len(chunk)
    chunk = np.concatenate(
      [chunk, np.zeros((size - count, *chunk.shape[1:]), np.float32)]
    )  # one shape, one compilation
    latents.append(np.asarray(apply(variables, chunk))[:count])
  return np.concatenate(latents)
