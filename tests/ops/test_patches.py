"""Patches against slices taken by hand, and their inverses."""

import numpy as np

from brainjax.ops import patches


def test_vectors_are_cut_in_order():
  x = np.arange(2 * 56).reshape(2, 56)
  cut = patches.patchify_1d(x, 7)
  assert cut.shape == (2, 8, 7)
  np.testing.assert_array_equal(cut[1, 3], x[1, 21:28])
  np.testing.assert_array_equal(patches.unpatchify_1d(cut), x)


def test_images_are_cut_row_by_row():
  x = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
  cut = patches.patchify_2d(x, 4)
  assert cut.shape == (2, 6, 48)
  np.testing.assert_array_equal(cut[1, 5], x[1, 4:8, 8:12].ravel())  # (row, column, channel) inside a patch
  rows = [np.concatenate(cut[:, row].reshape(2, -1, 4, 4, 3).swapaxes(0, 1), axis=2) for row in (slice(3), slice(3, 6))]
  np.testing.assert_array_equal(np.concatenate(rows, axis=1), x)
