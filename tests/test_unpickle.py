"""Pickles as data: NumPy objects come back equal, what is unknown becomes an inert stand-in, and nothing is run."""

import collections
import datetime
import decimal
import fractions
import functools
import io
import pickle
import types

import numpy as np
import pytest

from brainjax.datasets.bold5000 import read_picture_dict
from brainjax.errors import UserError
from brainjax.pickled_values import Global, StandIn, to_plain
from brainjax.unpickle import Unpickler, is_pickled_npy, read_pickle, read_pickled_npy
from tests.torch_convert.malice import Reduces, attacks

ATTACKS = ['os.system', 'eval', 'exec', 'open', 'getattr', 'popen', 'path_touch', 'makedirs']


def load(value, protocol=2):
  """(what is read, the names of stand-ins) of a pickled value."""
  data = value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol)
  unpickler = Unpickler(io.BytesIO(data), 'a.pkl')
  return unpickler.load(), unpickler.stand_ins


# What lies beside the weights in real checkpoints, and the name by which it is listed.
STRANGE = {
  'datetime.datetime': datetime.datetime(2026, 1, 2, 3, 4),
  'datetime.timedelta': datetime.timedelta(hours=7),
  'functools.partial': functools.partial(np.add, 1),
  'builtins.slice': slice(1, 7, 2),
  'builtins.range': range(7),
  'numpy.random._pickle.__generator_ctor': np.random.default_rng(0),
  'numpy.random._pickle.__randomstate_ctor': np.random.RandomState(0),
  'numpy.ndarray': np.array(['2026-01-02', '2026-02-03'], 'datetime64[D]'),
  'decimal.Decimal': decimal.Decimal('1.5'),
  'fractions.Fraction': fractions.Fraction(1, 7),
  'types.SimpleNamespace': types.SimpleNamespace(a=1),
  'numpy.ma.core._mareconstruct': np.ma.masked_array([1, 2], [True, False]),
}


@pytest.mark.parametrize('protocol', [0, 2, 5])
@pytest.mark.parametrize('name', STRANGE)
def test_unknown_objects_become_stand_ins(name, protocol):
  value, names = load({'weight': np.ones(3), 'beside': STRANGE[name], 'after': 7}, protocol)
  assert isinstance(value['beside'], StandIn) and name in names
  np.testing.assert_array_equal(value['weight'], np.ones(3))
  assert value['after'] == 7


def test_structured_arrays_become_stand_ins():
  array = np.zeros(3, [('a', 'f4'), ('b', 'i8', (2,))])
  value, _ = load({'table': array, 'pair': (np.arange(3), np.float32(7))})
  assert isinstance(value['table'], StandIn)
  np.testing.assert_array_equal(value['pair'][0], [0, 1, 2])
  assert value['pair'][1] == 7


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4, 5])
def test_plain_values_come_back(protocol):
  values = {
    'last': collections.deque([1, 2], maxlen=20),
    'none': collections.deque(maxlen=3),
    'counts': collections.Counter('abca'),
    'ordered': collections.OrderedDict(b=1, a=2),
    'sets': {1, 2},
    'frozen': frozenset([7]),
    'bytes': b'\xff\0',
    'complex': 1 + 2j,
    'big_endian': np.arange(6, dtype='>i4').reshape(2, 3),
    'fortran': np.asfortranarray(np.random.default_rng(0).normal(size=(7, 8))),
    'objects': np.array([{'a': 1}, None, np.ones(2)], object),
    'texts': np.array(['a', 'bcd']),
    'scalar': np.float64(0.5),
    'dots': Ellipsis,
  }
  got, _ = load(values, protocol)
  assert got['last'] == [1, 2] and got['none'] == [] and got['counts'] == {'a': 2, 'b': 1, 'c': 1}
  for name in ('ordered', 'sets', 'frozen', 'bytes', 'complex', 'scalar'):
    assert got[name] == values[name]
  for name in ('big_endian', 'fortran', 'texts'):
    np.testing.assert_array_equal(got[name], values[name])
  assert got['objects'][0] == {'a': 1} and got['objects'][1] is None
  np.testing.assert_array_equal(got['objects'][2], np.ones(2))
  assert isinstance(got['dots'], Global)


def test_an_unknown_function_is_not_called(tmp_path):
  value, names = load(b'cmy_module\nmy_function\n(S"touch CANARY"\ntR.')
  assert isinstance(value, StandIn) and value.args == ('touch CANARY',) and names == {'my_module.my_function'}
  value, names = load(b'cmy_module\nmy_function\n(tR(S"x"\ntR.')  # its result is called
  assert isinstance(value, StandIn) and names == {'my_module.my_function'}


@pytest.mark.parametrize(
  'pickled',
  [
    b'cos\nsystem\n.',  # only named
    b'cbuiltins\nexec\n.',
    b'ctorch.serialization\nload\n.',
    b'cpathlib\nPath.touch\n.',
    b'cbuiltins\ngetattr\n(cpathlib\nPath\nS"touch"\ntR.',
    b'ctypes\nCodeType\n(tR.',
    b'ccloudpickle.cloudpickle\n_make_function\n(tR.',
    b'cfunctools\npartial\n(cos\nsystem\nS"touch CANARY"\ntR.',
  ],
)
def test_a_function_that_acts_is_refused_with_its_name(pickled):
  with pytest.raises(
    UserError, match='a.pkl names .*, a function of the operating system, of import or of code execution'
  ):
    load(pickled)


