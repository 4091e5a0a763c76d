"""The classifiers: the Vision Transformer against one put together from PyTorch's own modules, and the small one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brainjax.models.classifier import SmallClassifier, ViT
from brainjax.models.clip import ClipVision
from brainjax.torch_convert import engine
from brainjax.torch_convert.tables.classifier import TABLE
from tests.models.converted import assert_close, from_torch, shapes, to_torch
from tests.models.test_unet import jit

SIZES = dict(num_classes=9, image_size=21, patch_size=7, width=24, depth=3, num_heads=4, mlp_dim=40)


def torch_vit(torch, state, image):
  """Logits of torchvision's layout, from torch modules only: image B 3 H W."""
  nn = torch.nn
  width, heads = state['class_token'].shape[-1], SIZES['num_heads']

  def filled(module, prefix):
    module.load_state_dict({name: state[f'{prefix}.{name}'] for name in module.state_dict()})
    return module

  def linear(prefix):
    return filled(nn.Linear(*reversed(state[f'{prefix}.weight'].shape)), prefix)

  conv = filled(nn.Conv2d(3, width, SIZES['patch_size'], SIZES['patch_size']), 'conv_proj')
  x = conv(image).flatten(2).transpose(1, 2)
  x = torch.cat([state['class_token'].expand(len(x), -1, -1), x], dim=1) + state['encoder.pos_embedding']
  for i in range(SIZES['depth']):
    layer = f'encoder.layers.encoder_layer_{i}'
    h = filled(nn.LayerNorm(width, eps=1e-6), f'{layer}.ln_1')(x)
    attention = filled(nn.MultiheadAttention(width, heads, batch_first=True), f'{layer}.self_attention')
    x = x + attention(h, h, h)[0]
    h = linear(f'{layer}.mlp.0')(filled(nn.LayerNorm(width, eps=1e-6), f'{layer}.ln_2')(x))
    x = x + linear(f'{layer}.mlp.3')(nn.GELU()(h))
  return linear('heads.head')(filled(nn.LayerNorm(width, eps=1e-6), 'encoder.ln')(x)[:, 0])


def test_vit_equals_torch_modules():
  torch = pytest.importorskip('torch')
  model = ViT(**SIZES)
  rng = np.random.default_rng(0)
  image = rng.standard_normal((2, 21, 21, 3), np.float32)
  flat = {path: 0.3 * rng.standard_normal(shape, np.float32) for path, shape in shapes(model, image).items()}
  state = engine.to_torch(TABLE, flat)
  with torch.no_grad():
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    expected = torch_vit(torch, tensors, torch.from_numpy(np.moveaxis(image, -1, 1).copy()))
  variables = from_torch(model, TABLE, state, image)
  assert_close(jit(model.apply)(variables, image), expected.numpy(), 1e-5)
  back = to_torch(TABLE, variables['params'])
  assert set(back) == set(state)


def test_vit_h_14_parameter_count():
  full = shapes(ViT(), jnp.zeros((1, 518, 518, 3)))
  assert sum(map(np.prod, full.values())) == 633_470_440  # torchvision's vit_h_14 with end-to-end SWAG weights
  small = shapes(ViT(image_size=224), jnp.zeros((1, 224, 224, 3)))
  assert sum(map(np.prod, small.values())) == 632_045_800  # torchvision's vit_h_14 at 224 pixels


@pytest.mark.parametrize('model', [ViT(**SIZES), ClipVision(14, 7, 12, 2, 2, 20, 8)], ids=['ViT', 'CLIP'])
def test_networks_that_judge_recompute_nothing(model):
  images = model.example_inputs()[0]
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  gradient = jax.make_jaxpr(jax.grad(lambda variables: model.apply(variables, images).sum()))(variables)
  assert 'remat' not in str(gradient) and 'checkpoint' not in str(gradient)


def test_small_classifier_size():
  count = sum(map(np.prod, shapes(SmallClassifier(50), jnp.zeros((1, 64, 64, 3))).values()))
  assert count < 500_000


def test_small_classifier_learns():
  """Tells the orientation of stripes of random phase after a few steps."""
  model = SmallClassifier(2, widths=(8, 16))
  rng = np.random.default_rng(0)

  def batch(size):
    labels = rng.integers(2, size=size)
    wave = np.sin(np.arange(16) + rng.uniform(0, 2 * np.pi, (size, 1)))[:, :, None, None]  # B 16 1 1
    image = np.broadcast_to(np.where(labels[:, None, None, None], wave, wave.swapaxes(1, 2)), (size, 16, 16, 3))
    return (image + 0.2 * rng.standard_normal(image.shape)).astype(np.float32), labels

  image, labels = batch(64)
  variables = jit(model.init)(jax.random.key(0), image)
  optimizer = optax.adam(3e-3)

  def loss(variables, image, labels):
    return optax.softmax_cross_entropy_with_integer_labels(model.apply(variables, image), labels).mean()

  @jit
  def step(variables, state, image, labels):
    gradients = jax.grad(loss)(variables, image, labels)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(variables, updates), state

  state = optimizer.init(variables)
  for _ in range(40):
    variables, state = step(variables, state, *batch(64))
  image, labels = batch(64)
  logits = jit(model.apply)(variables, image)
  assert logits.shape == (64, 2) and logits.dtype == jnp.float32
  assert np.mean(np.argmax(logits, -1) == labels) > 0.9
