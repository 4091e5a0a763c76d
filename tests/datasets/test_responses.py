"""A new session -> model input: arrays, .npy and NIfTI with masks; what does not fit is refused."""

import nibabel
import numpy as np
import pytest

from brainjax.datasets import own
from brainjax.datasets.masks import Mask
from brainjax.datasets.responses import Responses
from brainjax.errors import UserError
from tests.datasets import own_files


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
  """NIfTI betas with baselines of 500 +- 50 in 12 voxels of 2 x 3 x 2, prepared; what weights of V1 and of all would carry."""
  folder = tmp_path_factory.mktemp('lab')
  study = own_files.write(folder / 'raw')
  study.fmri = (500 + 50 * np.random.default_rng(3).normal(size=12) + 12 * study.fmri).astype(np.float32)
  files = own_files.as_nifti(study)
  masks = tuple(Mask(files[name]) for name in ('V1', 'V2'))
  source = own.Source(files['betas'], study.events, study.images, masks)
  own.prepare(source, folder / 'out')
  responses = {}
  for roi in ('VC', 'V1'):
    data = own.load(folder / 'out', ['sub-01'], roi, 'train', image_size=0, patch_size=4, zscore='voxel')
    transform = data.info['transforms']['sub-01']
    responses[roi] = Responses({'input': [transform.to_json()]}, data.num_voxels), data
  return study, files, responses


def masks_of(files, *names):
  return ','.join(str(files[name]) for name in names)


def test_nifti_with_the_masks_of_training_is_what_training_saw(lab):
  study, files, responses = lab
  reader, data = responses['VC']
  rows = reader.from_betas(files['betas'], masks_of(files, 'V1', 'V2'))
  is_train = study.table['split'] == 'train'
  np.testing.assert_allclose(rows[is_train], data.columns['fmri'], atol=1e-4)
  union = np.load(study.masks['V1']) | np.load(study.masks['V2'])
  mean, std = (f(study.fmri[is_train][:, union], axis=0) for f in (np.mean, np.std))
  np.testing.assert_allclose(rows[:, : union.sum()], (study.fmri[:, union] - mean) / std, atol=1e-3)
  # The same from arrays: voxels alone, volumes with a mask, the ROI's voxels, one trial.
  volumes = study.fmri.reshape(-1, 2, 3, 2)
  grid = union.reshape(2, 3, 2)
  for betas, mask in ((study.fmri[:, union], None), (volumes, grid), (np.moveaxis(volumes, 0, -1), grid)):
    np.testing.assert_allclose(reader.from_betas(betas, mask), rows, atol=1e-4)
  np.testing.assert_allclose(reader.from_betas(volumes[4], grid), rows[4:5], atol=1e-4)
  v1, of_v1 = responses['V1']
  expected = of_v1.columns['fmri']
  for mask in (masks_of(files, 'V1'), masks_of(files, 'V1', 'V2')):
    np.testing.assert_allclose(v1.from_betas(files['betas'], mask)[is_train], expected, atol=1e-4)


def test_a_mask_of_as_many_other_voxels_is_refused(lab, tmp_path):
  study, files, responses = lab
  union = (np.load(study.masks['V1']) | np.load(study.masks['V2'])).reshape(2, 3, 2)
  shifted = np.roll(union, 1)
  assert shifted.sum() == union.sum()
  with pytest.raises(UserError, match=r'the mask chooses 8 voxels of a grid \(2, 3, 2\)\. \d of them are among the 8'):
    responses['VC'][0].from_betas(study.fmri.reshape(-1, 2, 3, 2), shifted)
  image = nibabel.load(files['betas'])
  nibabel.save(nibabel.Nifti1Image(shifted.astype(np.uint8), image.affine), tmp_path / 'other.nii.gz')
  with pytest.raises(UserError, match='name the masks of its training data'):
    responses['VC'][0].from_betas(files['betas'], tmp_path / 'other.nii.gz')


@pytest.mark.parametrize(
  'change, told',
  [
    (lambda x: x[:, ::-1], 'root mean square of'),  # another order of voxels
    (lambda x: x / 100, 'root mean square of'),  # another unit
    (lambda x: x[:, :5], 'shape .trials, 8'),
    (lambda x: (x * 300).astype(np.int16), r'whole numbers \(int16\)'),
    (lambda x: x.reshape(-1, 8, 1, 1), 'volumes of shape .*name the masks'),
    (lambda x: np.where(x > 520, np.nan, x), 'values that are not finite'),
    (lambda x: x.astype(str), 'expected numbers'),
  ],
)
def test_what_does_not_fit_is_refused(lab, change, told):
  study, _, responses = lab
  union = np.load(study.masks['V1']) | np.load(study.masks['V2'])
  with pytest.raises(UserError, match=told):
    responses['VC'][0].from_betas(change(study.fmri[:, union]))


def test_a_scale_unlike_that_of_training_is_refused_for_arrays_too(lab, capsys):
  study, _, responses = lab
  reader = responses['VC'][0]
  union = np.load(study.masks['V1']) | np.load(study.masks['V2'])
  with pytest.raises(UserError, match='root mean square of .*pass normalised=True'):
    reader.model_input(1000 * study.fmri[:, union])
  rows = 1000 * reader.model_input(study.fmri[:, union])
  np.testing.assert_array_equal(reader.model_input(rows, normalised=True), rows)
  assert 'was it z-scored as in training?' in capsys.readouterr().out


def test_a_new_session_is_standardised_by_itself_where_training_was(lab):
  study, _, responses = lab
  reader = responses['VC'][0]
  info = reader.transforms['sub-01'].to_json() | {'mean': 0.0, 'std': 1.0, 'by_session': True}
  reader = Responses({'input': [info]}, reader.num_voxels)
  union = np.load(study.masks['V1']) | np.load(study.masks['V2'])
  session = 7 + 3 * study.fmri[:, union]
  z = (session - session.mean(0)) / session.std(0)
  np.testing.assert_allclose(reader.from_betas(session)[:, :8], z, atol=1e-3)
  with pytest.raises(UserError, match='found 9 trials, expected all trials of one session, at least 10'):
    reader.from_betas(session[:9])


def test_normalised_voxels_of_the_roi_are_padded_as_in_training(lab):
  study, _, responses = lab
  reader, data = responses['V1']
  rows = data.columns['fmri']
  assert rows.shape[1] == 8 and reader.transforms['sub-01'].num_voxels == 5  # patches of 4
  for given in (rows, rows[:, :5]):
    np.testing.assert_array_equal(reader.model_input(given, normalised=True), rows)
    np.testing.assert_array_equal(reader.model_input(given[2], subject='sub-01', normalised=True), rows[2:3])
  with pytest.raises(UserError, match=r'\(trials, 8\): .*or the voxels without padding \(5 of V1 of own/sub-01\)'):
    reader.model_input(rows[:, :6], normalised=True)
  for normalised in (False, True):
    with pytest.raises(UserError, match=r'fMRI: whole numbers \(int16\)'):
      reader.model_input(rows[:, :5].astype(np.int16), normalised=normalised)


def test_messages_name_the_file_as_it_is(lab, tmp_path):
  _, files, responses = lab
  with pytest.raises(UserError, match=r'volumes of shape \(2, 3, 2, 19\)'):
    responses['VC'][0].from_betas(files['betas'])
  with pytest.raises(UserError, match='none.npy: no such file$'):
    responses['VC'][0].from_betas(tmp_path / 'none.npy')
