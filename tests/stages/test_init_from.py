"""Converted checkpoints of other sizes than the config's start each stage, sizes included."""

import jax
import numpy as np
import pytest

from brainjax import convert
from brainjax.checkpoints import load_weights, save_weights
from brainjax.datasets import god
from brainjax.errors import UserError
from brainjax.models import autoencoder
from brainjax.models.unet import UNet
from brainjax.ops import diffusion
from brainjax.ops.positions import resize_nearest
from brainjax.stages import common, transfer
from brainjax.stages import data as stage_data
from brainjax.trees import flatten, subtree, unflatten
from configs import tiny
from tests.datasets import raw_files
from tests.stages.making import make

torch = pytest.importorskip('torch')
from tests import test_convert  # noqa: E402
from tests.test_pipeline import launch  # noqa: E402
from tests.torch_convert import released  # noqa: E402

RELEASES = {
  'phase1': 'phase1',
  'phase2': 'phase2_fmri',
  'vit_mae': 'vit_mae_base',
  'label2img': 'ldm_label2img_pretrained',
}


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
  shapes = transfer.init_shapes(stage.problem.init)
  new = {path for path in shapes if any(part in path for part in fresh)}
  assert stage.problem.pretrained.keys() == shapes.keys() - new
  assert {path: x.shape for path, x in stage.problem.pretrained.items()} == {
    p: s for p, s in shapes.items() if p not in new
  }


@pytest.mark.parametrize('kind', ['phase1', 'phase2'])
def test_contrast(config, weights, kind):
  stage = make('contrast', config, weights / kind)
  fits(stage, ())
  same(stage.problem.pretrained, load_weights(weights / kind)[0])
  settings = stage.info['settings']
  assert (settings['width'], settings['patch_size'], settings['num_heads']) == (32, 4, 8)
  assert settings['num_voxels'] == 72 and settings['decoder_depth'] == 3


@pytest.mark.parametrize('kind', ['phase1', 'phase2'])
def test_attend(config, weights, kind):
  config.attend.image_init_from = str(weights / 'vit_mae')
  stage = make('attend', config, str(weights / kind))
  fits(stage, ('encoder/cross/',) if kind == 'phase1' else ('image/encoder/cross/',))
  same(subtree(stage.problem.pretrained, 'fmri'), load_weights(weights / kind)[0])
  same(subtree(stage.problem.pretrained, 'image'), load_weights(weights / 'vit_mae')[0])
  settings = stage.info['settings']
  assert (settings['fmri']['width'], settings['fmri']['cross_width'], settings['fmri']['decoder_depth']) == (32, 36, 2)
  assert (settings['image']['image_size'], settings['image']['patch_size'], settings['image']['mlp_dim']) == (6, 2, 40)


@pytest.mark.parametrize('kind', ['phase1', 'phase2'])
def test_diffuse(config, weights, kind):
  config.diffuse.prior_init_from = str(weights / 'label2img')
  stage = make('diffuse', config, str(weights / kind))
  fits(stage, ('time_embed_condition', 'mask_token', 'channel_mapper', 'dim_mapper'))
  prior, _ = load_weights(weights / 'label2img')
  for part in ('unet', 'first_stage'):
    same(subtree(stage.problem.pretrained, part), subtree(prior, part))
  encoder = {path.replace('encoder/', 'mae/', 1): x for path, x in load_weights(weights / kind)[0].items()}
  same(subtree(stage.problem.pretrained, 'conditioner'), encoder)
  settings = stage.info['settings']
  assert settings['unet']['channel_mult'] == (1, 2, 3, 5) and settings['unet']['context_dim'] == 24
  assert settings['first_stage']['ch_mult'] == (1, 2, 4) and settings['conditioner']['width'] == 32
  assert settings['schedule'] == {'num_steps': 1000, 'start': 0.0015, 'end': 0.0195}


@pytest.fixture(scope='module')
def stable_diffusion(tmp_path_factory):
  """A small Stable Diffusion 1, converted: 4 latent channels, 8 heads, no codebook."""
  folder = tmp_path_factory.mktemp('sd')
  state = {name: torch.from_numpy(array) for name, array in test_convert.stable_diffusion().items()}
  schedule = diffusion.make_schedule(start=0.00085, end=0.012)
  state |= {name: torch.from_numpy(getattr(schedule, name)) for name in ('betas', 'alphas_cumprod')}
  torch.save({'state_dict': state, 'global_step': 470000}, folder / 'sd.ckpt')
  (folder / 'config.yaml').write_text(
    'model: {params: {scale_factor: 0.5, unet_config: {params: {num_heads: 8, num_head_channels: -1}}}}\n'
  )
  convert.main([str(folder / 'sd.ckpt'), f'--out={folder / "sd1"}'])
  return folder / 'sd1'


