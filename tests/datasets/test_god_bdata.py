"""GOD from the Kamitani lab's files, written by bdpy -> .npz -> TFDS, against the table that was written."""

import json

import numpy as np
import pytest

from brainjax import prepare
from brainjax.datasets import bdata, god, god_bdata
from brainjax.errors import UserError
from tests.datasets import bdata_files

pytest.importorskip('bdpy')


@pytest.fixture
def folder(tmp_path):
  bdata_files.write(tmp_path / 'raw')
  return tmp_path / 'raw'


def test_arrays_follow_the_table(tmp_path, capsys):
  tables = bdata_files.write(tmp_path / 'raw')
  out = tmp_path / 'out'
  assert prepare.main(['god', f'--raw={tmp_path / "raw"}', f'--out={out}']) == 0
  assert 'npz: images_256.npz, sbj_1.npz, sbj_3.npz' in capsys.readouterr().out
  train_ids, test_ids = sorted(bdata_files.TRAIN), sorted(bdata_files.TEST)
  for number, table in tables.items():
    with np.load(out / 'npz' / f'sbj_{number}.npz') as archive:
      arrays = dict(archive)
    kind, stimulus, fmri = table['DataType'], table['stimulus_id'], table['VoxelData']
    np.testing.assert_allclose(arrays['arr_0'], fmri[kind == 1], rtol=1e-6)
    assert [train_ids[place] for place in arrays['arr_3']] == stimulus[kind == 1].tolist()
    for place, picture in enumerate(test_ids):
      rows = fmri[(kind == 2) & (stimulus == picture)]
      assert len(rows) == 5
      np.testing.assert_allclose(arrays['arr_1'][5 * place : 5 * place + 5], rows, rtol=1e-6)
      np.testing.assert_allclose(arrays['arr_2'][place], rows.mean(0), rtol=1e-5)
    assert {name for name in arrays if not name.startswith('arr')} == {'VC', 'V1', 'V2', 'hV4'}
    assert arrays['V2'].dtype == bool and np.flatnonzero(arrays['V2']).tolist() == [2, 3]

  data = god.load(out, ['sbj_1', 'sbj_3'], 'V1+V2')
  assert {name: t.num_voxels for name, t in data.info['transforms'].items()} == {'sbj_1': 4, 'sbj_3': 4}
  place_in_file = {stimulus: place for place, stimulus in enumerate(bdata_files.TRAIN)}
  for row in (0, 3, 8):
    item = data[row]
    stimulus = train_ids[item['stimulus']]
    assert item['image'].shape == (256, 256, 3) and (item['image'] == 20 * place_in_file[stimulus]).all()
    assert data.info['wordnet_ids'][int(item['stimulus'])] == f'n{int(stimulus):08d}'
  trials = god.load(out, ['sbj_3'], split='test_trials')
  assert len(trials) == 15 and np.bincount(trials.columns['stimulus'])[7:].tolist() == [5, 5, 5]
  assert 'explainable_variance' in god.God.of(out, 'sbj_3').info.metadata


def test_the_class_index_is_copied_and_completed(folder, tmp_path):
  known = {'7': ['n01518878', 'ostrich'], '3': ['n01443537', 'n09999999', 'goldfish']}
  (folder / 'imagenet_class_index.json').write_text(json.dumps(known))
  god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz', ['sbj_1'])
  index = json.loads((tmp_path / 'npz' / 'imagenet_class_index.json').read_text())
  assert index['7'] == known['7'] and index['3'] == known['3']
  assert index['8'] == ['n01639765', 'n01639765'] and len(index) == 2 + 6
  assert (
    (tmp_path / 'npz' / 'imagenet_testing_label.csv').read_text().startswith('1443537.022563,"n01443537_22563.JPEG"')
  )


