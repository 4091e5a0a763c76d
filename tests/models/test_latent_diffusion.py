"""The latent diffusion model as a whole, and the example inputs that every model brings along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.autoencoder import KLModel, VQModel
from brainjax.models.classifier import SmallClassifier, ViT
from brainjax.models.clip import ClipVision
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.models.latent_diffusion import latent_diffusion
from brainjax.models.unet import UNet
from brainjax.trees import flatten
from tests.models.converted import shapes

VIT = {'image_size': 28, 'patch_size': 14, 'width': 12, 'depth': 2, 'num_heads': 3}
KWARGS = {
  'conditioner': {'num_voxels': 56, 'patch_size': 7, 'width': 12, 'depth': 2, 'num_heads': 3, 'context_tokens': 9,
                  'context_dim': 10},
  'unet': {'model_channels': 8, 'channel_mult': [1, 2], 'attention_resolutions': [2], 'num_groups': 4},
  'first_stage': {'ch': 8, 'ch_mult': [1, 2], 'num_groups': 4, 'embed_dim': 5, 'n_embed': 7, 'resolution': 24,
                  'attn_resolutions': [24]},
}  # fmt: skip


# The smallest inputs of a model give the parameters that inputs of the usual size give.
@pytest.mark.parametrize(
  'model, inputs',
  [
    (FmriMAE(63, 7, 12, 2, 3, decoder_width=8, decoder_depth=1, decoder_num_heads=2, cross_depth=1, cross_width=9,
             cross_heads=3, cross_mlp_dim=8), [(2, 63), None, 0.0, (2, 5, 9)]),
    (ImageMAE(32, 8, 12, 2, 3, 8, 8, 1, 2, 9, cross_depth=1, fmri_width=7), [(2, 32, 32, 3), None, 0.0, (2, 5, 7)]),
    (FmriConditioner(**KWARGS['conditioner']), [(2, 56)]),
    (FmriConditioner(**KWARGS['conditioner'], global_pool=True), [(2, 56)]),
    (UNet(4, 4, 8, (1, 2), num_groups=4, context_dim=10, context_tokens=9), [(2, 8, 8, 4), (2,), (2, 9, 10)]),
    (UNet(4, 4, 8, (1, 2), num_groups=4, context_dim=10, global_pool=True), [(2, 8, 8, 4), (2,), (2, 1, 10)]),
    (VQModel(8, (1, 2), num_groups=4, n_embed=7, resolution=16, attn_resolutions=(8,)), [(2, 16, 16, 3)]),
    (KLModel(8, (1, 2), num_groups=4, resolution=16, attn_resolutions=(8,), in_channels=1), [(2, 16, 16, 1)]),
    (ViT(7, **VIT, mlp_dim=9), [(2, 28, 28, 3)]),
    (ClipVision(**VIT, mlp_dim=9, projection_dim=5), [(2, 28, 28, 3)]),
    (SmallClassifier(7, (8, 16)), [(2, 64, 64, 3)]),
  ],
  ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_example_inputs_give_every_parameter(model, inputs):
  arrays = [np.zeros(x, np.float32) if isinstance(x, tuple) else x for x in inputs]
  static = [i for i, x in enumerate(arrays) if not isinstance(x, np.ndarray)]
  init = jax.jit(model.init, static_argnums=[1 + i for i in static])
  expected = jax.eval_shape(init, jax.random.key(0), *arrays)['params']
  assert shapes(model, *model.example_inputs()) == {path: x.shape for path, x in flatten(expected).items()}


def test_the_parts_fit_each_other_whatever_the_unet_was_given():
  unet = KWARGS['unet'] | {'in_channels': 4, 'context_dim': 512, 'context_tokens': 77, 'global_pool': True}
  parts = latent_diffusion(KWARGS | {'unet': unet}, jnp.bfloat16, 'cheap')
  assert (parts.unet.in_channels, parts.unet.out_channels) == (5, 5)
  assert (parts.unet.context_dim, parts.unet.context_tokens, parts.unet.global_pool) == (10, 9, False)
  assert parts.unet.channel_mult == (1, 2) and parts.first_stage.attn_resolutions == (24,)
  assert {part.dtype for part in parts} == {jnp.bfloat16} and parts.unet.remat == parts.conditioner.remat == 'cheap'
  assert isinstance(parts.first_stage, VQModel) and parts.first_stage.latent_shape == (12, 12, 5)

  params = jax.eval_shape(parts.init_params, jax.random.key(0))
  assert set(params) == {'conditioner', 'unet', 'first_stage'}
  context = jax.eval_shape(parts.conditioner.apply, {'params': params['conditioner']}, np.zeros((2, 56), np.float32))
  latent = np.zeros((2, *parts.first_stage.latent_shape), np.float32)
  noise = jax.eval_shape(parts.unet.apply, {'params': params['unet']}, latent, np.zeros(2, np.int32), context)
  assert context.shape == (2, 9, 10) and noise.shape == (2, 12, 12, 5)


def test_a_first_stage_without_codes_is_a_kl_one():
  first_stage = {name: value for name, value in KWARGS['first_stage'].items() if name != 'n_embed'}
  parts = latent_diffusion(KWARGS | {'first_stage': first_stage})
  assert isinstance(parts.first_stage, KLModel) and parts.unet.in_channels == 5


@pytest.mark.parametrize('model', [ViT(7, **VIT, mlp_dim=9), ClipVision(**VIT, mlp_dim=9)], ids=['vit', 'clip'])
def test_classifiers_recompute_nothing(model):
  images = np.zeros((2, 28, 28, 3), np.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)
  gradient = jax.make_jaxpr(jax.grad(lambda params: model.apply(params, images).sum()))(params)
  assert 'remat' not in str(gradient) and 'checkpoint' not in str(gradient)
