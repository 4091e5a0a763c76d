"""Checkpoints as users have them: wrappers, prefixes, shards, precisions, strides, odd objects and configs beside weights."""

import collections
import datetime
import functools
import json
import struct
import sys
import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from brainjax import convert
from brainjax.checkpoints import load_weights
from brainjax.errors import UserError
from brainjax.files import sha256
from brainjax.models.image_mae import ImageMAE
from brainjax.torch_convert import kinds, sizes
from brainjax.torch_convert.config_fields import ConfigFields, flatten_config
from brainjax.torch_convert.convert_file import convert_file
from brainjax.torch_convert.source import open_source
from brainjax.trees import unflatten

torch = pytest.importorskip('torch')

from safetensors.torch import save_file  # noqa: E402

from tests.torch_convert import released  # noqa: E402

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16, 'float64': torch.float64}
BESIDE = {
  'datetime': datetime.datetime(2026, 1, 2),
  'partial': functools.partial(torch.nn.functional.gelu, approximate='tanh'),
  'generator': np.random.default_rng(0),
  'slice': slice(1, 7),
  'range': range(7),
  'dots': Ellipsis,
  'losses': collections.deque([0.5], maxlen=20),
  'times': np.array(['2026-01-02'], 'datetime64[D]'),
  'table': np.zeros(2, [('a', 'f4')]),
  'dtype': torch.float16,
}


def strided(tensor, how):
  """The same values with other strides."""
  if how == 'transposed' and tensor.ndim > 1:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)
  if how == 'part of another':
    return torch.cat([torch.ones_like(tensor), tensor])[len(tensor) :] if tensor.ndim else tensor
  if how == 'expanded' and tensor.ndim == 1:
    return tensor[:1].expand(len(tensor))
  return tensor.contiguous()


def say_heads(folder):
  """The small weights have fewer heads than the published ones."""
  (folder / 'config.json').write_text('{"num_heads": 4, "decoder_num_heads": 2}')


def write(folder, state, form, wrapper, beside):
  """Writes a state dict in one of the forms, and returns what a user would name."""
  say_heads(folder)
  if form in ('zip', 'legacy'):
    value = {wrapper: state, 'epoch': 3, **beside} if wrapper else state
    torch.save(value, folder / 'a.pth', _use_new_zipfile_serialization=form == 'zip')
    return folder / 'a.pth'
  state = {name: tensor.contiguous().clone() for name, tensor in state.items()}
  if form == 'safetensors':
    save_file(state, folder / 'a.safetensors')
    return folder / 'a.safetensors'
  suffix = 'safetensors' if form == 'sharded safetensors' else 'bin'
  stem = 'model' if suffix == 'safetensors' else 'pytorch_model'
  save = save_file if suffix == 'safetensors' else torch.save
  names, weight_map = sorted(state), {}
  for i in range(3):
    shard = f'{stem}-{i + 1:05d}-of-00003.{suffix}'
    save({name: state[name] for name in names[i::3]}, folder / shard)
    weight_map |= dict.fromkeys(names[i::3], shard)
  (folder / f'{stem}.{suffix}.index.json').write_text(json.dumps({'weight_map': weight_map}))
  return folder


CHECKPOINTS = {
  'prefixes': strategies.lists(strategies.sampled_from(['_orig_mod.', 'module.', 'model.']), max_size=3),
  'wrapper': strategies.sampled_from(['', 'model', 'state_dict', 'model_state_dict', 'module']),
  'dtype': strategies.sampled_from(list(DTYPES)),
  'stride': strategies.sampled_from(['contiguous', 'transposed', 'part of another', 'expanded']),
  'form': strategies.sampled_from(['zip', 'legacy', 'safetensors', 'sharded safetensors', 'sharded bin']),
  'beside': strategies.sets(strategies.sampled_from(list(BESIDE)), max_size=4),
  'extra_state': strategies.booleans(),
}


