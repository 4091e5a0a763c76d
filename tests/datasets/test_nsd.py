"""The Natural Scenes Dataset, raw and as MindEye2 prepared it, against files read by h5py, nibabel and NumPy alone."""

import shutil

import h5py
import nibabel
import numpy as np
import pytest

from brainjax import prepare
from brainjax.datasets import brain_maps, nsd, nsd_betas, store
from brainjax.errors import UserError
from tests.datasets import nsd_files

IDS = 'session01', 'session02'


@pytest.fixture(scope='module')
def raw(nsd_folder):
  return nsd_folder / 'NSD'


@pytest.fixture(scope='module')
def out(raw, tmp_path_factory):
  out = tmp_path_factory.mktemp('prepared')
  assert prepare.main(['nsd', f'--raw={raw}', f'--out={out}']) == 0
  return out


def rows(out, split, subject='subj01'):
  """All rows as stored."""
  return list(store.read_rows(nsd.DATA_SET.open(out, subject), split))


def metadata(out, subject='subj01'):
  return nsd.DATA_SET.open(out, subject).info.metadata


@pytest.mark.parametrize('subject', ['subj01', 'subj02'])
def test_trials_pictures_and_means(raw, out, subject):
  pictures, shared = nsd_files.shown(raw, subject)
  expected = nsd_files.betas(raw, subject, nsd_files.labels(raw, subject, 'nsdgeneral') == 1)
  is_test = np.isin(pictures, shared)
  for split, chosen in (('train', ~is_test), ('test_trials', is_test)):
    stored = rows(out, split, subject)
    np.testing.assert_allclose([row['fmri'] for row in stored], expected[chosen], rtol=1e-6)
    assert [row['name'].decode() for row in stored] == [f'nsd{number:05d}' for number in pictures[chosen]]
  for row in rows(out, 'train', subject)[:30:7]:
    number = int(row['name'].decode()[3:])
    np.testing.assert_array_equal(store.decode_png(row['image']), nsd_files.picture(raw, number))
  means = {row['name'].decode(): row['fmri'] for row in rows(out, 'test', subject)}
  assert len(means) == len(shared) and not is_test.all()
  for number in shared:
    np.testing.assert_allclose(means[f'nsd{number:05d}'], expected[pictures == number].mean(0), rtol=1e-4, atol=1e-5)
  sessions = metadata(out, subject)['sessions']
  assert sessions['train'] == np.repeat(IDS, 750)[~is_test].tolist()


def test_rois_and_places(raw, out, tmp_path):
  facts = metadata(out)
  general = nsd_files.labels(raw, 'subj01', 'nsdgeneral') == 1
  prf, faces = (nsd_files.labels(raw, 'subj01', name)[general] for name in ('prf-visualrois', 'floc-faces'))
  assert facts.masks['VC'].sum() == general.sum() == nsd_files.VOXELS
  for name, values, which in (
    ('V1v', prf, [1]),
    ('V1', prf, [1, 2]),
    ('V3', prf, [5, 6]),
    ('hV4', prf, [7]),
    ('FFA-1', faces, [2]),
  ):
    np.testing.assert_array_equal(facts.masks[name], np.isin(values, which))
    assert facts.masks[name].any()
  assert 'EBA' not in facts.masks and 'OFA' not in facts.masks  # no file; no voxel
  # A brain map lies where the mask lies.
  brain_maps.write_nifti(np.arange(1, 81), facts['places'], facts['grid'], facts['affine'], tmp_path / 'map.nii.gz')
  mask, drawn = nibabel.load(raw / nsd_files.roi('subj01')), nibabel.load(tmp_path / 'map.nii.gz')
  np.testing.assert_allclose(drawn.affine, mask.affine)
  np.testing.assert_array_equal(np.asarray(drawn.dataobj)[general], np.arange(1, 81))
  assert (np.asarray(drawn.dataobj) > 0).sum() == 80


