"""What each stage builds and trains, at full size against the published manifests (nothing is allocated)."""

import importlib
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from brainjax.stages import attend, common, contrast, diffuse, transfer
from brainjax.torch_convert.tables import fmri_mae, image_mae, latent_diffusion
from brainjax.trees import split, subtree
from tests.models.converted import torch_shapes

MANIFESTS = Path(__file__).parents[1] / 'manifests'
VOXELS = 4192
CONFIGS = (
  'god_sbj3', 'god_sbj3_clean', 'god_sbj3_released', 'hcp_contrast', *(f'bold5000_csi{k}' for k in (1, 2, 3, 4)),
)  # fmt: skip


def _config(name):
  return importlib.import_module(f'configs.{name}').get_config()


def _manifest(name):
  return {key: tuple(shape) for key, shape in json.loads((MANIFESTS / f'{name}.json').read_text()).items()}


def _size(shapes):
  return sum(int(np.prod(shape)) for shape in shapes.values())


def _contrast_shapes(config):
  mae = contrast.model(config, VOXELS)
  return transfer.init_shapes(lambda key: mae.init(key, np.zeros((1, VOXELS), np.float32))['params'])


def _attend_shapes(config):
  return transfer.init_shapes(lambda key: attend.init(*attend.models(config, VOXELS), key))


def _diffuse_shapes(config):
  return transfer.init_shapes(lambda key: diffuse.models(config, VOXELS).init_params(key))


@pytest.mark.parametrize('name', CONFIGS)
def test_full_size_parameters_equal_the_published_ones(name):
  config = _config(name)
  assert torch_shapes(fmri_mae.TABLE, _contrast_shapes(config)) == _manifest('phase1')
  if name == 'hcp_contrast':
    return
  shapes = _attend_shapes(config)
  assert torch_shapes(fmri_mae.TABLE, subtree(shapes, 'fmri')) == _manifest('phase2_fmri')
  assert torch_shapes(image_mae.TABLE, subtree(shapes, 'image')) == _manifest('phase2_image')
  ours = torch_shapes(latent_diffusion.TABLE, _diffuse_shapes(config))
  published = _manifest('ldm_finetune')
  missing = published.keys() - ours.keys()
  assert {name: shape for name, shape in published.items() if name not in missing} == ours
  # What is left are the constants of the noise schedule.
  assert all('.' not in name for name in missing) and len(missing) == 12


def test_contrast_trains_all_but_its_position_tables():
  _, frozen = split(_contrast_shapes(_config('god_sbj3')), common.ALL_BUT_POSITIONS)
  assert set(frozen) == {'encoder/pos_embed', 'decoder/pos_embed'}


def test_attend_trains_the_fmri_side_and_of_the_image_side_cross_attention_and_decoder():
  shapes = _attend_shapes(_config('god_sbj3'))
  trained, frozen = split(shapes, attend.TRAINABLE)
  assert {path for path in frozen if path.startswith('fmri/')} == {'fmri/encoder/pos_embed', 'fmri/decoder/pos_embed'}
  names = torch_shapes(image_mae.TABLE, subtree(trained, 'image'))
  assert {name.split('.')[0] for name in names} == {'vit', 'decoder'}
  assert all(re.match(r'vit\.encoder\.(cross_map_in|layer_cross)\.', n) for n in names if n.startswith('vit.'))
  assert 'decoder.decoder_pos_embed' not in names
  released, _ = split(shapes, attend.TRAINABLE_B15)
  assert set(released) - set(trained) == {'image/decoder/pos_embed'}


def test_diffuse_trains_the_conditioner_and_the_conditioning_layers():
  clean, released = _config('god_sbj3'), _config('god_sbj3_released')
  shapes = _diffuse_shapes(clean)
  trained, _ = split(shapes, diffuse.trainable(clean))
  names = torch_shapes(latent_diffusion.TABLE, trained)
  unet = [name for name in names if name.startswith('model.')]
  assert all(re.search(r'attn2|time_embed_condtion|norm2', name) for name in unet)
  everything = torch_shapes(latent_diffusion.TABLE, shapes)
  wanted = [n for n in everything if n.startswith('model.') and re.search(r'attn2|time_embed_condtion|norm2', n)]
  assert sorted(unet) == sorted(wanted)
  assert not any(name.startswith('first_stage') for name in names)
  untrained = {n for n in everything if n.startswith('cond_stage')} - set(names)
  assert untrained == {f'cond_stage_model.mae.{n}' for n in ('cls_token', 'mask_token', 'pos_embed')}
  # The published optimizer holds 179.2 M different values: with pos_embed and the two tokens that get no gradient.
  trained, _ = split(shapes, diffuse.trainable(released))
  assert round((_size(trained) + 2 * 1024) / 1e6, 1) == 179.2


def test_cross_attention_can_be_switched_off():
  config = _config('god_sbj3')
  config.attend.cross_attention = False
  assert not any('/cross/' in path for path in _attend_shapes(config))


def test_a_share_of_rows_loses_its_whole_context():
  context = np.ones((4000, 3, 2), np.float32)
  dropped = np.asarray(diffuse.drop_context(context, 0.2, jax.random.key(0)))
  kept = dropped.all(axis=(1, 2))
  assert not dropped[~kept].any() and kept.mean() == pytest.approx(0.8, abs=0.02)
