"""Random masks against a loop in NumPy."""

import numpy as np
import pytest

from brainjax.ops import masking


def test_mask_equals_a_loop():
  rng = np.random.default_rng(0)
  noise = rng.random((3, 9)).astype(np.float32)
  tokens = rng.normal(size=(3, 9, 4)).astype(np.float32)
  filler = rng.normal(size=(1, 1, 4)).astype(np.float32)
  mask = masking.random_mask(noise, 0.5)
  kept = masking.gather(tokens, mask.ids_keep)
  back = masking.unshuffle(kept, filler, mask.ids_restore)
  for i in range(3):
    order = sorted(range(9), key=lambda token: noise[i, token])
    stay = order[:4]  # int(9 * 0.5)
    np.testing.assert_array_equal(kept[i], tokens[i, stay])
    np.testing.assert_array_equal(mask.mask[i], [float(token not in stay) for token in range(9)])
    expected = [tokens[i, token] if token in stay else filler[0, 0] for token in range(9)]
    np.testing.assert_array_equal(back[i], expected)


@pytest.mark.parametrize('length, ratio, kept', [(262, 0.75, 65), (9, 0.0, 9), (196, 0.5, 98), (8, 0.9, 0)])
def test_number_of_kept_tokens(length, ratio, kept):
  assert masking.num_kept(length, ratio) == kept


def test_ratio_zero_shuffles_and_no_mask_does_not():
  noise = np.random.default_rng(1).random((2, 7)).astype(np.float32)
  shuffled = masking.random_mask(noise, 0.0)
  np.testing.assert_array_equal(shuffled.ids_keep, np.argsort(noise, axis=1))
  assert not shuffled.mask.any()
  plain = masking.no_mask(2, 7)
  np.testing.assert_array_equal(plain.ids_keep, [range(7)] * 2)
  np.testing.assert_array_equal(plain.ids_restore, [range(7)] * 2)
  assert not plain.mask.any()