def check_values(folder, prefixes, wrapper, dtype, stride, form, beside, extra_state):
  state = {name: strided(x.to(DTYPES[dtype]), stride) for name, x in released.random_state(SHAPES).items()}
  names = dict.fromkeys(state)
  if extra_state:
    state['blocks.0._extra_state'] = torch.zeros(3, dtype=torch.uint8)
  state = {''.join(prefixes) + name: tensor for name, tensor in state.items()}
  converted = convert_file(write(folder, state, form, wrapper, {name: BESIDE[name] for name in beside}))
  assert converted.kind == 'phase1' and converted.kwargs['num_voxels'] == 36
  expected = {name: state[''.join(prefixes) + name].float().numpy() for name in names}
  params = converted.params
  for i in range(2):
    np.testing.assert_array_equal(
      params['encoder/blocks/mlp/fc1/kernel'][i], expected[f'blocks.{i}.mlp.fc1.weight'].swapaxes(0, 1)
    )
    np.testing.assert_array_equal(params['encoder/blocks/norm2/bias'][i], expected[f'blocks.{i}.norm2.bias'])
  np.testing.assert_array_equal(
    params['encoder/patch_embed/kernel'], np.einsum('oik->kio', expected['patch_embed.proj.weight'])
  )
  np.testing.assert_array_equal(params['decoder/pos_embed'], expected['decoder_pos_embed'])
  # Every value of the file, and none twice.
  every = lambda arrays: np.sort(np.concatenate([np.ravel(array) for array in arrays]))
  np.testing.assert_array_equal(every(params.values()), every(expected.values()))


SHAPES = released.scaled('phase1')


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(**CHECKPOINTS)
def test_every_form_gives_the_same_parameters(tmp_path_factory, **case):
  check_values(tmp_path_factory.mktemp('case'), **case)


@pytest.mark.slow
@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(**CHECKPOINTS)
def test_every_form_gives_the_same_parameters_many(tmp_path_factory, **case):
  check_values(tmp_path_factory.mktemp('case'), **case)


def test_what_is_removed_and_not_built_is_listed(tmp_path):
  state = {f'model._orig_mod.module.{name}': x for name, x in released.random_state(SHAPES).items()}
  state['model._orig_mod.module.blocks.0._extra_state'] = None
  say_heads(tmp_path)
  torch.save({'module': state, **BESIDE}, tmp_path / 'a.pt')
  notes = '\n'.join(convert_file(tmp_path / 'a.pt', plan_only=True).notes)
  for part in (
    'removed the prefix _orig_mod. (torch.compile)',
    'removed the prefix module. (DistributedDataParallel)',
    'removed the prefix model.',
    'ignored: model._orig_mod.module.blocks.0._extra_state',
    'were not built',
    'datetime.datetime',
    'functools.partial',
    'numpy.random._pickle.__generator_ctor',
  ):
    assert part in notes


def test_prefixes_inside_names(tmp_path):
  state = released.random_state(SHAPES)
  renamed = {
    name.replace('blocks.0.', 'blocks.0._checkpoint_wrapped_module._orig_mod.'): x for name, x in state.items()
  }
  say_heads(tmp_path)
  torch.save(renamed, tmp_path / 'a.pt')
  assert convert_file(tmp_path / 'a.pt', plan_only=True).kind == 'phase1'


def test_an_expanded_tensor_is_bounded(tmp_path):
  state = released.random_state(SHAPES)
  torch.save(state | {'huge': torch.zeros(1).expand(1 << 27)}, tmp_path / 'a.pt')
  with pytest.raises(UserError, match='storage of only 1 values. At most 67108864 repeated values'):
    convert_file(tmp_path / 'a.pt')


