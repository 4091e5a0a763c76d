"""The UNet against the golden numbers, the published manifests and diffusers' PyTorch UNet."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from brainjax.models.autoencoder import KLModel, VQModel
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.unet import UNet
from brainjax.ops.positions import timestep_embedding
from brainjax.torch_convert import engine
from brainjax.torch_convert.tables import latent_diffusion
from brainjax.torch_convert.tables.unet import TABLE
from tests import golden_files
from tests.models.converted import assert_close, from_torch, shapes, to_torch, torch_shapes

# Compiling takes longer than running here.
jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
)
MANIFESTS = Path(__file__).parents[1] / 'manifests'
SMALL = dict(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(2, 1), context_dim=24)
TINY = SMALL | dict(channel_mult=(1,), attention_resolutions=(1,), context_tokens=7)
TINY_INPUTS = np.ones((2, 4, 8, 3), np.float32), np.array([3, 998]), np.ones((2, 7, 24), np.float32)
VARIANTS = {
  'label2img_timecond': {},
  'label2img_notimecond': {'time_cond': False},
  'headch16_timecond': {'num_head_channels': 16},
  'headch16_notimecond': {'num_head_channels': 16, 'time_cond': False},
  'globalpool_timecond': {'global_pool': True},
}


QUICK = ('label2img_timecond', 'globalpool_timecond')


def nhwc(array):
  return np.moveaxis(array, 1, -1)


def nchw(array):
  return np.moveaxis(np.asarray(array), -1, 1)


def golden_inputs(variant):
  golden, _ = golden_files.load('unet')
  state = golden_files.group(golden, 'state')
  if 'notimecond' in variant or 'globalpool' in variant:
    state = {name: value for name, value in state.items() if not name.startswith('time_embed_condtion')}
  if 'globalpool' in variant:
    pooled = golden_files.group(golden, 'state_globalpool/time_embed_condtion')
    state |= {f'time_embed_condtion.{name}': value for name, value in pooled.items()}
  context = golden['context_pooled' if 'globalpool' in variant else 'context']
  return golden, state, (nhwc(golden['x']), golden['t'], context)


@pytest.mark.parametrize(
  'variant', [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in VARIANTS]
)
def test_forward_and_gradients(variant):
  golden, state, (x, t, context) = golden_inputs(variant)
  model = UNet(**SMALL, **VARIANTS[variant])
  variables = from_torch(model, TABLE, state, x, t, context)
  probe = nhwc(golden['probe'])

  @jit
  def run(params, x, context):
    def probed(params, x, context):
      out, taps = model.apply({'params': params}, x, t, context, mutable='intermediates')
      return jnp.sum(out * probe), (out, taps['intermediates'])

    return jax.grad(probed, argnums=(0, 1, 2), has_aux=True)(params, x, context)

  (grad_params, grad_x, grad_context), (out, taps) = run(variables['params'], x, context)
  expected = golden_files.group(golden, variant)
  assert_close(nchw(out), expected['out'], 1e-5)
  assert_close(nchw(grad_x), expected['grad_x'], 1e-4)
  assert_close(grad_context, expected['grad_context'], 1e-4)

  for name, value in golden_files.group(expected, 'tap').items():
    assert_close(nchw(taps[f'tap_{name}'][0]), value, 1e-5, name)

  norms = golden_files.group(expected, 'grad_norm')
  assert set(norms) == set(state)
  floor = 1e-5 * np.sqrt(sum(float(norm) ** 2 for norm in norms.values()))
  for name, gradient in to_torch(TABLE, grad_params).items():
    assert abs(np.linalg.norm(gradient) - norms[name]) <= max(1e-4 * norms[name], floor), name


@pytest.mark.parametrize('variant', ['headch16_timecond', 'globalpool_timecond'])
def test_torch_round_trip(variant):
  _, state, inputs = golden_inputs(variant)
  variables = from_torch(UNet(**SMALL, **VARIANTS[variant]), TABLE, state, *inputs)
  back = to_torch(TABLE, variables['params'])
  assert set(back) == set(state)
  for name, value in state.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_timestep_embedding():
  golden, _ = golden_files.load('unet')
  t = jnp.asarray(golden['timestep_embedding/t'])
  np.testing.assert_allclose(timestep_embedding(t, 32), golden['timestep_embedding/emb'], atol=1e-4)
  np.testing.assert_allclose(timestep_embedding(t, 192), golden['timestep_embedding/emb_dim192'], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('remat', ['cheap', 'everything'])
def test_remat_changes_nothing(remat):
  plain = UNet(**TINY)
  rng = np.random.default_rng(0)
  params = {path: 0.1 * rng.standard_normal(shape, np.float32) for path, shape in shapes(plain, *TINY_INPUTS).items()}
  variables = {'params': unflatten_dict(params, sep='/')}

  def gradient(model):
    def objective(variables):
      return jnp.sum(jnp.square(model.apply(variables, *TINY_INPUTS)))

    return flatten_dict(jit(jax.grad(objective))(variables)['params'], sep='/')

  plain, recomputed = gradient(plain), gradient(UNet(**TINY, remat=remat))
  scale = max(np.abs(value).max() for value in plain.values())
  for path, value in plain.items():
    np.testing.assert_allclose(recomputed[path], value, atol=1e-5 * scale, err_msg=path)


def test_bfloat16_is_close_and_returns_float32():
  golden, state, inputs = golden_inputs('label2img_timecond')
  model = UNet(**SMALL, dtype=jnp.bfloat16)
  out = jit(model.apply)(from_torch(model, TABLE, state, *inputs), *inputs)
  assert out.dtype == jnp.float32
  expected = golden['label2img_timecond/out']
  assert np.linalg.norm(nchw(out) - expected) < 0.05 * np.linalg.norm(expected)


def test_untrained_model_predicts_zero():
  model = UNet(**TINY)
  variables = jit(model.init)(jax.random.key(0), *TINY_INPUTS)
  assert np.all(jit(model.apply)(variables, *TINY_INPUTS) == 0)
  torch_names = to_torch(TABLE, variables['params'])
  zero = {name for name, value in torch_names.items() if name.endswith('weight') and not value.any()}
  parts = ('out_layers.3.weight', '.proj_out.weight', 'out.2.weight')
  assert zero == {name for name in torch_names if name.endswith(parts)}


# Full size: nothing is computed, one tensor at a time is laid out.


def manifest(name):
  return {key: tuple(shape) for key, shape in json.loads((MANIFESTS / f'{name}.json').read_text()).items()}


def without_ignored(names):
  ignored = [engine.compile_pattern(row.torch) for row in latent_diffusion.TABLE if isinstance(row, engine.Ignored)]
  return {name: shape for name, shape in names.items() if not any(pattern.match(name) for pattern in ignored)}


def latent_inputs(channels=3, context=512, tokens=77):
  return jnp.zeros((1, 64, 64, channels)), jnp.zeros(1, jnp.int32), jnp.zeros((1, tokens, context))


def full_size(parts):
  result = {}
  for part, (model, inputs) in parts.items():
    for path, shape in shapes(model, *inputs).items():
      result |= torch_shapes(latent_diffusion.TABLE, {f'{part}/{path}': shape})
  return result


FIRST_STAGE = VQModel(), [jnp.zeros((1, 256, 256, 3))]


def test_label2img_equals_the_published_names_and_shapes():
  ours = full_size({'unet': (UNet(time_cond=False), latent_inputs()), 'first_stage': FIRST_STAGE})
  assert ours == without_ignored(manifest('ldm_label2img_pretrained'))
  assert len(manifest('ldm_label2img_pretrained')) - len(ours) == 13  # the schedule and the class embedder


def test_finetuned_equals_the_published_names_and_shapes():
  conditioner = FmriConditioner(4192), [jnp.zeros((1, 4192))]
  ours = full_size({'unet': (UNet(), latent_inputs()), 'first_stage': FIRST_STAGE, 'conditioner': conditioner})
  assert ours == without_ignored(manifest('ldm_finetune'))
  assert len(manifest('ldm_finetune')) - len(ours) == 12  # the schedule


def test_stable_diffusion_parameter_counts():
  unet = UNet(4, 4, 320, (1, 2, 4, 4), attention_resolutions=(4, 2, 1), num_heads=8, context_dim=768, time_cond=False)
  assert sum(map(np.prod, shapes(unet, *latent_inputs(4, 768)).values())) == 859_520_964
  assert sum(map(np.prod, shapes(KLModel(), jnp.zeros((1, 64, 64, 3))).values())) == 83_653_863


# Live oracle at other sizes.


@pytest.mark.parametrize('num_heads, depth', [pytest.param(1, 1, marks=pytest.mark.slow), (4, 2)])
def test_equals_diffusers(num_heads, depth):
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  from diffusers.pipelines.stable_diffusion.convert_from_ckpt import convert_ldm_unet_checkpoint

  oracle = diffusers.UNet2DConditionModel(
    sample_size=8, in_channels=5, out_channels=7, layers_per_block=1, block_out_channels=(32, 64, 96),
    down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
    up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'),
    cross_attention_dim=40, attention_head_dim=num_heads, transformer_layers_per_block=depth,
  ).eval()  # fmt: skip
  model = UNet(5, 7, 32, (1, 2, 3), 1, (2, 4), num_heads, context_dim=40, time_cond=False, transformer_depth=depth)
  rng = np.random.default_rng(0)
  inputs = (
    rng.standard_normal((2, 8, 12, 5), np.float32),
    np.array([7, 980]),
    rng.standard_normal((2, 9, 40), np.float32),
  )
  params = {path: 0.1 * rng.standard_normal(shape, np.float32) for path, shape in shapes(model, *inputs).items()}
  state = {name: torch.from_numpy(value) for name, value in engine.to_torch(TABLE, params).items()}
  config = dict(oracle.config) | {'class_embed_type': None}
  prefix = {f'model.diffusion_model.{name}': value for name, value in state.items()}
  oracle.load_state_dict(convert_ldm_unet_checkpoint(prefix, config))
  with torch.no_grad():
    expected = oracle(
      torch.from_numpy(nchw(inputs[0]).copy()), torch.from_numpy(inputs[1]), torch.from_numpy(inputs[2])
    )
  out = jit(model.apply)(from_torch(model, TABLE, {k: v.numpy() for k, v in state.items()}, *inputs), *inputs)
  assert_close(nchw(out), expected.sample.numpy(), 2e-5)
