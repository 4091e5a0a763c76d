"""Trains a small latent diffusion model on rendered scenes, conditioned on their attributes: the demo's prior.

It plays the part that ImageNet label2img plays in the paper. Scenes of the test categories are never among its data.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax.models.unet import UNet
from brainjax.ops import diffusion
from brainjax.simulator import stimuli
from brainjax.simulator.batches import RenderedBatches
from brainjax.stages import common, first_stage
from brainjax.train import Stage

# Each attribute value is a row of one embedding; attribute k starts at OFFSETS[k].
OFFSETS = np.cumsum((0, *stimuli.NUM_VALUES[:-1]))


def make(config: ConfigDict, first_stage_weights: dict[str, np.ndarray]) -> Stage:
  """The stage; its weights are `unet/...`, `class_embedder/...` and the given, frozen `first_stage/...`."""
  dtype = common.compute_dtype(config)
  vq = first_stage.model(config)
  unet = UNet(
    in_channels=vq.embed_dim, out_channels=vq.embed_dim, time_cond=False, dtype=dtype, **config.unet.to_dict()
  )
  embedder = nn.Embed(sum(stimuli.NUM_VALUES), config.unet.context_dim)
  schedule = diffusion.make_schedule()
  size = config.data.image_size
  stage = config.label2img

  def init(key):
    keys = jax.random.split(key, 3)
    latent = jnp.zeros((1, size // 2 ** (len(vq.ch_mult) - 1), size // 2 ** (len(vq.ch_mult) - 1), vq.embed_dim))
    context = jnp.zeros((1, len(OFFSETS), config.unet.context_dim))
    return {
      'first_stage': vq.init(keys[0], jnp.zeros((1, size, size, 3)))['params'],
      'unet': unet.init(keys[1], latent, jnp.zeros(1, jnp.int32), context)['params'],
      'class_embedder': embedder.init(keys[2], jnp.zeros((1, len(OFFSETS)), jnp.int32))['params'],
    }

  def loss(params, batch, key):
    latent = vq.apply({'params': params['first_stage']}, batch['image'], method='encode')
    key_t, key_eps = jax.random.split(key)
    t = jax.random.randint(key_t, latent.shape[:1], 0, schedule.num_steps)
    eps = jax.random.normal(key_eps, latent.shape)
    context = embedder.apply({'params': params['class_embedder']}, batch['attributes'] + OFFSETS)
    pred = unet.apply({'params': params['unet']}, diffusion.q_sample(schedule, latent, t, eps), t, context)
    return diffusion.eps_loss(pred, eps).mean(), {}

  return Stage(
    init=init,
    pretrained=common.put_below('first_stage', first_stage_weights),
    trainable='^(unet|class_embedder)/',
    loss=loss,
    validation_loss=loss,
    batches=RenderedBatches(stage.batch_size, size, config.seed + 2),
    validation=lambda: RenderedBatches(stage.batch_size, size, config.seed + 3, length=8),
    info={'models': {'first_stage': common.settings(vq), 'unet': common.settings(unet)}},
    **common.training_fields(config, 'label2img', steps_per_epoch=1, decay_all=False),
  )
