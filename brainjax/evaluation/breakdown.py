"""Scores by category and attribute, what is taken for what, and the best, median and worst items by a rule."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainjax.evaluation.report.labels import choose_headline
from brainjax.evaluation.scores.tables import Attributes, Measured, Score
from brainjax.evaluation.statistics import resampling

CHOSEN = 3  # items of each kind
MOST_CONFUSED = 20  # pairs of classes that are listed


def by_group(
  values: np.ndarray, groups: Sequence[str], stimulus: np.ndarray, num_bootstrap: int, seed: int
) -> dict[str, dict[str, Any]]:
  """The mean of a score in each group of items, with its 95 % interval over the stimuli of the group.

  Args:
    values: N, a score of each item (mean over samples).
    groups: N names.
    stimulus: N numbers.
    num_bootstrap, seed: of the resamplings.

  Returns:
    Group -> value, num_items, num_stimuli, interval. A group of one stimulus has no interval.
  """
  result, groups = {}, np.asarray(groups)
  for name in np.unique(groups).tolist():
    inside = groups == name
    place = np.unique(stimulus[inside], return_inverse=True)[1]
    count = int(place.max()) + 1
    interval = None
    if count > 1:
      interval = list(resampling.Bootstrap.draw(place, num_bootstrap, seed).interval(values[inside]))
    result[name] = {
      'value': float(values[inside].mean()),
      'interval': interval,
      'num_items': int(inside.sum()),
      'num_stimuli': count,
    }
  return result


def describe(
  scores: Mapping[str, Score],
  measured: Measured,
  stimulus: np.ndarray,
  categories: Sequence[str] | None,
  attributes: Attributes,
  num_bootstrap: int,
  seed: int,
) -> dict[str, Any]:
  """What scores.json holds of groups, confusions and chosen items.

  Args:
    scores: all of them.
    measured: behind the scores.
    stimulus: N, the place of each item's stimulus.
    categories: N names, or None.
    attributes: attribute -> its value in each class C, and in each item N.
    num_bootstrap, seed: of the intervals.
  """
  entries = {name: {} for name in scores}
  headline = choose_headline(entries)[0]

  def mean(name: str) -> np.ndarray:
    return resampling.observed(scores[name].table, stimulus).mean(axis=1)

  groups = {}
  if categories is not None:
    groups['category'] = {
      'score': headline,
      'groups': by_group(mean(headline), categories, stimulus, num_bootstrap, seed),
    }
  if measured.probabilities is not None:
    for name, (_, of_item) in attributes.items():
      found = by_group(mean(f'attribute_{name}'), of_item, stimulus, num_bootstrap, seed)
      groups[name] = {'score': f'attribute_{name}', 'groups': found}
  return {
    'groups': groups,
    'confusion': confusion(measured, stimulus, attributes),
    'chosen_items': choose_items(scores[headline], headline, mean(headline)),
  }


def confusion(measured: Measured, stimulus: np.ndarray, attributes: Attributes) -> dict[str, Any]:
  """What samples are taken for by the classifier: of attributes a table, of classes the most frequent mistakes.

  Returns:
    Empty without a classifier. Else `classes`: of, taken_for (class numbers), samples (how many), the most frequent first;
    and each attribute: values K, and counts K K, samples by true (row) and most probable (column) value.
  """
  if measured.probabilities is None:
    return {}
  taken = measured.probabilities.argmax(axis=-1)  # N S
  true = np.broadcast_to(measured.classes[stimulus][:, None], taken.shape)
  wrong = taken != true
  pairs, counts = np.unique(np.stack([true[wrong], taken[wrong]], axis=1), axis=0, return_counts=True)
  order = np.argsort(-counts, kind='stable')[:MOST_CONFUSED]
  result: dict[str, Any] = {
    'classes': [
      {'of': int(a), 'taken_for': int(b), 'samples': int(n)}
      for (a, b), n in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    ]
  }
  for name, (of_class, of_item) in attributes.items():
    values, column = np.unique(of_class, return_inverse=True)
    marginal = measured.probabilities @ (column[:, None] == np.arange(len(values)))
    table = np.zeros((len(values), len(values)), int)
    rows = np.broadcast_to(np.searchsorted(values, of_item)[:, None], taken.shape)
    np.add.at(table, (rows, marginal.argmax(axis=-1)), 1)
    result[name] = {'values': values.tolist(), 'counts': table.tolist()}
  return result


def choose_items(score: Score, name: str, values: np.ndarray) -> dict[str, Any]:
  """Items chosen by a rule and not by hand: the first, middle and last ones in the order of a score.

  Args:
    score: that orders them.
    name: of the score.
    values: N, its mean over the samples of each item.
  """
  order = np.argsort(-values if score.higher_is_better else values, kind='stable')
  count = min(CHOSEN, len(order))
  middle = (len(order) - count) // 2
  return {
    'score': name,
    'rule': f'items in the order of {name} (mean over samples), equal ones as in the data: the first {count}, the '
    f'{count} in the middle, the last {count}',
    'best': order[:count].tolist(),
    'median': order[middle : middle + count].tolist(),
    'worst': order[len(order) - count :].tolist(),
  }
