"""What is measured of a set of reconstructions, and what is scored: tables over all pairings of samples and stimuli."""

import dataclasses
from collections.abc import Callable

import numpy as np

from brainjax.evaluation.scores import identification

Network = Callable[[np.ndarray], np.ndarray]  # uint8 B H W 3 -> B D: probabilities or features


@dataclasses.dataclass(frozen=True)
class Measure:
  """A measure of likeness of every sample to every stimulus: table N S U. `text` is empty where it is no score itself."""

  table: np.ndarray
  higher_is_better: bool
  text: str = ''


@dataclasses.dataclass(frozen=True)
class Score:
  """One score of every sample under every pairing.

  Attributes:
    table: N S U, the score of sample s of item n if its stimulus were u. The true pairing is the score, the others make
      the null.
    higher_is_better: direction.
    chance: value of a reconstruction that knows nothing, None where it depends on the images (see the null).
    text: what it is, for a reader.
    unit: 'fraction' or ''.
    measure: of an identification: by what measure.
    num_ways: of an identification: number of alternatives.
  """

  table: np.ndarray
  higher_is_better: bool
  chance: float | None
  text: str
  unit: str = ''
  measure: Measure | None = None
  num_ways: int = 0

  def influence(self, stimulus: np.ndarray, how: str) -> np.ndarray:
    """How far each stimulus, as a candidate of identification, moves the mean: U, see `candidate_influence`."""
    if self.measure is None:
      return np.zeros(self.table.shape[-1])
    table, higher = self.measure.table, self.measure.higher_is_better
    return identification.candidate_influence(table, stimulus, self.num_ways, how, higher)
