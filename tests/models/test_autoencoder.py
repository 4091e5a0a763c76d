"""The first stages against the golden numbers, the published manifest and diffusers' PyTorch autoencoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.autoencoder import KLModel, VQModel
from brainjax.torch_convert import engine
from brainjax.torch_convert.tables.autoencoder import KL_TABLE, VQ_TABLE
from tests import golden_files
from tests.models.converted import assert_close, from_torch, shapes, to_torch, torch_shapes
from tests.models.test_unet import jit, manifest, nchw, nhwc


@pytest.fixture(scope='module')
def small():
  golden, config = golden_files.load('vqvae')
  model = VQModel(
    config['ch'], tuple(config['ch_mult']), config['num_res_blocks'],
    n_embed=config['n_embed'], resolution=config['resolution'],
  )  # fmt: skip
  image = nhwc(golden['image'])
  return golden, model, from_torch(model, VQ_TABLE, golden_files.group(golden, 'state'), image), image


def test_encode(small):
  golden, model, variables, image = small
  keep_encoder = dict(capture_intermediates=lambda module, _: module.name == 'encoder', mutable='intermediates')
  latent, taps = jit(lambda x: model.apply(variables, x, method='encode', **keep_encoder))(image)
  assert_close(nchw(taps['intermediates']['encoder']['__call__'][0]), golden['encode/encoder_features'])
  assert_close(nchw(latent), golden['encode/latent_prequant'])


def test_quantize(small):
  golden, model, variables, _ = small
  latent = nhwc(golden['encode/latent_prequant'])
  quantized = model.apply(variables, latent, method='quantize')
  np.testing.assert_array_equal(quantized.indices, golden['quantize/indices'])
  assert_close(nchw(quantized.z_q), golden['quantize/z_q'])
  assert quantized.loss.shape == (2,)
  np.testing.assert_allclose(quantized.loss.mean(), golden['quantize/loss'], rtol=1e-5)
  random = model.apply(variables, nhwc(golden['decode/random_latent_in']), method='quantize')
  np.testing.assert_array_equal(random.indices, golden['quantize/random_latent_indices'])


def test_decode(small):
  golden, model, variables, _ = small
  latent = nhwc(golden['encode/latent_prequant'])

  @jit
  def decode(z):
    return model.apply(variables, z, method='decode', mutable='intermediates')

  image, taps = decode(latent)
  assert_close(nchw(image), golden['decode/quantized'])
  assert_close(nchw(taps['intermediates']['tap_post_quant_conv'][0]), golden['decode/post_quant_conv'])
  assert_close(nchw(decode(nhwc(golden['decode/random_latent_in']))[0]), golden['decode/random_latent_out'])
  raw = jit(lambda z: model.apply(variables, z, quantize=False, method='decode'))(latent)
  assert_close(nchw(raw), golden['decode/force_not_quantize'])


def test_call_reconstructs(small):
  golden, model, variables, image = small
  reconstruction, quantized = jit(model.apply)(variables, image)
  assert_close(nchw(reconstruction), golden['decode/quantized'])
  np.testing.assert_array_equal(quantized.indices, golden['quantize/indices'])


def test_torch_round_trip(small):
  golden, _, variables, _ = small
  back, state = to_torch(VQ_TABLE, variables['params']), golden_files.group(golden, 'state')
  assert set(back) == set(state)
  for name, value in state.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_gradients_of_quantisation():
  model = VQModel(n_embed=5, beta=0.25)
  rng = np.random.default_rng(3)
  z, codebook = rng.standard_normal((2, 3, 4, 3), np.float32), rng.standard_normal((5, 3), np.float32)
  weight = rng.standard_normal(z.shape, np.float32)
  vectors = z.reshape(-1, 3)
  nearest = np.argmin(np.square(vectors[:, None] - codebook).sum(-1), axis=1)

  def objective(z, codebook, loss_scale):
    quantized = model.apply({'params': {'codebook': codebook}}, z, method='quantize')
    return jnp.sum(quantized.z_q * weight) + loss_scale * jnp.sum(quantized.loss)

  straight, none = jax.grad(objective, argnums=(0, 1))(z, codebook, 0.0)
  np.testing.assert_allclose(straight, weight, rtol=1e-6)  # straight through
  assert not none.any()  # codes learn from their loss only
  grad_z, grad_codes = jax.grad(objective, argnums=(0, 1))(z, codebook, 1.0)
  difference = 2 * (vectors - codebook[nearest]) / z[0].size
  np.testing.assert_allclose(grad_z - weight, 0.25 * difference.reshape(z.shape), atol=1e-5)
  by_hand = np.zeros_like(codebook)
  np.add.at(by_hand, nearest, -difference)
  np.testing.assert_allclose(grad_codes, by_hand, atol=1e-5)


def test_fewer_groups():
  model = VQModel(ch=16, ch_mult=(1, 1), num_res_blocks=1, n_embed=7, num_groups=8)
  image = np.linspace(-1, 1, 2 * 8 * 12 * 3, dtype=np.float32).reshape(2, 8, 12, 3)
  variables, _ = random_state(model, VQ_TABLE, image)
  reconstruction, quantized = jit(model.apply)(variables, image)
  assert reconstruction.shape == image.shape and quantized.z_q.shape == (2, 4, 6, 3)
  assert np.all(np.isfinite(reconstruction))


def test_vq_f4_equals_the_published_names_and_shapes():
  assert torch_shapes(VQ_TABLE, shapes(VQModel(), jnp.zeros((1, 256, 256, 3)))) == manifest('vq_f4')


def test_training_losses_in_a_checkpoint_are_ignored(small):
  golden, model, _, image = small
  extra = ('logvar', 'perceptual_loss.net.slice1.0.weight', 'discriminator.main.3.num_batches_tracked')
  state = golden_files.group(golden, 'state') | {f'loss.{name}': np.zeros(1) for name in extra}
  assert from_torch(model, VQ_TABLE, state, image)


def random_state(model, table, image):
  """Random weights as (variables, PyTorch state dict); the encoder and decoder are kept tame by the normalisations."""
  rng = np.random.default_rng(1)
  flat = {path: 0.1 * rng.standard_normal(shape, np.float32) for path, shape in shapes(model, image).items()}
  state = engine.to_torch(table, flat)
  return from_torch(model, table, state, image), state


def convert(state, oracle):
  torch = pytest.importorskip('torch')
  from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

  return convert_ldm_vae_checkpoint({name: torch.from_numpy(value) for name, value in state.items()}, oracle.config)


SIZES = dict(layers_per_block=1, block_out_channels=(32, 64, 64))
BLOCKS = dict(down_block_types=('DownEncoderBlock2D',) * 3, up_block_types=('UpDecoderBlock2D',) * 3)


def test_vq_equals_diffusers():
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  model = VQModel(32, (1, 2, 2), 1, z_channels=5, embed_dim=7, n_embed=9)
  oracle = diffusers.VQModel(latent_channels=5, vq_embed_dim=7, num_vq_embeddings=9, **SIZES, **BLOCKS).eval()
  image = np.random.default_rng(2).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
  variables, state = random_state(model, VQ_TABLE, image)
  latent = jit(lambda x: model.apply(variables, x, method='encode'))(image)
  codes = np.asarray(latent).reshape(-1, 7)[::5][:9].copy()  # codes that are all in use
  variables['params']['codebook'] = codes
  oracle.load_state_dict(convert(state, oracle) | {'quantize.embedding.weight': torch.from_numpy(codes)})
  reconstruction, quantized = jit(model.apply)(variables, image)
  with torch.no_grad():
    expected = oracle.encode(torch.from_numpy(nchw(image).copy())).latents
    codes, _, (_, _, indices) = oracle.quantize(expected)
    decoded = oracle.decode(expected).sample
  assert_close(nchw(latent), expected.numpy(), 2e-5)
  np.testing.assert_array_equal(np.ravel(quantized.indices), indices.numpy())
  assert len(set(indices.tolist())) == 9
  assert_close(nchw(quantized.z_q), codes.numpy(), 2e-5)
  assert_close(nchw(reconstruction), decoded.numpy(), 2e-5)


def test_kl_equals_diffusers():
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  model = KLModel(32, (1, 2, 2), 1, z_channels=5, embed_dim=5)
  oracle = diffusers.AutoencoderKL(latent_channels=5, **SIZES, **BLOCKS).eval()
  image = np.random.default_rng(2).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
  variables, state = random_state(model, KL_TABLE, image)
  oracle.load_state_dict(convert(state, oracle))
  reconstruction, posterior = jit(model.apply)(variables, image)
  with torch.no_grad():
    expected = oracle.encode(torch.from_numpy(nchw(image).copy())).latent_dist
    decoded = oracle.decode(expected.mean).sample
  assert_close(nchw(posterior.mean), expected.mean.numpy(), 2e-5)
  assert_close(nchw(posterior.log_var), expected.logvar.numpy(), 2e-5)
  assert_close(nchw(reconstruction), decoded.numpy(), 2e-5)
