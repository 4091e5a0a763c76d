"""Trains a small VQ autoencoder on rendered scenes: the first stage of the demo's prior."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from brainjax import sharding
from brainjax.datasets import transforms
from brainjax.models import autoencoder
from brainjax.models.autoencoder import KLModel, VQModel
from brainjax.progress import progress
from brainjax.simulator.batches import RenderedBatches
from brainjax.stages import common
from brainjax.stages.data import StageData
from brainjax.stages.problem import Training
from brainjax.stages.registry import StageSpec, WeightsField
from brainjax.trees import lists_to_tuples, unflatten


def resolve_kwargs(config: ConfigDict, saved: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """Constructor arguments of the first stage at the picture size of the data.

  Args:
    config: the run's.
    saved: the constructor arguments saved with weights; they replace those of `config.first_stage`. Without `n_embed` the
      first stage is a KL autoencoder.
  """
  merged, size = config.first_stage.to_dict(), config.data.image_size
  if saved:
    merged |= {'num_groups': VQModel.num_groups} | dict(saved)
    if 'n_embed' not in saved:
      merged.pop('n_embed', None)
    # Attention belongs to levels, but `attn_resolutions` names picture sizes, at the resolution of the weights.
    factors = [2**level for level in range(len(saved['ch_mult']))]
    attending = [factor for factor in factors if saved['resolution'] // factor in saved['attn_resolutions']]
    merged['attn_resolutions'] = tuple(size // factor for factor in attending)
  return lists_to_tuples(merged | {'resolution': size})


def model(config: ConfigDict) -> VQModel | KLModel:
  """The first stage of `config.first_stage` at the picture size of the data."""
  return autoencoder.first_stage(resolve_kwargs(config), common.compute_dtype(config))


# Deviation of the noise on latents in training: the decoder learns to tolerate errors of quantization and sampling.
NOISE = 0.1
# Weight of the latents' mean square: without it the encoder would drown that noise by ever larger latents.
SIZE_WEIGHT = 0.001


def make(config: ConfigDict, mesh: Mesh) -> Training:
  """The stage; its weights are `first_stage/...`.

  The autoencoder trains on continuous latents with noise; `unit_latents` then fits the codebook. A codebook that
  trains along from the published start leaves most of its codes unused after so few steps.

  Raises:
    UserError: the start weights cannot be read.
  """
  del mesh
  stage = config.first_stage_training
  vq = model(config)
  size = config.data.image_size

  def loss(params, batch, key):
    variables, target = {'params': params['first_stage']}, transforms.to_signed_unit(batch['image'])
    latent = vq.apply(variables, target, method='encode')
    noisy = latent + NOISE * jax.random.normal(key, latent.shape)
    image = vq.apply(variables, noisy, quantize=False, method='decode')
    squared = jnp.square(image - target).mean()
    latent_size = jnp.square(latent).mean()
    return squared + SIZE_WEIGHT * latent_size, {
      'psnr': 10 * jnp.log10(4 / squared),
      'latent_size': jnp.sqrt(latent_size),
    }

  data = StageData(
    RenderedBatches(stage.batch_size, size, config.seed),
    lambda: RenderedBatches(stage.batch_size, size, config.seed + 1, length=16),
  )
  return common.prior_training(
    config,
    'first_stage_training',
    data,
    init=lambda key: {'first_stage': vq.init(key, *vq.example_inputs())['params']},
    loss=loss,
    trainable='^first_stage/(?!codebook)',
    models={'first_stage': common.kwargs_of(vq)},
  )


def unit_latents(vq: VQModel, weights: Mapping[str, np.ndarray], images: np.ndarray) -> dict[str, np.ndarray]:
  """The same autoencoder with latents of mean 0 (each channel) and deviation 1 (all together), and a fitted codebook.

  Diffusion expects latents of that size. Shift and scale move between the layers around the latent, so that
  reconstructions stay; the codes are the k-means centres of the latents. These are measured on `images: N H W 3` uint8.
  """
  from sklearn.cluster import MiniBatchKMeans  # a second to import, for the demo's prior alone

  latents = encode_pictures(vq, weights, images)
  mean, scale = latents.mean(axis=(0, 1, 2)), latents.std()
  kernel = weights['post_quant_conv/kernel']
  rows = ((latents - mean) / scale).reshape(-1, vq.embed_dim)
  codes = MiniBatchKMeans(vq.n_embed, batch_size=8 * vq.n_embed, n_init=1, init='random', random_state=0).fit(rows)
  return dict(weights) | {
    'quant_conv/kernel': weights['quant_conv/kernel'] / scale,
    'quant_conv/bias': (weights['quant_conv/bias'] - mean) / scale,
    'codebook': codes.cluster_centers_.astype(np.float32),
    'post_quant_conv/kernel': kernel * scale,
    'post_quant_conv/bias': weights['post_quant_conv/bias'] + mean @ kernel,
  }


def encode_pictures(
  model: VQModel | KLModel,
  weights: Mapping[str, np.ndarray],
  pictures: np.ndarray,
  prepare: Callable[[np.ndarray], np.ndarray] = transforms.to_signed_unit,
) -> np.ndarray:
  """Latents of pictures, for training on them without the encoder: P H W 3 uint8 -> P h w C float32.

  Args:
    model: the first stage.
    weights: its flat parameters.
    pictures: or anything of which `prepare` makes them, a batch at a time.
    prepare: B rows of `pictures` -> B H W 3 float32 in [-1, 1].
  """
  encode = sharding.RowMap(
    lambda params, image: model.apply({'params': params}, image, method='to_latent'),
    unflatten(weights),
    batch_size=32,
    prepare=prepare,
  )
  with contextlib.closing(progress(len(pictures), 'latents', compiles=True)) as bar:
    return encode(pictures, bar.update)


STAGE = StageSpec(
  'first_stage_training',
  make=make,
  weights=(WeightsField('init_from'),),
  curves={
    'psnr': 'peak signal-to-noise ratio of the decoded picture, in dB',
    'latent_size': 'root mean square of the latents',
  },
)
