"""The training picture nearest to each reconstruction: shows copying from the training set."""

import numpy as np

from brainjax.evaluation.scores.correlation import correlation_table


def nearest(samples: np.ndarray, training: np.ndarray, block: int = 64) -> tuple[np.ndarray, np.ndarray]:
  """Finds for each sample the training picture with the highest Pearson correlation of pixels.

  Samples N S H W 3 uint8 and training pictures M H W 3 uint8 give (N S int64 rows of `training`, N S float32 correlations); of
  equal ones the first. `block`: pictures worked on at once.

  Raises:
    ValueError: the sizes differ, or there is no training picture.
  """
  if samples.shape[2:] != training.shape[1:]:
    raise ValueError(f'samples are {samples.shape[2:]}, training pictures {training.shape[1:]}; expected one size')
  if not len(training):
    raise ValueError('there are no training pictures')
  # N S H W 3 -> N S P and M H W 3 -> M P
  table = correlation_table(samples.reshape(*samples.shape[:2], -1), training.reshape(len(training), -1), block)
  rows = table.argmax(axis=-1)
  return rows, np.take_along_axis(table, rows[..., None], axis=-1)[..., 0]
