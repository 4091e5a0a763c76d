"""The check command: facts, doubts and a page, for prepared and for raw folders."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from brainjax import prepare
from brainjax.datasets import checks, overview, overview_page, own, registry
from brainjax.errors import UserError
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
  options = own_files.options(study, tmp_path / 'out')
  assert prepare.main(['own', *options]) == 0
  assert prepare.main(['check', str(tmp_path / 'out')]) == 0
  said = capsys.readouterr().out
  assert 'look at this: sub-01: train: 2 voxels never change' in said
  assert 'look at this: sub-01: 1 pictures are in both splits, such as p07.png' in said
  assert 'look at this: sub-01: 1 pictures are copies of another one, but count as different stimuli' in said


def test_data_of_another_kind_are_not_called_damaged(tmp_path, monkeypatch):
  study = own_files.write(tmp_path / 'raw')
  own.prepare(study.source(), tmp_path / 'out')
  monkeypatch.setitem(registry.DATA_SETS, 'own', dataclasses.replace(registry.get('own'), has_pictures=False))
  with pytest.raises(UserError, match='own has neither pictures nor a check of its own'):
    overview.check_prepared('own', overview.find_prepared(tmp_path / 'out')['own'])


def test_the_newest_version_counts(tmp_path, capsys):
  study = own_files.write(tmp_path / 'raw')
  own.prepare(study.source(), tmp_path / 'out')
  (folder,) = overview.find_prepared(tmp_path / 'out')['own']
  shutil.copytree(folder, folder.with_name('1.1.0'))
  assert overview.find_prepared(tmp_path / 'out') == {'own': [folder]}


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


def test_kinds_of_pictures(tmp_path, capsys):
  study = own_files.write(tmp_path / 'raw')
  exif = Image.Exif()
  exif[0x112] = 6
  Image.new('RGB', (30, 20)).save(study.images / 'p02.png', exif=exif)
  Image.fromarray(np.zeros((9, 9, 4), np.uint8)).save(study.images / 'p08.png')
  files = own_files.options(study, tmp_path / 'out')
  assert prepare.main(['own', *files]) == 2
  assert 'p08.png is transparent in 100.0% of its pixels' in capsys.readouterr().err
  assert prepare.main(['own', *files, '--background=red']) == 0
  assert prepare.main(['own', *files, '--background=white']) == 0
  assert 'prepared again, because raw files changed' in capsys.readouterr().out  # another colour makes other data
  (subject,) = overview.check_prepared('own', overview.find_prepared(tmp_path / 'out')['own'])
  kinds = 'PNG, RGB (8); PNG, RGB, turned by EXIF orientation 6 (1); PNG, RGBA, with transparency (1)'
  assert f'picture files: {kinds}' in subject.facts
  assert 'width x height of picture files: 12 x 8 (8), 20 x 30 (1), 9 x 9 (1)' in subject.facts
  assert any('with an EXIF orientation: 1. They are turned by it' in doubt for doubt in subject.doubts)
  kinds = {caption: pixels for strip, caption, pixels in subject.pictures if strip == 'kinds of files'}
  assert kinds['PNG, RGBA, with transparency (1)'].min() == 255
  assert len(kinds) == 3 and kinds['PNG, RGB, turned by EXIF orientation 6 (1)'].shape == (20, 20, 3)
  page = tmp_path / 'page.png'
  overview_page.draw('own', [subject], page)
  assert Image.open(page).height > 110 * (1.1 + 2.3 + 3 * 1.95) - 2


def test_constant_offsets(tmp_path, capsys, monkeypatch):
  study = own_files.write(tmp_path / 'raw')
  rng = np.random.default_rng(0)
  fmri = (500 + 50 * rng.standard_normal(12) + 12 * study.fmri).astype(np.float32)
  files = [f'--events={study.events}', f'--images={study.images}', f'--out={tmp_path / "out"}']
  for name, values in (('large', fmri), ('none', fmri - fmri.mean(0))):
    np.save(study.betas, values)
    assert prepare.main(['own', f'--betas={study.betas}', f'--subject={name}', *files]) == 0
  train = fmri[study.table['split'] == 'train'].astype(np.float64)
  share = train.mean(0).var() / train.var()  # law of total variance
  assert share > 0.85
  capsys.readouterr()
  assert prepare.main(['check', str(tmp_path / 'out')]) == 0
  said = capsys.readouterr().out
  assert (
    f'large: constant offsets of voxels are {share:.0%} of the variance of the training rows; the z-score of' in said
  )
  assert 'large: the model gets one z-score for each voxel' in said and 'look at this: large: with one' not in said
  monkeypatch.setitem(registry.DATA_SETS, 'own', dataclasses.replace(own.DATA_SET, zscore='subject'))
  assert prepare.main(['check', str(tmp_path / 'out')]) == 0
  said = capsys.readouterr().out
  assert (
    f'look at this: large: with one z-score for all voxels (config.data.zscore = "subject"), {share:.0%} of' in said
  )
  assert 'train with --config.data.zscore=voxel' in said and 'look at this: none: with one z-score' not in said
  large = next(
    s for s in overview.check_prepared('own', overview.find_prepared(tmp_path / 'out')['own']) if s.name == 'large'
  )
  np.testing.assert_allclose(large.rows['subject'], (train - train.mean()) / train.std(), atol=1e-4)
  np.testing.assert_allclose(large.rows['voxel'], (train - train.mean(0)) / train.std(0), atol=1e-4)


def test_noise_ceiling():
  # Of one trial half of the variance is signal: of a mean over 4, 0.5 / (0.5 + 0.5 / 4).
  np.testing.assert_allclose(checks.noise_ceiling(np.array([0, 0.5, 1]), 4), [0, 0.8, 1])
  assert checks.noise_ceiling(np.array([0.3]), 1) == pytest.approx(0.3)


def test_sessions_that_differ(tmp_path, capsys):
  study = own_files.write(tmp_path / 'raw')
  is_train = study.table['split'] == 'train'
  # Trials of test pictures come in both sessions; training trials alternate, then the second session is shifted.
  session = np.zeros(len(study.fmri), int)
  session[np.flatnonzero(is_train)[1::2]] = 1
  lines = study.events.read_text().splitlines()
  lines = [lines[0] + '\tsession'] + [f'{line}\ts{number}' for line, number in zip(lines[1:], session, strict=True)]
  study.events.write_text('\n'.join(lines) + '\n')
  shifted = 10 * study.fmri + 20 * session[:, None]
  np.save(study.betas, shifted.astype(np.float32))
  assert prepare.main(['own', *own_files.options(study, tmp_path / 'out')]) == 0
  train, of = shifted[is_train].astype(np.float64), session[is_train]
  # R squared of a regression on the session, mean over voxels, adjusted for 7 rows and one slope.
  r_squared = np.mean([np.corrcoef(of, voxel)[0, 1] ** 2 for voxel in train.T])
  share = 1 - (1 - r_squared) * 6 / 5
  assert 0.2 < share < 0.8
  capsys.readouterr()
  assert prepare.main(['check', str(tmp_path / 'out')]) == 0
  said = capsys.readouterr().out
  assert f'look at this: sub-01: sessions explain {share:.0%} of the variance that a z-score per voxel leaves' in said
  assert '--config.data.zscore=voxel_session removes it' in said

  rng = np.random.default_rng(0)
  parts = [checks.Statistics(0) for _ in range(5)]
  total = checks.Statistics()
  for number, row in enumerate(rng.standard_normal((200, 300))):  # sessions that do not differ
    parts[number % 5].add(row)
    total.add(row)
  assert total.measure_sessions(parts) < 0.01
