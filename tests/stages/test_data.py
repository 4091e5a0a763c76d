"""The bridge from config.data to data sets: which one, and training across subjects."""

import importlib

import numpy as np
import pytest

from brainjax import config_check
from brainjax.checkpoints import save_weights
from brainjax.datasets import arrays, bold5000, god, hcp, own
from brainjax.datasets import registry as data_sets
from brainjax.errors import UserError
from brainjax.models.fmri_mae import FmriMAE
from brainjax.rules import POSITIVE
from brainjax.stages import common, contrast, transfer
from brainjax.stages import data as stage_data
from brainjax.stages.registry import Source
from configs import base, tiny
from tests.datasets import own_files, raw_files
from tests.datasets.test_bold5000 import write
from tests.stages.making import make


@pytest.fixture
def config(tmp_path):
  config = base.get_config()
  config.data.prepared = str(tmp_path / 'out')
  config.data.image_size = 8
  return config


def test_bold5000_across_subjects(config, tmp_path):
  bold5000.prepare(write(tmp_path / 'raw'), tmp_path / 'out')
  config.data.dataset = 'bold5000'
  config.data.subjects, config.data.other_subjects = ('CSI2',), ('CSI1',)
  alone = bold5000.load(tmp_path / 'out', ['CSI2'], split='train', image_size=8)
  config.data.target_train_proportion = 0.5
  everything = stage_data.rows(config, 'train', image_size=8)
  counts = np.bincount(everything.columns['subject'])
  whole = len(bold5000.load(tmp_path / 'out', ['CSI1'], split='train', image_size=8))
  assert counts[1] == whole and 0 < counts[0] < len(alone)
  target = stage_data.target_rows(config, 'train', image_size=8)
  assert len(target) == counts[0] and target.num_voxels == everything.num_voxels
  test = stage_data.test(config)
  assert set(test.columns['subject'].tolist()) == {0} and test.num_voxels == everything.num_voxels
  assert not set(test.columns['stimulus'].tolist()) & set(everything.columns['stimulus'].tolist())
  config.attend.batch_size = 4
  batch = next(stage_data.paired(config, 'attend', 8).train)
  assert batch['image'].shape == (4, 8, 8, 3) and batch['fmri'].shape == (4, everything.num_voxels)


def test_own(config, tmp_path):
  own.prepare(own_files.write(tmp_path / 'raw').source(), tmp_path / 'out', 'ab')
  config.data.dataset, config.data.subjects = 'own', ('ab',)
  assert len(stage_data.rows(config, 'train', image_size=8)) == 7 and len(stage_data.test(config)) == 3


@pytest.mark.parametrize('number', [1, 2, 3, 4])
def test_configs_of_bold5000(number):
  config = importlib.import_module(f'configs.bold5000_csi{number}').get_config()
  assert (config.data.dataset, config.data.subjects) == ('bold5000', (f'CSI{number}',))


@pytest.fixture
def own_config(tmp_path):
  """The tiny config on 7 training pictures of 12 voxels, in patches of 4."""
  own.prepare(own_files.write(tmp_path / 'raw').source(), tmp_path / 'out', 'ab')
  config = tiny.get_config()
  config.data.update({'prepared': str(tmp_path / 'out'), 'dataset': 'own', 'subjects': ('ab',), 'num_val_stimuli': 2})
  config.data.update({'hcp': '', 'contrast_god_subjects': ()})
  config.fmri_mae.patch_size = 4
  config.attend.batch_size = config.diffuse.batch_size = 5
  return config


@pytest.mark.parametrize('num_val_stimuli', [0, 2])
def test_training_and_selection_do_without_test_data(own_config, tmp_path, num_val_stimuli):
  """The paper's protocol (no validation) and the clean one: their data are made while the test files are gone."""
  shards = [path for path in (tmp_path / 'out').rglob('*array_record*') if '-train.' not in path.name]
  assert {path.name.split('.')[0] for path in shards} == {'own-test', 'own-test_trials'}
  for path in shards:
    path.unlink()
  own_config.data.num_val_stimuli = num_val_stimuli
  for stage in ('attend', 'diffuse'):
    own_config[stage].batch_size = 5
    data = stage_data.paired(own_config, stage, 8)
    assert len(next(data.train)['fmri']) == 5 and bool(data.validation) == bool(num_val_stimuli)
  with pytest.raises(UserError, match='the test split cannot be read'):
    stage_data.test(own_config)


def test_released_batch_of_two(own_config):
  sizes = {}
  for quirk in (False, True):
    own_config.released.batch_of_two = quirk
    stages = {name: stage_data.paired(own_config, name, 8) for name in ('attend', 'diffuse')}
    sizes[quirk] = {name: (len(next(data.train)['fmri']), data.steps_per_epoch) for name, data in stages.items()}
  assert sizes[False] == {'attend': (5, 1), 'diffuse': (5, 1)}
  assert sizes[True] == {'attend': (5, 1), 'diffuse': (2, 3)}  # B7: phase 3 alone


