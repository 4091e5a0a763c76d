"""Responses to model input, against NumPy by hand."""

import json

import numpy as np
import pytest

from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import UserError

MASK = np.array([True, False, True, True, False, True, True, True, False])  # 6 of 9 voxels


def _fit(zscore='subject', rows=8, **changes):
  responses = np.random.default_rng(0).normal(500, 50, (1, 6)) + np.random.default_rng(1).normal(0, 12, (rows, 6))
  options = dict(data_set='god', subject='sbj_7', roi='V1+V2', mask=MASK, patch_size=4, zscore=zscore, where='here')
  return responses.astype(np.float32), InputTransform.fit(responses.astype(np.float32), **options | changes)


def test_one_mean_for_a_subject_is_that_of_the_padded_rows():
  x, transform = _fit()
  padded = np.concatenate([x, x[:, :2]], axis=1).astype(np.float64)
  expected = (padded - padded.mean()) / padded.std()
  np.testing.assert_allclose(transform(x), expected, atol=2e-5)
  assert np.abs(transform(x).mean(axis=0)).max() > 0.5  # the offsets of the voxels remain


def test_one_mean_per_voxel():
  x, transform = _fit('voxel')
  z = (x - x.mean(axis=0, dtype=np.float64)) / x.std(axis=0, dtype=np.float64)
  np.testing.assert_allclose(transform(x), np.concatenate([z, z[:, :2]], axis=1), atol=1e-4)
  np.testing.assert_allclose(transform.with_width(11)(x)[:, 8:], transform(x)[:, :3])


def test_a_voxel_that_never_changes_becomes_zero():
  x, _ = _fit()
  x[:, 3] = 7
  _, transform = (
    x,
    InputTransform.fit(x, data_set='own', subject='s', roi='VC', mask=MASK, patch_size=2, zscore='voxel'),
  )
  assert (transform(x)[:, 3] == 0).all() and np.isfinite(transform(x)).all()


@pytest.mark.parametrize('zscore', ['subject', 'voxel'])
def test_json_and_back(zscore):
  x, transform = _fit(zscore)
  again = InputTransform.from_json(json.loads(json.dumps(transform.to_json())))
  np.testing.assert_array_equal(again.mask, MASK)
  np.testing.assert_array_equal(again(x), transform(x))
  assert again.num_voxels == 6 and again.width == 8 and not again.test_raw_scale
  broken = transform.to_json()
  del broken['mean']
  with pytest.raises(UserError, match='input transform in weights.json cannot be read'):
    InputTransform.from_json(broken)


def test_all_voxels_of_the_subject_or_those_of_the_roi():
  x, transform = _fit()
  whole = np.zeros((8, 9), np.float32)
  whole[:, MASK] = x
  np.testing.assert_array_equal(transform.select(whole), x)
  np.testing.assert_array_equal(transform.select(x), x)
  with pytest.raises(UserError, match='have 7 voxels; expected the 6 voxels of V1.V2 of god/sbj_7, or all its 9'):
    transform.select(whole[:, :7])


def test_test_rows_keep_their_scale_as_released():
  x, transform = _fit(test_raw_scale=True)
  again = InputTransform.from_json(transform.to_json())
  np.testing.assert_array_equal(again(x, is_test=True), np.concatenate([x, x[:, :2]], axis=1))
  np.testing.assert_array_equal(again(x), _fit()[1](x))


@pytest.mark.parametrize('zscore', ['voxel', 'subject'])
def test_model_input_goes_back_to_the_unit_of_the_responses(zscore):
  x, transform = _fit(zscore=zscore)
  np.testing.assert_allclose(transform.to_raw_scale(transform(x)), np.concatenate([x, x[:, :2]], axis=1), atol=1e-4)
  wide = np.concatenate([transform(x), transform(x)[:, :3]], axis=1)  # of a model that another subject made wider
  np.testing.assert_allclose(transform.to_raw_scale(wide)[:, 8:], x[:, :3], atol=1e-4)


def test_rows_without_variance_are_refused():
  with pytest.raises(UserError, match='here: 0 training rows are left and the voxels of V1.V2 have no variance'):
    _fit(rows=0)


def test_rows_at_the_scale_of_single_trials():
  x, transform = _fit(test_scale='single_trial')
  z = InputTransform.from_json(json.loads(json.dumps(transform.to_json())))(x / 3, is_test=True)
  expected = _fit()[1](x / 3)
  expected /= np.sqrt(np.mean(expected**2, axis=1, keepdims=True))
  np.testing.assert_allclose(z, expected, rtol=1e-4)
  np.testing.assert_array_equal(transform(x), _fit()[1](x))  # training rows are as before


def test_means_are_scaled_by_the_noise_that_is_left_in_them():
  # A voxel of variance 1 and one of variance 9 explain 1/4 and 3/4 of theirs: of all variance (0.25 + 6.75) / 10.
  rng = np.random.default_rng(2)
  x = (rng.normal(size=(4000, 2)) * [1, 3]).astype(np.float32)
  options = dict(data_set='own', subject='s', roi='VC', mask=np.ones(2, bool), patch_size=2, test_scale='repetitions')
  transform = InputTransform.fit(x, explained=np.array([0.25, 0.75]), **options)
  assert transform.explainable_variance == pytest.approx(0.7, abs=0.01)
  again = InputTransform.from_json(json.loads(json.dumps(transform.to_json())))
  repetitions = np.array([1, 5, 35])
  expected = transform(x[:3]) / np.sqrt(0.7 + 0.3 / repetitions)[:, None]
  np.testing.assert_allclose(again(x[:3], True, repetitions), expected, rtol=0.01)
  np.testing.assert_allclose(transform(x[:3], True), transform(x[:3]), rtol=1e-6)  # single trials
  for wrong in (0, np.nan, [3, 5]):
    with pytest.raises(UserError, match='expected 1 or more, one number or one for each of 1 rows'):
      again(x[:1], True, wrong)
  with pytest.raises(UserError, match='shown more than once, and there are none; choose single_trial'):
    InputTransform.fit(x, where='here', **options)


def test_weights_of_earlier_versions_have_the_scale_of_training():
  x, transform = _fit()
  old = transform.to_json()
  assert not {'test_scale', 'explainable_variance'} & old.keys()
  np.testing.assert_array_equal(InputTransform.from_json(old)(x, is_test=True), transform(x))
