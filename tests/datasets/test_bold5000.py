"""BOLD5000: betas, presentation lists and stimuli -> rows, against the published code's outputs."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from brainjax import prepare
from brainjax.datasets import bold5000
from brainjax.errors import UserError
from tests import golden_files

DATA, CONFIG = golden_files.load('data')


def pictures():
  """Picture by file name, as far as the goldens hold them."""
  table = {}
  for variant in ('classify_CSI1', 'classify_CSI1_norm'):
    for part, names in zip(('train', 'test'), CONFIG['bold_names'][variant], strict=True):
      table.update(zip(names, DATA[f'bold5000/{variant}/{part}_image'], strict=True))
  return table


def write(folder, as_files=False):
  betas = folder / bold5000.BETAS
  betas.mkdir(parents=True)
  for name, array in golden_files.group(DATA, 'bold5000/raw').items():
    np.save(betas / f'{name}.npy', array)
  for subject, runs in CONFIG['bold_presentation'].items():
    for i, names in enumerate(runs):
      path = folder / bold5000.LISTS / subject / f'{subject}_sess0{1 + i // 2}' / f'run0{1 + i % 2}.txt'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text('\n'.join(names) + '\n')
  presented = folder / bold5000.SCENES / 'Presented_Stimuli'
  presented.mkdir(parents=True)
  (presented.parent / 'repeated_stimuli_113_list.txt').write_text('\n'.join(CONFIG['bold_repeated_list']) + '\n')
  if as_files:
    (presented / 'COCO').mkdir()
    for name, image in pictures().items():
      Image.fromarray(image).save(presented / 'COCO' / name, format='PNG')
  else:
    np.save(presented / 'img_dict.npy', pictures(), allow_pickle=True)
  return folder


@pytest.mark.parametrize('as_files', [False, True])
def test_rows_and_pictures_as_released(tmp_path, as_files):
  bold5000.prepare(write(tmp_path / 'raw', as_files), tmp_path / 'out', ['CSI1'])
  expected_names = CONFIG['bold_names']['classify_CSI1']
  train, test = (bold5000.load(tmp_path / 'out', ['CSI1'], split=split) for split in ('train', 'test'))
  mean, std = train.info['transforms']['CSI1'].mean, train.info['transforms']['CSI1'].std
  for data, part, names in zip((train, test), ('train', 'test'), expected_names, strict=True):
    raw = DATA[f'bold5000/classify_CSI1/{part}_fmri']  # neither padded nor normalised
    np.testing.assert_allclose(data.columns['fmri'][:, :66] * std + mean, raw, atol=1e-5)
    np.testing.assert_allclose(data.columns['fmri'][:, 66:], data.columns['fmri'][:, :14])
    assert [data.info['names'][number] for number in data.columns['stimulus'].tolist()] == names
    np.testing.assert_array_equal(
      data.gather(np.arange(len(data)))['image'], DATA[f'bold5000/classify_CSI1/{part}_image']
    )
  trials = bold5000.load(tmp_path / 'out', ['CSI1'], split='test_trials')
  assert len(trials) == 7 and set(trials.columns['stimulus'].tolist()) == set(test.columns['stimulus'].tolist())
  assert not set(trials.columns['stimulus'].tolist()) & set(train.columns['stimulus'].tolist())


def test_rois(tmp_path):
  assert (
    prepare.main(['bold5000', f'--raw={write(tmp_path / "raw")}', f'--out={tmp_path / "out"}', '--subjects=CSI1']) == 0
  )
  data = bold5000.load(tmp_path / 'out', ['CSI1'], 'LOC+RSC')
  assert data.info['transforms']['CSI1'].num_voxels == 22 and data.num_voxels == 32


def test_subjects_share_the_numbers_of_pictures(tmp_path):
  bold5000.prepare(write(tmp_path / 'raw'), tmp_path / 'out')
  options = dict(num_val_stimuli=3, train_proportion={'CSI1': 0.5})
  train, val = (bold5000.load(tmp_path / 'out', ['CSI1', 'CSI2'], split=split, **options) for split in ('train', 'val'))
  assert not set(train.columns['stimulus'].tolist()) & set(val.columns['stimulus'].tolist())
  assert set(val.columns['subject'].tolist()) == {0, 1} and train.num_voxels == 80
  assert (train.columns['subject'] == 0).sum() == 3 and (train.columns['subject'] == 1).sum() == 6


class _Evil:
  def __reduce__(self):
    return (open, ('/tmp/brainjax_must_not_exist', 'w'))


def test_picture_table_with_code_is_refused(tmp_path):
  folder = write(tmp_path / 'raw')
  path = folder / bold5000.SCENES / 'Presented_Stimuli' / 'img_dict.npy'
  with open(path, 'rb') as file:
    good = file.read()
  path.write_bytes(good[: good.index(b'\n') + 1] + pickle.dumps({'a': _Evil()}))
  with pytest.raises(UserError, match=r'img_dict.npy names (_?io|builtins)\.open'):
    bold5000.prepare(folder, tmp_path / 'out', ['CSI1'])
  path.write_bytes(good[:-700])
  with pytest.raises(UserError, match='img_dict.npy ends early'):
    bold5000.prepare(folder, tmp_path / 'out', ['CSI1'])
  assert not list((tmp_path / 'out').rglob('*.*record*'))


def test_faults(tmp_path, monkeypatch):
  folder = write(tmp_path / 'raw')
  with monkeypatch.context() as patch, pytest.raises(UserError, match='the betas of CSI1 take .* at most 1 GiB'):
    patch.setattr(bold5000, 'MAX_BYTES', 16 * 60 * 4)  # 66 voxels
    bold5000.prepare(folder, tmp_path / 'out', ['CSI1'])
  with pytest.raises(UserError, match='no files of subject CSI9; those that exist: CSI1, CSI2'):
    bold5000.prepare(folder, tmp_path / 'out', ['CSI9'])
  files = write(tmp_path / 'files', as_files=True)
  for path in [*files.rglob('*.jpg'), *files.rglob('*.txt')]:  # what macOS leaves on other file systems
    path.with_name(f'._{path.name}').write_bytes(b'\0\5\x16\7')
  assert bold5000.prepare(files, tmp_path / 'mac', ['CSI1'])['bold5000/CSI1'][0] == 'built'
  (files / bold5000.SCENES / 'Presented_Stimuli' / 'Scene').mkdir()
  (files / bold5000.SCENES / 'Presented_Stimuli' / 'Scene' / 'im003.jpg').write_bytes(b'')
  with pytest.raises(UserError, match='Scene/im003.jpg: a picture of the same name as .*COCO/im003.jpg'):
    bold5000.prepare(files, tmp_path / 'out', ['CSI1'])
  path = folder / bold5000.BETAS / bold5000.BETA_NAME.format(subject='CSI1', side='RH', roi='LOC')
  good = np.load(path)
  np.save(path, good[:-1])
  with pytest.raises(UserError, match='15 rows, but the presentation lists of CSI1 name 16'):
    bold5000.prepare(folder, tmp_path / 'out', ['CSI1'])
  path.write_bytes(b'no array')
  with pytest.raises(UserError, match='not a .npy file'):
    bold5000.prepare(folder, tmp_path / 'out', ['CSI1'])
  path.unlink()
  with pytest.raises(UserError, match='RHLOC.npy: no such file'):
    bold5000.prepare(folder, tmp_path / 'out', ['CSI1'])


def test_runs_are_in_the_order_of_their_numbers(tmp_path):
  # Ten runs of 8 pictures each in sessions 2 and 10, whose names have no leading zeros; a response holds its row number.
  folder = write(tmp_path / 'raw', as_files=True)
  lists = folder / bold5000.LISTS / 'CSI1'
  shutil.rmtree(lists)
  names = sorted(pictures())
  shown = []
  for session in (2, 10):
    for run in range(1, 11):
      rng = np.random.default_rng((session, run))
      shown += (part := rng.permutation(names)[:8].tolist())
      path = lists / f'CSI1_sess{session}' / f'CSI1_sess{session}_run{run}.txt'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text('\n'.join(part))
  for roi in bold5000.ROIS:
    for side in bold5000.SIDES:
      fmri = np.arange(len(shown), dtype=np.float32)[:, None] + np.zeros((1, 2), np.float32)
      np.save(folder / bold5000.BETAS / bold5000.BETA_NAME.format(subject='CSI1', side=side, roi=roi), fmri)
  bold5000.prepare(folder, tmp_path / 'out', ['CSI1'])
  for split in ('train', 'test_trials'):
    data = bold5000.load(tmp_path / 'out', ['CSI1'], split=split, image_size=0)
    transform = data.info['transforms']['CSI1']
    mean, std = transform.mean, transform.std
    rows = np.round(data.columns['fmri'][:, 0] * std + mean).astype(int)
    assert [data.info['names'][i] for i in data.columns['stimulus'].tolist()] == [shown[row] for row in rows]
    sessions = bold5000.DATA_SET.open(tmp_path / 'out', 'CSI1').info.metadata['sessions'][split]
    assert sessions == [f'CSI1_sess{2 if row < 80 else 10}' for row in rows]
  (lists / 'CSI1_sess2' / 'CSI1_sess2_run01.txt').write_text('')
  with pytest.raises(
    UserError,
    match='run1.txt: has the number 1, the same as .*run01.txt; keep one of them',
  ):
    bold5000.prepare(folder, tmp_path / 'other', ['CSI1'])
  (lists / 'CSI1_sess2' / 'CSI1_sess2_run01.txt').rename(lists / 'CSI1_sess2' / 'extra.txt')
  with pytest.raises(UserError, match='extra.txt: no number in this name'):
    bold5000.prepare(folder, tmp_path / 'other', ['CSI1'])


def test_listed_pictures_that_are_missing_are_reported(tmp_path, capsys):
  bold5000.prepare(write(tmp_path / 'raw'), tmp_path / 'out', ['CSI1'])
  assert "1 of its 4 pictures are not among the stimuli, the first is 'im099.jpg'" in capsys.readouterr().out
