"""Scores by group, confusions, and items chosen by a rule: against loops and by hand."""

import numpy as np
import pytest

from brainjax.evaluation import breakdown
from brainjax.evaluation.scores.tables import Measured, Score, attribute_scores

OF_CLASS = np.array(['red', 'blue', 'red', 'green'])


def probabilities():
  drawn = np.random.default_rng(0).random((7, 2, 4))
  return drawn / drawn.sum(axis=-1, keepdims=True)


def test_an_attribute_is_right_where_its_classes_together_are_most_probable():
  values = np.array(['red', 'green', 'blue'])  # of three stimuli
  score = attribute_scores(probabilities(), {'colour': (OF_CLASS, values)})['attribute_colour']
  assert score.chance == pytest.approx(1 / 3) and score.table.shape == (7, 2, 3)
  for n, s, u in np.ndindex(7, 2, 3):
    p = probabilities()[n, s]
    sums = {colour: sum(p[c] for c in range(4) if OF_CLASS[c] == colour) for colour in OF_CLASS}
    assert score.table[n, s, u] == (max(sums, key=sums.get) == values[u])


def test_groups_have_the_mean_and_an_interval_over_their_stimuli():
  values, groups = np.array([1.0, 0.0, 1.0, 0.0, 0.5]), ['a', 'a', 'a', 'b', 'b']
  found = breakdown.by_group(values, groups, np.array([0, 0, 1, 2, 2]), 500, 0)
  assert found['a']['value'] == pytest.approx(2 / 3) and found['a']['num_stimuli'] == 2
  low, high = found['a']['interval']
  assert low == 0.5 and high == 1  # stimulus 0 alone has 1/2, stimulus 1 alone has 1
  assert found['b'] == {'value': 0.25, 'interval': None, 'num_items': 2, 'num_stimuli': 1}


def test_confusions_are_counted():
  measured = Measured({}, probabilities(), np.array([0, 3, 1]))
  stimulus = np.array([0, 1, 2, 0, 1, 2, 0])
  of_item = OF_CLASS[measured.classes[stimulus]]
  found = breakdown.confusion(measured, stimulus, {'colour': (OF_CLASS, of_item)})
  taken = probabilities().argmax(axis=-1)
  expected = {}
  for n, s in np.ndindex(7, 2):
    true = int(measured.classes[stimulus[n]])
    if taken[n, s] != true:
      expected[true, int(taken[n, s])] = expected.get((true, int(taken[n, s])), 0) + 1
  assert {(e['of'], e['taken_for']): e['samples'] for e in found['classes']} == expected
  assert [e['samples'] for e in found['classes']] == sorted(expected.values(), reverse=True)
  assert found['colour']['values'] == ['blue', 'green', 'red']
  counts = np.array(found['colour']['counts'])
  assert counts.sum() == 14 and counts.sum(axis=1).tolist() == [4, 4, 6]  # two samples of each item


@pytest.mark.parametrize('higher', [True, False])
def test_items_are_chosen_by_the_rule(higher):
  values = np.array([3.0, 1, 2, 2, 9, 4, 0, 5])
  chosen = breakdown.choose_items(Score(np.zeros((8, 1, 1)), higher, None, ''), 'pcc', values)
  order = [4, 7, 5, 0, 2, 3, 1, 6] if higher else [6, 1, 2, 3, 0, 5, 7, 4]
  assert (chosen['best'], chosen['median'], chosen['worst']) == (order[:3], order[2:5], order[5:])
  assert 'pcc' in chosen['rule']
