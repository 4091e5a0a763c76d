"""A model whose saliency is known: what it predicts is linear in fMRI, through the receptive fields of a simulated cortex."""

import copy
from types import SimpleNamespace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from brainjax import sharding
from brainjax.datasets.arrays import ArrayDataset
from brainjax.datasets.input_transform import InputTransform
from brainjax.evaluation.interpretation.areas import Areas
from brainjax.evaluation.interpretation.run import Run
from brainjax.evaluation.interpretation.truth import cortex_of
from brainjax.ops import diffusion
from configs import base

SHAPE = (7, 9, 1)  # of the latents


class Conditioner(nn.Module):
  """fMRI B V -> what the latent is, B 1 D."""

  @nn.compact
  def __call__(self, fmri):
    return nn.Dense(int(np.prod(SHAPE)), use_bias=False, name='readout')(fmri)[:, None]


class UNet(nn.Module):
  """Noise whose predicted result is (x + sqrt(1 - alpha) context) / sqrt(alpha)."""

  @nn.compact
  def __call__(self, x, t, context):
    return -context.reshape(x.shape)


class Models(NamedTuple):
  """As `LatentDiffusion`."""

  conditioner: nn.Module
  unet: nn.Module
  first_stage: object


class Model(SimpleNamespace):
  """As `Reconstructor`."""

  def compiled(self, key, program):
    return jax.jit(program)

  def with_params(self, params):
    other = copy.copy(self)
    other.params = params
    return other


def kernel(subject):
  """V D: each early voxel reads its field, as strongly as it responds; the higher areas are not read."""
  y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE[:2]), indexing='ij')
  field_x, field_y, size = (column[:, None, None] for column in subject.fields.T)
  fields = np.exp(-((x - field_x) ** 2 + (y - field_y) ** 2) / (2 * size**2)).reshape(len(subject.fields), -1)
  result = np.zeros((len(subject.explainable_variance), fields.shape[1]), np.float32)
  result[: len(fields)] = fields
  return result * np.sqrt(subject.explainable_variance)[:, None]


def make(voxels=300, items=11):
  """A run of this model on noisy responses to random stimuli, and the cortex behind it."""
  config = base.get_config()
  config.simulate.enabled = True
  config.data.god = config.simulate.folder
  config.simulate.voxels = voxels
  config.data.subjects = ('sbj_1',)
  config.interpret.update({'num_steps': 5, 'num_points': 2, 'levels': (0.2, 0.6)})
  subject = cortex_of(config, 'sbj_1')
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(60, voxels))
  options = {'patch_size': 1, 'roi': 'VC', 'mask': np.ones(voxels, bool), 'zscore': 'voxel'}
  transform = InputTransform.fit(rows, data_set='god', subject='sbj_1', **options)
  fmri = transform(rows[:items])
  columns = {'fmri': fmri, 'subject': np.zeros(items, int), 'stimulus': np.arange(items)}
  model = Model(
    models=Models(Conditioner(), UNet(), SimpleNamespace(latent_shape=SHAPE)),
    params={'conditioner': {'readout': {'kernel': jnp.asarray(kernel(subject))}}, 'unet': {}},
    schedule=diffusion.make_schedule(),
    mesh=sharding.make_mesh(devices=jax.local_devices()),
    transforms={'sbj_1': transform},
    num_voxels=voxels,
  )
  areas = Areas.of(transform, subject.masks())
  return Run(config, None, model, ArrayDataset(columns, info={}), [areas]), subject