@pytest.mark.parametrize('width', [20, 8])
def test_released_wrap_to_pretrained_width(own_config, tmp_path, width):
  mae = FmriMAE(num_voxels=width, decoder_depth=2, **own_config.fmri_mae.to_dict())
  shapes = transfer.init_shapes(lambda key: mae.init(key, np.zeros((1, width), np.float32))['params'])
  rng = np.random.default_rng(0)
  weights = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}
  save_weights(
    tmp_path / 'phase1', weights, {'kind': 'contrast', 'num_voxels': width, 'settings': common.kwargs_of(mae)}
  )
  rows, tables = {}, {}
  for quirk in (False, True):
    own_config.released.wrap_to_pretrained_width = quirk
    stage = make('attend', own_config, str(tmp_path / 'phase1'))
    rows[quirk], tables[quirk] = next(stage.batches)['fmri'], stage.problem.pretrained['fmri/encoder/pos_embed']
  assert rows[False].shape == (5, 12) and rows[True].shape == (5, width)
  np.testing.assert_array_equal(rows[True], rows[False][:, np.arange(width) % 12])  # B25: wrapped or cut
  np.testing.assert_array_equal(tables[True], weights['encoder/pos_embed'])
  assert tables[False].shape[-2] == 1 + 12 // 4  # otherwise the table is resized


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data.roi': 'V9'}, 'no ROI named V9; those that exist: VC'),
    ({'data.num_val_stimuli': 7}, 'num_val_stimuli is 7; expected 0 .. 6 training stimuli'),
    ({'diffuse.batch_size': 6}, 'config.diffuse.batch_size is 6, but there are only 5 training samples'),
    ({'data.subjects': ('cd',)}, 'cd.* not prepared yet; run: brainjax prepare own'),
    ({'fmri_mae.patch_size': 16}, 'config.fmri_mae.patch_size is 16, which makes 1 patches of 16 voxels'),
    (
      {'attend.mask_ratio': 0.8},
      'config.fmri_mae.patch_size is 4, which makes 3 patches of 12 voxels: too few for attend',
    ),
  ],
)
def test_data_that_do_not_fit_are_refused_before_any_stage_trains(own_config, changes, message):
  own_config.attend.mask_ratio = 0.5
  stage_data.check(own_config, ('attend', 'diffuse', 'reconstruct'))
  for field, value in changes.items():
    section, name = field.split('.')
    own_config[section][name] = value
  with pytest.raises(UserError, match=message):
    stage_data.check(own_config, ('attend', 'diffuse', 'reconstruct'))


def test_contrast_takes_all_visual_voxels_of_god_whatever_another_data_set_calls_its_areas(config, tmp_path):
  god.prepare(raw_files.write_god(tmp_path / 'god'), tmp_path / 'out', ['sbj_1'])
  hcp.prepare(raw_files.write_hcp(tmp_path / 'hcp'), tmp_path / 'out')
  config.data.contrast_god_subjects = ('sbj_1',)
  config.data.update({'dataset': 'bold5000', 'subjects': ('CSI1',), 'roi': 'LOC+PPA'})
  config.contrast.batch_size = 4
  assert contrast._data(config).num_voxels == 80
  with pytest.raises(UserError, match='contrast.batch_size is 40, but there are only 32 training samples'):
    config.contrast.batch_size = 40
    stage_data.check(config, ('contrast',))


def test_contrast_learns_from_every_data_set_that_the_config_names(config, tmp_path, monkeypatch):
  own.prepare(own_files.write(tmp_path / 'raw').source(), tmp_path / 'out', 'ab')
  seen = {}

  def unpaired(prepared, split, **options):
    seen.update(options, prepared=prepared, split=split)
    return arrays.ArrayDataset({'fmri': np.arange(3 * 30, dtype=np.float32).reshape(3, 30)})

  rest = data_sets.DataSet(
    'rest', 'At rest', hcp.Hcp, lambda raw: False, has_pictures=False, raw_field='rest', unpaired=unpaired,
    fields={'rest_level': POSITIVE},
  )  # fmt: skip
  monkeypatch.setitem(data_sets.DATA_SETS, 'rest', rest)
  config.data.update({'hcp': '', 'contrast_god_subjects': (), 'dataset': 'own', 'subjects': ('ab',), 'zscore': 'voxel'})
  config.data.image_size = 32
  with config.unlocked():
    config.data.update({'rest': 'raw/rest', 'rest_level': 2.0, 'contrast_own_subjects': ('ab',)})
  config.fmri_mae.patch_size = 4
  config_check.check(config, ('contrast',))
  assert contrast.sources(config) == [Source('own', ('ab',)), Source('rest')]
  rows = contrast.train_rows(config)
  assert seen == {
    'prepared': config.data.prepared, 'patch_size': 4, 'full_extra_patch': False, 'seed': 2022, 'rest_level': 2.0, 'split': 'train',
  }  # fmt: skip
  fmri = rows.gather(np.arange(len(rows)))['fmri']
  assert fmri.shape == (3 + 7, 30)
  np.testing.assert_array_equal(fmri[:3].ravel(), np.arange(90))
  expected = own.load(tmp_path / 'out', ['ab'], split='train', image_size=0, patch_size=4, zscore='voxel')
  np.testing.assert_array_equal(fmri[3:, :12], expected.columns['fmri'])
  np.testing.assert_array_equal(fmri[3:, 12:24], fmri[3:, :12])  # wrapped around to the width of the other
  config.data.rest_level = -1.0
  with pytest.raises(UserError, match='config.data.rest_level is -1.0; expected more than 0'):
    config_check.check(config, ('contrast',))
  with config.unlocked():
    del config.data.rest_level
  with pytest.raises(
    UserError, match='the data set rest reads config.data.rest_level, but the config has no such field'
  ):
    config_check.check(config, ('contrast',))


def test_two_subjects_of_one_name_are_refused_in_contrast(config):
  config.data.image_size = 32
  with config.unlocked():
    config.data.contrast_own_subjects = ('sbj_2',)
  with pytest.raises(UserError, match='two subjects with the same name: .*own.*sbj_2'):
    config_check.check(config, ('contrast',))


def test_contrast_without_data(config):
  config.data.update({'hcp': '', 'contrast_god_subjects': ()})
  with pytest.raises(UserError, match='config.data.hcp, config.data.contrast_god_subjects, .* are empty; fill one in'):
    contrast.train_rows(config)