def test_metadata_null(tmp_path):
  header = json.dumps({'__metadata__': None, 'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}}).encode()
  data = np.float32([1, 2]).tobytes()
  (tmp_path / 'a.safetensors').write_bytes(struct.pack('<Q', len(header)) + header + data)
  np.testing.assert_array_equal(open_source(tmp_path / 'a.safetensors').state['a'], [1, 2])


def test_shards(tmp_path):
  state = released.random_state(SHAPES)
  folder = write(tmp_path, state, 'sharded safetensors', '', {})
  shard, index = folder / 'model-00002-of-00003.safetensors', folder / 'model.safetensors.index.json'
  for named in (folder, index, shard):
    assert open_source(named).state.keys() == state.keys()
  convert.main([str(folder), f'--out={tmp_path / "jax"}'])
  info = load_weights(tmp_path / 'jax')[1]
  shards = sorted(folder.glob('*.safetensors'))
  assert [(x['path'], x['sha256']) for x in info['sources']] == [(str(x), sha256(x)) for x in shards]
  read = [folder / 'config.json', index]
  assert [(x['path'], x['sha256']) for x in info['config_files']] == [(str(x), sha256(x)) for x in read]
  whole = json.loads(index.read_text())
  for change, message in (
    ({'weight_map': whole['weight_map'] | {'lost': shard.name}}, 'tensors that no shard holds: lost'),
    ({'weight_map': {'a': '../a.safetensors'}}, 'names shards outside its folder: ../a.safetensors; put'),
    ({'weight_map': {}}, 'is no index of shards'),
    ([], 'is no index of shards'),
  ):
    index.write_text(json.dumps(change))
    with pytest.raises(UserError, match=message):
      open_source(folder)
  index.unlink()
  assert open_source(folder).state.keys() == state.keys()
  index.write_text(json.dumps(whole))
  save_file({'blocks.0.norm1.bias': torch.ones(3)}, shard)
  with pytest.raises(UserError, match='another shard holds too: blocks.0.norm1.bias'):
    open_source(folder)
  shard.unlink()
  for named in (folder, index, folder / 'model-00001-of-00003.safetensors'):
    with pytest.raises(UserError, match=f'1 of 3 shards are missing: {shard.name}'):
      open_source(named)


def test_a_tensor_without_a_name(tmp_path):
  torch.save(torch.ones(7, 8), tmp_path / 'a.pth')
  with pytest.raises(UserError, match=r'holds one tensor of shape \(7, 8\) without a name; save the state_dict'):
    open_source(tmp_path / 'a.pth')


def test_variants(tmp_path):
  state = released.random_state(SHAPES)
  halves = {name: x.half() for name, x in state.items()}
  save_file(halves, tmp_path / 'model.fp16.safetensors')
  source = open_source(tmp_path)
  assert source.files == [tmp_path / 'model.fp16.safetensors'] and 'read the variant fp16' in source.notes[0]
  save_file(halves, tmp_path / 'model.bf16.safetensors')
  with pytest.raises(UserError, match='holds several variants: model.bf16.safetensors, model.fp16.safetensors'):
    open_source(tmp_path)
  save_file(state, tmp_path / 'model.safetensors')
  assert open_source(tmp_path).files == [tmp_path / 'model.safetensors']


# Configs.


def omegaconf(config):
  """A pickled OmegaConf config without the package: nodes with the attributes that it gives them."""
  sys.modules['omegaconf'] = types.ModuleType('omegaconf')
  nodes = {name: types.ModuleType(f'omegaconf.{name}') for name in ('dictconfig', 'nodes')}
  for module, name in (('dictconfig', 'DictConfig'), ('nodes', 'AnyNode')):
    setattr(nodes[module], name, type(name, (), {'__module__': f'omegaconf.{module}'}))
    sys.modules[f'omegaconf.{module}'] = nodes[module]

  def node(value):
    result = nodes['dictconfig'].DictConfig() if isinstance(value, dict) else nodes['nodes'].AnyNode()
    key, inner = ('_content', {k: node(v) for k, v in value.items()}) if isinstance(value, dict) else ('_val', value)
    result.__dict__.update({'_metadata': None, '_parent': None, key: inner})
    return result

  return node(config)


@pytest.fixture
def no_omegaconf():
  yield
  for name in ('omegaconf', 'omegaconf.dictconfig', 'omegaconf.nodes'):
    sys.modules.pop(name, None)


def test_an_omegaconf_config_in_the_file_is_read(tmp_path, no_omegaconf):
  config = omegaconf({'model': {'num_heads': 4, 'decoder_num_heads': 2}, 'seed': 7})
  torch.save({'state_dict': released.random_state(SHAPES), 'hyper_parameters': config}, tmp_path / 'a.ckpt')
  for name in ('omegaconf', 'omegaconf.dictconfig', 'omegaconf.nodes'):  # not installed where the file is read
    del sys.modules[name]
  kwargs = convert_file(tmp_path / 'a.ckpt', plan_only=True).kwargs
  assert (kwargs['num_heads'], kwargs['decoder_num_heads']) == (4, 2)


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('config.yaml', 'model:\n  _target_: mae.FmriMAE\n  num_heads: 4\n  decoder_num_heads: 2\n'),
    ('.hydra/config.yaml', 'model: {encoder: {num_heads: 4}, decoder: {decoder_num_heads: 2}}'),
    ('hparams.yaml', 'num_heads: 4\ndecoder_num_heads: 2\n'),
    ('config.yaml', 'wandb_version: 1\nnum_heads: {desc: null, value: 4}\ndecoder_num_heads: {desc: null, value: 2}'),
    ('config.json', '{"num_heads": 4, "decoder": {"num_heads": 8, "decoder_num_heads": 2}}'),
  ],
)
def test_a_config_beside_the_file_is_read(tmp_path, name, text):
  torch.save(released.random_state(SHAPES), tmp_path / 'a.pth')
  (tmp_path / name).parent.mkdir(exist_ok=True)
  (tmp_path / name).write_text(text)
  converted = convert_file(tmp_path / 'a.pth', plan_only=True)
  assert (converted.kwargs['num_heads'], converted.kwargs['decoder_num_heads']) == (4, 2)
  assert converted.sources[0].config_files == [tmp_path / name]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (
      '{encoder: {num_heads: 4}, decoder: {num_heads: 8}}',
      'several values of num_heads .encoder.num_heads=4, decoder.num',
    ),
    ('{num_heads: "${model.heads}"}', "num_heads in its config is '..model.heads.'; expected a whole number"),
    ('{model: {n_heads: 4}}', 'its config says n_heads=4, but not num_heads'),
    ('{model: {attn_dim_head: 8}}', 'its config says attn_dim_head=8, but not num_heads'),
    ('{numHeads: 4}', 'its config says numHeads=4, but not num_heads'),
    ('{head_count: 4}', 'its config says head_count=4, but not num_heads'),
    (
      '{encoder: {heads: 4}, decoder: {heads: 8}}',
      'its config says heads=encoder.heads=4, decoder.heads=8, but not num_heads',
    ),
    ('a: [', 'cannot be read .*repair or remove it'),
  ],
)
def test_heads_are_not_guessed_against_a_config(tmp_path, text, message):
  torch.save(released.random_state(SHAPES), tmp_path / 'a.pth')
  (tmp_path / 'config.yaml').write_text(text)
  with pytest.raises(UserError, match=message):
    convert_file(tmp_path / 'a.pth', plan_only=True)
  if 'cannot' not in message:
    (tmp_path / 'config.json').write_text('{"num_heads": 4, "decoder_num_heads": 2}')
    assert convert_file(tmp_path / 'a.pth', plan_only=True).kwargs['num_heads'] == 4


