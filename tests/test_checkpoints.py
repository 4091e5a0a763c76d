"""Finished weights: whole or absent, never overwritten, damage is told."""

import json

import numpy as np
import pytest
import safetensors.numpy

from brainjax.checkpoints import load_weights, save_weights
from brainjax.errors import UserError

PARAMS = {'a/kernel': np.arange(56, dtype=np.float32).reshape(7, 8), 'b': np.ones((1, 9), np.float32)}


def test_round_trip_and_no_overwriting(tmp_path):
  save_weights(tmp_path / 'w', PARAMS, {'kind': 'test', 'sizes': [7, 8]})
  params, info = load_weights(tmp_path / 'w')
  assert info == {'kind': 'test', 'sizes': [7, 8]}
  assert params.keys() == PARAMS.keys()
  for name, x in PARAMS.items():
    np.testing.assert_array_equal(params[name], x)
  with pytest.raises(UserError, match='exists already'):
    save_weights(tmp_path / 'w', PARAMS, {})
  assert [path.name for path in tmp_path.iterdir()] == ['w']


def test_half_precision_safetensors_come_back_as_float32(tmp_path):
  half = {name: x.astype(np.float16) for name, x in PARAMS.items()}
  safetensors.numpy.save_file(half, tmp_path / 'w.safetensors', metadata={'info': json.dumps({'kind': 'demo'})})
  params, info = load_weights(tmp_path / 'w.safetensors')
  assert info == {'kind': 'demo'}
  assert {x.dtype for x in params.values()} == {np.dtype(np.float32)}


def _no_folder(folder):
  return folder / 'nothing', 'do not exist'


def _other_folder(folder):
  (folder / 'w').mkdir()
  return folder / 'w', 'no weights.json'


def _truncated(folder):
  save_weights(folder / 'w', PARAMS, {})
  for path in (folder / 'w' / 'params').rglob('*'):
    if path.is_file() and path.name != 'weights.json':
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  return folder / 'w', 'damaged'


def _not_safetensors(folder):
  (folder / 'w.safetensors').write_bytes(b'<html>not found</html>')
  return folder / 'w.safetensors', 'damaged'


def _without_info(folder):
  safetensors.numpy.save_file(PARAMS, folder / 'w.safetensors')
  return folder / 'w.safetensors', 'brainjax.convert'


@pytest.mark.parametrize('make', [_no_folder, _other_folder, _truncated, _not_safetensors, _without_info])
def test_bad_weights_are_one_sentence(tmp_path, make):
  path, message = make(tmp_path)
  with pytest.raises(UserError, match=message) as error:
    load_weights(path)
  assert path.name in str(error.value)
