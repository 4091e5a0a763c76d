"""Each release is recognised and its sizes are read off its shapes, from the manifests' names and shapes alone."""

import json

import numpy as np
import pytest

from brainjax.errors import UserError
from brainjax.torch_convert import diffusers, kinds, schedule_buffers
from brainjax.torch_convert.config_fields import ConfigFields

pytest.importorskip('torch')
from tests.torch_convert import released
from tests.torch_convert.released import KIND

FMRI = {'num_voxels': 4192, 'patch_size': 16, 'width': 1024, 'depth': 24, 'num_heads': 16, 'mlp_ratio': 1.0}
UNET = {
  'in_channels': 3, 'out_channels': 3, 'model_channels': 192, 'channel_mult': [1, 2, 3, 5], 'num_res_blocks': 2,
  'attention_resolutions': [8, 4, 2], 'num_heads': 1, 'context_dim': 512, 'transformer_depth': 1, 'global_pool': False,
}  # fmt: skip
SETTINGS = {
  'phase1': {**FMRI, 'decoder_width': 512, 'decoder_depth': 8, 'decoder_num_heads': 16},
  'phase2_fmri': {
    **FMRI, 'decoder_width': 512, 'decoder_depth': 6, 'decoder_num_heads': 16, 'cross_depth': 3, 'cross_width': 768,
    'cross_heads': 12, 'cross_mlp_dim': 3072,
  },
  'vit_mae_base': {
    'image_size': 224, 'patch_size': 16, 'width': 768, 'depth': 12, 'num_heads': 12, 'mlp_dim': 3072, 'decoder_width': 512,
    'decoder_depth': 8, 'decoder_num_heads': 16, 'decoder_mlp_dim': 2048,
  },
}  # fmt: skip


def state_of(shapes):
  return {name: np.broadcast_to(np.int8(0), shape) for name, shape in shapes.items()}


def read(name, shapes=None, config=None):
  state = state_of(shapes or released.manifest(name))
  kind = kinds.detect(state, 'auto', name)
  notes = []
  return kind, kinds.model_kwargs(kinds.KINDS[kind], state, ConfigFields(config or {}, notes), name), notes


@pytest.mark.parametrize('name', KIND)
def test_kind_and_sizes(name):
  kind, settings, notes = read(name)
  assert kind == KIND[name]
  if name in SETTINGS:
    assert settings == SETTINGS[name]
  assert all('assumed the published' in note for note in notes)
  shapes = kinds.compute_shapes(kinds.KINDS[kind], settings, name)
  ignored = [
    shape
    for key, shape in released.manifest(name).items()
    if shape == (1000,) or 'embedding.weight' in key and 'cond' in key
  ]
  total = sum(int(np.prod(shape)) for shape in released.manifest(name).values())
  assert sum(int(np.prod(shape)) for shape in shapes.values()) == total - sum(int(np.prod(shape)) for shape in ignored)


def test_sizes_of_latent_diffusion():
  _, settings, _ = read('ldm_finetune')
  assert settings['unet'] == {**UNET, 'time_cond': True, 'context_tokens': 77}
  assert settings['conditioner'] == {**FMRI, 'context_dim': 512, 'global_pool': False, 'context_tokens': 77}
  assert settings['first_stage']['n_embed'] == 8192 and settings['first_stage']['ch_mult'] == [1, 2, 4]
  _, settings, _ = read('ldm_label2img_pretrained')
  assert settings['unet'] == {**UNET, 'time_cond': False}


def test_config_in_the_file_wins():
  _, settings, notes = read('phase2_fmri', config={'num_heads': 8, 'decoder_num_heads': 4, 'num_attention_heads': 6})
  assert (settings['num_heads'], settings['decoder_num_heads'], settings['cross_heads']) == (8, 4, 6) and not notes
  with pytest.raises(UserError, match='does not divide the width 1024'):
    read('phase1', config={'num_heads': 7})


def test_pooled_conditioner():
  shapes = {f'cond_stage_model.{name}': shape for name, shape in released.manifest('cond_stage_pooled').items()}
  for name, shape in released.manifest('ldm_finetune').items():
    if 'time_embed_condtion' not in name and not name.startswith('cond_stage_model.'):
      shapes[name] = shape
  shapes |= {
    'model.diffusion_model.time_embed_condtion.weight': (768, 512),
    'model.diffusion_model.time_embed_condtion.bias': (768,),
  }
  kind, settings, _ = read('pooled', shapes)
  assert kind == 'ldm' and settings['conditioner']['global_pool'] and settings['unet']['global_pool']
  expected = kinds.compute_shapes(kinds.KINDS['ldm'], settings, 'pooled')
  assert expected['unet/time_embed_condition/pooled/kernel'] == (512, 768)


def test_wrong_and_unknown_kinds():
  phase1 = state_of(released.scaled('phase1'))
  with pytest.raises(UserError, match='is of kind phase1, not phase2'):
    kinds.detect(phase1, 'phase2', 'a.pth')
  with pytest.raises(UserError, match='is of an unknown kind .1 tensors, such as fc.weight'):
    kinds.detect(state_of({'fc.weight': (2, 2)}), 'auto', 'a.pth')
  with pytest.raises(UserError, match='is not of kind sd1'):
    kinds.detect(state_of({'fc.weight': (2, 2)}), 'sd1', 'a.pth')
  del phase1['pos_embed']
  with pytest.raises(UserError, match='no tensor pos_embed'):
    kinds.model_kwargs(kinds.KINDS['phase1'], phase1, ConfigFields({}, []), 'a.pth')


def test_schedule_buffers_equal_torch():
  made = schedule_buffers.make_buffers()
  expected = released.schedule()
  assert (
    made.keys()
    == expected.keys()
    == {name for name, shape in released.manifest('ldm_finetune').items() if shape == (1000,)}
  )
  for name, value in expected.items():
    np.testing.assert_array_equal(made[name], value.numpy(), err_msg=name)
  assert schedule_buffers.read({name: value.numpy() for name, value in expected.items()}, 'a') == {
    'num_steps': 1000, 'start': 0.0015, 'end': 0.0195,
  }  # fmt: skip
  cosine = {'betas': np.sin(np.linspace(0.01, 1, 1000)).astype(np.float32) * 0.1}
  with pytest.raises(UserError, match='not "linear".*betas differ'):
    schedule_buffers.read(cosine, 'a.pth')


@pytest.mark.parametrize('heads', [0, 8.0, True, 'x'])
def test_a_number_in_the_config_that_is_none_is_refused(heads):
  with pytest.raises(UserError, match='num_heads in its config is .*expected a whole number above 0'):
    read('phase1', config={'num_heads': heads})


def test_diffusers_config_is_its_own_inverse():
  unet = {**UNET, 'time_cond': False, 'num_groups': 8}
  config = json.loads(json.dumps(diffusers.unet_config(unet)))
  assert diffusers.unet_kwargs(config, 'config.json') == unet
  heads = {**unet, 'num_head_channels': 64}
  assert diffusers.unet_kwargs(diffusers.unet_config(heads), 'config.json') == heads
  with pytest.raises(UserError, match='use_linear_projection=True'):
    diffusers.unet_kwargs({**config, 'use_linear_projection': True}, 'config.json')