@pytest.mark.parametrize(
  'beside',
  [
    {'opt': {'num_heads': 4, 'decoder_num_heads': 2}},
    {'model_args': types.SimpleNamespace(num_heads=4, decoder_num_heads=2)},
    {'num_heads': 4, 'decoder_num_heads': 2},
    {'config': {'num_heads': 4, 'decoder_num_heads': 2}, 'num_heads': 8},
  ],
)
def test_heads_are_read_wherever_the_file_says_them(tmp_path, beside):
  torch.save({'model': released.random_state(SHAPES), **beside}, tmp_path / 'a.pth')
  converted = convert_file(tmp_path / 'a.pth', plan_only=True)
  assert (converted.kwargs['num_heads'], converted.kwargs['decoder_num_heads']) == (4, 2)


def test_other_heads_in_the_file_are_not_guessed(tmp_path):
  torch.save({'model': released.random_state(SHAPES), 'opt': {'n_heads': 4}}, tmp_path / 'a.pth')
  with pytest.raises(UserError, match='its config says n_heads=4, but not num_heads'):
    convert_file(tmp_path / 'a.pth', plan_only=True)


@pytest.mark.parametrize('plan_only', [True, False])
def test_one_layer_of_integers(tmp_path, plan_only):
  say_heads(tmp_path)
  state = released.random_state(SHAPES)
  state['blocks.1.mlp.fc1.weight'] = state['blocks.1.mlp.fc1.weight'].to(torch.int8)
  torch.save(state, tmp_path / 'a.pth')
  with pytest.raises(UserError, match='mlp.* would come from integers; weights must be floating point'):
    convert_file(tmp_path / 'a.pth', plan_only=plan_only)


