"""`hf://`, `brainjax fetch` and `brainjax pack --push` against a server on loopback that speaks the hub's protocol."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi, constants, file_download

from brainjax import fetch, hub, info, pack
from brainjax.checkpoints import load_weights, save_weights
from brainjax.errors import UserError
from tests.hub_server import Hub

TREE = {'a': np.random.default_rng(0).normal(size=(30, 40)).astype('f'), 'b/c': np.arange(7, dtype='f')}
INFO = {'kind': 'diffuse', 'settings': {'unet': {'width': 3}}, 'num_voxels': 7}


@pytest.fixture
def server(tmp_path, monkeypatch):
  """The hub, running; an empty cache, and the packed weights of `INFO`."""
  this = Hub()
  save_weights(tmp_path / 'w', TREE, INFO)
  pack.pack(tmp_path / 'w', tmp_path / 'packed')
  with this.running() as address:
    monkeypatch.setattr(constants, 'ENDPOINT', address)
    template = address + '/{repo_id}/resolve/{revision}/{filename}'
    monkeypatch.setattr(file_download, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 100)
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)  # between attempts
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('BRAINJAX_CACHE', str(tmp_path / 'own_cache'))
    this.address = address
    hub.weights.cache_clear()
    yield this
    hub.weights.cache_clear()


def _publish(server, folder, name='lab/model'):
  files = (path for path in folder.rglob('*') if path.is_file())
  server.repositories[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _same(source):
  flat, facts = load_weights(source)
  assert flat.keys() == TREE.keys() and all(np.array_equal(flat[name], TREE[name]) for name in TREE)
  assert facts['kind'] == 'diffuse' and facts['settings'] == INFO['settings']


def test_weights_on_the_hub_are_fetched_once_and_then_in_the_cache(server, tmp_path, monkeypatch):
  _publish(server, tmp_path / 'packed')
  server.repositories['lab/model']['huge.bin'] = b'not ours'
  for source in ('hf://lab/model', 'hf://lab/model@main'):
    _same(source)
  assert not [path for _, path in server.requests if 'huge' in path]
  gets = sum(method == 'GET' and 'model.safetensors' in path for method, path in server.requests)
  assert gets == 1
  assert 'weights   of diffuse: 1,207 values' in '\n'.join(info.describe('hf://lab/model'))
  # Without a network the cache serves; what is not in it is told in one sentence.
  monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
  hub.weights.cache_clear()
  _same('hf://lab/model')
  with pytest.raises(UserError, match='hf://lab/other is not in the cache, and http://127.0.0.1:9/lab/other cannot be'):
    load_weights('hf://lab/other')


class _ConnectError(type('TransportError', (Exception,), {})):
  """As HTTP clients derive theirs: not an OSError."""


def test_no_network_is_one_sentence_with_any_http_client(server, tmp_path, monkeypatch, capsys):
  def fail(*args, **kwargs):
    raise _ConnectError('[Errno -2] Name or service not known')

  monkeypatch.setattr(HfApi, 'model_info', fail)
  monkeypatch.setattr(file_download, 'http_get', fail)
  for name, told in (
    ('vit_mae', 'hf://facebook/vit-mae-base is not in the cache, and '),
    (
      'vit_h_14',
      'no connection to download.pytorch.org ([Errno -2] Name or service not known). Connect to the network',
    ),
  ):
    assert fetch.main([name, f'--out={tmp_path / "weights"}']) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {told}') and error.count('\n') == 1


def test_a_folder_of_weights_as_training_writes_it(server, tmp_path):
  _publish(server, tmp_path / 'w')
  _same('hf://lab/model')


def test_a_broken_transfer_continues_where_it_stopped(server, tmp_path):
  _publish(server, tmp_path / 'packed')
  server.broken = 1
  with pytest.raises(UserError, match='the transfer failed .*The same command continues where it stopped'):
    load_weights('hf://lab/model')
  _same('hf://lab/model')
  assert len(server.ranges) == 1 and int(server.ranges[0].split('=')[1].split('-')[0]) > 0


def test_a_wrong_checksum_is_refused_and_removed(server, tmp_path):
  _publish(server, tmp_path / 'packed')
  server.wrong = 'model.safetensors'
  with pytest.raises(UserError, match='model.safetensors has SHA-256 .*; the hub says .* It was removed'):
    load_weights('hf://lab/model')
  assert not list((tmp_path / 'cache').rglob('model.safetensors'))
  server.wrong = ''
  hub.weights.cache_clear()
  _same('hf://lab/model')


def test_repositories_that_cannot_be_used(server, tmp_path):
  server.gated.add('lab/gated')
  server.repositories['lab/empty'] = {'model.bin': b'x'}
  _publish(server, tmp_path / 'packed')
  for source, told in (
    ('hf://lab/gated', f'is gated.*Open {server.address}/lab/gated, accept them, run `hf auth login`'),
    ('hf://lab/none', 'there is no such repository, or it is private'),
    ('hf://lab/model@v9', 'has no such revision'),
    ('hf://lab/empty', 'holds no brainjax weights.*but model.bin'),
    ('hf://lab', 'expected hf://ORGANISATION/NAME'),
    ('hf://lab/model/../x', 'expected hf://ORGANISATION/NAME'),
  ):
    with pytest.raises(UserError, match=told) as caught:
      load_weights(source)
    assert '\n' not in str(caught.value)


def test_pushed_weights_come_back(server, tmp_path, monkeypatch):
  monkeypatch.setenv('HF_TOKEN', 'hf_of_a_test')
  command = [str(tmp_path / 'w'), f'--out={tmp_path / "again"}', '--push=hf://lab/pushed', '--licence=CC-BY-4.0']
  assert pack.main(command) == 0
  assert {'model.safetensors', 'README.md', 'SHA256SUMS'} <= server.repositories['lab/pushed'].keys()
  assert b'license: cc-by-4.0' in server.repositories['lab/pushed']['README.md']
  _same('hf://lab/pushed')


@pytest.fixture
def classifier(tmp_path, monkeypatch):
  """A small public file: what `convert` gets, without converting."""
  seen = []

  def convert(argv, origin):
    seen.append((argv, origin))
    save_weights(argv[-1].removeprefix('--out='), TREE, INFO | origin)

  monkeypatch.setattr(fetch.convert, 'main', convert)
  return seen


def test_fetch_checks_records_and_continues(server, tmp_path, monkeypatch, capsys, classifier):
  data = bytes(range(256)) * 20
  server.repositories['w.pth'] = data
  digest = hashlib.sha256(data).hexdigest()
  public = fetch.Public('a network', 'vit_h_14', 'CC BY-NC 4.0', url=f'{server.address}/files/w.pth', sha256=digest[:8])
  monkeypatch.setitem(fetch.PUBLIC, 'small', public)
  part = tmp_path / 'own_cache' / 'downloads' / 'vit_h_14' / 'w.pth.part'
  part.parent.mkdir(parents=True)
  part.write_bytes(data[:1000])  # of a command that was killed
  assert fetch.main(['small', f'--out={tmp_path}']) == 0
  assert server.ranges == ['bytes=1000-'] and 'licence: CC BY-NC 4.0' in capsys.readouterr().out
  ((argv, origin),) = classifier
  assert (tmp_path / 'own_cache/downloads/vit_h_14/w.pth').read_bytes() == data and argv[1] == '--kind=vit_h_14'
  saved = json.loads((tmp_path / 'small' / 'weights.json').read_text())
  assert (saved['origin'], saved['licence']) == (public.url, 'CC BY-NC 4.0')
  assert fetch.main(['small', f'--out={tmp_path}']) == 0 and 'exists already, kept' in capsys.readouterr().out
  monkeypatch.setitem(fetch.PUBLIC, 'changed', public._replace(kind='clip', sha256='00000000'))
  assert fetch.main(['changed', f'--out={tmp_path}']) == 2
  assert 'its authors published 00000000... It was removed' in capsys.readouterr().err
  monkeypatch.setitem(fetch.PUBLIC, 'gone', public._replace(kind='phase1', url='http://127.0.0.1:9/w.pth'))
  assert fetch.main(['gone', f'--out={tmp_path}']) == 2
  assert 'no connection to 127.0.0.1:9 (' in capsys.readouterr().err


def test_fetch_takes_one_form_of_weights_from_the_hub(server, tmp_path, monkeypatch, classifier):
  server.repositories['lab/net'] = {name: name.encode() for name in ('config.json', 'pytorch_model.bin', 'tf_model.h5')}
  public = fetch.Public('a network', 'vit_mae', 'Apache-2.0', repository='lab/net')
  monkeypatch.setitem(fetch.PUBLIC, 'net', public)
  assert fetch.main(['net', f'--out={tmp_path}']) == 0
  folder = classifier[0][0][0]
  assert sorted(path.name for path in Path(folder).iterdir()) == ['config.json', 'pytorch_model.bin']
  assert classifier[0][1] == {'origin': f'{server.address}/lab/net', 'licence': 'Apache-2.0'}


def test_what_cannot_be_fetched_is_explained(capsys):
  assert fetch.main(['hcp', 'phase1']) == 2
  told = capsys.readouterr().out
  assert 'https://db.humanconnectome.org' in told and 'brainjax prepare hcp --raw=DIR' in told
  assert 'brainjax convert FILE --kind=phase1' in told
  assert fetch.main(['everything']) == 2 and 'expected some of vit_mae' in capsys.readouterr().err
  assert fetch.main([]) == 0 and 'label2img' in capsys.readouterr().out
