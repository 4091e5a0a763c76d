"""The same run on meshes of one to eight (virtual) devices; filled-up batches count as if they were not filled."""

import numpy as np
import pytest

from brainjax import sharding
from brainjax.stages import attend, common, contrast
from tests.mesh_runs import contrast_rows, on_eight_devices


def _same(results):
  """All losses and validation scores equal those of one device."""
  one = results['1x1']
  for result in results.values():
    assert len(result['losses']) == 20 and len(result['validation']) == 2
    np.testing.assert_allclose(result['losses'], one['losses'], rtol=1e-5)
    np.testing.assert_allclose(result['validation'], one['validation'], rtol=1e-4, atol=1e-5)


def test_contrast_is_the_same_run_on_eight_devices():
  results = on_eight_devices('train', 'contrast', '1x1', '2x4')
  _same(results)
  # Kernels and their moments lie on four devices; a quarter of them and the few small parameters on each.
  assert results['1x1']['share'] == 1 and 0.25 < results['2x4']['share'] < 0.35


@pytest.mark.slow
@pytest.mark.parametrize('name', ['contrast', 'attend', 'diffuse'])
def test_every_stage_is_the_same_run_on_any_mesh(name):
  _same(on_eight_devices('train', name, '1x1', '2x1', '1x4', '8x1', '2x4'))


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_devices():
  moved = on_eight_devices('reshard', '2x4', '1x1', '2x1', '1x4', '8x1')
  whole = on_eight_devices('reshard', '1x1', '1x1', '1x1', '1x1', '1x1')
  assert len(moved['losses']) == 20
  np.testing.assert_allclose(moved['losses'], whole['losses'], rtol=1e-5)


def test_negatives_per_device_by_hand():
  pred, fmri, weight = contrast_rows()
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  first, second, keys = unit(pred[:16].reshape(16, 6)), unit(pred[16:].reshape(16, 6)), unit(fmri)

  def mean_loss(queries, keys, devices):
    losses = []
    for rows in np.split(np.arange(16), devices):
      rows = [row for row in rows if weight[row]]
      logits = queries[rows] @ keys[rows].T / 0.1
      losses += [np.log(np.exp(logits[i]).sum()) - logits[i, i] for i in range(len(rows))]
    return np.mean(losses)

  results = on_eight_devices('negatives', '1x1', '4x1', '2x4')
  for layout, devices in (('1x1', 1), ('4x1', 4), ('2x4', 8)):
    np.testing.assert_allclose(results[layout]['self_contrast'], mean_loss(first, keys, devices), rtol=1e-5)
    np.testing.assert_allclose(results[layout]['cross_contrast'], mean_loss(first, second, devices), rtol=1e-5)


@pytest.mark.slow
def test_pictures_are_the_same_on_any_mesh():
  results = {
    layout: np.array(pictures) for layout, pictures in on_eight_devices('reconstruct', '1x1', '4x1', '1x4').items()
  }
  assert results['1x1'].shape == (3, 3, 32, 32, 3) and results['1x1'].std() > 10
  for pictures in results.values():
    # Rounding to whole grey values may fall to the other side.
    assert np.abs(pictures - results['1x1']).max() <= 1


def _filled(x):
  return np.concatenate([x, x[:1] + 3, x[:1] - 2])


def test_padding_does_not_change_the_loss_of_contrast():
  pred, fmri, _ = contrast_rows()
  mask = np.random.default_rng(0).random((32, 3)) < 0.7
  whole = contrast.contrast_loss({'pred': pred, 'mask': mask}, fmri, contrast.Weights(separate=True))
  views = {
    name: np.concatenate([_filled(x[:16]), _filled(x[16:])]) for name, x in {'pred': pred, 'mask': mask * 1.0}.items()
  }
  weight = np.float32([1] * 16 + [0, 0])
  filled = contrast.contrast_loss(views, _filled(fmri), contrast.Weights(separate=True), row_weight=weight)
  np.testing.assert_allclose(filled[0], whole[0], rtol=1e-6)
  for name, value in whole[1].items():
    np.testing.assert_allclose(filled[1][name], value, rtol=1e-5, err_msg=name)


def test_padding_does_not_change_the_loss_of_attend():
  rng = np.random.default_rng(0)
  fmri, image = rng.standard_normal((7, 8), np.float32), rng.standard_normal((7, 4, 4, 3), np.float32)
  fmri_out = {'pred': rng.standard_normal((7, 4, 2), np.float32), 'mask': (rng.random((7, 4)) < 0.7) * 1.0}
  image_out = {'pred': rng.standard_normal((7, 4, 12), np.float32), 'mask': (rng.random((7, 4)) < 0.7) * 1.0}
  ones = np.ones((7, 1), np.float32)
  total, metrics = attend.attend_loss(fmri_out, image_out, fmri, image, ones, (0.25, 1.5))
  outs = [{name: _filled(x) for name, x in out.items()} for out in (fmri_out, image_out)]
  weight = np.float32([[1]] * 7 + [[0], [0]])
  filled, filled_metrics = attend.attend_loss(*outs, _filled(fmri), _filled(image), weight, (0.25, 1.5))
  np.testing.assert_allclose(filled, total, rtol=1e-6)
  for name, value in metrics.items():
    np.testing.assert_allclose(filled_metrics[name], value, rtol=1e-5, err_msg=name)


def test_padding_does_not_change_the_extremes():
  # Two views of a batch of two rows and one that fills it up.
  views = np.float32([[[1], [-7]], [[3], [2]], [[99], [0]], [[-8], [5]], [[4], [4]], [[0], [-99]]])
  found = common.extremes(np.float32([1, 0.5, 0]), latent=views, pred=views[:3])
  assert {name: float(value) for name, value in found.items()} == {'max_latent': 8, 'max_pred': 7}


def test_a_batch_is_filled_up_to_the_devices():
  assert [sharding.padded(rows, 4) for rows in (7, 8, 9)] == [8, 8, 12]


def test_rows_are_mapped_in_batches_of_one_shape():
  shapes = []

  def apply(params, rows):
    shapes.append(rows.shape)
    return params * rows.sum(axis=1)

  rows = np.arange(18, dtype=np.uint8).reshape(9, 2)
  mapped = sharding.RowMap(apply, np.float32(2), 4, prepare=lambda part: part.astype(np.float32) + 1)(rows)
  np.testing.assert_array_equal(mapped, 2 * (rows.sum(axis=1) + 2.0))
  assert shapes == [(4, 2)]  # traced once
