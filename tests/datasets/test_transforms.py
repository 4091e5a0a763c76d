"""Transforms against the arrays that the published code gave, and by hand."""

import numpy as np
import pytest

from brainjax.datasets import arrays, transforms
from tests import golden_files

DATA, _ = golden_files.load('data')


def close(actual, expected, tolerance=2e-6):
  assert actual.dtype == np.float32
  np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize('width', [29, 32, 35, 63])
def test_pad_as_released(width):
  fmri = DATA[f'pad_to_patch_size/in_{width}']
  np.testing.assert_array_equal(
    transforms.pad_to_patch_size(fmri, 16, full_extra_patch=True), DATA[f'pad_to_patch_size/out_{width}']
  )


def test_clean_pad_leaves_a_divisible_width():
  fmri = DATA['pad_to_patch_size/in_32']
  np.testing.assert_array_equal(transforms.pad_to_patch_size(fmri, 16), fmri)
  np.testing.assert_array_equal(
    transforms.pad_to_patch_size(DATA['pad_to_patch_size/in_35'], 16), DATA['pad_to_patch_size/out_35']
  )


def test_normalize():
  close(transforms.normalize(DATA['normalize/in']), DATA['normalize/out'])
  close(transforms.normalize(DATA['normalize/in'], 2, 3), DATA['normalize/out_given_mean2_std3'])


def test_fit_width():
  np.testing.assert_array_equal(transforms.fit_width(DATA['pad_to_length/in'], 20), DATA['pad_to_length/out_20'])
  np.testing.assert_array_equal(transforms.fit_width(np.arange(9), 4), [0, 1, 2, 3])


@pytest.mark.parametrize(('name', 'seconds'), [('T120', 8), ('T133', 8), ('t12', 12)])
def test_process_voxel_ts(name, seconds):
  series = DATA[f'process_voxel_ts/in_{name}']
  windows = transforms.window_means(series, transforms.frames_per_window(seconds))
  samples = transforms.normalize(transforms.pad_to_patch_size(windows, 16, full_extra_patch=True))
  close(samples, DATA[f'process_voxel_ts/out_{name}'], 1e-5)


@pytest.mark.parametrize('ratio', [0.3, 0.5, 0.9])
def test_interpolate(ratio):
  x, y = DATA['interpolate_voxels/x'], DATA['interpolate_voxels/y']
  close(transforms.interpolate_voxels(x, y, ratio), DATA[f'interpolate_voxels/z_ratio{ratio}'])


@pytest.mark.parametrize('times', [1, 2, 3])
def test_augment(times):
  fmri, pairs = DATA['augmentation/in'], DATA[f'augmentation/pairs_times{times}']
  data = arrays.InterpolatedDataset(arrays.ArrayDataset({'fmri': fmri}), pairs)
  close(data.gather(np.arange(len(data)))['fmri'], DATA[f'augmentation/out_times{times}'])
  drawn = transforms.draw_pairs(len(fmri), times, np.random.default_rng(0))
  assert drawn.shape == pairs.shape and (drawn < len(fmri)).all()


def test_mean_by_label():
  _, config = golden_files.load('data')
  means, labels = transforms.mean_by_label(DATA['remove_repeats/in'], config['remove_repeats_labels_in'])
  close(means, DATA['remove_repeats/out'])
  assert labels == config['remove_repeats_labels_out']


def test_sparse_zeroes_a_fifth_of_the_voxels():
  fmri = np.ones(4192, np.float32)
  out = transforms.sparse(fmri, np.random.default_rng(0))
  assert (out == 0).sum() == 838 and (fmri == 1).all()
  np.testing.assert_array_equal(out, transforms.sparse(fmri, np.random.default_rng(0)))
  assert not np.array_equal(out, transforms.sparse(fmri, np.random.default_rng(1)))
  # The same share of rows as the reference, when rows are what it is given.
  assert (DATA['fmri_transform/out_5xV'] == 0).all(axis=1).sum() == int(0.2 * 5)


def test_bilinear_without_antialias():
  image = DATA['ldm_image/crop_in'].transpose(1, 2, 0)
  close(transforms.enlarge_image(image, 25), DATA['ldm_image/resize_25'].transpose(1, 2, 0), 1e-5)


def test_random_crop():
  image = np.random.default_rng(0).random((256, 256, 3), np.float32)
  crops = [transforms.random_crop(image, np.random.default_rng(seed)) for seed in range(40)]
  kept = sum(np.array_equal(crop, image) for crop in crops)
  assert 10 < kept < 30
  assert all(crop.shape == image.shape and crop.dtype == np.float32 for crop in crops)
  # A linear ramp tells the side of the crop: 205 of 256.
  ramp = np.broadcast_to(np.arange(256, dtype=np.float32)[None, :, None], (256, 256, 3))
  crop = transforms.random_crop(ramp, np.random.default_rng(0), probability=1)
  assert np.ptp(crop) == 204


@pytest.mark.parametrize('released', [False, True])
def test_imagenet_normalise(released):
  # The golden's input is no multiple of 1/255: it was rounded for one variant, and cut by the processor in the other.
  to_levels = np.trunc if released else np.round
  images = to_levels(DATA['image_processor/in_float01'] * 255).astype(np.uint8)
  ours = np.stack([transforms.resize_image(image, 32) for image in images]) * np.float32(1 / 255)
  ours = transforms.imagenet_normalise(ours, double_rescale=released)
  expected = DATA['image_processor/out_' + ('as_released' if released else 'uint8_input')].transpose(0, 2, 3, 1)
  close(ours, expected, 1e-6)


def test_signed_unit():
  np.testing.assert_allclose(transforms.to_signed_unit(np.array([0, 51, 255], np.uint8)), [-1, -0.6, 1], atol=1e-6)
