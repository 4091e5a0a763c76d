"""Inception v3, torchvision's and FID's, against timm's module with the same names, from a file to features."""

import functools
import importlib.util

import jax
import numpy as np
import pytest

from benchmarks import timm_modules
from brainjax.checkpoints import save_weights
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.scores import tables
from brainjax.models.inception import InceptionV3
from brainjax.torch_convert.convert_file import convert_file
from brainjax.trees import unflatten

torch = pytest.importorskip('torch')
if importlib.util.find_spec('timm') is None:
  pytest.skip('timm is not installed', allow_module_level=True)

SIDE = 107  # the smallest is 75


def made(num_classes):
  """timm's network with random weights and statistics."""
  torch.manual_seed(num_classes)
  model = timm_modules.load('timm.models.inception_v3').InceptionV3(num_classes=num_classes, aux_logits=True)
  for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
      torch.nn.init.normal_(module.running_mean, 0, 0.1)
      torch.nn.init.uniform_(module.weight, 0.5, 1.5)
      torch.nn.init.normal_(module.bias, 0, 0.1)
    elif isinstance(module, torch.nn.Conv2d):
      torch.nn.init.kaiming_normal_(module.weight)
  return model.eval()


def features_of(model, x):
  """Pooled features, without the second head, which needs larger pictures."""
  return model.forward_postaux(model.forward_preaux(x)).mean(dim=(2, 3))


def check(model, converted, side):
  images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
  with torch.no_grad():
    expected = features_of(model, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    logits = model.fc(expected).numpy()
  network = InceptionV3(**converted.kwargs | {'image_size': side})

  @jax.jit
  def both(params, images):
    return network.apply(params, images, return_features=True), network.apply(params, images)

  found = both({'params': unflatten(converted.params)}, images)
  np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-4 * float(expected.abs().max()))
  np.testing.assert_allclose(found[1], logits, atol=1e-4 * np.abs(logits).max())


def test_equals_pytorch(tmp_path):
  model = made(11)
  torch.save(model.state_dict(), tmp_path / 'inception.pth')
  converted = convert_file(tmp_path / 'inception.pth')
  assert converted.kind == 'inception_v3' and converted.kwargs == {'num_classes': 11, 'fid': False}
  assert any('AuxLogits' in note for note in converted.notes)
  check(model, converted, SIDE)
  # 23.8 M trained values with 1,000 classes and without the second head, as torchvision counts 27,161,264 with it.
  trained = sum(x.size for path, x in converted.params.items() if not path.endswith(('/mean', '/var')))
  aux = sum(p.numel() for p in model.AuxLogits.parameters())
  assert trained == sum(p.numel() for p in model.parameters()) - aux
  assert trained + aux + (1000 - 11) * (2048 + 1 + 768 + 1) == 27_161_264


def test_network_of_fid(tmp_path):
  """pytorch-fid: averages do not count padding, and the last block pools by maximum."""
  model = made(1008)
  state = {name: value for name, value in model.state_dict().items() if not name.startswith('AuxLogits')}
  torch.save(state, tmp_path / 'pt_inception.pth')
  converted = convert_file(tmp_path / 'pt_inception.pth')
  assert converted.kwargs == {'num_classes': 1008, 'fid': True}
  average, maximum = torch.nn.functional.avg_pool2d, torch.nn.functional.max_pool2d
  forward = type(model.Mixed_7c).forward

  def with_maximum(self, x):
    with pytest.MonkeyPatch.context() as inner:
      inner.setattr(torch.nn.functional, 'avg_pool2d', lambda x, **_: maximum(x, 3, stride=1, padding=1))
      return forward(self, x)

  with pytest.MonkeyPatch.context() as change:
    change.setattr(torch.nn.functional, 'avg_pool2d', functools.partial(average, count_include_pad=False))
    model.Mixed_7c.forward = functools.partial(with_maximum, model.Mixed_7c)
    check(model, converted, SIDE)


def test_pictures_are_prepared_as_the_networks_expect(tmp_path, monkeypatch):
  """Bilinear, -1 to 1: torchvision's `transform_input` turns ImageNet's normalisation into that."""
  monkeypatch.setattr(tables, 'BLOCK', 2)
  model = made(11)
  torch.save(model.state_dict(), tmp_path / 'inception.pth')
  converted = convert_file(tmp_path / 'inception.pth')
  settings = converted.kwargs | {'image_size': SIDE}
  save_weights(tmp_path / 'weights', converted.params, {'kind': converted.kind, 'settings': settings})
  pictures = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
  x = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32))
  x = torch.nn.functional.interpolate(x, (SIDE, SIDE), mode='bilinear', align_corners=False).round() / 127.5 - 1
  with torch.no_grad():
    logits = model.fc(features_of(model, x))
  expected = logits.softmax(dim=1).numpy()
  found = classifiers.load(tmp_path / 'weights')
  np.testing.assert_allclose(found.probabilities(pictures), expected, atol=0.02)
  assert found.key == 'inception_v3'