def test_hyper_parameters_of_a_latent_diffusion_model(tmp_path):
  state = released.random_state(released.scaled('ldm_label2img_pretrained'))
  parameters = {'unet_config': {'target': 'x', 'params': {'num_heads': 2}}, 'scale_factor': 1.0}
  torch.save({'state_dict': state, 'hyper_parameters': parameters}, tmp_path / 'a.ckpt')
  assert convert_file(tmp_path / 'a.ckpt', plan_only=True).kwargs['unet']['num_heads'] == 2


def test_buffers_of_a_sampler_are_ignored(tmp_path):
  state = released.random_state(released.scaled('ldm_label2img_pretrained'))
  sampler = {'ddim_sigmas': torch.zeros(50), 'ddim_alphas': torch.ones(50), 'ddim_timesteps': torch.arange(50)}
  torch.save({'state_dict': state | sampler}, tmp_path / 'a.ckpt')
  converted = convert_file(tmp_path / 'a.ckpt', plan_only=True)
  assert converted.kind == 'label2img'
  assert any('3 tensors such as ddim_' in note and 'DDIM sampler' in note for note in converted.notes)


def test_an_ambiguous_checkpoint(tmp_path):
  state = released.random_state(SHAPES) | released.random_state(released.vit_h_14_shapes())
  torch.save(state, tmp_path / 'a.pth')
  with pytest.raises(
    UserError, match='fits several kinds: phase1 and vit_h_14. Choose one, with --kind=phase1 or --kind='
  ):
    convert_file(tmp_path / 'a.pth')


def test_quantised_tensors_are_named(tmp_path):
  state = released.random_state(SHAPES) | {'norm.bias': torch.zeros(2, 2).to_sparse()}
  torch.save(state, tmp_path / 'a.pth')
  with pytest.raises(UserError, match='norm.bias are tensors of an unsupported type .torch._utils._rebuild_sp'):
    convert_file(tmp_path / 'a.pth')


def test_places(tmp_path):
  say_heads(tmp_path)
  torch.save(released.random_state(SHAPES), tmp_path / 'a.pth')
  convert.main([str(tmp_path / 'a.pth'), f'--out={tmp_path / "jax"}'])
  for arguments, message in (
    (
      [tmp_path / 'jax', '--dry_run'],
      'holds brainjax weights already; --to_torch or --to_diffusers converts them back',
    ),
    ([tmp_path / 'a.pth', '--to_torch', f'--out={tmp_path / "b.pth"}'], 'a.pth .*not a folder of brainjax weights'),
    ([tmp_path / 'a.pth' / 'b', '--dry_run'], 'does not exist'),
    ([tmp_path, '--dry_run'], 'is a directory, expected a file of weights.*a.pth'),
    ([tmp_path / 'a.pth', '--kind=diffusers', '--dry_run'], 'is not a folder of diffusers'),
  ):
    with pytest.raises(UserError, match=message):
      convert.main([str(argument) for argument in arguments])
  assert sorted(path.name for path in tmp_path.iterdir()) == ['a.pth', 'config.json', 'jax']


# The official MAE.

MAE = {'image_size': 12, 'patch_size': 4, 'width': 24, 'depth': 2, 'num_heads': 3, 'mlp_dim': 96}
DECODER = {'decoder_width': 16, 'decoder_depth': 2, 'decoder_num_heads': 2, 'decoder_mlp_dim': 64}


