"""Position tables against golden rows, a double loop, and PyTorch's nearest interpolation."""

import math

import numpy as np
import pytest

from brainjax.ops import positions
from tests import golden_files


@pytest.mark.parametrize('width', [1024, 512])
def test_1d_table_equals_the_reference(width):
  golden, _ = golden_files.load('phase1')
  table = positions.sincos_1d(262, width)
  # To the bit on a processor like the reference's. NumPy's float32 powers differ in the last places without AVX-512, and a last
  # place of a rate is 3e-5 of an angle near 262.
  np.testing.assert_allclose(table[golden['sincos1d/rows']], golden[f'sincos1d/dim{width}_len262'], rtol=0, atol=3e-5)
  assert table.shape == (263, width) and table.dtype == np.float32


def test_1d_table_equals_the_formula():
  table = positions.sincos_1d(7, 6)
  assert not table[0].any()
  for position in range(7):
    for i in range(3):
      angle = position * 10000 ** (-i / 3)
      assert table[1 + position, i] == pytest.approx(math.sin(angle), abs=1e-6)
      assert table[1 + position, 3 + i] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize('width', [768, 512])
def test_2d_table_equals_the_reference(width):
  golden, _ = golden_files.load('phase2')
  table = positions.sincos_2d((14, 14), width)
  np.testing.assert_array_equal(table[golden['sincos2d/rows']], golden[f'sincos2d/dim{width}_grid14'])


def test_2d_table_of_an_oblong_grid():
  table = positions.sincos_2d((2, 3), 8)
  line = positions.sincos_1d(3, 4, np.float64)
  assert not table[0].any()
  for row in range(2):
    for column in range(3):
      np.testing.assert_array_equal(table[1 + 3 * row + column], np.concatenate([line[1 + column], line[1 + row]]))


@pytest.mark.parametrize(
  'table, width', [(lambda w: positions.sincos_1d(4, w), 5), (lambda w: positions.sincos_2d((2, 2), w), 6)]
)
def test_impossible_width_is_refused(table, width):
  with pytest.raises(ValueError, match=f'not {width}'):
    table(width)


def test_timestep_embedding_equals_the_reference():
  golden, _ = golden_files.load('unet')
  ours = positions.timestep_embedding(golden['timestep_embedding/t'], 192)
  # One unit in the last place of a rate is 6e-5 of an angle at t = 999.
  np.testing.assert_allclose(ours, golden['timestep_embedding/emb_dim192'], atol=1e-4)


def test_timestep_embedding_of_odd_width_ends_with_zero():
  ours = positions.timestep_embedding(np.array([3]), 5)
  np.testing.assert_allclose(ours, [[math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03), 0]], atol=1e-6)


def test_resize_equals_pytorch_nearest():
  torch = pytest.importorskip('torch')
  for old in (1, 2, 7, 10, 20, 49, 262):
    table = np.random.default_rng(old).normal(size=(1 + old, 3)).astype(np.float32)
    for new in (1, 3, 8, 29, 49, 147, 262, 490):
      rows = torch.tensor(table[1:].T[None])
      expected = torch.nn.functional.interpolate(rows, size=new, mode='nearest')[0].numpy().T
      ours = positions.resize_nearest(table, new)
      np.testing.assert_array_equal(ours[1:], expected, err_msg=f'{old} to {new}')
      np.testing.assert_array_equal(ours[0], table[0])
