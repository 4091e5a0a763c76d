"""Where areas lie in the model input: repeated voxels, unions, another ROI than all voxels."""

import numpy as np
import pytest

from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import UserError
from brainjax.evaluation.interpretation.areas import Areas

# Nine stored voxels, of which the model sees seven; the input has eleven entries.
MASKS = {
  'VC': np.arange(9) < 9,
  'V1': np.array([1, 1, 0, 0, 1, 0, 0, 0, 0], bool),
  'V2': np.array([0, 0, 1, 1, 0, 0, 0, 0, 0], bool),
  'same': np.array([1, 1, 0, 0, 1, 0, 0, 0, 0], bool),
  'outside': np.array([0, 0, 0, 0, 0, 0, 0, 1, 1], bool),
}


def transform():
  rows = np.random.default_rng(0).normal(size=(8, 7))
  options = {'patch_size': 4, 'full_extra_patch': False, 'test_raw_scale': False}
  fitted = InputTransform.fit(
    rows, data_set='own', subject='s', roi='VC', mask=np.arange(9) < 7, zscore='voxel', **options
  )
  return fitted.with_width(11)


def test_entries_and_voxels():
  areas = Areas.of(transform(), MASKS)
  assert list(areas.masks) == ['V1', 'V2'] and areas.num_voxels == 7
  # Seven voxels, the first repeated to fill two patches of four, then these eight again up to eleven.
  assert areas.source.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 0, 1, 2]
  assert np.flatnonzero(areas.entries('V1')).tolist() == [0, 1, 4, 7, 8, 9]
  values = np.arange(22.0).reshape(2, 11)
  expected = np.zeros((2, 7))
  for entry, voxel in enumerate(areas.source):
    expected[:, voxel] += values[:, entry]
  np.testing.assert_allclose(areas.to_voxels(values), expected)
  assert areas.mean_by_area(np.arange(7.0))['V1'] == pytest.approx(5 / 3)


def test_unions_and_unknown_names():
  areas = Areas.of(transform(), MASKS, ('V1+V2', 'same'))
  assert list(areas.masks) == ['V1+V2', 'same'] and areas.masks['V1+V2'].sum() == 5
  with pytest.raises(UserError, match='no ROI named V9; those that exist'):
    Areas.of(transform(), MASKS, ('V9',))
  with pytest.raises(UserError, match='no voxel of outside enters the model, which sees VC'):
    Areas.of(transform(), MASKS, ('outside',))


def test_data_without_areas_have_voxels():
  areas = Areas.of(transform(), {'VC': MASKS['VC']})
  assert not areas.masks and areas.to_voxels(np.ones((2, 11))).tolist() == [[3, 2, 2, 1, 1, 1, 1]] * 2