def test_omegaconf_nodes_give_their_values():
  node = lambda name, **fields: _stand_in('omegaconf.nodes', name, fields)
  content = {'num_heads': node('AnyNode', _val=8, _parent=None), 'path': node('StringNode', _val='${a.b}')}
  inner = _stand_in(
    'omegaconf.dictconfig', 'DictConfig', {'_content': content, '_metadata': node('Metadata', key=None)}
  )
  sizes = _stand_in('omegaconf.listconfig', 'ListConfig', {'_content': [node('AnyNode', _val=7)]})
  config = _stand_in('omegaconf.dictconfig', 'DictConfig', {'_content': {'model': inner, 'sizes': sizes}})
  assert to_plain(config) == {'model': {'num_heads': 8, 'path': '${a.b}'}, 'sizes': [7]}


def _stand_in(module, name, state):
  value = StandIn(Global(module, name), ())
  value.set_state(state)
  return value


def test_npy_of_a_dictionary(tmp_path):
  betas = np.random.default_rng(0).normal(size=(3, 4, 5, 7)).astype(np.float32)
  np.save(tmp_path / 'a.npy', {'betasmd': betas, 'R2': betas[..., 0], 'pcnum': 4, 'none': None}, allow_pickle=True)
  np.save(tmp_path / 'b.npy', betas)
  (tmp_path / 'c.npy').write_bytes(b'<html>')
  assert [is_pickled_npy(tmp_path / f'{name}.npy') for name in 'abc'] == [True, False, False]
  got = read_pickled_npy(tmp_path / 'a.npy')
  np.testing.assert_array_equal(got['betasmd'], betas)
  assert got['betasmd'].dtype == np.float32 and got['pcnum'] == 4 and got['none'] is None
  (tmp_path / 'd.pkl').write_bytes(pickle.dumps([1, 2]))
  assert read_pickle(tmp_path / 'd.pkl') == [1, 2]


def npy(value, path):
  np.save(path, np.array(value, dtype=object) if not isinstance(value, np.ndarray) else value, allow_pickle=True)
  return path


def test_img_dict(tmp_path):
  rng = np.random.default_rng(0)
  images = {
    'a.jpg': rng.integers(0, 256, (7, 8, 3), np.uint8),
    'b.png': np.asfortranarray(rng.integers(0, 256, (9, 7, 3), np.uint8)),
    'c.jpg': rng.integers(0, 256, (9, 9), np.uint8),
  }
  got = read_picture_dict(npy(images, tmp_path / 'img_dict.npy'))
  assert got.keys() == images.keys()
  for name, image in images.items():
    np.testing.assert_array_equal(got[name], image)
  buffer = io.BytesIO()
  np.lib.format.write_array_header_1_0(buffer, {'descr': '|O', 'fortran_order': False, 'shape': ()})
  for protocol in (0, 1, 2, 3, 4, 5):
    data = buffer.getvalue() + pickle.dumps(np.array(images, dtype=object), protocol=protocol)
    (tmp_path / 'p.npy').write_bytes(data)
    np.testing.assert_array_equal(read_picture_dict(tmp_path / 'p.npy')['b.png'], images['b.png'])


@pytest.mark.parametrize('attack', ATTACKS)
def test_malicious_img_dict_runs_nothing(tmp_path, attack):
  canary = tmp_path / 'canary'
  path = npy({'a.jpg': np.zeros((7, 8, 3), np.uint8), 'b.jpg': attacks(canary)[attack]}, tmp_path / 'img_dict.npy')
  with pytest.raises(UserError, match='malicious') as error:
    read_picture_dict(path)
  assert not canary.exists() and '\n' not in str(error.value)


def test_the_message_about_an_unreadable_img_dict_says_what_it_is(tmp_path):
  with pytest.raises(UserError, match='no such file'):
    read_picture_dict(tmp_path / 'none.npy')
  np.save(tmp_path / 'a.npy', np.zeros(3))
  with pytest.raises(UserError, match=r'holds an array \(3,\) of float64; expected a pickled object'):
    read_picture_dict(tmp_path / 'a.npy')
  with pytest.raises(UserError, match="'a.jpg' is float64"):
    read_picture_dict(npy({'a.jpg': np.zeros((2, 2, 3))}, tmp_path / 'b.npy'))
  (tmp_path / 'c.npy').write_bytes(b'<html>')
  with pytest.raises(UserError, match='not a NumPy file'):
    read_picture_dict(tmp_path / 'c.npy')
  whole = npy({'a.jpg': np.zeros((50, 50, 3), np.uint8)}, tmp_path / 'd.npy').read_bytes()
  (tmp_path / 'e.npy').write_bytes(whole[:-3000])
  with pytest.raises(UserError, match='ends early'):
    read_picture_dict(tmp_path / 'e.npy')
  with pytest.raises(UserError, match='malicious'):
    read_picture_dict(npy({'a.jpg': Reduces(print, 'x')}, tmp_path / 'f.npy'))