@pytest.mark.parametrize('cached', [False, True])
def test_stable_diffusion_is_a_prior(config, weights, stable_diffusion, cached):
  config.unet.num_groups = config.first_stage.num_groups = 8  # of a run from random weights; the releases have 32
  config.diffuse.prior_init_from = str(stable_diffusion)
  config.diffuse.update({'cached_crops': int(cached), 'crop_probability': 0.0})
  stage = make('diffuse', config, str(weights / 'phase1'))
  fits(stage, ('time_embed_condition', 'mask_token', 'channel_mapper', 'dim_mapper'))
  settings = stage.info['settings']
  assert (settings['unet']['num_heads'], settings['unet']['in_channels'], settings['unet']['context_dim']) == (8, 4, 24)
  assert settings['unet']['num_groups'] == settings['first_stage']['num_groups'] == 32
  assert settings['first_stage']['latent_scale'] == 0.5 and 'n_embed' not in settings['first_stage']
  assert settings['schedule'] == {'num_steps': 1000, 'start': 0.00085, 'end': 0.012}
  batch = next(iter(stage.batches))
  if cached:
    config.fmri_mae.patch_size = 4
    other = next(iter(stage_data.paired(config, 'diffuse', 32).train))
    prior, info = load_weights(stable_diffusion)
    model = autoencoder.first_stage(info['settings']['first_stage'])
    np.testing.assert_array_equal(other['fmri'], batch['fmri'])  # the same rows
    expected = (
      model.apply({'params': unflatten(subtree(prior, 'first_stage'))}, other['image'], method='encode').mean / 2
    )
    np.testing.assert_allclose(batch['latent'], expected, atol=2e-5)
  else:
    zeros = {path: np.zeros(shape, np.float32) for path, shape in transfer.init_shapes(stage.problem.init).items()}
    loss, _ = jax.jit(stage.problem.loss)(unflatten(zeros | dict(stage.problem.pretrained)), batch, jax.random.key(0))
    assert np.isfinite(loss)


def test_sizes_of_weights_are_logged_and_a_deeper_decoder_is_refused(config, weights, capsys):
  source = str(weights / 'phase1')
  make('attend', config, source)
  width = load_weights(source)[1]['settings']['width']
  assert f'as in the weights {source}' in (told := capsys.readouterr().out)
  assert f'config.fmri_mae.width is {width}, as in the weights {source} (config: {config.fmri_mae.width})' in told
  depth = load_weights(source)[1]['settings']['decoder_depth']
  config.attend.decoder_depth = depth + 1
  with pytest.raises(UserError, match=rf'attend.decoder_depth is {depth + 1}, but the weights .* at most {depth}'):
    make('attend', config, source)


def test_sizes_of_a_prior_that_cannot_be_are_refused(config, weights, stable_diffusion, tmp_path):
  config.diffuse.prior_init_from = str(stable_diffusion)
  config.data.image_size = 30
  with pytest.raises(UserError, match='config.data.image_size is 30; expected a positive multiple of 4'):
    make('diffuse', config, str(weights / 'phase1'))
  config.data.image_size = 32
  params, info = load_weights(stable_diffusion)
  info['settings']['unet']['in_channels'] = 9
  save_weights(tmp_path / 'inpainting', params, info)
  del info['settings']['first_stage']['ch_mult']
  save_weights(tmp_path / 'lacking', params, info)
  config.diffuse.prior_init_from = str(tmp_path / 'lacking')
  with pytest.raises(UserError, match='does not say its first_stage.ch_mult'):
    make('diffuse', config, str(weights / 'phase1'))
  config.diffuse.prior_init_from = str(tmp_path / 'inpainting')
  with pytest.raises(UserError, match='from 9 to 4 channels and a first stage whose latents have 4'):
    make('diffuse', config, str(weights / 'phase1'))
  config.diffuse.prior_init_from = str(weights / 'phase1')
  with pytest.raises(UserError, match='holds no unet and no first_stage'):
    make('diffuse', config, str(weights / 'phase1'))


