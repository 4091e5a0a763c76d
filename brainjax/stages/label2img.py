"""Trains a small latent diffusion model on rendered scenes, conditioned on their attributes: the demo's prior.

It replaces the ImageNet label2img model of the paper. Scenes of the test categories are never among its data.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from brainjax.datasets import arrays, loader
from brainjax.errors import UserError
from brainjax.models.latent_diffusion import denoising_loss, drop_context, unet_for
from brainjax.ops import diffusion
from brainjax.simulator import stimuli
from brainjax.stages import common, first_stage, transfer
from brainjax.stages import data as stage_data
from brainjax.stages.problem import Training
from brainjax.stages.registry import StageSpec, WeightsField
from brainjax.trees import add_prefix, subtree

# Each attribute value is a row of one embedding; attribute k starts at OFFSETS[k].
OFFSETS = np.cumsum((0, *stimuli.NUM_VALUES[:-1]))
PARTS = ('first_stage', 'unet', 'class_embedder')
CONDITION_DROPOUT = 0.1  # so that guidance extrapolates from a context that the prior knows


def _scenes(count: int, size: int, seed: int) -> dict[str, np.ndarray]:
  """Rendered scenes of any composition but those of the test categories: image N H W 3 uint8, attributes N 5."""
  rng = np.random.default_rng([seed, 7])
  attributes = stimuli.random_attributes(rng, count, exclude=stimuli.categories().test_attributes)
  return {'image': stimuli.render(attributes, rng, size), 'attributes': attributes}


def make(config: ConfigDict, mesh: Mesh) -> Training:
  """The stage; its weights are `unet/...`, `class_embedder/...` and the frozen `first_stage/...`.

  It starts from a first stage alone, whose latents it scales to unit variance, or from earlier weights of this stage.

  Raises:
    UserError: the start weights do not exist, or hold no first stage.
  """
  del mesh
  stage, size = config.label2img, config.data.image_size
  vq = first_stage.model(config)
  unet = unet_for(config.unet.to_dict(), vq, time_cond=False, remat=config.remat, dtype=common.compute_dtype(config))
  embedder = nn.Embed(sum(stimuli.NUM_VALUES), config.unet.context_dim)
  schedule = diffusion.make_schedule(**config.noise_schedule.to_dict())
  scenes = _scenes(stage.num_scenes, size, config.seed + 2)
  start, _ = transfer.load_start_weights(config, 'label2img')
  start = {path: x for path, x in start.items() if path.split('/')[0] in PARTS}  # a packed prior has an image_mae too
  start_first_stage = subtree(start, 'first_stage')
  if not start_first_stage:
    raise UserError(
      f'label2img.init_from = {stage.init_from!r} holds no first stage; name weights of first_stage_training.'
    )
  if not subtree(start, 'unet'):
    start_first_stage = first_stage.unit_latents(vq, start_first_stage, scenes['image'][:512])

  shares = stage_data.loader_shares('label2img', stage.batch_size)

  def loader_of(scenes, **options):
    # The first stage is frozen: each scene is encoded once.
    latents = first_stage.encode_pictures(vq, start_first_stage, scenes['image'])
    rows = arrays.ArrayDataset({'latent': latents, 'attributes': scenes['attributes'].astype(np.int32)})
    return loader.make_loader(rows, stage.batch_size, seed=config.seed, **shares, **options)

  held_out = _scenes(8 * stage.batch_size, size, config.seed + 3)

  def init(key):
    keys = jax.random.split(key, 3)
    return {
      'first_stage': vq.init(keys[0], *vq.example_inputs())['params'],
      'unet': unet.init(keys[1], *unet.example_inputs())['params'],
      'class_embedder': embedder.init(keys[2], jnp.zeros((1, len(OFFSETS)), jnp.int32))['params'],
    }

  def loss(params, batch, key):
    context = embedder.apply({'params': params['class_embedder']}, batch['attributes'] + OFFSETS)
    key, drop = jax.random.split(key)
    context = drop_context(context, CONDITION_DROPOUT, drop)
    value, _ = denoising_loss(unet, params['unet'], schedule, batch['latent'], context, key, batch['weight'], True)
    return value, {}

  return common.training(
    config,
    'label2img',
    stage_data.StageData(loader_of(scenes), lambda: loader_of(held_out, shuffle=False, repeat=False)),
    init=init,
    loss=loss,
    trainable='^(unet|class_embedder)/',
    models={'first_stage': common.kwargs_of(vq), 'unet': common.kwargs_of(unet)},
    pretrained=start | add_prefix('first_stage', start_first_stage),
    start={'init_from': start},
  )


STAGE = StageSpec('label2img', after='first_stage_training', make=make, weights=(WeightsField('init_from'),))
