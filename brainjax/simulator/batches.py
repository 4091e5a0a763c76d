"""Endless batches of newly rendered scenes, on which the demo's prior and classifier train."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from brainjax import hosts
from brainjax.simulator import stimuli


class RenderedBatches:
  """Iterates over batches `{image: B H W 3 uint8, attributes: B 5, class_index: B, weight: B}`.

  A batch depends on seed and position alone.

  Args:
    batch_size: pictures of all hosts together; each host renders all and keeps its part.
    size: side of the pictures, in pixels.
    seed: of scenes; no two seeds give the same rendering.
    classes: 'compositions' draws any attributes except those of the test categories (class_index is -1); 'categories'
      draws from all 200 categories, for a classifier.
    length: number of batches; None: endless.

  Raises:
    UserError: the batch size is not a multiple of the number of hosts.
  """

  def __init__(self, batch_size: int, size: int, seed: int, classes: str = 'compositions', length: int | None = None):
    self._batch_size, self._size, self._seed, self._classes, self._length = batch_size, size, seed, classes, length
    self._position = 0
    self._share = hosts.share(batch_size)
    self._categories = stimuli.categories()

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._length is not None and self._position >= self._length:
      raise StopIteration
    rng = np.random.default_rng([self._seed, self._position, 7])
    self._position += 1
    if self._classes == 'categories':
      class_index = rng.integers(len(self._categories.attributes), size=self._batch_size)
      attributes = self._categories.attributes[class_index]
    else:
      class_index = np.full(self._batch_size, -1)
      attributes = stimuli.random_attributes(rng, self._batch_size, exclude=self._categories.test_attributes)
    images = stimuli.render(attributes, rng, self._size)
    return {
      'image': images[self._share],
      'attributes': attributes[self._share].astype(np.int32),
      'class_index': class_index[self._share].astype(np.int32),
      'weight': np.ones(self._batch_size, np.float32)[self._share],
    }

  def get_state(self) -> dict[str, Any]:
    """Returns the position in the stream."""
    return {'position': self._position}

  def set_state(self, state: dict[str, Any]) -> None:
    """Moves to a position that `get_state` returned."""
    self._position = state['position']
