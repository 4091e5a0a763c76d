"""Trains a small latent diffusion model on rendered scenes, conditioned on their attributes: the demo's prior.

It plays the part that ImageNet label2img plays in the paper. Scenes of the test categories are never among its data.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax.datasets import loader
from brainjax.models.unet import UNet
from brainjax.ops import diffusion, losses
from brainjax.simulator import stimuli
from brainjax.stages import common, first_stage
from brainjax.stages import data as stage_data
from brainjax.stages.stage import Stage
from brainjax.trees import add_prefix, subtree

# Each attribute value is a row of one embedding; attribute k starts at OFFSETS[k].
OFFSETS = np.cumsum((0, *stimuli.NUM_VALUES[:-1]))


class _Latents:
  """Latents N h w C and attributes N 5, as the loader takes them."""

  def __init__(self, latents: np.ndarray, attributes: np.ndarray):
    self._columns = {'latent': latents, 'attributes': attributes.astype(np.int32)}

  def __len__(self) -> int:
    return len(self._columns['latent'])

  def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[rows] for name, column in self._columns.items()}


def _scenes(count: int, size: int, seed: int) -> dict[str, np.ndarray]:
  """Rendered scenes of any composition but those of the test categories: image N H W 3 uint8, attributes N 5."""
  rng = np.random.default_rng([seed, 7])
  attributes = stimuli.random_attributes(rng, count, exclude=stimuli.categories().test_attributes)
  return {'image': stimuli.render(attributes, rng, size), 'attributes': attributes}


def make(config: ConfigDict, first_stage_weights: Mapping[str, np.ndarray]) -> Stage:
  """The stage; its weights are `unet/...`, `class_embedder/...` and the frozen `first_stage/...`.

  Args:
    config: the run's.
    first_stage_weights: of the stage that trains the first stage; its latents are brought to unit size.
  """
  dtype = common.compute_dtype(config)
  vq = first_stage.model(config)
  unet = UNet(
    in_channels=vq.embed_dim,
    out_channels=vq.embed_dim,
    time_cond=False,
    remat=config.remat,
    dtype=dtype,
    **config.unet.to_dict(),
  )
  embedder = nn.Embed(sum(stimuli.NUM_VALUES), config.unet.context_dim)
  schedule = diffusion.make_schedule()
  size = config.data.image_size
  stage = config.label2img
  scenes = _scenes(stage.num_scenes, size, config.seed + 2)
  first_stage_weights = first_stage.unit_latents(vq, subtree(first_stage_weights, 'first_stage'), scenes['image'][:512])

  shares = stage_data.loader_shares('label2img', stage.batch_size)

  def loader_of(scenes, **options):
    # The first stage is frozen: each scene is encoded once.
    latents = first_stage.encode_pictures(vq, first_stage_weights, scenes['image'])
    rows = _Latents(latents, scenes['attributes'])
    return loader.make_loader(rows, stage.batch_size, seed=config.seed, **shares, **options)

  batches = loader_of(scenes)
  held_out = _scenes(8 * stage.batch_size, size, config.seed + 3)

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
    latent = batch['latent']
    key_t, key_eps = jax.random.split(key)
    t = jax.random.randint(key_t, latent.shape[:1], 0, schedule.num_steps)
    eps = jax.random.normal(key_eps, latent.shape)
    context = embedder.apply({'params': params['class_embedder']}, batch['attributes'] + OFFSETS)
    pred = unet.apply({'params': params['unet']}, diffusion.q_sample(schedule, latent, t, eps), t, context)
    return losses.weighted_mean(diffusion.eps_loss(pred, eps), batch['weight']), {}

  return Stage(
    init=init,
    pretrained=add_prefix('first_stage', first_stage_weights),
    trainable='^(unet|class_embedder)/',
    loss=loss,
    batches=batches,
    validation=lambda: loader_of(held_out, shuffle=False, repeat=False),
    info={
      'inputs': common.digests({'first_stage_training': first_stage_weights}),
      'settings': {'first_stage': common.settings(vq), 'unet': common.settings(unet)},
    },
    **common.training_fields(config, 'label2img', steps_per_epoch=1, decay_all=False),
  )
