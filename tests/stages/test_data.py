"""The bridge from config.data to data sets: which one, and training across subjects."""

import importlib

import numpy as np
import pytest

from brainjax.datasets import bold5000, own
from brainjax.stages import data as stage_data
from configs import base
from tests.datasets import own_files
from tests.datasets.test_bold5000 import write


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