@pytest.mark.parametrize(
  'rois, file, which',
  [('V1+V2', 'prf-visualrois', [1, 2, 3, 4]), ('streams', 'streams', [1, 5, 6]), ('streams:5', 'streams', [5])],
)
def test_only_the_chosen_voxels_are_stored(raw, tmp_path, rois, file, which):
  prepare.main(['nsd', f'--raw={raw}', f'--out={tmp_path}', '--subjects=subj02', f'--rois={rois}'])
  expected = nsd_files.betas(raw, 'subj02', np.isin(nsd_files.labels(raw, 'subj02', file), which))
  pictures, shared = nsd_files.shown(raw, 'subj02')
  stored = np.array([row['fmri'] for row in rows(tmp_path, 'train', 'subj02')])
  np.testing.assert_allclose(stored, expected[~np.isin(pictures, shared)], rtol=1e-6)
  assert rois.split('+')[0].replace(':', '-') in metadata(tmp_path, 'subj02').masks
  assert not list(tmp_path.glob('npz/nsd/subj01'))


def test_rows_are_z_scored_within_their_session_by_default(raw, out):
  pictures, shared = nsd_files.shown(raw, 'subj01')
  is_test, session = np.isin(pictures, shared), np.repeat([0, 1], 750)
  fmri = nsd_files.betas(raw, 'subj01', nsd_files.labels(raw, 'subj01', 'nsdgeneral') == 1)
  z = np.empty_like(fmri)
  for number in (0, 1):
    train = fmri[~is_test & (session == number)]
    z[session == number] = (fmri[session == number] - train.mean(0)) / train.std(0)
  assert nsd.DATA_SET.zscore == 'voxel_session'
  options = dict(zscore=nsd.DATA_SET.zscore, image_size=0)
  train = nsd.load(out, ['subj01'], split='train', **options)
  np.testing.assert_allclose(train.columns['fmri'], z[~is_test], atol=1e-4)
  test = nsd.load(out, ['subj01'], split='test', **options)
  expected = [z[pictures == number].mean(0) for number in np.sort(shared)]
  np.testing.assert_allclose(test.columns['fmri'], expected, atol=1e-4)


def test_mind_eye_files_hold_what_our_z_score_makes(nsd_folder, raw, out, tmp_path):
  made = nsd_folder / 'MindEye2'
  assert prepare.main(['nsd', f'--raw={made}', f'--out={tmp_path}', '--subjects=subj01']) == 0
  options = dict(zscore='voxel_session', image_size=64)
  for split in ('train', 'test', 'test_trials'):
    ours, theirs = (nsd.load(where, ['subj01'], split=split, **options) for where in (out, tmp_path))
    np.testing.assert_allclose(theirs.columns['fmri'], ours.columns['fmri'], atol=1e-4)
    np.testing.assert_array_equal(theirs.columns['stimulus'], ours.columns['stimulus'])
    np.testing.assert_array_equal(theirs.pictures, ours.pictures)
  assert set(metadata(tmp_path).masks) == {'VC'} and 'affine' not in metadata(tmp_path)
  # With the masks of NSD, the same voxels have names and places.
  both = nsd_files.copy(made, tmp_path / 'both')
  for name in ('nsdgeneral', 'prf-visualrois'):
    (both / 'subj01').mkdir(exist_ok=True)
    shutil.copy(raw / nsd_files.roi('subj01', name), both / 'subj01' / f'{name}.nii.gz')
  assert prepare.main(['nsd', f'--raw={both}', f'--out={tmp_path / "all"}']) == 0
  facts, known = metadata(tmp_path / 'all'), metadata(out)
  assert facts['places'] == known['places'] and facts['affine'] == known['affine']
  np.testing.assert_array_equal(facts.masks['V2'], known.masks['V2'])
  assert prepare.main(['nsd', f'--raw={both}', f'--out={tmp_path / "V2"}', '--rois=V2']) == 0
  with h5py.File(made / nsd_files.mind_eye('subj01')) as file:
    betas = file['betas'][:, known.masks['V2']]
  pictures, shared = nsd_files.shown(raw, 'subj01')
  stored = [row['fmri'] for row in rows(tmp_path / 'V2', 'train')]
  np.testing.assert_array_equal(stored, betas[~np.isin(pictures, shared)])


