"""Tests of the simulated cortex: receptive fields, responses, noise and resting activity."""

import numpy as np
import pytest

from brainjax.simulator import cortex, stimuli, vision


@pytest.fixture(scope='module')
def features():
  rows = stimuli.random_attributes(np.random.default_rng(8), 300)
  return vision.extract_features(*stimuli.render(rows, np.arange(300), 64, return_scenes=True))


@pytest.fixture(scope='module')
def subject():
  return cortex.Subject(cortex.CortexConfig(num_voxels=997), seed=0, group=0, number=3)


@pytest.mark.parametrize('total', [70, 97, 997, 4643])
def test_areas_share_all_voxels(total):
  config = cortex.CortexConfig(num_voxels=total)
  sizes = config.roi_sizes()
  assert sum(sizes.values()) == total and min(sizes.values()) > 0
  for roi, share in config.roi_shares:
    assert abs(sizes[roi] - share * total) < 1


def test_masks(subject):
  masks = subject.masks()
  assert set(masks) == {'V1', 'V2', 'V3', 'V4', 'LOC', 'FFA', 'PPA', 'LVC', 'HVC', 'VC'}
  assert sum(masks[roi].astype(int) for roi in cortex.ROIS).tolist() == [1] * 997
  assert np.array_equal(masks['LVC'], masks['V1'] | masks['V2'] | masks['V3'])
  assert np.array_equal(masks['HVC'], masks['LOC'] | masks['FFA'] | masks['PPA'])
  assert masks['VC'].all()


@pytest.mark.parametrize('frequency,level', [(2, 0), (4, 1), (8, 2), (16, 3)])
@pytest.mark.parametrize('quarter', range(4))
def test_gratings_drive_their_gabor(frequency, level, quarter):
  axis = (np.arange(64) + 0.5) / 64
  angle = np.pi * quarter / 4
  wave = np.cos(2 * np.pi * frequency * (axis * np.cos(angle) + axis[:, None] * np.sin(angle)))
  maps = vision._channel_maps(np.repeat((0.5 + 0.4 * wave)[None, :, :, None], 3, axis=3).astype(np.float32))
  # The middle of the picture, away from the padding.
  energy = maps[:16, 0].reshape(16, 16, 16)[:, 5:11, 5:11].mean((1, 2))
  assert energy.argmax() == 4 * level + quarter
  # A grating of contrast 0.4 is two complex exponentials of 0.2, one of which passes.
  assert energy.max() == pytest.approx(0.2, rel=0.1)


def test_colour_channels():
  colours = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0.5, 0.5, 0.5)], np.float32)
  maps = vision._channel_maps(np.broadcast_to(colours[:, None, None], (5, 64, 64, 3)))[-6:, :, 0].T
  expected = [(0.299, 0.701, 1, 0, 0.5, 0), (0.587, 0.413, 0, 1, 0.5, 0), (0.114, 0.886, 0, 0, 0, 1),
              (0.886, 0.114, 0, 0, 1, 0), (0.5, 0.5, 0, 0, 0, 0)]  # fmt: skip
  np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_picture_size_does_not_matter():
  rows = stimuli.random_attributes(np.random.default_rng(1), 7)
  small, large = (
    vision.extract_features(*stimuli.render(rows, np.arange(7), s, return_scenes=True)) for s in (64, 128)
  )
  assert np.corrcoef(small.maps.ravel(), large.maps.ravel())[0, 1] > 0.999
  images, scenes = stimuli.render(rows, np.arange(7), 64, return_scenes=True)
  with pytest.raises(ValueError, match='side'):
    vision.extract_features(images[:, :60, :60], scenes)


def test_space_filling_curve_visits_neighbours():
  cell = (np.arange(64) + 0.5) / 64
  x, y = (axis.ravel() for axis in np.meshgrid(cell, cell))
  position = cortex._hilbert(x, y)
  assert sorted(position) == list(range(64 * 64))
  order = np.argsort(position)
  steps = np.abs(np.diff(x[order])) + np.abs(np.diff(y[order]))
  np.testing.assert_allclose(steps, 1 / 64)


def test_receptive_fields(subject):
  x, y, size = subject.fields.T
  eccentricity = np.hypot(x, y)
  slices = subject.slices
  medians = [np.median(size[slices[roi]]) for roi in cortex.EARLY]
  assert medians == sorted(medians) and medians[-1] > 1.5 * medians[0]
  for roi in cortex.EARLY:
    inside = slices[roi]
    assert np.corrcoef(eccentricity[inside], size[inside])[0, 1] > 0.5
    steps = np.hypot(np.diff(x[inside]), np.diff(y[inside]))
    assert np.median(steps) < 0.2
  # The fovea is magnified: half of the voxels look at the inner quarter of the field's radius range or a little more.
  assert np.median(eccentricity) < 0.5
  np.testing.assert_allclose(subject._pooling.sum(0), 1, rtol=1e-5)


def test_an_early_voxel_sees_its_field_only(subject):
  flat = np.full((2, 64, 64, 3), 0.2, np.float32)
  flat[1, 40:56, 40:56] = 0.9  # lower right
  maps = vision._channel_maps(flat)
  change = np.abs(np.diff(maps[16] @ subject._pooling, axis=0))[0]  # of luminance
  x, y, size = subject.fields.T
  distance = np.hypot(x - 0.5, y - 0.5)
  assert change[(distance < 0.2) & (size < 0.25)].min() > 10 * change[(distance > 1) & (size < 0.25)].max()