class Mlp(torch.nn.Module):
  def __init__(self, width, hidden):
    super().__init__()
    self.fc1, self.fc2 = torch.nn.Linear(width, hidden), torch.nn.Linear(hidden, width)

  def forward(self, x):
    return self.fc2(torch.nn.functional.gelu(self.fc1(x)))


class Attention(torch.nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.qkv, self.proj, self.heads = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width), heads

  def forward(self, x):
    q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
    return self.proj(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TransformerBlock(torch.nn.Module):
  def __init__(self, width, heads, hidden):
    super().__init__()
    self.norm1, self.norm2 = (torch.nn.LayerNorm(width, eps=1e-6) for _ in range(2))
    self.attn, self.mlp = Attention(width, heads), Mlp(width, hidden)

  def forward(self, x):
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class OfficialMAE(torch.nn.Module):
  """A small masked autoencoder with the names of facebookresearch/mae, written from its paper."""

  def __init__(self, image_size, patch_size, width, depth, num_heads, mlp_dim, **decoder):
    super().__init__()
    tokens, draw = (image_size // patch_size) ** 2 + 1, lambda *shape: torch.nn.Parameter(torch.randn(shape) * 0.3)
    self.patch_embed = torch.nn.Module()
    self.patch_embed.proj = torch.nn.Conv2d(3, width, patch_size, patch_size)
    self.cls_token, self.pos_embed = draw(1, 1, width), draw(1, tokens, width)
    self.blocks = torch.nn.Sequential(*(TransformerBlock(width, num_heads, mlp_dim) for _ in range(depth)))
    self.norm = torch.nn.LayerNorm(width, eps=1e-6)
    if decoder:
      inner = decoder['decoder_width']
      block = lambda: TransformerBlock(inner, decoder['decoder_num_heads'], decoder['decoder_mlp_dim'])
      self.mask_token, self.decoder_pos_embed = draw(1, 1, inner), draw(1, tokens, inner)
      self.decoder_embed = torch.nn.Linear(width, inner)
      self.decoder_blocks = torch.nn.Sequential(*(block() for _ in range(decoder['decoder_depth'])))
      self.decoder_norm = torch.nn.LayerNorm(inner, eps=1e-6)
      self.decoder_pred = torch.nn.Linear(inner, patch_size**2 * 3)

  def encode(self, images):
    x = self.patch_embed.proj(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
    first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
    return self.norm(self.blocks(torch.cat([first, x], dim=1)))

  def forward(self, images):
    x = self.decoder_embed(self.encode(images)) + self.decoder_pos_embed
    return self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))[:, 1:]


@pytest.mark.parametrize('decoder', [True, False])
def test_the_official_mae(tmp_path, decoder):
  torch.manual_seed(0)
  model = OfficialMAE(**MAE, **(DECODER if decoder else {})).eval()
  with torch.no_grad():  # small variances, so that the epsilon counts
    model.patch_embed.proj.weight.mul_(1e-2)
    model.pos_embed.mul_(1e-2)
    model.cls_token.mul_(1e-2)
  prefixed = {f'module.{name}': x for name, x in model.state_dict().items()}
  torch.save({'model': prefixed}, tmp_path / 'mae_pretrain_vit_base.pth')
  (tmp_path / 'config.json').write_text('{"num_heads": 3, "decoder_num_heads": 2}')
  convert.main([str(tmp_path / 'mae_pretrain_vit_base.pth'), f'--out={tmp_path / "jax"}'])
  params, info = load_weights(tmp_path / 'jax')
  assert info['kind'] == 'vit_mae' and info['settings']['norm_epsilon'] == 1e-6
  assert info['settings'].items() >= (MAE | (DECODER if decoder else {'decoder_depth': 8})).items()
  images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32) * 1e-2
  theirs = torch.from_numpy(images.transpose(0, 3, 1, 2))
  ours = ImageMAE(**info['settings'])
  with torch.no_grad():
    expected = model.encode(theirs).numpy()
    got = ours.apply({'params': unflatten(params)}, images, method='encode')
    np.testing.assert_allclose(got, expected, atol=3e-5)
    if decoder:
      got = ours.apply({'params': unflatten(params)}, images)['pred']
      np.testing.assert_allclose(got, model(theirs).numpy(), atol=3e-5)
  assert any(path.startswith('decoder/') for path in params) == decoder
  assert any('has no decoder' in note for note in info['notes']) != decoder
  convert.main([str(tmp_path / 'jax'), '--to_torch', f'--out={tmp_path / "hf.safetensors"}'])
  again = convert_file(tmp_path / 'hf.safetensors').params
  assert again.keys() == params.keys() and all(np.array_equal(again[path], params[path]) for path in params)


