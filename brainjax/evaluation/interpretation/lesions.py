"""Takes an area out of the model input, or everything but it, and compares the scores of the pictures.

In its place comes its training mean (nothing is known about it), or the same area of the response to another stimulus (it
says something else).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from brainjax.errors import UserError
from brainjax.evaluation.interpretation.areas import Areas
from brainjax.evaluation.score import NUM_WAYS, Judge
from brainjax.evaluation.scores.tables import Score
from brainjax.evaluation.statistics import resampling

LEVEL = 0.95  # of all intervals of a family together


def partners(stimulus: np.ndarray, subject: np.ndarray, seed: int) -> np.ndarray:
  """For each item another item of the same subject that shows another stimulus: N row numbers.

  Stimuli are drawn into one circle, and each takes the next one: every stimulus is the partner of one other.

  Args:
    stimulus, subject: N.
    seed: of the circle.

  Raises:
    UserError: a subject has a single stimulus.
  """
  result = np.empty(len(stimulus), int)
  rng = np.random.default_rng([seed, 0x1E51])
  for who in np.unique(subject):
    rows = np.flatnonzero(subject == who)
    circle = rng.permutation(np.unique(stimulus[rows]))
    if len(circle) < 2:
      raise UserError('one stimulus cannot be replaced by another; choose two items or more.')
    following = dict(zip(circle.tolist(), np.roll(circle, -1).tolist(), strict=True))
    for row in rows:
      result[row] = rows[np.flatnonzero(stimulus[rows] == following[int(stimulus[row])])[0]]
  return result


def replace(
  fmri: np.ndarray,
  other: np.ndarray,
  areas: Sequence[Areas],
  subject: np.ndarray,
  name: str,
  keep: bool = False,
) -> np.ndarray:
  """Model input with another content in an area: N W.

  Args:
    fmri: N W.
    other: N W, what replaces it.
    areas: of each subject.
    subject: N, places in `areas`.
    name: of the area.
    keep: replace everything but the area.
  """
  inside = np.stack([each.entries(name) for each in areas])[subject]  # N W
  return np.where(inside != keep, other, fmri).astype(np.float32)


def compare(
  intact: Mapping[str, Score],
  changed: Mapping[str, Mapping[str, Score]],
  stimulus: np.ndarray,
  num_bootstrap: int,
  seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
  """Change of every score, paired over stimuli and corrected for the number of changes.

  Args:
    intact: scores of the pictures from the whole input.
    changed: name of a change (an area) -> its scores. They are one family of tests.
    stimulus: N, the number (0 .. U-1) of each item's stimulus.
    num_bootstrap: resamplings; the tail of a corrected interval must hold some.
    seed: of the resamplings.

  Returns:
    Change -> score -> value; intact; difference (value - intact); its interval, which holds all differences of the family
    together with 95 % (Bonferroni); p_value, two-sided bootstrap; p_corrected (Holm); higher_is_better.
  """
  bootstrap = resampling.Bootstrap.draw(stimulus, num_bootstrap, seed)
  level = 1 - (1 - LEVEL) / len(changed)

  def summary(score: Score) -> tuple[np.ndarray, np.ndarray]:
    values = resampling.observed(score.table, stimulus)
    how = 'mean_of_samples'
    return resampling.aggregate(values, how, score.higher_is_better), score.influence(stimulus, how)

  result: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in changed}
  for score, entry in intact.items():
    before, influence = summary(entry)
    for name, scores in changed.items():
      after, other_influence = summary(scores[score])
      result[name][score] = {
        'value': float(after.mean()),
        'intact': float(before.mean()),
        **resampling.paired_difference(after, before, bootstrap, other_influence - influence, level),
        'higher_is_better': entry.higher_is_better,
        'unit': entry.unit,
      }
    corrected = resampling.holm(np.array([result[name][score]['p_value'] for name in changed]))
    for name, p in zip(changed, corrected.tolist(), strict=True):
      result[name][score]['p_corrected'] = p
  return result


def measure(
  sample: Callable[[np.ndarray], np.ndarray],
  judge: Judge,
  inputs: Mapping[str, np.ndarray],
  done: Callable[[str], Any] = lambda name: None,
) -> tuple[dict[str, np.ndarray], dict[str, Mapping[str, Score]]]:
  """Pictures and scores of several versions of the model input.

  Args:
    sample: model input N W -> pictures N S H W 3 uint8, with the same noise each time.
    judge: measures pictures of these items.
    inputs: name -> N W.
    done: called with each name.
  """
  pictures, scores = {}, {}
  for name, fmri in inputs.items():
    pictures[name] = sample(fmri)
    scores[name] = judge(pictures[name]).scores(NUM_WAYS)
    done(name)
  return pictures, scores
