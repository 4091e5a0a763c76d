"""The fMRI autoencoder against the golden numbers, PyTorch's own transformer, and the published names and shapes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from brainjax.models.fmri_mae import FmriMAE
from brainjax.ops import losses, patches
from brainjax.torch_convert.tables import fmri_mae
from tests import golden_files
from tests.models.converted import (
  assert_close,
  assert_gradients,
  epsilons,
  from_torch,
  random_variables,
  shapes,
  to_torch,
  torch_shapes,
)

MANIFESTS = Path(__file__).parents[1] / 'manifests'
PHASE1 = FmriMAE(320, width=32, depth=3, num_heads=4, decoder_width=24, decoder_depth=2, decoder_num_heads=4)
PHASE2 = FmriMAE(
  192, width=40, depth=2, num_heads=4, decoder_width=24, decoder_depth=2, decoder_num_heads=4,
  cross_depth=2, cross_width=48, cross_heads=4, cross_mlp_dim=80,
)  # fmt: skip
TINY = FmriMAE(63, patch_size=7, width=12, depth=2, num_heads=3, decoder_width=8, decoder_depth=1, decoder_num_heads=2)


@pytest.fixture(scope='module')
def phase1():
  golden, config = golden_files.load('phase1')
  fmri = golden['fmri'][:, 0]
  return golden, config, fmri, from_torch(PHASE1, fmri_mae.TABLE, golden_files.group(golden, 'state'), fmri)


@pytest.fixture(scope='module')
def phase2():
  golden, config = golden_files.load('phase2')
  fmri = golden['fmri'][:, 0]
  return golden, config, fmri, from_torch(PHASE2, fmri_mae.TABLE, golden_files.group(golden, 'state_fmri'), fmri)


def test_forward_equals_phase1(phase1):
  golden, config, fmri, variables = phase1
  run = jax.jit(lambda noise: PHASE1.apply(variables, fmri, noise, config['mask_ratio']))
  for view in ('view1', 'view2'):
    out = run(golden[f'noise/{view}'])
    for name in ('latent', 'mask', 'ids_restore', 'pred'):
      assert_close(out[name], golden[f'fwd/{view}/{name}'], name=name)


def test_gradient_of_both_views_in_one_pass_equals_phase1(phase1):
  golden, config, fmri, variables = phase1
  noise = np.concatenate([golden['noise/view1'], golden['noise/view2']])

  def loss(params):
    out = PHASE1.apply({'params': params}, np.concatenate([fmri, fmri]), noise, config['mask_ratio'])
    first, second = jnp.split(out['pred'], 2)
    mse = losses.masked_mse(first, patches.patchify_1d(fmri, 16), out['mask'][: len(fmri)]).mean()
    voxels = patches.unpatchify_1d(first)
    own = losses.info_nce(voxels, fmri).mean()
    cross = losses.info_nce(voxels, patches.unpatchify_1d(second)).mean()
    contrast = 0.5 * (own + 0.5 * cross)
    return mse + contrast, contrast

  value, grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])
  assert_close(value[0], golden['total/readme_mask/loss'])
  assert_close(value[1], golden['total/readme_nomask/loss'])
  assert_gradients(to_torch(fmri_mae.TABLE, grads), golden_files.group(golden, 'grad'))


def test_forward_equals_phase2(phase2):
  golden, config, fmri, variables = phase2
  run = jax.jit(lambda model_noise, image: PHASE2.apply(variables, fmri, model_noise, config['mask_ratio'], image))
  out = run(golden['noise/fmri_masked'], golden['fwd/img_support'])
  for name in ('latent', 'mask', 'ids_restore', 'pred'):
    assert_close(out[name], golden[f'fwd/fmri/{name}'], name=name)
  support = jax.jit(lambda noise: PHASE2.apply(variables, fmri, noise, 0.0, method='encode'))
  assert_close(support(golden['noise/fmri_full']), golden['fwd/fmri_support'])


@pytest.mark.parametrize('variant', ['no_cross_residual', 'no_cross_attention'])
def test_variants_of_phase2(phase2, variant):
  golden, config, fmri, variables = phase2
  residual = variant == 'no_cross_residual'
  model = PHASE2.clone(cross_residual=False) if residual else PHASE2
  image = golden['fwd/img_support'] if residual else None
  out = jax.jit(lambda noise: model.apply(variables, fmri, noise, config['mask_ratio'], image))(
    golden['noise/fmri_masked']
  )
  assert_close(out['pred'], golden[f'variant/{variant}/pred_fmri'])


def test_without_noise_nothing_is_shuffled(phase2):
  golden, _, fmri, variables = phase2
  tokens = jax.jit(lambda: PHASE2.apply(variables, fmri, method='encode'))()
  order = np.argsort(golden['noise/fmri_full'], axis=1)
  expected = np.empty_like(golden['fwd/fmri_support'])
  expected[:, 0] = golden['fwd/fmri_support'][:, 0]
  np.put_along_axis(expected[:, 1:], order[:, :, None], golden['fwd/fmri_support'][:, 1:], axis=1)
  assert_close(tokens, expected)


def test_blocks_equal_pytorch_transformer():
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  model = FmriMAE(63, patch_size=7, width=36, depth=3, num_heads=3, mlp_ratio=2.0, decoder_width=8, decoder_num_heads=2)
  layer = torch.nn.TransformerEncoderLayer(36, 3, 72, 0.0, 'gelu', batch_first=True, norm_first=True)
  stack = torch.nn.TransformerEncoder(layer, 3, norm=torch.nn.LayerNorm(36), enable_nested_tensor=False).eval()
  embed = torch.nn.Conv1d(1, 36, 7, 7)
  for parameter in stack.parameters():
    torch.nn.init.normal_(parameter, std=0.3)

  names = {
    'self_attn.in_proj_': 'attn.qkv.', 'self_attn.out_proj': 'attn.proj', 'linear1': 'mlp.fc1', 'linear2': 'mlp.fc2',
    'layers.': 'blocks.',
  }  # fmt: skip
  state = {'patch_embed.proj.weight': embed.weight, 'patch_embed.proj.bias': embed.bias}
  for name, value in stack.state_dict().items():
    for old, new in names.items():
      name = name.replace(old, new)
    state[name] = value
  state = {name: value.detach().numpy() for name, value in state.items()}
  rng = np.random.default_rng(0)
  fmri = rng.normal(size=(4, 63)).astype(np.float32)
  fresh = to_torch(fmri_mae.TABLE, random_variables(model, fmri)['params'])
  variables = from_torch(model, fmri_mae.TABLE, {**fresh, **state}, fmri)
  with torch.no_grad():
    tokens = embed(torch.tensor(fmri)[:, None]).transpose(1, 2)
    first = torch.tensor(fresh['cls_token']).expand(4, 1, 36)
    expected = stack(torch.cat([first, tokens], 1) + torch.tensor(fresh['pos_embed']))
  assert_close(jax.jit(lambda: model.apply(variables, fmri, method='encode'))(), expected.numpy())


@pytest.mark.parametrize(
  'name, sizes', [('phase1', {}), ('phase2_fmri', {'decoder_depth': 6, 'cross_depth': 3})], ids=['phase1', 'phase2']
)
def test_full_size_equals_the_published_names_and_shapes(name, sizes):
  manifest = json.loads((MANIFESTS / f'{name}.json').read_text())
  ours = torch_shapes(fmri_mae.TABLE, shapes(FmriMAE(4192, **sizes), jnp.zeros((1, 4192))))
  assert ours == {key: tuple(shape) for key, shape in manifest.items()}


def test_epsilons():
  cross = {f'encoder/cross/blocks/{name}': 1e-12 for name in ('norm1', 'norm2')}
  others = ('encoder/blocks/norm1', 'encoder/blocks/norm2', 'encoder/norm')
  others += ('decoder/blocks/norm1', 'decoder/blocks/norm2', 'decoder/norm')
  assert epsilons(PHASE2, np.zeros((1, 192), np.float32)) == cross | dict.fromkeys(others, 1e-5)


def test_initialisation():
  model = FmriMAE(640, width=96, depth=3, num_heads=4, decoder_width=64, decoder_num_heads=4, cross_depth=2,
                  cross_width=48, cross_heads=4, cross_mlp_dim=80)  # fmt: skip
  params = flatten_dict(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 640)))['params'], sep='/')
  for path, value in params.items():
    if path.endswith('patch_embed/kernel') or path.endswith('_token'):
      assert np.std(value) == pytest.approx(0.02, rel=0.3), path
    elif path.endswith('/kernel'):
      bound = np.sqrt(6 / sum(value.shape[-2:]))
      assert np.abs(value).max() <= bound and np.std(value) == pytest.approx(bound / np.sqrt(3), rel=0.1), path
    elif path.endswith('/bias'):
      assert not np.any(value), path
    elif path.endswith('/scale'):
      assert np.all(value == 1), path
    if '/blocks/' in path and path.endswith('kernel'):
      assert not np.array_equal(value[0], value[1]), path  # layers are drawn independently


@pytest.mark.parametrize('remat', ['cheap', 'everything'])
def test_recomputation_changes_nothing_but_memory(remat):
  fmri = np.random.default_rng(0).normal(size=(3, 63)).astype(np.float32)
  variables = random_variables(TINY, fmri)

  def gradient(model):
    return jax.jit(jax.grad(lambda v: jnp.square(model.apply(v, fmri)['pred']).sum()))(variables)

  jax.tree.map(lambda a, b: assert_close(a, b + 0.0, 1e-5), gradient(TINY.clone(remat=remat)), gradient(TINY))


def test_bfloat16_computation_keeps_float32_parameters_and_predictions():
  fmri = np.random.default_rng(0).normal(size=(3, 63)).astype(np.float32)
  low = TINY.clone(dtype=jnp.bfloat16)
  fresh = jax.eval_shape(low.init, jax.random.key(0), fmri)
  assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype('float32')}
  variables = random_variables(low, fmri)
  out = jax.jit(lambda: low.apply(variables, fmri))()
  assert out['latent'].dtype == jnp.bfloat16 and out['pred'].dtype == jnp.float32
  assert_close(out['pred'], jax.jit(lambda: TINY.apply(variables, fmri))()['pred'], 0.05)


def test_wrong_inputs_are_refused():
  fmri = np.zeros((2, 63), np.float32)
  variables = random_variables(TINY, fmri)

  def apply(fmri, noise=None, ratio=0.0, image=None):
    jax.eval_shape(lambda: TINY.apply(variables, fmri, noise, ratio, image))

  with pytest.raises(ValueError, match='needs noise'):
    apply(fmri, None, 0.75)
  with pytest.raises(ValueError, match='without cross-attention'):
    apply(fmri, None, 0.0, np.zeros((2, 5, 12)))