def rewrite(path, **options):
  """The same array, stored in another way."""
  with h5py.File(path, 'r+') as file:
    values = file['betas'][:]
    del file['betas']
    file.create_dataset('betas', data=values, **options)


@pytest.mark.parametrize('chunks', [(750, 1, 1, 1), (1, 7, 9, 8), (100, 3, 2, 5), True])
def test_any_layout_of_hdf5(raw, out, tmp_path, monkeypatch, chunks):
  copy = nsd_files.copy(raw, tmp_path / 'raw', nsd_files.session('subj01', 1))
  rewrite(copy / nsd_files.session('subj01', 1), chunks=chunks, compression='gzip', shuffle=True)
  monkeypatch.setattr('brainjax.datasets.volume_series.BLOCK_BYTES', 50_000)
  nsd.prepare(copy, tmp_path / 'out')
  np.testing.assert_array_equal(*(np.load(where / 'npz/nsd/subj01/session01.npy') for where in (out, tmp_path / 'out')))


@pytest.mark.parametrize('suffix, dtype', [('.nii.gz', np.int16), ('.nii', '>i2')])
def test_nifti_betas(raw, out, tmp_path, monkeypatch, suffix, dtype):
  copy = nsd_files.copy(raw, tmp_path / 'raw')
  nsd_files.as_nifti(copy, 2, dtype, suffix)
  monkeypatch.setattr('brainjax.datasets.volume_series.BLOCK_BYTES', 50_000)
  nsd.prepare(copy, tmp_path / 'out')
  np.testing.assert_array_equal(*(np.load(where / 'npz/nsd/subj01/session02.npy') for where in (out, tmp_path / 'out')))


def test_float_betas_with_their_scale(raw, tmp_path):
  copy = nsd_files.copy(raw, tmp_path / 'raw')
  for number in (1, 2):
    nsd_files.as_nifti(copy, number, np.float32, scale=1 / 300)
  nsd.prepare(copy, tmp_path / 'out', scale=1)
  expected = nsd_files.betas(raw, 'subj01', nsd_files.labels(raw, 'subj01', 'nsdgeneral') == 1)
  pictures, shared = nsd_files.shown(raw, 'subj01')
  stored = [row['fmri'] for row in rows(tmp_path / 'out', 'train')]
  np.testing.assert_allclose(stored, expected[~np.isin(pictures, shared)], rtol=1e-5)


def test_design_of_matlab_7_3(raw, out, tmp_path):
  copy = nsd_files.copy(raw, tmp_path / 'raw', nsd_files.DESIGN)
  design = nsd_files.scipy.io.loadmat(raw / nsd_files.DESIGN)
  with h5py.File(copy / nsd_files.DESIGN, 'w', userblock_size=512) as file:
    for name in ('masterordering', 'subjectim', 'sharedix'):
      file[name] = design[name].T.astype(np.float64)
  nsd.prepare(copy, tmp_path / 'out')
  assert [row['name'] for row in rows(tmp_path / 'out', 'train')] == [row['name'] for row in rows(out, 'train')]


