"""The reader: what it reads equals what PyTorch wrote; what is not weights is told apart; nothing in a file is run."""

import collections
import contextlib
import gzip
import pickle
import struct
import sys
import time
import types
import zipfile

import numpy as np
import pytest

from brainjax.errors import UserError
from brainjax.pickled_values import StandIn, to_plain
from brainjax.torch_convert.reader import read_file
from tests.torch_convert.malice import attacks

torch = pytest.importorskip('torch')

LEGACY = {'zip': False, 'legacy': True}
ATTACKS = ['os.system', 'eval', 'exec', 'open', 'getattr', 'popen', 'path_touch', 'makedirs']


def save(value, path, form='zip', protocol=2):
  torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not LEGACY[form])
  return path


@pytest.fixture
def config_object():
  """An instance of a class whose module is gone once it is pickled, as those in the releases."""
  module = types.ModuleType('config')
  config = type('Config_MBM_fMRI', (), {'__module__': 'config'})
  inner = type('ViTMAEConfig', (), {'__module__': 'config'})
  module.Config_MBM_fMRI, module.ViTMAEConfig = config, inner
  sys.modules['config'] = module
  value = config()
  value.num_heads, value.mlp_ratio, value.root_path = 8, 1.0, '../'
  value.vit = inner()
  value.vit.num_attention_heads = 3
  yield value
  sys.modules.pop('config', None)


@pytest.mark.parametrize('form', LEGACY)
@pytest.mark.parametrize('protocol', [2, 4])
def test_equals_what_torch_wrote(tmp_path, form, protocol):
  generator = torch.Generator().manual_seed(0)
  base = torch.randn(9, 8, generator=generator)
  state = collections.OrderedDict(
    plain=torch.randn(7, 8, 9, generator=generator),
    transposed_slice=base.t()[1:, 2:5],
    shares_its_storage=base[3:],
    half=base.half(),
    bfloat16=base.bfloat16(),
    double=base.double(),
    scalar=torch.tensor(5.0),
    integers=torch.arange(7),
    flags=torch.tensor([True, False]),
    empty=torch.empty(0, 3),
    parameter=torch.nn.Parameter(base[0]),
  )
  content = read_file(save({'model': state, 'epoch': 3, 'lr': np.float64(0.5)}, tmp_path / 'a.pth', form, protocol))
  assert content.value['epoch'] == 3 and content.value['lr'] == 0.5
  for name, tensor in state.items():
    lazy = content.value['model'][name]
    assert str(lazy.dtype) == str(tensor.dtype).removeprefix('torch.')
    expected = tensor.detach().float().numpy() if tensor.is_floating_point() else tensor.numpy()
    np.testing.assert_array_equal(np.asarray(lazy), expected)
    assert np.asarray(lazy).dtype == expected.dtype


@pytest.mark.parametrize('form', LEGACY)
def test_config_objects_become_stand_ins_without_their_module(tmp_path, form, config_object):
  path = save({'config': config_object, 'list': [config_object]}, tmp_path / 'a.pth', form)
  del sys.modules['config']
  value = read_file(path).value
  config = value['config']
  assert isinstance(config, StandIn) and str(config.kind) == 'config.Config_MBM_fMRI'
  assert to_plain(config) == {'num_heads': 8, 'mlp_ratio': 1.0, 'root_path': '../', 'vit': {'num_attention_heads': 3}}
  assert value['list'][0] is config


def test_plain_is_bounded():
  bomb = []
  for _ in range(6):
    bomb = [bomb] * 1000
  assert to_plain(bomb) is not None


@pytest.mark.parametrize('form', LEGACY)
def test_optimizer_and_random_states_are_read_over(tmp_path, form):
  layer = torch.nn.Linear(7, 8)
  optimizer = torch.optim.AdamW(layer.parameters())
  layer(torch.ones(7)).sum().backward()
  optimizer.step()
  value = {
    'model': layer.state_dict(),
    'optimizer': optimizer.state_dict(),
    'state': torch.get_rng_state(),
    'device': torch.device('cpu'),
    'size': torch.Size([7, 8]),
    'dtype': torch.float16,
    'counts': collections.defaultdict(int, a=1),
    'array': np.arange(6).reshape(2, 3),
    'set': {1, 2},
    'bytes': b'\xff',
  }
  got = read_file(save(value, tmp_path / 'a.pth', form)).value
  np.testing.assert_array_equal(got['model']['weight'], layer.weight.detach().numpy())
  np.testing.assert_array_equal(got['array'], value['array'])
  assert got['size'] == (7, 8) and got['set'] == {1, 2} and got['bytes'] == b'\xff' and got['counts'] == {'a': 1}


def test_safetensors_under_any_suffix(tmp_path):
  from safetensors.torch import save_file

  state = {'a': torch.randn(7, 8), 'b': torch.randn(9).bfloat16(), 'c': torch.arange(3)}
  for name in ('a.safetensors', 'b.pth'):
    save_file(state, tmp_path / name, metadata={'format': 'pt'})
    content = read_file(tmp_path / name)
    for key, tensor in state.items():
      np.testing.assert_array_equal(content.value[key], tensor.float().numpy() if key != 'c' else tensor.numpy())
    assert any('under another suffix' in note for note in content.notes) == (name == 'b.pth')


