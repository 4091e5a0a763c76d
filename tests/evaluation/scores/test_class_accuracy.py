"""N-way top-k class accuracy: closed form against enumeration, sampled protocol against the original's numbers."""

import itertools
import tracemalloc

import numpy as np
import pytest

from brainjax.evaluation.scores import class_accuracy
from tests import golden_files


@pytest.mark.parametrize(('num_classes', 'n', 'k'), [(7, 2, 1), (7, 3, 1), (8, 4, 2), (9, 5, 3), (7, 7, 1), (8, 8, 5)])
def test_closed_form_equals_enumeration_of_every_draw(num_classes, n, k):
  rng = np.random.default_rng(num_classes * 100 + n * 10 + k)
  probabilities = rng.dirichlet(np.ones(num_classes), size=6)
  class_id = rng.integers(0, num_classes, 6)
  expected = []
  for p, c in zip(probabilities, class_id, strict=True):
    others = [i for i in range(num_classes) if i != c]
    draws = list(itertools.combinations(others, n - 1))
    expected.append(np.mean([sorted([p[c], *p[list(draw)]], reverse=True).index(p[c]) < k for draw in draws]))
  np.testing.assert_allclose(class_accuracy.expected_top_k(probabilities, class_id, n, k), expected, atol=1e-12)


def test_ties_are_ordered_by_a_fair_draw():
  uniform = np.full((3, 9), 1 / 9)
  for n, k in ((2, 1), (5, 1), (6, 4)):
    np.testing.assert_allclose(class_accuracy.expected_top_k(uniform, np.arange(3), n, k), k / n)
  # Class 0 ties with class 1 below class 2 (of 4): 2-way meets the better, the tied or the worse one with chance 1/3.
  p = np.array([0.2, 0.2, 0.5, 0.1])
  np.testing.assert_allclose(class_accuracy.expected_top_k(p, np.int64(0), 2, 1), (0 + 0.5 + 1) / 3)


def test_extremes_at_full_size():
  p = np.linspace(1, 2, 1000)
  for n in (2, 50, 100, 1000):
    assert class_accuracy.expected_top_k(p, np.int64(999), n, 1) == 1
    assert class_accuracy.expected_top_k(p, np.int64(0), n, 1) == 0
  # Second best of 1000: fails only if the best one is among the 49 drawn of 999.
  np.testing.assert_allclose(class_accuracy.expected_top_k(p, np.int64(998), 50, 1), 1 - 49 / 999, rtol=1e-12)
  # Over all classes the mean is chance.
  for n, k in ((2, 1), (50, 1), (50, 5), (100, 5), (1000, 5)):
    mean = np.mean([class_accuracy.expected_top_k(p, np.int64(c), n, k) for c in range(1000)])
    np.testing.assert_allclose(mean, k / n, rtol=1e-9)


def test_table_is_the_expected_accuracy_of_each_class():
  p = np.random.default_rng(0).dirichlet(np.ones(9), size=(4, 3))
  classes = np.array([2, 8, 2, 0, 5])
  table = class_accuracy.expected_table(p, classes, 5, 2)
  assert table.shape == (4, 3, 5)
  for u, c in enumerate(classes):
    np.testing.assert_array_equal(table[..., u], class_accuracy.expected_top_k(p, np.full((4, 3), c), 5, 2))


@pytest.mark.parametrize(('n', 'k'), [(2, 1), (10, 1), (10, 5)])
def test_sampled_numbers_of_the_original(n, k):
  golden = golden_files.group(golden_files.load('data')[0], 'topk')
  picks = golden[f'way{n}_top{k}/picks']
  success = class_accuracy.sampled_top_k(golden['probs'], golden['class_id'], picks, k)
  np.testing.assert_allclose(success.mean(axis=1), golden[f'way{n}_top{k}/acc'], atol=1e-6)
  np.testing.assert_allclose(success.std(axis=1), golden[f'way{n}_top{k}/std'], atol=1e-6)


def test_sampled_approaches_the_closed_form():
  golden = golden_files.group(golden_files.load('data')[0], 'topk')
  probabilities, class_id = golden['probs'], golden['class_id']
  picks = class_accuracy.draw_picks(np.random.default_rng(1), class_id, 40, 10, 4000)
  sampled = class_accuracy.sampled_top_k(probabilities, class_id, picks, 1).mean(axis=1)
  np.testing.assert_allclose(sampled, class_accuracy.expected_top_k(probabilities, class_id, 10, 1), atol=0.035)


def test_picks_are_other_classes_without_replacement():
  class_id = np.array([0, 4, 8])
  picks = class_accuracy.draw_picks(np.random.default_rng(2), class_id, 9, 7, 500)
  assert picks.shape == (3, 500, 6) and picks.dtype == np.int32
  assert not np.any(picks == class_id[:, None, None])
  assert np.all(np.diff(np.sort(picks, axis=-1), axis=-1) > 0)
  for item, own in zip(picks, class_id, strict=True):
    share = np.bincount(item.ravel(), minlength=9) / 500
    np.testing.assert_allclose(np.delete(share, own), 6 / 8, atol=0.08)
  # n = number of classes: everything is drawn.
  full = class_accuracy.draw_picks(np.random.default_rng(3), class_id, 9, 9, 2)
  assert np.all(np.sort(full[1, 0]) == [0, 1, 2, 3, 5, 6, 7, 8])


def test_picks_are_drawn_item_by_item():
  class_id = np.arange(9) % 5
  tracemalloc.start()
  picks = class_accuracy.draw_picks(np.random.default_rng(4), class_id, 300, 4, 200)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 5 * 200 * 299 * 8  # the keys of five items
  keys = np.random.default_rng(4).random((9, 200, 299))  # the same stream of numbers, all at once
  order = np.argpartition(keys, 2, axis=-1)[..., :3]
  np.testing.assert_array_equal(picks, order + (order >= class_id[:, None, None]))


def test_refusals():
  with pytest.raises(ValueError, match='50-way needs at least 50'):
    class_accuracy.expected_top_k(np.ones((1, 9)) / 9, np.array([0]), 50, 1)
  with pytest.raises(ValueError, match='top-k'):
    class_accuracy.success_by_rank(8, 2, 0)