def test_a_stopped_run_goes_on_and_changed_files_are_read_again(raw, tmp_path, monkeypatch):
  copy = nsd_files.copy(raw, tmp_path / 'raw', nsd_files.session('subj01', 2))
  read, original = [], nsd_betas.Source.read

  def stop(self, number):
    read.append(number)
    if number == 2:
      raise KeyboardInterrupt
    return original(self, number)

  monkeypatch.setattr(nsd_betas.Source, 'read', stop)
  with pytest.raises(KeyboardInterrupt):
    nsd.prepare(copy, tmp_path / 'out')
  monkeypatch.setattr(nsd_betas.Source, 'read', lambda self, number: (read.append(number), original(self, number))[1])
  assert nsd.prepare(copy, tmp_path / 'out')['nsd/subj01'][0] == 'built' and read == [1, 2, 2]
  assert nsd.prepare(copy, tmp_path / 'out')['nsd/subj01'] == ('kept', []) and read == [1, 2, 2]
  with h5py.File(copy / nsd_files.session('subj01', 2), 'r+') as file:
    file['betas'][...] = file['betas'][...] // 2
  status, changed = nsd.prepare(copy, tmp_path / 'out')['nsd/subj01']
  assert status == 'rebuilt' and 'session02.npy' in changed and 'session01.npy' not in changed and read == [1, 2, 2, 2]
  nsd.prepare(copy, tmp_path / 'out', rois='V1')  # other voxels: all again
  assert (
    read == [1, 2, 2, 2, 1, 2] and metadata(tmp_path / 'out')['num_voxels'] == metadata(tmp_path / 'out')['rois']['V1']
  )
  prepare.for_run('nsd', str(copy), str(tmp_path / 'out'), ['subj01'])  # a run keeps what the command chose
  assert read == [1, 2, 2, 2, 1, 2]


def test_subjects_share_the_numbers_of_pictures(raw, out):
  data = nsd.load(out, ['subj01', 'subj02'], split='test', image_size=0, zscore='voxel_session')
  by_subject = [set(data.columns['stimulus'][data.columns['subject'] == place].tolist()) for place in (0, 1)]
  assert by_subject[0] == by_subject[1] and len(by_subject[0]) == len(nsd_files.shown(raw, 'subj01')[1])


def test_check(out, tmp_path, capsys):
  assert prepare.main(['check', str(out), f'--pages={tmp_path}']) == 0
  said = capsys.readouterr().out
  assert 'nsd: 2 subjects' in said and 'one z-score for each voxel and session' in said and 'nothing doubtful' in said
  assert (tmp_path / 'check_nsd.png').is_file()


def test_the_first_sessions_as_training_data(raw, out):
  pictures, shared = nsd_files.shown(raw, 'subj01')
  is_test, session = np.isin(pictures, shared), np.repeat([0, 1], 750)
  fmri = nsd_files.betas(raw, 'subj01', nsd_files.labels(raw, 'subj01', 'nsdgeneral') == 1)
  options = dict(image_size=0, train_sessions=1)
  train = nsd.load(out, ['subj01'], split='train', zscore='voxel', **options)
  first = fmri[~is_test & (session == 0)]
  np.testing.assert_allclose(train.columns['fmri'], (first - first.mean(0)) / first.std(0), atol=1e-4)
  # Test trials of the second session are z-scored with its other trials, which nothing learns from.
  train = nsd.load(out, ['subj01'], split='train', zscore='voxel_session', **options)
  assert len(train) == len(first)
  z = np.empty_like(fmri)
  for number in (0, 1):
    rows = fmri[~is_test & (session == number)]
    z[session == number] = (fmri[session == number] - rows.mean(0)) / rows.std(0)
  for fitted in (None, train.info['transforms']):
    trials = nsd.load(out, ['subj01'], split='test_trials', zscore='voxel_session', fitted=fitted, **options)
    np.testing.assert_allclose(trials.columns['fmri'], z[is_test], atol=1e-4)
  val = nsd.load(out, ['subj01'], split='val', zscore='voxel', num_val_stimuli=20, **options)
  kept = nsd.load(out, ['subj01'], split='train', zscore='voxel', num_val_stimuli=20, **options)
  assert len(val) + len(kept) == len(first) and len(val)
  with pytest.raises(UserError, match='2 sessions, but config.data.train_sessions is 3; choose at most 2'):
    nsd.load(out, ['subj01'], image_size=0, train_sessions=3)
