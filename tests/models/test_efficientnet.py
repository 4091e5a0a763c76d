"""EfficientNet-B1 against torch modules with torchvision's names. EfficientNet-Lite0: tests/evaluation/networks/test_classifiers.py."""

import jax
import numpy as np
import pytest

from brainjax.models.efficientnet import EfficientNet
from brainjax.torch_convert.convert_file import convert_file
from brainjax.trees import unflatten
from tests.models.converted import assert_close

torch = pytest.importorskip('torch')
nn = torch.nn
# Widening, kernel, stride, width, repeats of each stage: table 1 of the paper with 1.1 times its depth.
STAGES = (
  (1, 3, 1, 16, 2),
  (6, 3, 2, 24, 3),
  (6, 5, 2, 40, 3),
  (6, 3, 2, 80, 4),
  (6, 5, 1, 112, 4),
  (6, 5, 2, 192, 5),
  (6, 3, 1, 320, 2),
)


def layer(inputs, outputs, kernel, stride=1, groups=1, activation=True):
  conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
  return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.SiLU()] if activation else []))


class Gate(nn.Module):
  def __init__(self, channels, squeezed):
    super().__init__()
    self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

  def forward(self, x):
    return x * torch.sigmoid(self.fc2(nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Block(nn.Module):
  def __init__(self, inputs, outputs, widen, kernel, stride):
    super().__init__()
    inner = inputs * widen
    parts = [layer(inputs, inner, 1)] if widen > 1 else []
    parts += [layer(inner, inner, kernel, stride, inner), Gate(inner, inputs // 4), layer(inner, outputs, 1, activation=False)]  # fmt: skip
    self.block = nn.Sequential(*parts)
    self.shortcut = stride == 1 and inputs == outputs

  def forward(self, x):
    return x + self.block(x) if self.shortcut else self.block(x)


def make(num_classes):
  """torchvision's network with random weights and statistics."""
  torch.manual_seed(0)
  stages, inputs = [layer(3, 32, 3, 2)], 32
  for widen, kernel, stride, width, repeats in STAGES:
    blocks = [Block(width if i else inputs, width, widen, kernel, 1 if i else stride) for i in range(repeats)]
    stages.append(nn.Sequential(*blocks))
    inputs = width
  stages.append(layer(320, 1280, 1))
  model = nn.Module()
  model.features = nn.Sequential(*stages)
  model.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
  return randomise(model)


def randomise(model):
  """Weights and statistics under which signals keep their size, so that each of them counts."""
  for module in model.modules():
    if isinstance(module, nn.BatchNorm2d):
      nn.init.uniform_(module.running_var, 0.5, 1.5)
      nn.init.normal_(module.running_mean, 0, 0.1)
      nn.init.uniform_(module.weight, 0.5, 1.5)
      nn.init.normal_(module.bias, 0, 0.1)
    elif isinstance(module, nn.Conv2d):
      nn.init.kaiming_normal_(module.weight)
  return model.eval()


def test_equals_pytorch(tmp_path):
  model = make(7)
  torch.save(model.state_dict(), tmp_path / 'b1.pth')
  converted = convert_file(tmp_path / 'b1.pth')
  assert converted.kind == 'efficientnet_b1' and converted.kwargs['num_classes'] == 7
  network = EfficientNet(**converted.kwargs)
  images = np.random.default_rng(0).normal(size=(2, 75, 66, 3)).astype(np.float32)
  with torch.no_grad():
    expected = model.features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).mean((2, 3))
    logits = model.classifier(expected).numpy()

  @jax.jit
  def both(params, images):
    return network.apply(params, images, return_features=True), network.apply(params, images)

  found = both({'params': unflatten(converted.params)}, images)
  assert_close(found[0], expected.numpy(), 1e-4)
  assert_close(found[1], logits, 1e-4)


def test_number_of_parameters_is_the_published_one():
  network = EfficientNet(num_classes=1000, groups=tuple((r, k, s, e, w) for e, k, s, w, r in STAGES), lite=False)
  tree = jax.eval_shape(network.init, jax.random.key(0), *network.example_inputs())['params']
  paths = jax.tree_util.tree_leaves_with_path(tree)
  assert sum(x.size for path, x in paths if path[-1].key not in ('mean', 'var')) == 7_794_184  # torchvision's page
