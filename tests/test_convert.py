"""The command: every release goes in and comes back with the same bits, and whatever does not fit is said at once."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from brainjax import convert
from brainjax.checkpoints import load_weights, save_weights
from brainjax.errors import UserError, command_line
from brainjax.files import sha256
from brainjax.models.autoencoder import VQModel
from brainjax.models.unet import UNet
from brainjax.torch_convert import engine, kinds
from tests.torch_convert.malice import attacks

torch = pytest.importorskip('torch')
import safetensors.torch  # noqa: E402

from tests.torch_convert import released  # noqa: E402

torch.set_num_threads(1)  # tiny models: more threads only wait for each other

KIND = {**released.KIND, 'vit_h_14': 'vit_h_14'}
KEY = {
  'phase1': 'model',
  'phase2': 'model',
  'ldm': 'model_state_dict',
  'label2img': 'state_dict',
  'vq_f4': 'state_dict',
}


SD_UNET = dict(
  in_channels=4, out_channels=4, model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(2, 1),
  num_heads=8, context_dim=24, time_cond=False,
)  # fmt: skip
SD_FIRST_STAGE = dict(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4)


def random_params(spec, settings):
  rng = np.random.default_rng(0)
  shapes = kinds.compute_shapes(spec, settings, 'test')
  return {path: rng.normal(0, 0.05, shape).astype(np.float32) for path, shape in shapes.items()}


def stable_diffusion():
  """Torch name -> array of a small Stable Diffusion 1."""
  spec = kinds.KINDS['sd1']
  return engine.to_torch(spec.table, random_params(spec, {'unet': SD_UNET, 'first_stage': SD_FIRST_STAGE}))


def run(*arguments):
  convert.main([str(argument) for argument in arguments])


def back(folder, path):
  run(folder, '--to_torch', f'--out={path}')
  if path.suffix == '.safetensors':
    return safetensors.torch.load_file(path)
  got = torch.load(path, weights_only=True)
  return got[key] if (key := KEY.get(json.loads((folder / 'weights.json').read_text())['kind'])) else got


def same_bits(got, expected):
  assert set(got) == set(expected)
  for name, tensor in expected.items():
    assert got[name].shape == tensor.shape and torch.equal(got[name], tensor), name


@pytest.mark.parametrize('name', KIND)
def test_in_and_back(tmp_path, capsys, name):
  state = released.write(name, tmp_path / 'a.pth', legacy=name == 'phase1')
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')
  said = capsys.readouterr().out
  assert f'kind      {KIND[name]}:' in said and sha256(tmp_path / 'a.pth') in said
  values = sum(tensor.numel() for tensor in state.values())
  assert f'tensors   {len(state)}, {values} values' in said
  params, info = load_weights(tmp_path / 'jax')
  assert info['kind'] == KIND[name] and [source['sha256'] for source in info['sources']] == [sha256(tmp_path / 'a.pth')]
  assert (info['num_tensors'], info['num_values']) == (len(state), values)
  assert all(array.dtype == np.float32 for array in params.values())
  if name in ('phase1', 'phase2_fmri'):
    assert info['epoch'] == 12 and 'epoch     12' in said
    assert (info['settings']['num_heads'], info['settings']['decoder_num_heads']) == (8, 4)
    assert info['source_config']['seed'] == 2022
    assert 'ignored: optimizer, scaler' in said
  if name == 'vit_h_14':
    state = {key.replace('linear_1', '0').replace('linear_2', '3'): tensor for key, tensor in state.items()}
  same_bits(back(tmp_path / 'jax', tmp_path / 'b.pth'), state)


def test_linear_layers_are_transposed(tmp_path):
  state = released.write('phase1', tmp_path / 'a.pth')
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')
  params, _ = load_weights(tmp_path / 'jax')
  np.testing.assert_array_equal(
    params['encoder/blocks/attn/qkv/kernel'][1], state['blocks.1.attn.qkv.weight'].numpy().T
  )
  np.testing.assert_array_equal(
    params['encoder/patch_embed/kernel'], state['patch_embed.proj.weight'].numpy().transpose(2, 1, 0)
  )


def test_settings_travel_in_the_header_of_safetensors(tmp_path):
  state = released.write('phase1', tmp_path / 'a.pth')
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')
  same_bits(back(tmp_path / 'jax', tmp_path / 'b.safetensors'), state)
  run(tmp_path / 'b.safetensors', f'--out={tmp_path / "again"}')
  first, second = (json.loads((tmp_path / name / 'weights.json').read_text()) for name in ('jax', 'again'))
  assert first['settings']['num_heads'] == 8  # not the release's 16, so it was read
  assert (second['settings'], second['epoch']) == (first['settings'], first['epoch'])


def test_dry_run_writes_nothing(tmp_path, capsys):
  released.write('phase2_fmri', tmp_path / 'a.pth')
  run(tmp_path / 'a.pth', '--dry_run', f'--out={tmp_path / "jax"}', '--voxels=44')
  said = capsys.readouterr().out
  assert 'kind      phase2' in said and 'nothing was written' in said and 'cross_depth=2' in said
  assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path, capsys, dtype):
  state = {name: tensor.to(dtype) for name, tensor in released.random_state(released.scaled('phase1')).items()}
  released.write('phase1', tmp_path / 'a.pth', state)
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')
  assert f'converted {str(dtype).removeprefix("torch.")} to float32' in capsys.readouterr().out
  same_bits(back(tmp_path / 'jax', tmp_path / 'b.pth'), {name: tensor.float() for name, tensor in state.items()})


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('steps', [(0.0015, 0.0195), (0.00085, 0.012)])
def test_a_schedule_in_another_precision(tmp_path, dtype, steps):
  state = released.random_state(released.scaled('ldm_finetune')) | released.schedule(*steps)
  released.write('ldm_finetune', tmp_path / 'a.pth', {name: tensor.to(dtype) for name, tensor in state.items()})
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')
  _, info = load_weights(tmp_path / 'jax')
  assert info['settings']['schedule'] == {'num_steps': 1000, 'start': steps[0], 'end': steps[1]}


def test_averaged_weights_of_a_class_conditional_model(tmp_path):
  state = released.random_state(released.scaled('ldm_label2img_pretrained'))
  both, averages = with_averages(state)
  torch.save({'state_dict': {f'module.{name}': tensor for name, tensor in both.items()}}, tmp_path / 'a.ckpt')
  run(tmp_path / 'a.ckpt', f'--out={tmp_path / "jax"}', '--ema')
  same_bits(back(tmp_path / 'jax', tmp_path / 'b.pth'), state | averages)


def test_module_prefix(tmp_path, capsys):
  state = released.random_state(released.scaled('phase1'))
  released.write('phase1', tmp_path / 'a.pth', {f'module.{name}': tensor for name, tensor in state.items()})
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')
  assert 'removed the prefix module.' in capsys.readouterr().out
  same_bits(back(tmp_path / 'jax', tmp_path / 'b.pth'), state)
  released.write('phase1', tmp_path / 'c.pth', state | {'module.norm.weight': state['norm.weight']})
  with pytest.raises(UserError, match='twice, with and without the prefix module.: module.norm.weight'):
    run(tmp_path / 'c.pth', '--dry_run')


def with_averages(state):
  names = [name for name in state if name.startswith('model.')]
  averages = {'model_ema.' + name.removeprefix('model.').replace('.', ''): state[name] + 1 for name in names}
  counters = {'model_ema.decay': torch.tensor(0.9999), 'model_ema.num_updates': torch.tensor(7)}
  return state | averages | counters, {name: state[name] + 1 for name in names}


def test_averaged_weights(tmp_path, capsys):
  state = {name: torch.from_numpy(array) for name, array in stable_diffusion().items()}
  both, averages = with_averages(state)
  torch.save({'state_dict': both}, tmp_path / 'a.ckpt')
  run(tmp_path / 'a.ckpt', f'--out={tmp_path / "last"}')
  assert '--ema uses them instead' in capsys.readouterr().out
  run(tmp_path / 'a.ckpt', f'--out={tmp_path / "ema"}', '--ema')
  made = released.schedule(0.00085, 0.012)  # written by the way back, though this file has none
  same_bits(back(tmp_path / 'last', tmp_path / 'last.safetensors'), state | made)
  same_bits(back(tmp_path / 'ema', tmp_path / 'ema.safetensors'), state | averages | made)
  del both['model_ema.diffusion_modelout2bias']
  torch.save({'state_dict': both}, tmp_path / 'b.ckpt')
  with pytest.raises(UserError, match='without an average: model.diffusion_model.out.2.bias'):
    run(tmp_path / 'b.ckpt', '--dry_run', '--ema')
  torch.save({'state_dict': state}, tmp_path / 'c.ckpt')
  with pytest.raises(UserError, match='holds no averaged weights'):
    run(tmp_path / 'c.ckpt', '--dry_run', '--ema')


def test_voxels_and_decoder_depth(tmp_path, capsys):
  state = released.write('phase1', tmp_path / 'a.pth')
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}', '--voxels=44', '--decoder_depth=2')
  assert 'from 9 to 11 patches, 36 to 44 voxels' in capsys.readouterr().out
  got = back(tmp_path / 'jax', tmp_path / 'b.pth')
  assert not any(name.startswith('decoder_blocks.2') for name in got) and 'decoder_blocks.1.norm1.bias' in got
  for name in ('pos_embed', 'decoder_pos_embed'):
    table = state[name][:, 1:].transpose(1, 2)
    resized = torch.nn.functional.interpolate(table, size=11, mode='nearest').transpose(1, 2)
    assert torch.equal(got[name], torch.cat([state[name][:, :1], resized], dim=1))
  with pytest.raises(UserError, match='not a multiple of the patch size 4; the nearest are 44 and 48'):
    run(tmp_path / 'a.pth', '--dry_run', '--voxels=45')
  with pytest.raises(UserError, match='choose 1 to 3'):
    run(tmp_path / 'a.pth', '--dry_run', '--decoder_depth=4')


def test_every_offender_is_listed_and_nothing_written(tmp_path):
  state = released.random_state(released.scaled('phase1'))
  del state['norm.bias'], state['decoder_pred.weight']
  state['stranger'] = torch.ones(3)
  state['blocks.0.mlp.fc1.bias'] = torch.ones(5)
  released.write('phase1', tmp_path / 'a.pth', state)
  for extra in ([], ['--dry_run']):
    with pytest.raises(UserError) as error:
      run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}', *extra)
    for part in (
      'stranger',
      'encoder/norm/bias',
      'decoder/pred/kernel',
      'blocks.0.mlp.fc1.bias (laid out as (5,), expected',
      'Nothing was converted',
    ):
      assert part in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_nothing_is_overwritten(tmp_path):
  released.write('phase1', tmp_path / 'a.pth')
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')
  before = sha256(tmp_path / 'jax' / 'weights.json')
  for out in ('jax', 'a.pth'):
    with pytest.raises(UserError, match='exists already'):
      run(tmp_path / 'a.pth', f'--out={tmp_path / out}')
    for way in ('--to_torch', '--to_diffusers'):
      with pytest.raises(UserError, match='exists already'):
        run(tmp_path / 'jax', way, f'--out={tmp_path / out}')
  assert sha256(tmp_path / 'jax' / 'weights.json') == before


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
  released.write('phase1', tmp_path / 'a.pth')
  import orbax.checkpoint as ocp

  monkeypatch.setattr(ocp.Checkpointer, 'save', lambda *_, **__: (_ for _ in ()).throw(OSError('disk full')))
  with pytest.raises(UserError, match='disk full'):
    run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')
  assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
  released.write('vq_f4', tmp_path / 'a.pth')
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')
  below_a_file = tmp_path / 'a.pth' / 'x'
  main = command_line(convert.main)
  for arguments in (
    [tmp_path / 'a.pth', f'--out={below_a_file}'],
    [tmp_path / 'jax', '--to_torch', f'--out={below_a_file}.pth'],
    [tmp_path / 'jax', '--to_torch', f'--out={below_a_file}.safetensors'],
    [tmp_path / 'jax', '--to_diffusers', f'--out={below_a_file}'],
  ):
    assert main(list(map(str, arguments))) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and 'cannot be written' in said and said.count('\n') == 1


def test_a_full_disk_of_pytorch_is_one_sentence(tmp_path, capsys, monkeypatch):
  released.write('vq_f4', tmp_path / 'a.pth')
  run(tmp_path / 'a.pth', f'--out={tmp_path / "jax"}')

  def save(value, path):
    path.write_bytes(b'half')
    raise RuntimeError('[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0')

  monkeypatch.setattr(torch, 'save', save)
  with pytest.raises(UserError, match=r'b\.pth cannot be written .*unexpected pos'):
    run(tmp_path / 'jax', '--to_torch', f'--out={tmp_path / "b.pth"}')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['a.pth', 'jax']


def test_weights_of_integers_are_refused_by_a_dry_run_too(tmp_path):
  state = released.random_state(released.scaled('phase1'))
  state['norm.bias'] = state['norm.bias'].int()
  released.write('phase1', tmp_path / 'a.pth', state)
  for extra in ('--dry_run', f'--out={tmp_path / "jax"}'):
    with pytest.raises(UserError, match='encoder/norm/bias would come from integers'):
      run(tmp_path / 'a.pth', extra)
  assert not (tmp_path / 'jax').exists()


def test_first_stage_alone_and_extras_of_its_training(tmp_path, capsys):
  state = released.write('ldm_label2img_pretrained', tmp_path / 'model.ckpt')
  run(tmp_path / 'model.ckpt', '--kind=vq_f4', f'--out={tmp_path / "jax"}')
  prefix = 'first_stage_model.'
  own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
  same_bits(back(tmp_path / 'jax', tmp_path / 'b.pth'), own)
  released.write('vq_f4', tmp_path / 'vq.ckpt', own | {'loss.discriminator.main.0.weight': torch.ones(3)})
  run(tmp_path / 'vq.ckpt', f'--out={tmp_path / "vq"}')
  assert 'ignored: 1 tensors such as loss.discriminator.main.0.weight' in capsys.readouterr().out


def test_config_files_beside_the_weights(tmp_path, capsys):
  released.write('ldm_label2img_pretrained', tmp_path / 'model.ckpt')
  (tmp_path / 'config.yaml').write_text(
    'model: {params: {unet_config: {params: {num_heads: 2, num_head_channels: -1}}}}\n'
  )
  run(tmp_path / 'model.ckpt', '--dry_run')
  assert 'num_heads=2,' in capsys.readouterr().out
  folder = tmp_path / 'vit-mae-base'
  folder.mkdir()
  released.write('vit_mae_base', folder / 'pytorch_model.bin')
  (folder / 'config.json').write_text('{"num_attention_heads": 6, "decoder_num_attention_heads": 4}')
  run(folder, f'--out={tmp_path / "vit"}')
  settings = load_weights(tmp_path / 'vit')[1]['settings']
  assert (settings['num_heads'], settings['decoder_num_heads']) == (6, 4)


def test_stable_diffusion_1(tmp_path, capsys):
  spec = kinds.KINDS['sd1']
  params = random_params(spec, {'unet': SD_UNET, 'first_stage': SD_FIRST_STAGE})
  state = {name: torch.from_numpy(array) for name, array in engine.to_torch(spec.table, params).items()}
  text = 'cond_stage_model.transformer.text_model.'
  extras = {
    f'{text}embeddings.position_ids': torch.arange(7)[None],
    f'{text}encoder.layers.0.mlp.fc1.weight': torch.ones(7, 8),
    f'{text}final_layer_norm.weight': torch.ones(8),
  }
  torch.save({'state_dict': state | extras, 'global_step': 470000}, tmp_path / 'sd.ckpt')
  run(tmp_path / 'sd.ckpt', f'--out={tmp_path / "jax"}')
  assert 'ignored: 3 tensors' in capsys.readouterr().out
  got, info = load_weights(tmp_path / 'jax')
  assert info['kind'] == 'sd1' and info['models'] == {'unet': 'UNet', 'first_stage': 'KLModel'}
  assert info['settings']['unet']['num_heads'] == 8 and info['settings']['unet']['attention_resolutions'] == [2, 1]
  assert got.keys() == params.keys() and all(np.array_equal(got[path], params[path]) for path in params)


def unflatten(params, prefix):
  tree = {}
  for path, array in params.items():
    if path.startswith(prefix):
      *parents, leaf = path.removeprefix(prefix).split('/')
      node = tree
      for parent in parents:
        node = node.setdefault(parent, {})
      node[leaf] = array
  return {'params': tree}


def settings_of(info, part):
  own = info['settings'][part]
  return {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}


def test_diffusers_gives_equal_outputs_and_comes_back(tmp_path, capsys):
  diffusers = pytest.importorskip('diffusers')
  settings = {
    'unet': {**SD_UNET, 'in_channels': 3, 'out_channels': 3, 'num_heads': 1, 'time_cond': True, 'global_pool': False,
             'context_tokens': 7, 'attention_resolutions': (2,), 'num_groups': 8},
    'first_stage': {**SD_FIRST_STAGE, 'z_channels': 3, 'embed_dim': 3, 'n_embed': 64, 'in_channels': 3, 'resolution': 256,
                    'attn_resolutions': (), 'num_groups': 4},
    'conditioner': {'num_voxels': 32, 'width': 32, 'depth': 2, 'context_tokens': 7, 'context_dim': 24},
  }  # fmt: skip
  save_weights(tmp_path / 'jax', random_params(kinds.KINDS['ldm'], settings), {'kind': 'ldm', 'settings': settings})
  run(tmp_path / 'jax', '--to_diffusers', f'--out={tmp_path / "hf"}')
  assert 'class_labels=context.reshape(B, -1)' in capsys.readouterr().out
  params, info = load_weights(tmp_path / 'jax')
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
  context = rng.normal(size=(2, 7, 24)).astype(np.float32)
  t = np.array([7, 800])
  ours = jax.jit(UNet(**settings_of(info, 'unet')).apply)(unflatten(params, 'unet/'), x, t, context)
  unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / 'hf' / 'unet')
  with torch.no_grad():
    tokens = torch.from_numpy(context)
    theirs = unet(
      torch.from_numpy(x.transpose(0, 3, 1, 2)), torch.from_numpy(t), tokens, class_labels=tokens.reshape(2, -1)
    )
  np.testing.assert_allclose(ours, theirs.sample.numpy().transpose(0, 2, 3, 1), atol=2e-5)

  model = VQModel(**settings_of(info, 'first_stage'))
  variables = unflatten(params, 'first_stage/')
  vq = diffusers.VQModel.from_pretrained(tmp_path / 'hf' / 'vqvae')
  image = rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
  with torch.no_grad():
    latent = vq.encode(torch.from_numpy(image.transpose(0, 3, 1, 2))).latents
    decoded = vq.decode(latent).sample
  ours = model.apply(variables, image, method='encode')
  np.testing.assert_allclose(ours, latent.numpy().transpose(0, 2, 3, 1), atol=2e-5)
  ours = model.apply(variables, latent.numpy().transpose(0, 2, 3, 1), method='decode')
  np.testing.assert_allclose(ours, decoded.numpy().transpose(0, 2, 3, 1), atol=2e-5)

  run(tmp_path / 'hf' / 'vqvae', f'--out={tmp_path / "again"}')
  again, info = load_weights(tmp_path / 'again')
  assert info['kind'] == 'diffusers' and info['settings']['first_stage']['n_embed'] == 64
  assert all(np.array_equal(again[path], array) for path, array in params.items() if path.startswith('first_stage/'))
  with pytest.raises(UserError, match="class_embed_type='simple_projection'"):
    run(tmp_path / 'hf', '--dry_run')

  run(tmp_path / 'jax', '--to_torch', f'--out={tmp_path / "ldm.pth"}')
  assert 'unet normalises in 8 groups' in capsys.readouterr().out
  run(tmp_path / 'ldm.pth', f'--out={tmp_path / "from_torch"}')
  _, info = load_weights(tmp_path / 'from_torch')
  assert info['settings']['unet']['num_groups'] == 8 and info['settings']['first_stage']['num_groups'] == 4


def test_diffusers_folder_with_unet_and_kl_comes_back(tmp_path):
  spec = kinds.KINDS['sd1']
  params = random_params(spec, {'unet': SD_UNET, 'first_stage': SD_FIRST_STAGE})
  state = {name: torch.from_numpy(array) for name, array in engine.to_torch(spec.table, params).items()}
  torch.save({'state_dict': state}, tmp_path / 'sd.ckpt')
  run(tmp_path / 'sd.ckpt', f'--out={tmp_path / "jax"}')
  run(tmp_path / 'jax', '--to_diffusers', f'--out={tmp_path / "hf"}')
  assert (tmp_path / 'hf' / 'vae' / 'config.json').is_file()
  run(tmp_path / 'hf', '--kind=diffusers', f'--out={tmp_path / "again"}')
  again, info = load_weights(tmp_path / 'again')
  assert again.keys() == params.keys() and all(np.array_equal(again[path], params[path]) for path in params)
  assert info['models'] == {'unet': 'UNet', 'first_stage': 'KLModel'}
  files = [tmp_path / 'hf' / part / 'diffusion_pytorch_model.safetensors' for part in ('unet', 'vae')]
  assert [(source['path'], source['sha256']) for source in info['sources']] == [(str(x), sha256(x)) for x in files]
  assert info['settings']['unet']['num_heads'] == 8
  with pytest.raises(UserError, match='use --to_diffusers'):
    run(tmp_path / 'again', '--to_torch', f'--out={tmp_path / "c.pth"}')
  # The noise schedule is the published one, as the file said none; schedulers of diffusers load it.
  assert info['settings']['schedule'] == {'num_steps': 1000, 'start': 0.00085, 'end': 0.012}
  diffusers = pytest.importorskip('diffusers')
  scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / 'hf' / 'scheduler')
  betas = released.schedule(0.00085, 0.012)['betas']
  np.testing.assert_allclose(scheduler.betas.numpy(), betas.numpy(), rtol=1e-5)
  for part, change, message in (
    ('scheduler/scheduler_config.json', {'prediction_type': 'v_prediction'}, "prediction_type='v_prediction'"),
    ('vae/config.json', {'shift_factor': 0.1}, 'shift_factor=0.1'),
  ):
    path = tmp_path / 'hf' / part
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | change))
    with pytest.raises(UserError, match=message):
      run(tmp_path / 'hf', '--dry_run')
    path.write_text(before)


def test_command_ends_in_one_sentence_and_status_2(tmp_path, capsys):
  canary = tmp_path / 'canary'
  torch.save({'model': {'a': torch.ones(3)}, 'config': attacks(canary)['os.system']}, tmp_path / 'bad.pth')
  (tmp_path / 'page.pth').write_text('<html></html>')
  main = command_line(convert.main)
  for arguments in (
    [str(tmp_path / 'bad.pth'), '--dry_run'],
    [str(tmp_path / 'page.pth'), '--dry_run'],
    [str(tmp_path / 'none.pth'), '--dry_run'],
    [str(tmp_path), '--dry_run'],
    [str(tmp_path / 'page.pth')],
    [str(tmp_path), '--to_torch', f'--out={tmp_path / "x.pth"}'],
    [str(tmp_path), '--to_torch', '--to_diffusers', f'--out={tmp_path / "x"}'],
    [str(tmp_path), '--to_torch', '--ema', f'--out={tmp_path / "x.pth"}'],
  ):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and said.count('\n') == 1
  assert not canary.exists()


@pytest.mark.nightly
def test_full_size(tmp_path):
  """All 609 M values of the fine-tuned model: under 90 s and 8 GiB, measured in a process of its own."""
  state = released.random_state(released.manifest('ldm_finetune'))
  values = sum(tensor.numel() for tensor in state.values())
  assert values == 608_753_285
  released.write('ldm_finetune', tmp_path / 'checkpoint.pth', state)
  first, last = (
    state['model.diffusion_model.input_blocks.0.0.weight'].clone(),
    state['cond_stage_model.dim_mapper.bias'].clone(),
  )
  del state
  command = [sys.executable, '-m', 'brainjax.convert', tmp_path / 'checkpoint.pth', f'--out={tmp_path / "jax"}']
  begin = time.perf_counter()
  subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
  seconds = time.perf_counter() - begin
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
  print(f'full size: {seconds:.1f} s, {peak:.2f} GiB')
  params, _ = load_weights(tmp_path / 'jax')
  np.testing.assert_array_equal(params['unet/input_0/kernel'], first.numpy().transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(params['conditioner/dim_mapper/bias'], last.numpy())
  assert seconds < 90 and peak < 8


def test_the_way_back_tells_what_the_file_of_a_stage_leaves_out(tmp_path):
  params = {'fmri/a': np.zeros(3, 'f'), 'image/b': np.zeros(4, 'f'), 'image/c': np.zeros(5, 'f')}
  save_weights(tmp_path / 'attend', params, {'kind': 'attend', 'settings': {'fmri': {}, 'image': {}}})
  params, info = convert._load(str(tmp_path / 'attend'))
  assert list(params) == ['a'] and info['left_out'] == '2 tensors of image: phase2 is the part fmri alone'