def test_heads_of_a_width_and_deeper_transformers(config, weights, tmp_path):
  """Any UNet that a folder of diffusers can hold."""
  unet = dict(test_convert.SD_UNET, num_heads=1, num_head_channels=16, transformer_depth=2)
  parts = {'unet': UNet(**unet), 'first_stage': autoencoder.KLModel(**test_convert.SD_FIRST_STAGE)}
  settings = {name: common.kwargs_of(part) for name, part in parts.items()}
  inputs = {
    'unet': (np.zeros((1, 4, 4, 4)), np.zeros(1), np.zeros((1, 7, 24))),
    'first_stage': (np.zeros((1, 8, 8, 3)),),
  }
  shapes = {name: jax.eval_shape(part.init, jax.random.key(0), *inputs[name])['params'] for name, part in parts.items()}
  params = {path: np.zeros(x.shape, np.float32) for path, x in flatten(shapes).items()}
  save_weights(tmp_path / 'prior', params, {'kind': 'diffusers', 'settings': settings | {'schedule': {'start': 0.001}}})
  convert.main([str(tmp_path / 'prior'), '--to_diffusers', f'--out={tmp_path / "hf"}'])
  convert.main([str(tmp_path / 'hf'), f'--out={tmp_path / "again"}'])
  config.diffuse.prior_init_from = str(tmp_path / 'again')
  stage = make('diffuse', config, str(weights / 'phase1'))
  fits(stage, ('time_embed_condition', 'mask_token', 'channel_mapper', 'dim_mapper'))
  settings = stage.info['settings']
  assert (settings['unet']['num_head_channels'], settings['unet']['transformer_depth']) == (16, 2)
  assert settings['schedule'] == {'num_steps': 1000, 'start': 0.001, 'end': 0.0195}


def test_a_fine_tuned_model_goes_on(config, weights, tmp_path):
  own = {'mae.pos_embed': (1, 19, 32), 'channel_mapper.0.weight': (9, 18, 1), 'channel_mapper.0.bias': (9,)}
  own['channel_mapper.1.weight'] = 7, 9, 1
  shapes = released.scaled('ldm_finetune') | {f'cond_stage_model.{name}': shape for name, shape in own.items()}
  released.write('ldm_finetune', tmp_path / 'ldm.pth', released.random_state(shapes))
  convert.main([str(tmp_path / 'ldm.pth'), f'--out={tmp_path / "ldm"}'])
  config.diffuse.prior_init_from = str(tmp_path / 'ldm')
  stage = make('diffuse', config, str(tmp_path / 'ldm'))
  fits(stage, ())
  params, info = load_weights(tmp_path / 'ldm')
  same(stage.problem.pretrained, params)
  # Its UNet as a prior alone: the time conditioning is there, of 7 tokens.
  stage = make('diffuse', config, str(weights / 'phase1'))
  fits(stage, ('mask_token', 'channel_mapper', 'dim_mapper'))
  assert stage.info['settings']['conditioner']['context_tokens'] == 7
  info['settings']['conditioner']['num_voxels'] = 36
  save_weights(tmp_path / '36', params, info)
  with pytest.raises(UserError, match='fine-tuned model for 36 voxels, these data have 72; .* cannot be resized'):
    make('diffuse', config, str(tmp_path / '36'))


@pytest.mark.slow
def test_a_run_on_stable_diffusion(weights, stable_diffusion, tmp_path):
  """Training, sampling, the ridge baseline, the report, and the way back."""
  flags = {'attend.image_init_from': weights / 'vit_mae', 'diffuse.prior_init_from': stable_diffusion}
  done = launch(tmp_path / 'run', *(f'--config.{field}={path}' for field, path in flags.items()))
  assert done.returncode == 0, done.stderr
  trained, info = load_weights(tmp_path / 'run' / 'diffuse' / 'weights')
  prior, _ = load_weights(stable_diffusion)
  np.testing.assert_array_equal(
    trained['first_stage/decoder/conv_in/kernel'], prior['first_stage/decoder/conv_in/kernel']
  )
  with np.load(tmp_path / 'run' / 'reconstruct' / 'images.npz') as archive:
    assert archive['samples'].shape == (9, 2, 32, 32, 3)
  convert.main([str(tmp_path / 'run' / 'diffuse' / 'weights'), '--to_torch', f'--out={tmp_path / "ldm.pth"}'])
  convert.main([str(tmp_path / 'ldm.pth'), f'--out={tmp_path / "again"}'])
  again, other = load_weights(tmp_path / 'again')
  assert other['kind'] == 'ldm_sd1'
  assert again.keys() == trained.keys() and all(np.array_equal(again[path], trained[path]) for path in trained)
  for part in ('unet', 'first_stage', 'conditioner'):
    for name, value in other['settings'][part].items():
      assert value == info['settings'][part][name], (part, name)
  assert other['settings']['schedule'] == info['settings']['schedule']


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


@pytest.mark.parametrize('name', ['contrast', 'attend', 'diffuse'])
def test_a_stage_can_start_from_random_weights(config, name):
  stage = make(name, config, 'random')
  assert stage.info['inputs'][f'weights of {name}.init_from'] == 'none'
  shapes = transfer.init_shapes(stage.problem.init)
  assert not stage.problem.pretrained.keys() & {path for path in shapes if path.startswith(('fmri/', 'conditioner/'))}
