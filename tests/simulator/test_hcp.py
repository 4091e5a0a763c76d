"""Tests of the simulated resting-state files."""

import numpy as np

from brainjax.simulator import cortex, hcp
from tests import golden_files


def test_files_have_the_published_form(tmp_path):
  config = cortex.CortexConfig(num_voxels=97)
  for number in (1, 2):
    hcp.write_subject(tmp_path, number, config, seed=0)
  paths = sorted(tmp_path.glob('*/HCP_visual_voxel.npz'))
  assert [path.parent.name for path in paths] == ['900001', '900002']
  golden = golden_files.group(golden_files.load('data')[0], 'hcp/100206')
  first, second = (dict(np.load(path)) for path in paths)
  assert list(first) == ['V1', 'V2', 'V3', 'V4'] == sorted(golden)
  assert sum(array.shape[1] for array in first.values()) == 97
  for roi, array in first.items():
    assert array.dtype == np.float32 and array.shape[0] == 1200 and array.shape == second[roi].shape
    np.testing.assert_allclose(array.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(array.std(0), 1, atol=1e-3)
    assert not np.array_equal(array, second[roi])


def test_the_seed_decides(tmp_path):
  config = cortex.CortexConfig(num_voxels=71)
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    hcp.write_subject(tmp_path / name, 1, config, seed, frames=50)
  a, b, c = (np.load(tmp_path / name / hcp.subject_file(1))['V1'] for name in 'abc')
  assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_on_a_common_sheet_rest_has_the_vertices_of_the_task(tmp_path):
  config = cortex.CortexConfig(num_voxels=97, subject_jitter=0.5)
  hcp.write_subject(tmp_path, 1, config, seed=0, frames=50)
  areas = dict(np.load(tmp_path / hcp.subject_file(1)))
  sizes = config.roi_sizes()
  assert {roi: array.shape[1] for roi, array in areas.items()} == {roi: sizes[roi] for roi in ('V1', 'V2', 'V3', 'V4')}