def test_heads_of_the_official_sizes(tmp_path):
  for width, heads in ((768, 12), (1024, 16), (1280, 16)):
    shapes = {'patch_embed.proj.weight': (width, 3, 14, 14), 'pos_embed': (1, 257, width)}
    shapes |= {'blocks.0.attn.qkv.weight': (3 * width, width), 'blocks.0.mlp.fc1.weight': (4 * width, width)}
    torch.save({'model': {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}}, tmp_path / 'a.pth')
    state, notes = open_source(tmp_path / 'a.pth').state, []
    state = kinds.clean_names(kinds.KINDS['vit_mae'], state, notes)
    fields = ConfigFields({}, notes)
    assert kinds.model_kwargs(kinds.KINDS['vit_mae'], state, fields, 'a.pth')['num_heads'] == heads


def test_fields_of_a_unet_do_not_become_those_of_the_encoder():
  config = {'model': {'unet': {'num_heads': 8}, 'mae': {'num_heads': 4, 'mlp_ratio': 1.0}, 'other': {'mlp_ratio': 4.0}}}
  fields = ConfigFields(flatten_config(config), [])
  assert (fields.heads(['unet_num_heads'], 1, 'heads'), fields.heads(['num_heads'], 16, 'heads')) == (8, 4)
  assert fields.get_if_clear('mlp_ratio') is None and not fields.notes


def test_a_measured_scale_of_the_latents(tmp_path):
  state = released.random_state(released.scaled('ldm_label2img_pretrained'))
  torch.save({'state_dict': state | {'scale_factor': torch.tensor(0.5)}}, tmp_path / 'a.ckpt')
  with pytest.raises(UserError, match='scale_factor is 0.5, but no VQ autoencoder here scales its latents'):
    convert_file(tmp_path / 'a.ckpt', plan_only=True)
  torch.save({'state_dict': state | {'scale_factor': torch.tensor(1.0)}}, tmp_path / 'a.ckpt')
  assert convert_file(tmp_path / 'a.ckpt', plan_only=True).kind == 'label2img'
  shapes = {'encoder.conv_in.weight': (8, 3, 3, 3), 'encoder.down.0.block.0.conv1.weight': (8, 8, 3, 3)}
  shapes = sizes.KnownShapes(shapes | {'post_quant_conv.weight': (4, 4, 1, 1)}, '', 'a.ckpt')
  for config, scale in (({'scale_factor': 0.5}, 0.5), ({}, 0.18215)):
    notes = []
    assert sizes.autoencoder(shapes, ConfigFields(config, notes))['latent_scale'] == scale
    assert len(notes) == (not config)


def test_a_distributed_checkpoint_is_named(tmp_path):
  (tmp_path / '__0_0.distcp').write_bytes(b'x')
  with pytest.raises(UserError, match='is a distributed checkpoint of PyTorch.*dcp_to_torch'):
    convert_file(tmp_path)


def test_a_config_that_holds_itself(tmp_path):
  torch.save(released.random_state(SHAPES), tmp_path / 'a.pth')
  (tmp_path / 'config.yaml').write_text('a: &a {b: *a, num_heads: 4, decoder_num_heads: 2}')
  assert convert_file(tmp_path / 'a.pth', plan_only=True).kwargs['num_heads'] == 4
