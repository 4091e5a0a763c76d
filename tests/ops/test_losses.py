"""Losses against sums by hand, PyTorch's cross-entropy, and golden numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.ops import losses
from tests import golden_files


@pytest.fixture
def rows():
  rng = np.random.default_rng(0)
  return rng.normal(size=(7, 9)).astype(np.float32), rng.normal(size=(7, 9)).astype(np.float32)


def test_masked_mse_is_a_mean_over_the_removed_tokens_of_the_batch():
  rng = np.random.default_rng(0)
  pred, target = rng.normal(size=(2, 3, 7, 8)).astype(np.float32)
  mask = np.zeros((3, 7), np.float32)
  mask[0, :5] = mask[2, 6] = 1  # samples remove 5, 0 and 1 tokens
  error = losses.masked_mse(pred, target, mask)
  np.testing.assert_array_equal(error.count, [5, 0, 1])
  removed = [((pred[i, j] - target[i, j]) ** 2).mean() for i in range(3) for j in range(7) if mask[i, j]]
  np.testing.assert_allclose(error.mean(), np.mean(removed), rtol=1e-6)
  np.testing.assert_allclose(error.total[0], np.sum(removed[:5]), rtol=1e-6)
  assert losses.masked_mse(pred, target, np.zeros_like(mask)).mean() == 0


def test_info_nce_equals_pytorch(rows):
  torch = pytest.importorskip('torch')
  queries, keys = (torch.tensor(x) for x in rows)
  cosines = torch.nn.functional.cosine_similarity(queries[:, None], keys[None], dim=-1)
  expected = torch.nn.functional.cross_entropy(cosines / 0.1, torch.arange(7), reduction='none')
  np.testing.assert_allclose(losses.info_nce(*rows), expected.numpy(), rtol=1e-5)
  negatives = torch.nn.functional.cosine_similarity(queries[:, None], queries[None], dim=-1)
  for i, loss in enumerate(losses.info_nce_paired(*rows)):
    logits = torch.cat([cosines[i, i : i + 1], negatives[i, torch.arange(7) != i]]) / 0.1
    expected = torch.nn.functional.cross_entropy(logits[None], torch.tensor([0]))
    np.testing.assert_allclose(loss, expected.numpy(), rtol=1e-5)


def test_info_nce_by_hand():
  queries = np.array([[2.0, 0], [0, 3]], np.float32)
  keys = np.array([[1.0, 0], [1, 1]], np.float32)
  expected = [np.log(1 + np.exp((0.5**0.5 - 1) / 0.5)), np.log(1 + np.exp(-(0.5**0.5) / 0.5))]
  np.testing.assert_allclose(losses.info_nce(queries, keys, temperature=0.5), expected, rtol=1e-6)


def test_info_nce_equals_the_reference():
  golden, _ = golden_files.load('phase1')
  first = golden['fwd/view1/pred'].reshape(6, 320)
  second = golden['fwd/view2/pred'].reshape(6, 320)
  fmri = golden['fmri'][:, 0]
  np.testing.assert_allclose(losses.info_nce(first, fmri).mean(), golden['loss/self_infonce'], rtol=1e-5)
  np.testing.assert_allclose(losses.info_nce(second, fmri).mean(), golden['loss/self_infonce_view2'], rtol=1e-5)
  cross = losses.info_nce(first, second).mean()
  np.testing.assert_allclose(cross, golden['loss/cross_infonce'], rtol=1e-5)
  paired = losses.info_nce_paired(first, fmri).mean() + 0.5 * cross
  np.testing.assert_allclose(paired, golden['total/readme_mask_paired/contrast_loss'], rtol=1e-5)


@pytest.mark.parametrize('loss', [losses.info_nce, losses.info_nce_paired])
def test_rows_that_fill_the_batch_are_nobodys_negatives(rows, loss):
  queries, keys = rows
  filled = (np.concatenate([x[:5], x[:3] + 7]) for x in (queries, keys))
  values = loss(*filled, np.float32([1, 1, 1, 1, 1, 0, 0, 0]))
  np.testing.assert_allclose(values[:5], loss(queries[:5], keys[:5]), rtol=1e-6)
  assert np.isfinite(values).all()


def test_one_sample_has_no_negatives(rows):
  queries, keys = (x[:1] for x in rows)
  for loss in (losses.info_nce, losses.info_nce_paired):
    value, gradient = jax.value_and_grad(lambda queries, loss=loss: loss(queries, keys).sum())(queries)
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize('loss', [losses.info_nce, losses.info_nce_paired, losses.correlation])
def test_a_row_of_zeros_has_finite_gradients(rows, loss):
  queries, keys = (x.copy() for x in rows)
  queries[3] = keys[5] = 0
  value, grads = jax.value_and_grad(lambda q, k: loss(q, k).sum(), (0, 1))(queries, keys)
  assert np.isfinite(value) and all(np.isfinite(grad).all() for grad in grads)


def test_losses_are_float32(rows):
  low = [jnp.asarray(x, jnp.bfloat16) for x in rows]
  for loss in (losses.info_nce, losses.info_nce_paired, losses.correlation):
    assert loss(*low).dtype == jnp.float32


def test_correlation_equals_numpy(rows):
  expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(*rows, strict=True)]
  np.testing.assert_allclose(losses.correlation(*rows), expected, rtol=1e-5)
  assert losses.correlation(np.ones((1, 9)), rows[0][:1]) == 0


def test_normalised_patches():
  patches = np.random.default_rng(0).normal(3, 5, (2, 7, 8)).astype(np.float32)
  expected = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(losses.normalise_patches(patches), expected, rtol=1e-4, atol=1e-5)


def test_constant_rows_correlate_with_nothing():
  """The mean of many equal values is rounded, so that a constant row is not exactly zero once it is centred."""
  varied = np.random.default_rng(0).integers(0, 256, (4, 3 * 64 * 64)).astype(np.uint8)
  constant = np.array([[0], [77], [203], [255]], np.uint8).repeat(3 * 64 * 64, axis=1)
  np.testing.assert_array_equal(losses.correlation(varied, constant), 0)
  nearly = constant.astype(np.float32) + (varied > 127)  # differs by one grey value
  expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(nearly.astype(np.float64), varied, strict=True)]
  np.testing.assert_allclose(losses.correlation(nearly, varied), expected, atol=1e-4)