def test_only_changed_subjects_are_prepared_again(folder, tmp_path):
  out = tmp_path / 'npz'
  assert god_bdata.prepare(folder, folder / 'images', out) == ['images_256.npz', 'sbj_1.npz', 'sbj_3.npz']
  before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
  assert god_bdata.prepare(folder, folder / 'images', out) == []
  assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
  bdata_files.write_subject(folder / 'Subject3.h5', 8)
  assert god_bdata.prepare(folder, folder / 'images', out) == ['sbj_3.npz']
  bdata_files.write_subject(folder / 'Subject2.h5', 2)
  assert god_bdata.prepare(folder, folder / 'images', out, ['sbj_2', 'sbj_1']) == ['sbj_2.npz']
  picture = next((folder / 'images' / 'test').rglob('*.JPEG'))
  picture.write_bytes(next((folder / 'images' / 'training').rglob('*.JPEG')).read_bytes())
  assert god_bdata.prepare(folder, folder / 'images', out, ['sbj_1']) == ['images_256.npz', 'sbj_1.npz']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'stimulus_id': None}, '0 columns are flagged Label; expected one'),
    ({'DataType': None}, '0 columns are flagged DataType'),
    ({'VoxelData': np.full((28, 9), np.nan)}, 'VoxelData of DataType 1 has 63 NaN'),
    ({'DataType': np.ones(28)}, 'no row has DataType 2'),
    ({'stimulus_id': np.full(28, 1518878.005958)}, 'n01518878_5958 is both a training and a test picture'),
    ({'stimulus_id': np.full(28, np.inf)}, 'not always a number such as 1518878.005958'),
    ({'stimulus_id': np.arange(28) + 5.0}, '22 of 22 stimulus pictures are missing, the first is n00000005_0'),
    ({'DataType': np.repeat([1, 2, 3], [8, 14, 6])}, 'both a training and a test picture'),
  ],
)
def test_wrong_tables(folder, tmp_path, change, message):
  bdata_files.write_subject(folder / 'Subject1.h5', 1, **change)
  with pytest.raises(UserError, match=message):
    god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz', ['sbj_1'])
  assert not (tmp_path / 'npz').exists()


def test_other_faults(folder, tmp_path):
  out = tmp_path / 'npz'
  with pytest.raises(UserError, match='no files of subject sbj_9; those that exist: sbj_1, sbj_3'):
    god_bdata.prepare(folder, folder / 'images', out, ['sbj_9'])
  with pytest.raises(UserError, match='give that of the stimulus pictures with --images'):
    god_bdata.prepare(folder, folder / 'nowhere', out)
  path = folder / 'Subject1.h5'
  path.write_bytes(path.read_bytes()[:3000])
  with pytest.raises(UserError, match='Subject1.h5: damaged or not a BData file'):
    god_bdata.prepare(folder, folder / 'images', out)
  assert not out.exists()


