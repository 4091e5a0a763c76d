"""A data set of one's own in one file: prepared, checked and loaded without a change to the package."""

import importlib.util
import sys

import numpy as np
import pytest

from brainjax import info, prepare
from brainjax.datasets import paired_rows, registry
from brainjax.errors import UserError

PLUGIN = """
import numpy as np
from brainjax.datasets import paired, registry

class Toy(paired.Builder):
  DESCRIPTION, HOMEPAGE, CITATION, LICENSE = 'fMRI of toys.', 'https://example.org', '@article{toy}', 'CC0'

  @classmethod
  def subjects_in(cls, raw):
    return sorted(path.stem for path in raw.glob('t*.npy'))

  def raw_files(self, raw):
    return {'fmri': raw / f'{self.subject}.npy'}

  def read(self, raw):
    fmri = np.load(raw / f'{self.subject}.npy')
    names = [f'p{row % 5}' for row in range(len(fmri))]
    masks = {'VC': np.ones(fmri.shape[1], bool), 'odd': np.arange(fmri.shape[1]) % 2 == 1}
    picture = lambda name: np.full((8, 8, 3), 40 * int(name[1]), np.uint8)
    label = lambda name: paired.Label(int(name[1]), '', f'toy {name}')
    return paired.Trials(fmri, names, masks, ['p0', 'p1', 'p2'], ['p3', 'p4'], picture, label)

registry.register(registry.DataSet('toy', 'A toy', Toy, has_raw=lambda raw: any(raw.glob('t*.npy'))))
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
  (tmp_path / 'toy_plugin.py').write_text(PLUGIN)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(registry, 'DATA_SETS', dict(registry.DATA_SETS))
  (tmp_path / 'raw').mkdir()
  yield tmp_path
  sys.modules.pop('toy_plugin', None)


def test_a_plugin_is_prepared_checked_and_loaded(toy, capsys):
  fmri = np.random.default_rng(0).standard_normal((20, 7)).astype(np.float32)
  np.save(toy / 'raw' / 't1.npy', fmri)
  out = toy / 'out'
  assert prepare.main(['--plugins=toy_plugin', 'toy', f'--raw={toy / "raw"}', f'--out={out}']) == 0
  assert 'toy/t1: prepared\n' in capsys.readouterr().out
  assert 'toy' in registry.with_pictures() and registry.get('toy').command == 'toy --raw=DIR'
  prepare.for_run('toy', str(toy / 'raw'), str(out), ['t1'])  # unchanged: nothing to do
  test = paired_rows.load(registry.get('toy'), out, ['t1'], roi='odd', split='test', patch_size=3)
  transform = test.info['transforms']['t1']
  mean, std = transform.mean, transform.std
  train_rows = [row for row in range(20) if row % 5 < 3]
  assert (mean, std) == pytest.approx((fmri[train_rows, 1::2].mean(), fmri[train_rows, 1::2].std()), abs=1e-6)
  expected = [fmri[number::5, 1::2].mean(0) for number in (3, 4)]
  np.testing.assert_allclose(test.columns['fmri'] * std + mean, expected, atol=1e-5)
  assert test[1]['image'].max() == 160 and test.info['names'][4] == 'toy p4'
  assert prepare.main(['check', str(out)]) == 0
  assert 'toy: 1 subjects' in capsys.readouterr().out
  # The option may stand anywhere, with a space too.
  assert prepare.main(['toy', '--plugins', 'toy_plugin', f'--raw={toy / "raw"}', f'--out={out}']) == 0
  assert info.main([str(out), '--plugins', 'toy_plugin']) == 0
  assert 'data set  toy/t1: 7 voxels; ROIs' in capsys.readouterr().out


@pytest.mark.parametrize(
  'code, told',
  [
    ('import numpy\nx = = 1\n', r'SyntaxError: invalid syntax \(broken_plugin.py, line 2\)'),
    ('import numpy\n\nx = nothing\n', "NameError: name 'nothing' is not defined, .*broken_plugin.py, line 3"),
    ('import no_such_library\n', "No module named 'no_such_library', .*broken_plugin.py, line 1"),
  ],
)
def test_an_error_in_a_plugin_is_one_sentence(tmp_path, monkeypatch, code, told):
  (tmp_path / 'broken_plugin.py').write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UserError, match=f"plugin 'broken_plugin' cannot be imported .*{told}"):
    registry.import_plugins(['broken_plugin'])


def test_faults(toy, capsys):
  assert prepare.main(['--plugins=no_such_module', 'toy']) == 2
  assert "plugin 'no_such_module' cannot be imported" in capsys.readouterr().err
  with pytest.raises(UserError, match="no data set 'toy'; known are god, bold5000, mosaic, nsd, own, hcp"):
    registry.get('toy')
  registry.import_plugins(['toy_plugin'])
  spec = importlib.util.spec_from_file_location('another', toy / 'toy_plugin.py')
  with pytest.raises(UserError, match="a data set 'toy' already"):
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
  with pytest.raises(UserError, match='t9; those that exist: t1'):
    np.save(toy / 'raw' / 't1.npy', np.eye(7, dtype=np.float32))
    registry.get('toy').run_prepare(toy / 'out', {'raw': toy / 'raw', 'subjects': ['t9']})


def test_every_data_set_is_described():
  for name, data_set in registry.DATA_SETS.items():
    assert name == data_set.name == data_set.builder.name and data_set.default_roi in data_set.rois
    assert data_set.builder.DESCRIPTION and data_set.builder.HOMEPAGE
    assert data_set.builder.CITATION or name == 'own'
