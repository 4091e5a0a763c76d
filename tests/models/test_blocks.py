"""A scanned stack of blocks against timm's, the blocks that the published code is made of."""

import importlib.util
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest

from benchmarks import timm_modules
from brainjax.models.blocks import Block, run_stack
from brainjax.torch_convert import engine
from brainjax.torch_convert.tables import fmri_mae
from brainjax.trees import flatten, unflatten


class _Stack(nn.Module):
  @nn.compact
  def __call__(self, x):
    return run_stack(partial(Block, 3, 18), 4, 'nothing', x)


def test_a_stack_equals_timms_blocks():
  pytest.importorskip('torch')
  if importlib.util.find_spec('timm') is None:
    pytest.skip('timm is not installed')
  timm_block = timm_modules.load('timm.models.vision_transformer').Block
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
