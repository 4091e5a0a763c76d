"""A scanned stack of blocks against timm's, the blocks that the published code is made of."""

import importlib
import importlib.machinery
import sys
import types
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest

from brainjax.models.blocks import Block, run_stack
from brainjax.torch_convert import engine
from brainjax.torch_convert.tables import fmri_mae
from brainjax.trees import flatten, unflatten


class _AnyName(type):
  def __getattr__(cls, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return name


class _Anything(metaclass=_AnyName):
  """Stands for whatever timm takes from torchvision while it is imported; its blocks use none of it."""


@pytest.fixture
def timm_block(monkeypatch):
  """timm's transformer block. timm insists on importing torchvision, which has no build without a GPU everywhere."""
  pytest.importorskip('torch')
  if importlib.util.find_spec('timm') is None:
    pytest.skip('timm is not installed')
  if importlib.util.find_spec('torchvision') is None:
    parts = ('', '.ops', '.ops.misc', '.transforms', '.transforms.functional', '.models', '.models.feature_extraction')
    for name in (*parts, '.datasets', '.datasets.folder', '.utils'):
      module = types.ModuleType('torchvision' + name)
      module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
      module.__path__, module.__version__ = [], '0'
      if name:  # the package itself gives its submodules
        module.__getattr__ = _give
      monkeypatch.setitem(sys.modules, module.__name__, module)
  return importlib.import_module('timm.models.vision_transformer').Block


def _give(name):
  if name.startswith('__'):
    raise AttributeError(name)
  return _Anything


class _Stack(nn.Module):
  @nn.compact
  def __call__(self, x):
    return run_stack(partial(Block, 3, 18), 4, False, x)


def test_a_stack_equals_timms_blocks(timm_block):
  import torch

  torch.manual_seed(5)
  theirs = torch.nn.ModuleList(
    timm_block(24, 3, mlp_ratio=0.75, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-5)) for _ in range(4)
  )
  for parameter in theirs.parameters():
    torch.nn.init.normal_(parameter, 0.1, 0.3)
  x = np.random.default_rng(0).normal(size=(2, 7, 24)).astype(np.float32)
  state = {f'blocks.{name}': value.detach().numpy() for name, value in theirs.state_dict().items()}
  shapes = jax.eval_shape(_Stack().init, jax.random.key(0), x)['params']
  expected = {path: leaf.shape for path, leaf in flatten(shapes).items()}
  flat = engine.to_jax(fmri_mae.blocks('blocks', 'blocks'), state, expected)
  ours = _Stack().apply({'params': unflatten(flat)}, x)
  with torch.no_grad():
    wanted = torch.tensor(x)
    for block in theirs:
      wanted = block(wanted)
  np.testing.assert_allclose(ours, wanted.numpy(), atol=2e-5 * np.abs(wanted.numpy()).max())