def test_data_in_other_files_are_not_followed(folder, tmp_path):
  import h5py

  secret = tmp_path / 'secret'
  secret.write_bytes(bytes(8 * 28 * 14))
  for linked in (True, False):
    path = folder / 'Subject1.h5'
    with h5py.File(path, 'w') as file:
      if linked:
        file['dataset'] = h5py.ExternalLink(str(folder / 'Subject3.h5'), 'dataset')
      else:
        file.create_dataset('dataset', (28, 14), 'f8', external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(UserError, match='lies in another file'):
      god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz', ['sbj_1'])
  with h5py.File(path, 'w') as file:
    file.create_dataset('dataset', (10**9, 14), 'f8', chunks=(100, 14))
  with pytest.raises(UserError, match='at most 1 GiB'):
    god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz', ['sbj_1'])
  with h5py.File(path, 'w') as file:  # the sum counts
    file.create_dataset('dataset', (10**8,), 'f8', chunks=(100,))
    file.create_dataset('more', (10**8,), 'f8', chunks=(100,))
  with pytest.raises(UserError, match='up to /more of shape .* its tables would take 1.5 GiB; at most 1 GiB'):
    god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz', ['sbj_1'])


def test_files_of_fmriprep(folder, tmp_path):
  tables, out = bdata_files.write_fmriprep(folder / 'data'), tmp_path / 'out'
  for number in (1, 3):
    (folder / f'Subject{number}.h5').unlink()
  assert prepare.main(['god', f'--raw={folder}', f'--out={out}']) == 0
  train, test = (god.load(out, ['sub-01'], 'V1+hV4', split=split) for split in ('train', 'test'))
  voxels = [0, 1, 2, 7]
  transform = train.info['transforms']['sub-01']
  mean, std = transform.mean, transform.std
  shown = tables['Training']['stimulus_name'] - 100
  ids = sorted(bdata_files.TRAIN)
  fmri = train.columns['fmri'][:, :4] * std + mean
  np.testing.assert_allclose(fmri, tables['Training']['VoxelData'][:, voxels], rtol=1e-5)
  assert [ids[i] for i in train.columns['stimulus']] == [bdata_files.TRAIN[int(i)] for i in shown]
  assert (train[3]['image'] == 20 * int(shown[3])).all()  # the grey level of the picture that trial 3 saw
  for row, stimulus in enumerate(sorted(bdata_files.TEST)):
    trials = tables['Test']['VoxelData'][tables['Test']['stimulus_name'] == 100 + bdata_files.TEST.index(stimulus)]
    np.testing.assert_allclose(test.columns['fmri'][row, :4] * std + mean, trials[:, voxels].mean(0), rtol=1e-5)
  assert god.God.of(out, 'sub-01').info.metadata['num_voxels'] == bdata_files.NUM_VOXELS  # those in an ROI


def test_faults_of_files_of_fmriprep(folder, tmp_path):
  def fails(match):
    with pytest.raises(UserError, match=match):
      god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz', ['sub-01'])

  bdata_files.write_fmriprep(folder, first='ArtificialShape_3')
  fails("Training.*: stimulus_name of row [0-9]+ is 'ArtificialShape_3'; expected an ImageNet picture")
  bdata_files.write_fmriprep(folder)
  test = folder / 'sub-01_ImageNetTest_fmriprep_volume_native.h5'
  bdata_files.write_fmriprep(tmp_path / 'wider', num_voxels=bdata_files.NUM_VOXELS + 4)
  test.write_bytes((tmp_path / 'wider' / test.name).read_bytes())
  fails('ImageNetTraining.*: other ROIs or voxels than in sub-01_ImageNetTest')
  test.unlink()
  fails('holds sub-01_ImageNetTraining_.*, but no sub-01_ImageNetTest_.*; download both')


def test_files_for_matlab_name_the_file_that_is_needed(folder, tmp_path):
  (folder / 'Subject3.mat').touch()
  god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz', ['sbj_3'])  # beside Subject3.h5
  (folder / 'Subject2.mat').touch()
  assert god.DATA_SET.has_raw(folder)
  with pytest.raises(UserError, match=r'Subject2.mat: this file is for Matlab .*download Subject2.h5'):
    god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz')


def test_two_pictures_of_one_name(folder, tmp_path):
  picture = next((folder / 'images' / 'test').rglob('*.JPEG'))
  other = folder / 'images' / 'cropped' / picture.with_suffix('.png').name
  other.parent.mkdir()
  other.write_bytes(picture.read_bytes())  # the same picture twice does no harm
  god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz', ['sbj_1'])
  other.write_bytes(next((folder / 'images' / 'training').rglob('*.JPEG')).read_bytes())
  with pytest.raises(UserError, match='another picture than .*, of the same name'):
    god_bdata.prepare(folder, folder / 'images', tmp_path / 'npz', ['sbj_1'])


def test_same_table_as_bdpy(folder):
  import bdpy

  path = folder / 'Subject1.h5'
  data = bdpy.BData(str(path))
  with bdata.BDataFile(path) as file:
    assert list(file.flags) == list(data.metadata.key)
    for name in ('VoxelData', 'ROI_V1', 'stimulus_id'):
      np.testing.assert_array_equal(file.is_flagged(name), np.nan_to_num(data.get_metadata(name)) == 1)
    np.testing.assert_array_equal(file.column('stimulus_id'), data.select('stimulus_id')[:, 0])
    rows = np.array([2, 3, 9])
    np.testing.assert_array_equal(
      file.read(rows, file.is_flagged('ROI_V1')), data.select('ROI_V1')[rows].astype(np.float32)
    )
