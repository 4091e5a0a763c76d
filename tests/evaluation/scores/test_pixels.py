"""MSE, PCC and SSIM against scikit-image, NumPy and the numbers of the original code."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from brainjax.evaluation.scores import pixels
from tests import golden_files


def images(seed: int, *shape: int) -> np.ndarray:
  """Pictures with structure: noise over a coarse pattern, so that scores spread."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 200, (*shape[:-3], -(-shape[-3] // 4), -(-shape[-2] // 4), shape[-1]))
  fine = coarse.repeat(4, axis=-3).repeat(4, axis=-2)[..., : shape[-3], : shape[-2], :]
  return (fine + rng.integers(0, 56, shape)).astype(np.uint8)


def paired(score: str, a: np.ndarray, b: np.ndarray, **options) -> np.ndarray:
  """Image n of `a` against image n of `b`."""
  return np.diagonal(pixels.table(score, a[:, None], b, **options)[:, 0])


def oracle(score: str, a: np.ndarray, b: np.ndarray) -> float:
  if score == 'mse':
    return np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
  if score == 'pcc':
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]
  return structural_similarity(a, b, data_range=255, channel_axis=-1)


@pytest.mark.parametrize('score', pixels.HIGHER_IS_BETTER)
@pytest.mark.parametrize('size', [(7, 9), (16, 13), (33, 40)])
def test_paired_and_table_equal_the_oracles(score, size):
  stimuli, samples = images(0, 5, *size, 3), images(1, 5, 2, *size, 3)
  samples[0, 0] = stimuli[0]  # a perfect reconstruction
  samples[1, 1] = 255 - stimuli[1]  # an inverted one
  expected = np.array([[[oracle(score, s, t) for t in stimuli] for s in item] for item in samples])
  tolerance = {'rtol': 1e-5, 'atol': 1e-3 if score == 'mse' else 2e-5}
  np.testing.assert_allclose(pixels.table(score, samples, stimuli), expected, **tolerance)
  # Blocks that do not divide the number of images change nothing.
  block = 2 * 4 * 3 * size[0] * size[1]
  np.testing.assert_allclose(pixels.table(score, samples, stimuli, block_bytes=block), expected, **tolerance)
  diagonal = expected[np.arange(5), 1, np.arange(5)]
  np.testing.assert_allclose(paired(score, samples[:, 1], stimuli, block_bytes=block), diagonal, **tolerance)


def test_large_images_keep_their_digits():
  a, b = images(2, 1, 256, 256, 3), images(3, 1, 256, 256, 3)
  for score in pixels.HIGHER_IS_BETTER:
    np.testing.assert_allclose(paired(score, a, b)[0], oracle(score, a[0], b[0]), rtol=2e-5, atol=1e-6)


def test_numbers_of_the_original():
  golden = golden_files.group(golden_files.load('data')[0], 'metrics')
  gt, pred = golden['gt_u8'], golden['pred_u8']
  for score in pixels.HIGHER_IS_BETTER:
    np.testing.assert_allclose(paired(score, pred, gt), golden[f'float/{score}'], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(pixels.released_mse_u8(pred, gt), golden['u8/mse'], rtol=1e-6)


def test_uint8_does_not_wrap():
  black, white = np.zeros((1, 7, 8, 3), np.uint8), np.full((1, 7, 8, 3), 255, np.uint8)
  assert paired('mse', black, white)[0] == pytest.approx(255**2, rel=1e-6)
  assert pixels.released_mse_u8(black, white)[0] == 1  # (-255 mod 256)^2 = 1: why it is never a score


def test_a_constant_image_correlates_with_nothing():
  flat = np.full((1, 8, 9, 3), 77, np.uint8)
  assert paired('pcc', flat, images(4, 1, 8, 9, 3))[0] == 0
  assert paired('pcc', flat, flat)[0] == 0


def test_refusals():
  a = images(5, 2, 8, 9, 3)
  with pytest.raises(ValueError, match='differ in shape'):
    paired('mse', a, a[:, :7])
  with pytest.raises(ValueError, match='at least 7x7'):
    paired('ssim', a[:, :6], a[:, :6])
  with pytest.raises(ValueError, match='no image score'):
    paired('psnr', a, a)
  with pytest.raises(ValueError, match='uint8'):
    pixels.released_mse_u8(a.astype(np.float32), a)
