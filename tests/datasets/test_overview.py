"""The check command: facts, doubts and a page, for prepared and for raw folders."""

import numpy as np
import pytest
from PIL import Image

from brainjax import prepare
from brainjax.datasets import overview
from tests.datasets import own_files, raw_files


def test_prepared_folder(prepared, tmp_path, capsys):
  assert prepare.main(['check', str(prepared), f'--pages={tmp_path}']) == 0
  said = capsys.readouterr().out
  assert 'god: 2 subjects' in said and 'hcp: 3 subjects' in said
  assert 'sbj_1: 78 voxels; ROIs VC 69' in said and 'rows: train 14, test 4' in said
  assert '14 training and 4 test pictures; test pictures shown 35 times' in said
  assert 'look at this: sbj_1: no noise ceilings' in said
  assert '100206: 6 windows of 66 voxels; ROIs V1' in said
  for name in ('god', 'hcp'):
    page = np.asarray(Image.open(tmp_path / f'check_{name}.png').convert('RGB'))
    assert page.shape[1] == 1320 and page.std() > 20


def test_raw_folder_leaves_nothing_but_the_page(tmp_path, capsys):
  raw = raw_files.write_god(tmp_path / 'raw' / 'npz').parent
  assert prepare.main(['check', str(raw)]) == 0
  assert 'god: 2 subjects' in capsys.readouterr().out
  assert sorted(path.name for path in raw.iterdir()) == ['check_god.png', 'npz']
  raw_files.change_subject(raw / 'npz', arr_0=np.full((14, 78), np.nan, np.float32))
  assert prepare.main(['check', str(raw)]) == 2
  assert 'NaN or infinite' in capsys.readouterr().err


def test_doubts(tmp_path, capsys):
  study = own_files.write(tmp_path / 'raw')
  study.fmri[:, [2, 5]] = 1
  np.save(study.betas, study.fmri)
  # The same picture in another file is another stimulus to prepare, which compares files, but not to check.
  Image.open(study.images / 'p03.png').save(study.images / 'p07.png', compress_level=0)
  options = [
    f'--betas={study.betas}',
    f'--events={study.events}',
    f'--images={study.images}',
    f'--out={tmp_path / "out"}',
  ]
  assert prepare.main(['own', *options]) == 0
  assert prepare.main(['check', str(tmp_path / 'out')]) == 0
  said = capsys.readouterr().out
  assert 'look at this: sub-01: train: 2 voxels never change' in said
  assert 'look at this: sub-01: 1 pictures are in both splits, such as p07.png' in said


def test_nothing_there_and_damage(prepared, tmp_path, capsys):
  assert prepare.main(['check', str(tmp_path)]) == 2
  assert 'neither prepared data nor raw files' in capsys.readouterr().err
  assert prepare.main(['check', str(tmp_path / 'nowhere')]) == 2
  broken = tmp_path / 'god' / 'sbj_1' / '1.0.0'
  broken.mkdir(parents=True)
  (broken / 'dataset_info.json').write_text('{')
  assert prepare.main(['check', str(tmp_path)]) == 2
  said = capsys.readouterr().err
  assert 'damaged prepared data' in said and 'Traceback' not in said


def test_noise_ceiling():
  # Of one trial half of the variance is signal: of a mean over 4, 0.5 / (0.5 + 0.5 / 4).
  np.testing.assert_allclose(overview.noise_ceiling(np.array([0, 0.5, 1]), 4), [0, 0.8, 1])
  assert overview.noise_ceiling(np.array([0.3]), 1) == pytest.approx(0.3)
