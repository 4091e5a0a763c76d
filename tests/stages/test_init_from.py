"""Converted checkpoints of other sizes than the config's start each stage, sizes included."""

import numpy as np
import pytest

from brainjax import convert
from brainjax.checkpoints import load_weights, save_weights
from brainjax.datasets import god
from brainjax.errors import UserError
from brainjax.ops.positions import resize_nearest
from brainjax.sharding import make_mesh
from brainjax.stages import attend, common, contrast, diffuse
from brainjax.trees import below
from configs import tiny
from tests.datasets import raw_files

pytest.importorskip('torch')
from tests.test_pipeline import launch
from tests.torch_convert import released

RELEASES = {'phase1': 'phase1', 'phase2': 'phase2_fmri', 'vit_mae': 'vit_mae_base', 'label2img': 'ldm_label2img_pretrained'}


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """Folder of converted releases: widths, depths, heads and patch sizes unlike those of configs/tiny.py."""
  folder = tmp_path_factory.mktemp('weights')
  for kind, name in RELEASES.items():
    released.write(name, folder / f'{kind}.pth')
    convert.main([str(folder / f'{kind}.pth'), f'--out={folder / kind}'])
  return folder


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  god.prepare(raw_files.write_god(folder / 'raw'), folder / 'prepared', ['sbj_1'])
  return folder / 'prepared'


@pytest.fixture
def config(prepared):
  config = tiny.get_config()
  config.data.update({'prepared': str(prepared), 'hcp': '', 'num_val_stimuli': 3})
  return config


def same(taken, source):
  """Every array is the source's: its first layers in a decoder, resized in a position table."""
  assert taken
  for path, x in taken.items():
    expected = source[path]
    if path.startswith('decoder/blocks/'):
      expected = expected[: len(x)]
    elif path.endswith('pos_embed'):
      expected = resize_nearest(expected[0], x.shape[1] - 1)[None]
    np.testing.assert_array_equal(x, expected, err_msg=path)


def fits(stage, fresh):
  """All parameters have their value and shape from weights, but for those whose path has one of `fresh` in it."""
  shapes = common.fresh_shapes(stage.init)
  new = {path for path in shapes if any(part in path for part in fresh)}
  assert stage.pretrained.keys() == shapes.keys() - new
  assert {path: x.shape for path, x in stage.pretrained.items()} == {p: s for p, s in shapes.items() if p not in new}


@pytest.mark.parametrize('kind', ['phase1', 'phase2'])
def test_contrast(config, weights, kind):
  config.contrast.init_from = str(weights / kind)
  stage = contrast.make(config, make_mesh())
  fits(stage, ())
  same(stage.pretrained, load_weights(weights / kind)[0])
  settings = stage.info['settings']
  assert (settings['width'], settings['patch_size'], settings['num_heads']) == (32, 4, 8)
  assert settings['num_voxels'] == 72 and settings['decoder_depth'] == 3


@pytest.mark.parametrize('kind', ['phase1', 'phase2'])
def test_attend(config, weights, kind):
  config.attend.image_init_from = str(weights / 'vit_mae')
  stage = attend.make(config, str(weights / kind))
  fits(stage, ('encoder/cross/',) if kind == 'phase1' else ('image/encoder/cross/',))
  same(below(stage.pretrained, 'fmri'), load_weights(weights / kind)[0])
  same(below(stage.pretrained, 'image'), load_weights(weights / 'vit_mae')[0])
  settings = stage.info['settings']
  assert (settings['fmri']['width'], settings['fmri']['cross_width'], settings['fmri']['decoder_depth']) == (32, 36, 2)
  assert (settings['image']['image_size'], settings['image']['patch_size'], settings['image']['mlp_dim']) == (6, 2, 40)


@pytest.mark.parametrize('kind', ['phase1', 'phase2'])
def test_diffuse(config, weights, kind):
  config.diffuse.prior_init_from = str(weights / 'label2img')
  stage = diffuse.make(config, str(weights / kind))
  fits(stage, ('time_embed_condition', 'mask_token', 'channel_mapper', 'dim_mapper'))
  prior, _ = load_weights(weights / 'label2img')
  for part in ('unet', 'first_stage'):
    same(below(stage.pretrained, part), below(prior, part))
  encoder = {path.replace('encoder/', 'mae/', 1): x for path, x in load_weights(weights / kind)[0].items()}
  same(below(stage.pretrained, 'conditioner'), encoder)
  settings = stage.info['settings']
  assert settings['unet']['channel_mult'] == (1, 2, 3, 5) and settings['unet']['context_dim'] == 24
  assert settings['first_stage']['ch_mult'] == (1, 2, 4) and settings['conditioner']['width'] == 32
  assert settings['schedule'] == {'num_steps': 1000, 'start': 0.0015, 'end': 0.0195}


def test_a_prior_without_a_codebook_is_refused(config, weights, tmp_path):
  settings = {'unet': {'num_heads': 8}, 'first_stage': {'embed_dim': 4}}
  save_weights(tmp_path / 'sd', {'first_stage/post_quant_conv/bias': np.zeros(4, np.float32)}, {'kind': 'sd1', 'settings': settings})
  config.diffuse.prior_init_from = str(tmp_path / 'sd')
  with pytest.raises(UserError, match='no VQ first stage'):
    diffuse.make(config, str(weights / 'phase1'))


@pytest.mark.slow
def test_a_run_starts_every_stage_from_released_weights(weights, tmp_path):
  flags = {
    'contrast.init_from': 'phase1', 'attend.image_init_from': 'vit_mae', 'diffuse.init_from': 'phase2',
    'diffuse.prior_init_from': 'label2img',
  }  # fmt: skip
  done = launch(tmp_path / 'run', *(f'--config.{field}={weights / kind}' for field, kind in flags.items()))
  assert done.returncode == 0, done.stderr
  unet, _ = load_weights(weights / 'label2img')
  ours, info = load_weights(tmp_path / 'run' / 'diffuse' / 'weights')
  np.testing.assert_array_equal(ours['unet/input_0/kernel'], unet['unet/input_0/kernel'])  # frozen
  assert info['settings']['conditioner']['patch_size'] == 4
  with np.load(tmp_path / 'run' / 'reconstruct' / 'images.npz') as archive:
    assert archive['samples'].shape == (9, 2, 32, 32, 3)
