"""The conversion engine: bits survive a round trip, and everything that does not fit is named."""

import numpy as np
import pytest

from brainjax.errors import UserError
from brainjax.torch_convert import engine
from brainjax.torch_convert.engine import Ignored, Row, add_prefixes, linear, norm

TABLE = [
  *linear('layers.{i}.fc', 'blocks/fc'),
  Row('up.{i}.block.{i}.conv.weight', 'up_{i}/block_{i}/kernel', 'conv2d'),
  Row('patch.weight', 'patch/kernel', 'conv1d'),
  *linear('shortcut', 'shortcut', 'conv1x1_linear'),
  *linear('mapper', 'mapper', 'conv1_linear'),
  *norm('norm', 'norm'),
  Ignored('schedule.{i}', 'computed from the config'),
]
SHAPES = {
  'blocks/fc/kernel': (11, 7, 8), 'blocks/fc/bias': (11, 8), 'up_0/block_2/kernel': (3, 5, 2, 4),
  'up_1/block_0/kernel': (3, 5, 2, 4), 'patch/kernel': (9, 1, 4), 'shortcut/kernel': (7, 9), 'shortcut/bias': (9,),
  'mapper/kernel': (8, 7), 'mapper/bias': (7,), 'norm/scale': (9,), 'norm/bias': (9,),
}  # fmt: skip


@pytest.fixture
def state():
  rng = np.random.default_rng(0)
  shapes = {
    f'layers.{i}.fc.{part}': shape for i in range(11) for part, shape in {'weight': (8, 7), 'bias': (8,)}.items()
  }
  shapes |= {
    'up.0.block.2.conv.weight': (4, 2, 3, 5),
    'up.1.block.0.conv.weight': (4, 2, 3, 5),
    'patch.weight': (4, 1, 9),
  }
  shapes |= {'shortcut.weight': (9, 7, 1, 1), 'shortcut.bias': (9,), 'mapper.weight': (7, 8, 1), 'mapper.bias': (7,)}
  shapes |= {'norm.weight': (9,), 'norm.bias': (9,)}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_values_go_where_the_layout_says(state):
  params = engine.to_jax(TABLE, state, SHAPES)
  assert {path: array.shape for path, array in params.items()} == SHAPES
  for layer in range(11):  # in the order of numbers, not of text: 10 comes last
    np.testing.assert_array_equal(params['blocks/fc/kernel'][layer], state[f'layers.{layer}.fc.weight'].T)
  conv = state['up.0.block.2.conv.weight']
  assert params['up_0/block_2/kernel'][2, 4, 1, 3] == conv[3, 1, 2, 4]
  assert params['patch/kernel'][8, 0, 3] == state['patch.weight'][3, 0, 8]
  assert params['shortcut/kernel'][6, 8] == state['shortcut.weight'][8, 6, 0, 0]
  assert params['mapper/kernel'][7, 6] == state['mapper.weight'][6, 7, 0]


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'float64'])
def test_a_round_trip_keeps_every_bit(state, dtype):
  state = {name: value.astype(dtype) for name, value in reversed(state.items())}
  state['norm.weight'][:3] = np.nan, np.inf, -0.0
  back = engine.to_torch(TABLE, engine.to_jax(TABLE, state, SHAPES))
  assert back.keys() == state.keys()
  for name, value in state.items():
    assert back[name].dtype == value.dtype and back[name].tobytes() == value.tobytes(), name


def test_ignored_tensors_may_be_there_or_not(state):
  assert engine.to_jax(TABLE, state | {'schedule.3': np.zeros(4)}, SHAPES).keys() == SHAPES.keys()


def test_every_offender_is_listed_and_nothing_is_converted(state):
  state['stranger'] = np.zeros(2)
  state['layers.01.fc.weight'] = state['layers.1.fc.weight']
  del state['norm.bias']
  state['mapper.bias'] = np.zeros(6)
  with pytest.raises(UserError) as caught:
    engine.to_jax(TABLE, state, SHAPES, source='weights.pth')
  message = str(caught.value)
  for part in (
    'weights.pth',
    'unknown tensors: stranger',
    'missing for: norm/bias',
    'layers.01.fc.weight',
    'mapper.bias',
  ):
    assert part in message
  assert '(6,)' in message and '(7,)' in message and 'Nothing was converted' in message


@pytest.mark.parametrize(
  'change, message',
  [
    ({'layers.4.fc.bias': None}, 'missing for: layers.4.fc.bias'),
    ({'layers.10.fc.bias': None}, r'10 layers.*expected 11'),
    ({'layers.11.fc.bias': np.zeros(8)}, r'12 layers.*expected 11'),
    ({'layers.4.fc.bias': np.zeros(3)}, r'layers.4.fc.bias \(laid out as \(3,\), expected \(8,\)\)'),
    ({'shortcut.weight': np.zeros((9, 7, 3, 3))}, r'shortcut.weight \(9, 7, 3, 3\)'),
    ({'mapper.weight': np.zeros((7, 8))}, r'mapper.weight \(7, 8\)'),
    ({'up.2.block.0.conv.weight': np.zeros((4, 2, 3, 5))}, 'unknown tensors: up.2.block.0.conv.weight'),
    ({'prefix.norm.bias': np.zeros(9)}, 'unknown tensors: prefix.norm.bias'),
    ({'norm.bias\n': np.zeros(9)}, 'unknown tensors'),
  ],
)
def test_what_does_not_fit_is_named(state, change, message):
  for name, value in change.items():
    state[name] = value
    if value is None:
      del state[name]
  with pytest.raises(UserError, match=message):
    engine.to_jax(TABLE, state, SHAPES)


def test_the_same_place_filled_by_two_names():
  table = [Row('a', 'x', 'same'), Row('b', 'x', 'same')]
  with pytest.raises(UserError, match='several tensors for one place: a, b'):
    engine.to_jax(table, {'a': np.zeros(2), 'b': np.zeros(2)}, {'x': (2,)})


def test_the_way_back_lists_paths_without_a_name():
  with pytest.raises(UserError, match='no torch name for: blocks/other, strange'):
    engine.to_torch(TABLE, {'strange': np.zeros(2), 'blocks/other': np.zeros(2), 'norm/bias': np.zeros(9)})


def test_a_table_with_prefixes():
  table = add_prefixes([Row('w', 'kernel', 'linear'), Ignored('old', 'unused')], 'model.', 'net/')
  params = engine.to_jax(table, {'model.w': np.ones((2, 3)), 'model.old': np.ones(1)}, {'net/kernel': (3, 2)})
  assert engine.to_torch(table, params)['model.w'].shape == (2, 3)