def test_signal_variance_is_the_explainable_variance(subject, features):
  signal = subject.signal(features)
  variance = subject.explainable_variance
  silent = variance == 0
  assert silent.sum() == 100
  assert not signal[:, silent].any()
  ratio = signal[:, ~silent].var(0) / variance[~silent]
  assert np.median(ratio) == pytest.approx(1, abs=0.1) and ratio.min() > 0.4 and ratio.max() < 2.5


def test_explainable_variance_over_subjects():
  config = cortex.CortexConfig(num_voxels=4643)
  variance = np.stack([cortex._explainable_variance(np.random.default_rng(i), config) for i in range(40)])
  assert abs(np.median(variance) - 0.15) < 0.01
  medians = np.median(variance, axis=1)
  assert medians.min() > 0.12 and medians.max() < 0.18 and medians.std() > 0.005
  logarithm = np.log(variance[variance > 0])
  assert 0.55 < logarithm.std() < 0.67
  assert variance.max() <= 0.9
  assert (variance == 0).mean() == pytest.approx(0.1, abs=1e-3)


def test_noise_is_half_global(subject):
  noise = subject.noise(np.random.default_rng(0), 3000)
  np.testing.assert_allclose(noise.var(0), 1 - subject.explainable_variance, rtol=0.15)
  scaled = noise / np.sqrt(1 - subject.explainable_variance)
  values = np.linalg.eigvalsh(np.cov(scaled.T))[::-1]
  assert values[:6].sum() / values.sum() == pytest.approx(0.5, abs=0.04)
  assert values[5] > 2 * values[6]
  # Own noise is shared with the next voxel: kernel (0.3, 1, 0.3) has correlation 0.6 / 1.18 at distance 1.
  own = scaled - scaled @ np.linalg.pinv(subject.loadings) @ subject.loadings
  neighbours = np.mean([np.corrcoef(own[:, i], own[:, i + 1])[0, 1] for i in range(0, 900, 7)])
  assert neighbours == pytest.approx(0.6 / 1.18, abs=0.04)


def test_neighbours_are_alike_and_subjects_differ(subject, features):
  signal = subject.signal(features)[:, subject.explainable_variance > 0]
  near = [np.corrcoef(signal[:, i], signal[:, i + 1])[0, 1] for i in range(0, 800, 5)]
  far = [np.corrcoef(signal[:, i], signal[:, i + 71])[0, 1] for i in range(0, 800, 5)]
  assert np.median(near) > 0.7 > np.median(far) + 0.2
  other = cortex.Subject(subject.config, seed=0, group=0, number=4)
  assert abs(np.corrcoef(other.fields[:, 0], subject.fields[:, 0])[0, 1]) < 0.9
  assert not np.array_equal(other.explainable_variance, subject.explainable_variance)
  same = cortex.Subject(subject.config, seed=0, group=0, number=3)
  assert np.array_equal(same.signal(features), subject.signal(features))


def test_higher_areas_carry_meaning_not_pixels(subject):
  # Instances of a category look different, yet LOC answers much alike; V1 less so.
  rows = np.repeat(stimuli.categories().attributes[:60], 4, axis=0)
  signal = subject.signal(vision.extract_features(*stimuli.render(rows, np.arange(240), 64, return_scenes=True)))
  within = signal.reshape(60, 4, -1).var(1).mean(0)
  share = 1 - within / np.maximum(signal.var(0), 1e-12)
  responds = subject.explainable_variance > 0
  loc, v1 = (np.median(share[where][responds[where]]) for where in (subject.slices['LOC'], subject.slices['V1']))
  assert loc > 0.98 and 1 - v1 > 4 * (1 - loc)


def test_rest_has_the_covariance_of_the_task(subject):
  small = cortex.Subject(cortex.CortexConfig(num_voxels=97), seed=2, group=1, number=1)
  rest = small.rest(np.random.default_rng(0), 20_000)
  np.testing.assert_allclose(rest.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(rest.std(0), 1, atol=1e-3)
  signal = small.signal(vision.reference_features())
  task = signal[np.random.default_rng(1).integers(len(signal), size=20_000)] + small.noise(
    np.random.default_rng(2), 20_000
  )
  upper = np.triu_indices(97, 1)
  assert np.corrcoef(np.corrcoef(rest.T)[upper], np.corrcoef(task.T)[upper])[0, 1] > 0.97
  lagged = [np.mean(rest[lag:] * rest[: len(rest) - lag]) for lag in (1, 4, 16)]
  assert lagged[0] > 0.5 > lagged[1] > 0.2 > lagged[2]


def test_subjects_share_vertices_up_to_their_jitter(features):
  def responses(jitter, group, number):
    config = cortex.CortexConfig(num_voxels=301, pure_noise_fraction=0.0, subject_jitter=jitter)
    signal = cortex.Subject(config, 5, group, number).signal(features)
    return (signal - signal.mean(0)) / signal.std(0)

  likeness = {}
  for jitter in (0.0, 0.3, 1.0):
    a, b = responses(jitter, 0, 1), responses(jitter, 1, 2)
    likeness[jitter] = np.mean(a * b, axis=0)
  assert likeness[0.0].min() > 0.999
  assert 0.4 < np.median(likeness[0.3]) < 0.99
  assert np.median(likeness[1.0]) < np.median(likeness[0.3]) - 0.2


def test_noise_and_reliability_are_the_subjects_own_on_a_common_sheet():
  config = cortex.CortexConfig(num_voxels=301, subject_jitter=0.0)
  a, b = (cortex.Subject(config, 5, 0, number) for number in (1, 2))
  assert np.array_equal(a.fields, b.fields)
  assert not np.array_equal(a.explainable_variance, b.explainable_variance)
  assert not np.array_equal(a.loadings, b.loadings)