@pytest.mark.parametrize('form', LEGACY)
@pytest.mark.parametrize('attack', ATTACKS)
@pytest.mark.parametrize('where', ['top', 'beside', 'in_config', 'in_state_dict'])
def test_malicious_files_run_nothing(tmp_path, form, attack, where, config_object):
  canary = tmp_path / 'canary'
  bad = attacks(canary)[attack]
  config_object.root_path = bad
  value = {
    'top': bad,
    'beside': {'model': {'a': torch.ones(3)}, 'extra': [bad]},
    'in_config': {'model': {'a': torch.ones(3)}, 'config': config_object},
    'in_state_dict': {'a': torch.ones(3), 'b': bad},
  }[where]
  path = save(value, tmp_path / 'a.pth', form)
  assert not canary.exists()
  with pytest.raises(UserError) as error:
    read_file(path)
  assert not canary.exists()
  assert str(path) in str(error.value) and 'malicious' in str(error.value) and '\n' not in str(error.value)


def test_the_attacks_are_real(tmp_path):
  for name, bad in attacks(tmp_path / 'canary').items():
    pickle.loads(pickle.dumps(bad))
    if name == 'getattr':
      continue  # only fetches the method; a second reduce would call it
    for _ in range(100):
      if (tmp_path / 'canary').exists():
        break
      time.sleep(0.02)
    canary = tmp_path / 'canary'
    assert canary.exists(), name
    canary.rmdir() if canary.is_dir() else canary.unlink()


@pytest.mark.parametrize(
  'opcodes',
  [
    b'cos\nsystem\n(S"touch CANARY"\ntR.',  # GLOBAL REDUCE
    b'(S"touch CANARY"\nios\nsystem\n.',  # INST
    b'(cos\nsystem\nS"touch CANARY"\no.',  # OBJ
    b'\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch CANARY\x85\x81.',  # NEWOBJ
    b'\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.',  # STACK_GLOBAL
    b'cposix\nsystem\n(S"touch CANARY"\ntR.',
    b"c__builtin__\neval\n(S\"open('CANARY', 'w')\"\ntR.",
    b'\x80\x02\x82\x01.',  # EXT1
    b'cbuiltins\n__import__\n(S"os"\ntR.',
    b'cfunctools\npartial\n(cos\nsystem\nS"touch CANARY"\ntR.',
  ],
)
def test_handwritten_pickles_run_nothing(tmp_path, monkeypatch, opcodes):
  monkeypatch.chdir(tmp_path)
  with zipfile.ZipFile('a.pth', 'w') as archive:
    archive.writestr('archive/data.pkl', opcodes)
    archive.writestr('archive/version', '3\n')
  with pytest.raises(UserError, match='malicious|cannot be read as data'):
    read_file('a.pth')
  assert not (tmp_path / 'CANARY').exists()


def test_build_state_cannot_reach_our_objects(tmp_path):
  class Sneaky:
    def __reduce__(self):
      return collections.OrderedDict, (), {'__class__': 'x', 'items': 'y'}

  got = read_file(save({'a': Sneaky()}, tmp_path / 'a.pth')).value
  assert type(got['a']) is collections.OrderedDict and list(got['a'].items()) == []


def tampered(path, old, new):
  """Rewrites data.pkl of a zip file, everything else the same."""
  with zipfile.ZipFile(path) as archive:
    entries = {name: archive.read(name) for name in archive.namelist()}
  with zipfile.ZipFile(path, 'w') as archive:
    for name, data in entries.items():
      if name.endswith('data.pkl'):
        assert old in data
        data = data.replace(old, new)
      archive.writestr(name, data)
  return path


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    (b'K\x08K\x09\x86', b'K\x09K\x09\x86'),  # a larger shape
    (b'K\x08K\x09\x86', b'J\xff\xff\xff\x7fK\x00\x86'.replace(b'K\x00', b'K\x09')),  # a giant one
    (b'K\x09K\x01\x86', b'K\x0aK\x01\x86'),  # strides past the end
    (b'K\x09K\x01\x86', b'J\xff\xff\xff\xffK\x01\x86'),  # a negative stride
    (b'cpuq', b'cpuq'),
    (b'KHt', b'MH\x48t'),  # numel of the storage
    (b'FloatStorage', b'DoubleStorage'),  # a wider element type
  ],
)
def test_claims_are_checked_against_the_file(tmp_path, old, new):
  path = save({'a': torch.randn(8, 9)}, tmp_path / 'a.pth')
  if old == new:
    read_file(tampered(path, old, new))
    return
  with pytest.raises(UserError, match='damaged|cannot be read as data'):
    read_file(tampered(path, old, new)).value['a'].read()


