"""The writer: PyTorch and safetensors read back what was written; nothing is overwritten or half written."""

import sys

import numpy as np
import pytest

from brainjax.errors import UserError
from brainjax.torch_convert.writer import check_target, write_state

torch = pytest.importorskip('torch')

RNG = np.random.default_rng(0)
STATE = {
  'a.weight': RNG.normal(size=(7, 8)).astype(np.float32),
  'b.bias': np.float32([1, -0.0, np.inf]),
  'n': np.array(3),
}


def test_torch_reads_it_back_safely(tmp_path):
  write_state(tmp_path / 'a.pth', STATE, 'model', {'epoch': 3, 'config': {'depth': 2}})
  got = torch.load(tmp_path / 'a.pth', weights_only=True)
  assert got['epoch'] == 3 and got['config'] == {'depth': 2}
  assert list(got['model']) == list(STATE)
  for name, array in STATE.items():
    assert got['model'][name].numpy().tobytes() == array.tobytes()
  write_state(tmp_path / 'b.pth', STATE)
  assert list(torch.load(tmp_path / 'b.pth', weights_only=True)) == list(STATE)


def test_safetensors_without_torch(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  write_state(tmp_path / 'a.safetensors', STATE, 'model')
  monkeypatch.undo()
  from safetensors.torch import load_file

  got = load_file(tmp_path / 'a.safetensors')
  assert all(got[name].numpy().tobytes() == array.tobytes() for name, array in STATE.items())


def test_transposed_arrays_are_written_in_their_own_order(tmp_path):
  for name in ('a.pth', 'a.safetensors'):
    write_state(tmp_path / name, {'w': np.ascontiguousarray(STATE['a.weight'].T)})
  from safetensors.torch import load_file

  for got in (torch.load(tmp_path / 'a.pth'), load_file(tmp_path / 'a.safetensors')):
    np.testing.assert_array_equal(got['w'].numpy(), STATE['a.weight'].T)


def test_refusals(tmp_path, monkeypatch):
  (tmp_path / 'a.pth').write_bytes(b'mine')
  with pytest.raises(UserError, match='never overwritten'):
    write_state(tmp_path / 'a.pth', STATE)
  assert (tmp_path / 'a.pth').read_bytes() == b'mine'
  with pytest.raises(UserError, match='suffix .npz'):
    check_target(tmp_path / 'a.npz')
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(UserError, match='PyTorch, which is not installed'):
    check_target(tmp_path / 'b.pth')
  check_target(tmp_path / 'b.safetensors')


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  def broken(value, path):
    path.write_bytes(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(torch, 'save', broken)
  with pytest.raises(UserError, match=r'a\.pth cannot be written .disk full.'):
    write_state(tmp_path / 'a.pth', STATE)
  assert list(tmp_path.iterdir()) == []
