"""HCP: raw folders -> TFDS -> streamed windows, against the published code's outputs."""

import numpy as np
import pytest

from brainjax.datasets import arrays, god, hcp, store
from brainjax.errors import UserError
from tests import golden_files
from tests.datasets import raw_files

DATA, CONFIG = golden_files.load('data')


def all_rows(data):
  return data.gather(np.arange(len(data)))['fmri']


@pytest.mark.parametrize(('name', 'roi'), [('hcp_only', 'VC'), ('hcp_V2', 'V2')])
def test_windows_as_released(prepared, name, roi):
  data = hcp.load(prepared, roi, full_extra_patch=True)
  np.testing.assert_allclose(all_rows(data), DATA[f'hcp/{name}/data'][:, 0], atol=5e-6)
  assert data.num_voxels == CONFIG['hcp_num_voxels'][name]


def test_joined_with_god_as_released(prepared):
  joined = arrays.JoinedDataset(
    [
      hcp.load(prepared, full_extra_patch=True),
      god.load(prepared, CONFIG['kam_subs'], full_extra_patch=True, image_size=0),
    ]
  )
  np.testing.assert_allclose(all_rows(joined), DATA['hcp/hcp_kam/data'][:, 0], atol=5e-6)
  mixed = joined.gather(np.array([40, 3, 17, 18]))['fmri']
  np.testing.assert_allclose(mixed, DATA['hcp/hcp_kam/data'][[40, 3, 17, 18], 0], atol=5e-6)


def test_augmentation_grows_the_data_as_released(prepared):
  data = hcp.load(prepared, full_extra_patch=True, augmentation_times=2)
  rows, expected = all_rows(data), DATA['hcp/hcp_aug2/data'][:, 0]
  assert rows.shape == expected.shape
  np.testing.assert_allclose(rows[:18], expected[:18], atol=5e-6)
  means = (rows[:18, None] + rows[None, :18]) / 2
  for row in (*rows[18:], *expected[18:]):  # each is the mean of some pair, theirs and ours
    assert np.abs(means - row).max(axis=-1).min() < 1e-5


def test_first_subjects_only(prepared):
  # The published limit 0 keeps one subject.
  data = hcp.load(prepared, max_subjects=1, full_extra_patch=True)
  np.testing.assert_allclose(all_rows(data), DATA['hcp/hcp_limit0/data'][:, 0], atol=5e-6)


def test_held_out_subjects(prepared):
  train, val = (hcp.load(prepared, split=split, num_val_subjects=1) for split in ('train', 'val'))
  assert (len(train), len(val)) == (12, 6)
  seen = [set(data.gather(np.arange(len(data)))['subject'].tolist()) for data in (train, val)]
  assert not seen[0] & seen[1] and seen[0] | seen[1] == {0, 1, 2}
  with pytest.raises(UserError, match='num_val_subjects is 3'):
    hcp.load(prepared, num_val_subjects=3)


def test_another_width_and_unknown_roi(prepared):
  assert hcp.load(prepared, num_voxels=112)[5]['fmri'].shape == (112,)
  with pytest.raises(UserError, match='no ROI named LOC; those that exist: V1, V2, V3, V4, VC'):
    hcp.load(prepared, 'LOC')


def test_many_shards(tmp_path, monkeypatch):
  monkeypatch.setattr(store, 'SHARD_BYTES', 1000)
  hcp.prepare(raw_files.write_hcp(tmp_path / 'raw'), tmp_path / 'out')
  assert len(list((tmp_path / 'out').glob('hcp/*/*.array_record-*'))) > 3
  np.testing.assert_allclose(
    all_rows(hcp.load(tmp_path / 'out', full_extra_patch=True)), DATA['hcp/hcp_only/data'][:, 0], atol=5e-6
  )