def test_expanded_tensor_makes_no_room(tmp_path):
  path = tampered(save({'a': torch.randn(8, 9)}, tmp_path / 'a.pth'), b'K\x08K\x09\x86', b'J\xff\xff\xff\x7fK\x09\x86')
  tampered(path, b'K\x09K\x01\x86', b'K\x00K\x00\x86')
  with pytest.raises(UserError, match='storage of only 72 values'):
    read_file(path)


@pytest.mark.parametrize(
  'pickled',
  [
    b'\x80\x04\x8e' + struct.pack('<Q', 1 << 60) + b'x.',  # bytes of a claimed exabyte
    b'\x80\x05\x96' + struct.pack('<Q', 1 << 40) + b'x.',  # bytearray
    b'\x80\x04\x8d' + struct.pack('<Q', 1 << 40) + b'x.',  # text
    b'\x80\x04\x95' + struct.pack('<Q', 1 << 40) + b'x.',  # frame
    b'\x80\x02K\x01r\xff\xff\xff\x7f.',  # a memo slot far away: fine, and cheap
  ],
)
def test_claimed_lengths_make_no_room(tmp_path, pickled):
  import tracemalloc

  path = tmp_path / 'a.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', pickled)
  tracemalloc.start()
  with contextlib.suppress(UserError):
    read_file(path)
  assert tracemalloc.get_traced_memory()[1] < 50e6
  tracemalloc.stop()


def test_flipped_bit_is_detected(tmp_path):
  path = save({'a': torch.zeros(1000)}, tmp_path / 'a.pth')
  data = bytearray(path.read_bytes())
  at = data.index(b'\x00' * 4000)
  data[at + 2000] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match='checksum'):
    read_file(path).value['a'].read()


def test_file_without_checksums_is_read(tmp_path):
  from torch.utils.serialization import config

  config.save.compute_crc32 = False
  try:
    path = save({'a': torch.ones(9)}, tmp_path / 'a.pth')
  finally:
    config.save.compute_crc32 = True
  np.testing.assert_array_equal(read_file(path).value['a'], np.ones(9))


def test_every_truncation_is_one_sentence(tmp_path):
  state = {'a': torch.randn(20, 9), 'b': torch.randn(7)}
  for form in LEGACY:
    data = save(state, tmp_path / 'whole.pth', form).read_bytes()
    for cut in {1, 5, 9, 64, 200, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 22, len(data) - 1}:
      (tmp_path / 'cut.pth').write_bytes(data[:cut])
      with pytest.raises(UserError) as error:
        read_file(tmp_path / 'cut.pth')
      assert '\n' not in str(error.value)
  from safetensors.torch import save_file

  save_file(state, tmp_path / 'whole.safetensors')
  data = (tmp_path / 'whole.safetensors').read_bytes()
  for cut in (3, 40, len(data) - 1):
    (tmp_path / 'cut.safetensors').write_bytes(data[:cut])
    with pytest.raises(UserError):
      read_file(tmp_path / 'cut.safetensors')


@pytest.mark.parametrize(
  ('content', 'says'),
  [
    (b'', 'is empty'),
    (b'<!DOCTYPE html><html>', 'HTML page'),
    (b'\n  <html lang="en">', 'HTML page'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n', 'Git LFS pointer'),
    (b'PK\x03\x04' + bytes(200), 'truncated zip'),
    (gzip.compress(b'weights', mtime=0), 'is compressed with gzip; unpack it'),
    (b'\x89HDF\r\n\x1a\n' + bytes(100), 'neither a PyTorch nor a safetensors'),
    (b'\x80\x02}q\x00.', 'neither a PyTorch nor a safetensors'),
  ],
)
def test_the_message_about_an_unreadable_file_says_what_it_is(tmp_path, content, says):
  (tmp_path / 'a.pth').write_bytes(content)
  with pytest.raises(UserError, match=says) as error:
    read_file(tmp_path / 'a.pth')
  assert str(tmp_path / 'a.pth') in str(error.value)


def test_the_message_about_a_wrong_path_says_what_it_is(tmp_path):
  with pytest.raises(UserError, match='does not exist'):
    read_file(tmp_path / 'none.pth')
  (tmp_path / 'dir').mkdir()
  (tmp_path / 'dir' / 'model.bin').touch()
  with pytest.raises(UserError, match='is a directory.*model.bin'):
    read_file(tmp_path / 'dir')
  with zipfile.ZipFile(tmp_path / 'photos.pth', 'w') as archive:
    archive.writestr('photo.jpg', b'x')
  with pytest.raises(UserError, match='not one of PyTorch.*photo.jpg'):
    read_file(tmp_path / 'photos.pth')


def test_a_changed_byte_of_the_pickle_is_reported(tmp_path):
  path = save({'state_dict': {'weight': torch.ones(7)}, 'heads': 12345}, tmp_path / 'a.pth')
  data = path.read_bytes()
  assert data.count(struct.pack('<H', 12345)) == 1
  path.write_bytes(data.replace(struct.pack('<H', 12345), struct.pack('<H', 12344)))
  with pytest.raises(UserError, match='is damaged: the checksum of a/data.pkl in it is wrong'):
    read_file(path)
