"""The image autoencoder against the golden numbers, Hugging Face's ViTMAE, and the published names and shapes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.ops import losses, patches
from brainjax.torch_convert.tables import fmri_mae, image_mae
from tests import golden_files
from tests.models.converted import assert_close, assert_gradients, epsilons, from_torch, shapes, to_torch, torch_shapes

MANIFESTS = Path(__file__).parents[1] / 'manifests'
IMAGE = ImageMAE(
  32, 8, width=48, depth=2, num_heads=4, mlp_dim=80, decoder_width=32, decoder_depth=2, decoder_num_heads=4,
  decoder_mlp_dim=64, cross_depth=2, fmri_width=40,
)  # fmt: skip
FMRI = FmriMAE(
  192, width=40, depth=2, num_heads=4, decoder_width=24, decoder_depth=2, decoder_num_heads=4,
  cross_depth=2, cross_width=48, cross_heads=4, cross_mlp_dim=80,
)  # fmt: skip


@pytest.fixture(scope='module')
def phase2():
  golden, config = golden_files.load('phase2')
  images = golden['pixel_values'].transpose(0, 2, 3, 1)
  variables = from_torch(IMAGE, image_mae.TABLE, golden_files.group(golden, 'state_image'), images)
  return golden, config, images, variables


def test_forward_equals_phase2(phase2):
  golden, config, images, variables = phase2
  support = jax.jit(lambda noise: IMAGE.apply(variables, images, noise, 0.0, method='encode'))
  assert_close(support(golden['noise/img_full']), golden['fwd/img_support'])
  run = jax.jit(lambda noise, fmri: IMAGE.apply(variables, images, noise, config['img_mask_ratio'], fmri))
  out = run(golden['noise/img_masked'], golden['fwd/fmri_support'])
  for ours, name in {'latent': 'latent', 'mask': 'mask', 'ids_restore': 'ids_restore', 'pred': 'logits'}.items():
    assert_close(out[ours], golden[f'fwd/image/{name}'], name=name)
  target = patches.patchify_2d(images, 8)
  assert_close(losses.masked_mse(out['pred'], target, out['mask']).mean(), golden['loss/image'])
  normalised = losses.masked_mse(out['pred'], losses.normalise_patches(target), out['mask']).mean()
  assert_close(normalised, golden['variant/norm_pix_loss/loss_image'])


def test_without_cross_attention(phase2):
  golden, config, images, variables = phase2
  out = jax.jit(lambda noise: IMAGE.apply(variables, images, noise, config['img_mask_ratio']))(
    golden['noise/img_masked']
  )
  assert_close(out['pred'], golden['variant/no_cross_attention/logits'])


def test_gradients_of_a_step_of_phase2(phase2):
  golden, config, images, variables = phase2
  fmri = golden['fmri'][:, 0]
  fmri_variables = from_torch(FMRI, fmri_mae.TABLE, golden_files.group(golden, 'state_fmri'), fmri)

  def loss(both):
    fmri_params, image_params = both
    support = IMAGE.apply({'params': image_params}, images, golden['noise/img_full'], 0.0, method='encode')
    support = jax.lax.stop_gradient(support)
    out = FMRI.apply({'params': fmri_params}, fmri, golden['noise/fmri_masked'], config['mask_ratio'], support)
    fmri_loss = losses.masked_mse(out['pred'], patches.patchify_1d(fmri, 16), out['mask']).mean()
    support = FMRI.apply({'params': fmri_params}, fmri, golden['noise/fmri_full'], 0.0, method='encode')
    out = IMAGE.apply({'params': image_params}, images, golden['noise/img_masked'], config['img_mask_ratio'], support)
    image_loss = losses.masked_mse(out['pred'], patches.patchify_2d(images, 8), out['mask']).mean()
    return config['fmri_recon_weight'] * fmri_loss + config['img_recon_weight'] * image_loss

  value, grads = jax.jit(jax.value_and_grad(loss))((fmri_variables['params'], variables['params']))
  assert_close(value, golden['loss/total'])
  assert_gradients(to_torch(fmri_mae.TABLE, grads[0]), golden_files.group(golden, 'grad_fmri'))
  assert_gradients(to_torch(image_mae.TABLE, grads[1]), golden_files.group(golden, 'grad_image'))


@pytest.mark.parametrize('norm_pix_loss', [False, True])
def test_equals_hugging_face(norm_pix_loss):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  config = transformers.ViTMAEConfig(
    hidden_size=36, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, image_size=35, patch_size=7,
    decoder_hidden_size=28, decoder_num_hidden_layers=2, decoder_num_attention_heads=7, decoder_intermediate_size=20,
    mask_ratio=0.6, norm_pix_loss=norm_pix_loss, initializer_range=0.2,
  )  # fmt: skip
  oracle = transformers.ViTMAEForPreTraining(config).eval()
  oracle.decoder.decoder_norm.eps = 1e-5  # as in the modified copy that phase 2 uses
  model = ImageMAE(35, 7, 36, 3, 3, 40, 28, 2, 7, 20)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, 35, 35, 3)).astype(np.float32)
  noise = rng.random((2, 25)).astype(np.float32)
  state = {name: value.numpy() for name, value in oracle.state_dict().items()}
  variables = from_torch(model, image_mae.TABLE, state, images)
  with torch.no_grad():
    expected = oracle(torch.tensor(images).permute(0, 3, 1, 2), noise=torch.tensor(noise))
  out = jax.jit(lambda: model.apply(variables, images, noise, 0.6))()
  assert_close(out['pred'], expected.logits.numpy())
  assert_close(out['mask'], expected.mask.numpy())
  assert_close(out['ids_restore'], expected.ids_restore.numpy())
  target = patches.patchify_2d(images, 7)
  target = losses.normalise_patches(target) if norm_pix_loss else target
  assert_close(losses.masked_mse(out['pred'], target, out['mask']).mean(), expected.loss.numpy())


@pytest.mark.parametrize(
  'name, sizes', [('vit_mae_base', {}), ('phase2_image', {'decoder_depth': 6, 'cross_depth': 3})]
)
def test_full_size_equals_the_published_names_and_shapes(name, sizes):
  manifest = json.loads((MANIFESTS / f'{name}.json').read_text())
  ours = torch_shapes(image_mae.TABLE, shapes(ImageMAE(**sizes), jnp.zeros((1, 224, 224, 3))))
  assert ours == {key: tuple(shape) for key, shape in manifest.items()}


def test_epsilons():
  seen = epsilons(IMAGE, np.zeros((1, 32, 32, 3), np.float32))
  assert seen.pop('decoder/norm') == 1e-5
  assert len(seen) == 7 and set(seen.values()) == {1e-12}


def test_initialisation():
  params = jax.jit(IMAGE.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
  for path, value in flatten_dict(params, sep='/').items():
    if path.endswith('/kernel') or path.endswith('_token'):
      assert np.std(value) == pytest.approx(0.02, rel=0.35), path
    elif path.endswith('/bias'):
      assert not np.any(value), path
