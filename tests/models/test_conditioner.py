"""The fMRI conditioner against the golden numbers and the published names and shapes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from brainjax.models.conditioner import FmriConditioner
from brainjax.torch_convert.tables import conditioner
from tests import golden_files
from tests.models.converted import assert_close, epsilons, from_torch, shapes, to_torch, torch_shapes

MANIFESTS = Path(__file__).parents[1] / 'manifests'


@pytest.mark.parametrize('pool', [False, True], ids=['tokens', 'pooled'])
@pytest.mark.parametrize('target', ['same', 'more', 'fewer'])
def test_forward_and_gradients(target, pool):
  golden, config = golden_files.load('cond')
  golden = {'fmri': golden[f'{target}/fmri']} | golden_files.group(golden, f'{target}/{"pool" if pool else "nopool"}')
  fmri = golden['fmri'][:, 0]
  model = FmriConditioner(
    fmri.shape[1], width=32, depth=2, num_heads=4, context_dim=config['cond_dim'], global_pool=pool
  )
  variables = from_torch(model, conditioner.TABLE, golden_files.group(golden, 'state'), fmri)

  def loss(params):
    context = model.apply({'params': params}, fmri)
    return (context * golden['probe']).sum(), (context, model.apply({'params': params}, fmri, method='encode'))

  (_, (context, tokens)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])
  assert_close(tokens, golden['encoder_out'])
  assert_close(context, golden['cond'])
  expected = golden_files.group(golden, 'grad_norm')
  ours = to_torch(conditioner.TABLE, grads)
  largest = max(expected.values())
  for name, norm in expected.items():
    assert np.linalg.norm(ours[name]) == pytest.approx(float(norm), rel=1e-4, abs=1e-5 * float(largest)), name


def test_full_size_equals_the_published_names_and_shapes():
  manifest = json.loads((MANIFESTS / 'cond_stage_pooled.json').read_text())
  published = {key: tuple(shape) for key, shape in manifest.items()}
  fmri = jnp.zeros((1, 4192))
  assert torch_shapes(conditioner.TABLE, shapes(FmriConditioner(4192, global_pool=True), fmri)) == published
  tokens = torch_shapes(conditioner.TABLE, shapes(FmriConditioner(4192), fmri))
  mappers = {
    'channel_mapper.0.weight': (131, 262, 1), 'channel_mapper.0.bias': (131,),
    'channel_mapper.1.weight': (77, 131, 1), 'channel_mapper.1.bias': (77,),
  }  # fmt: skip
  assert tokens == published | mappers


def test_initialisation():
  model = FmriConditioner(640, width=96, depth=2, num_heads=4, context_dim=40)
  params = flatten_dict(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 640)))['params'], sep='/')
  for layer, fan_in in {'channel_mapper_0': 40, 'channel_mapper_1': 20, 'dim_mapper': 96}.items():
    for part in ('kernel', 'bias'):
      value = params[f'{layer}/{part}']
      assert np.abs(value).max() <= fan_in**-0.5
      assert np.std(value) == pytest.approx((3 * fan_in) ** -0.5, rel=0.35 if part == 'bias' else 0.1)


def test_epsilons():
  model = FmriConditioner(63, patch_size=7, width=12, depth=1, num_heads=3)
  seen = epsilons(model, np.zeros((1, 63), np.float32))
  assert seen == dict.fromkeys(('mae/blocks/norm1', 'mae/blocks/norm2', 'mae/norm'), 1e-5)
