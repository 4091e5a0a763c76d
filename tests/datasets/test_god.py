"""GOD: raw folder -> TFDS -> training-ready rows, against the published code's outputs."""

import subprocess
import sys

import numpy as np
import pytest

from brainjax.datasets import arrays, god, god_raw, paired
from brainjax.errors import UserError
from tests import golden_files
from tests.datasets import raw_files

DATA, CONFIG = golden_files.load('data')
RELEASED = dict(full_extra_patch=True, test_raw_scale=True)


@pytest.mark.parametrize(
  ('name', 'subjects', 'roi'),
  [('single', ['sbj_1'], 'VC'), ('single_V1', ['sbj_1'], 'V1'), ('all', ['sbj_1', 'sbj_3'], 'VC')],
)
def test_rows_as_released(prepared, name, subjects, roi):
  train = god.load(prepared, subjects, roi, 'train', **RELEASED)
  test = god.load(prepared, subjects, roi, 'test', **RELEASED)
  np.testing.assert_allclose(train.columns['fmri'], DATA[f'god/{name}/train_fmri'], atol=2e-6)
  np.testing.assert_array_equal(test.columns['fmri'], DATA[f'god/{name}/test_fmri'])
  assert train.num_voxels == CONFIG['god_num_voxels'][name]


def test_pictures_and_labels_follow_arr_3(prepared):
  train = god.load(prepared, ['sbj_1'])
  test = god.load(prepared, ['sbj_1'], split='test')
  np.testing.assert_array_equal(train.gather(np.arange(14))['image'], DATA['god/single/train_image'])
  np.testing.assert_array_equal(train.columns['class_index'], DATA['god/single/train_img_class'])
  np.testing.assert_array_equal(test.columns['class_index'], DATA['god/single/test_img_class'])
  np.testing.assert_array_equal(train.columns['stimulus'], DATA['god/sbj_1/arr_3'])
  np.testing.assert_array_equal(test.columns['stimulus'], 14 + np.arange(4))
  assert train.info['names'][1] == 'class10' and train.info['wordnet_ids'][1] == 'n00001010'
  # The published running number of distinct names is another numbering of the same classes.
  pairs = set(zip(train.columns['class_index'].tolist(), DATA['god/single/train_naive_label'].tolist(), strict=True))
  assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize('width', [64, 112])
def test_width_of_another_stage(prepared, width):
  train = god.load(prepared, ['sbj_1'], num_voxels=width, full_extra_patch=True)
  np.testing.assert_allclose(train.columns['fmri'], DATA[f'god/distill/fit_to_{width}'], atol=2e-6)


def test_clean_test_rows_use_train_statistics(prepared):
  raw = raw_files.god_arrays('sbj_1')
  train = raw['arr_0'][:, raw['VC']]
  index = np.arange(80) % 69
  expected = (raw['arr_2'][:, raw['VC']][:, index] - train[:, index].mean()) / train[:, index].std()
  test = god.load(prepared, ['sbj_1'], split='test')
  np.testing.assert_allclose(test.columns['fmri'], expected, atol=1e-5)


def test_clean_subject_of_divisible_width_is_not_padded(prepared):
  both = god.load(prepared, ['sbj_1', 'sbj_3'])
  assert both.num_voxels == 80
  assert {name: t.num_voxels for name, t in both.info['transforms'].items()} == {'sbj_1': 69, 'sbj_3': 80}
  np.testing.assert_array_equal(both.columns['subject'], np.repeat([0, 1], 14))


def test_validation_stimuli_are_held_out(prepared):
  common = dict(num_val_stimuli=5, val_seed=3)
  train = god.load(prepared, ['sbj_1', 'sbj_3'], split='train', **common)
  val = god.load(prepared, ['sbj_1', 'sbj_3'], split='val', **common)
  test = god.load(prepared, ['sbj_1', 'sbj_3'], split='test', **common)
  shown = [set(data.columns['stimulus'].tolist()) for data in (train, val, test)]
  assert [len(stimuli) for stimuli in shown] == [9, 5, 4]
  assert not (shown[0] & shown[1] or shown[0] & shown[2] or shown[1] & shown[2])
  assert (len(train), len(val)) == (18, 10)
  # Statistics without the held-out rows.
  raw = raw_files.god_arrays('sbj_1')
  rows = raw['arr_0'][~np.isin(raw['arr_3'], list(shown[1]))][:, raw['VC']][:, np.arange(80) % 69]
  transform = val.info['transforms']['sbj_1']
  np.testing.assert_allclose((transform.mean, transform.std), (rows.mean(), rows.std()), rtol=1e-5)
  assert set(god.load(prepared, ['sbj_1'], split='val', num_val_stimuli=5, val_seed=4).columns['stimulus']) != shown[1]


def test_paper_protocol_has_no_validation(prepared):
  assert len(god.load(prepared, ['sbj_1'])) == 14
  with pytest.raises(UserError, match='num_val_stimuli is 0'):
    god.load(prepared, ['sbj_1'], split='val')
  with pytest.raises(UserError, match='num_val_stimuli is 14'):
    god.load(prepared, ['sbj_1'], num_val_stimuli=14)


def test_guard_refuses_the_test_split(prepared):
  with arrays.forbid_test_split():
    god.load(prepared, ['sbj_1'])
    with pytest.raises(RuntimeError, match='test'):
      god.load(prepared, ['sbj_1'], split='test')
  god.load(prepared, ['sbj_1'], split='test')


