"""ResNet-50 against timm's module, which has torchvision's names: SwAV's release without a head, torchvision's with one."""

import importlib.util

import jax
import numpy as np
import pytest

from benchmarks import timm_modules
from brainjax.models.resnet import ResNet
from brainjax.torch_convert.convert_file import convert_file
from brainjax.trees import lists_to_tuples, unflatten
from tests.models.converted import assert_close
from tests.models.test_efficientnet import randomise

torch = pytest.importorskip('torch')
if importlib.util.find_spec('timm') is None:
  pytest.skip('timm is not installed', allow_module_level=True)


@pytest.mark.parametrize('num_classes', [0, 9])
def test_equals_pytorch(tmp_path, num_classes):
  torch.manual_seed(1)
  timm = timm_modules.load('timm.models.resnet')
  model = randomise(timm.ResNet(timm.Bottleneck, [3, 4, 6, 3], num_classes=num_classes))
  state = model.state_dict()
  assert sum(p.numel() for p in model.parameters()) == 25_557_032 - (2048 + 1) * (
    1000 - num_classes
  )  # torchvision's count
  if not num_classes:  # as SwAV's file has it
    state = {f'module.{name}': value for name, value in state.items()}
    state |= {'module.projection_head.0.weight': torch.ones(4, 4), 'module.prototypes.weight': torch.ones(5, 4)}
  torch.save(state, tmp_path / 'resnet.pth')
  converted = convert_file(tmp_path / 'resnet.pth')
  assert converted.kind == 'resnet50' and converted.kwargs['num_classes'] == num_classes
  assert any('training of SwAV' in note for note in converted.notes) == (not num_classes)
  network = ResNet(**lists_to_tuples(converted.kwargs))
  images = np.random.default_rng(0).normal(size=(2, 71, 66, 3)).astype(np.float32)
  with torch.no_grad():
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    expected, logits = model.forward_features(x).mean((2, 3)).numpy(), model(x).numpy()

  @jax.jit
  def both(params, images):
    return network.apply(params, images, return_features=True), network.apply(params, images)

  found = both({'params': unflatten(converted.params)}, images)
  assert_close(found[0], expected, 1e-4)
  assert_close(found[1], logits, 1e-4)