def test_train_proportion_keeps_a_nested_share_of_one_subject(prepared):
  kept = {}
  for share in (0.25, 0.5):
    data = god.load(prepared, ['sbj_1', 'sbj_3'], num_val_stimuli=6, train_proportion={'sbj_3': share})
    assert (data.columns['subject'] == 0).sum() == 8
    kept[share] = set(data.columns['stimulus'][data.columns['subject'] == 1].tolist())
  assert [len(stimuli) for stimuli in kept.values()] == [2, 4] and kept[0.25] < kept[0.5]


def test_pictures_at_another_size(prepared):
  data = god.load(prepared, ['sbj_1'], image_size=5, signed_unit=True)
  item = data[3]
  assert item['image'].shape == (5, 5, 3) and item['image'].dtype == np.float32 and item['image'].min() >= -1
  assert 'image' not in god.load(prepared, ['sbj_1'], image_size=0)[0]


def test_unknown_names(prepared):
  with pytest.raises(UserError, match=r'no ROI named V9; those that exist: V1, VC'):
    god.load(prepared, ['sbj_1'], 'V1+V9')
  with pytest.raises(UserError, match='not prepared yet; run: brainjax prepare god'):
    god.load(prepared, ['sbj_2'])
  with pytest.raises(UserError, match="no split 'tset'"):
    god.load(prepared, ['sbj_1'], split='tset')
  with pytest.raises(UserError, match='no test_trials split'):
    god.load(prepared, ['sbj_1'], split='test_trials')  # the golden trials are random numbers
  with pytest.raises(UserError, match='train_proportion of sbj_2 is 0.5'):
    god.load(prepared, ['sbj_1'], train_proportion={'sbj_2': 0.5})


def test_reads_through_tfds_without_tensorflow(prepared):
  program = (
    'import sys, tensorflow_datasets as tfds\n'
    f'builder = tfds.builder("god/sbj_3", data_dir={str(prepared)!r})\n'
    'item = builder.as_data_source("train")[2]\n'
    'assert item["image"].shape == (8, 8, 3) and item["fmri"].shape == (89,) and item["stimulus"] == 11, item\n'
    'facts = builder.info.metadata\n'
    'assert facts["rois"] == {"VC": 80, "V1": sum(facts["roi/V1"])}\n'
    'assert "horikawa2017" in builder.info.citation and {"train", "test"} <= set(builder.info.splits)\n'
    'assert not {"tensorflow", "brainjax"} & set(sys.modules)\n'
  )
  subprocess.run([sys.executable, '-c', program], check=True, timeout=120)


@pytest.mark.parametrize('stimulus_first', [True, False])
def test_trials_and_explainable_variance(tmp_path, stimulus_first):
  rng = np.random.default_rng(0)
  num_stimuli, repetitions, num_voxels = 4, 600, 9
  share = np.linspace(0, 0.8, num_voxels)
  # Four stimuli with exactly unit variance, so that the expected share needs no averaging over stimuli.
  signal = np.stack([rng.permutation([-1.5, -0.5, 0.5, 1.5]) for _ in range(num_voxels)], axis=1) / np.sqrt(5 / 3)
  noise = rng.standard_normal((num_stimuli, repetitions, num_voxels))
  trials = (np.sqrt(share) * signal[:, None] + np.sqrt(1 - share) * noise).astype(np.float32)
  means = trials.mean(axis=1)
  flat = (trials if stimulus_first else trials.swapaxes(0, 1)).reshape(-1, num_voxels)
  stimulus = god_raw.find_trial_order(flat, means)
  np.testing.assert_array_equal(stimulus[:2], [0, 0] if stimulus_first else [0, 1])
  np.testing.assert_allclose(paired.explainable_variance(flat, stimulus), share, atol=0.04)

  raw_files.write_god(tmp_path / 'raw')
  masks = {'VC': np.ones(num_voxels, bool), 'V1': np.arange(num_voxels) < 3}
  train = rng.standard_normal((14, num_voxels)).astype(np.float32)
  raw_files.change_subject(tmp_path / 'raw', arr_0=train, arr_1=flat, arr_2=means, **masks)
  god.prepare(tmp_path / 'raw', tmp_path / 'out', ['sbj_1'])
  data = god.load(tmp_path / 'out', ['sbj_1'], split='test_trials')
  np.testing.assert_array_equal(data.columns['stimulus'], 14 + stimulus)
  np.testing.assert_allclose(
    god.God.of(tmp_path / 'out', 'sbj_1').info.metadata['explainable_variance'], share, atol=0.04
  )


@pytest.mark.parametrize('dtype', ['>f4', '>f8', '<f8', '<f2'])
def test_number_formats_of_the_arrays(prepared, tmp_path, dtype):
  raw_files.write_god(tmp_path / 'raw')
  arrays = {name: raw_files.god_arrays('sbj_1')[name].astype(dtype) for name in ('arr_0', 'arr_1', 'arr_2')}
  arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
  raw_files.change_subject(tmp_path / 'raw', **arrays, arr_3=raw_files.god_arrays('sbj_1')['arr_3'].astype('>f8'))
  god.prepare(tmp_path / 'raw', tmp_path / 'out', ['sbj_1'])
  for split in ('train', 'test'):
    ours, expected = (god.load(folder, ['sbj_1'], split=split).columns for folder in (tmp_path / 'out', prepared))
    np.testing.assert_allclose(ours['fmri'], expected['fmri'], atol=0.01 if dtype == '<f2' else 1e-5)
    np.testing.assert_array_equal(ours['stimulus'], expected['stimulus'])
