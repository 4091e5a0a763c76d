"""Identification against the original's numbers, enumeration and hand-made tables."""

import itertools

import numpy as np
import pytest

from brainjax.evaluation.scores import identification, pixels
from brainjax.parity.data import sampled_n_way
from tests import golden_files


@pytest.mark.parametrize('score', ['mse', 'pcc', 'ssim'])
def test_numbers_of_the_original(score):
  golden = golden_files.group(golden_files.load('data')[0], 'metrics')
  higher = pixels.HIGHER_IS_BETTER[score]
  table = pixels.table(score, golden['pred_u8'][:, None], golden['gt_u8'])
  own = np.arange(6)
  rivals = identification.num_rivals(table, higher)
  diagonal = identification.expected_n_way(rivals, 2)[own, 0, own]
  np.testing.assert_allclose(diagonal, golden[f'float/pair_wise_{score}'], atol=1e-6)
  for n in (2, 4):
    success = sampled_n_way(table[:, 0], own, golden[f'n_way{n}_picks'], higher)
    np.testing.assert_allclose(success.mean(axis=1), golden[f'float/n_way{n}_{score}'], atol=1e-6)


@pytest.mark.parametrize('higher', [True, False])
@pytest.mark.parametrize('n', [2, 3, 7])
def test_expectation_equals_enumeration(higher, n):
  table = np.random.default_rng(n).integers(0, 9, (8, 2, 7)).astype(np.float64)  # integers: ties occur
  result = identification.expected_n_way(identification.num_rivals(table, higher), n)
  for i, s, u in itertools.product(range(8), range(2), range(7)):
    row = table[i, s] if higher else -table[i, s]
    others = [v for v in range(7) if v != u]
    wins = [all(row[u] > row[v] for v in draw) for draw in itertools.combinations(others, n - 1)]
    np.testing.assert_allclose(result[i, s, u], np.mean(wins), atol=1e-12)


def test_by_hand():
  table = np.array([[[3.0, 1.0, 2.0, 2.0]]])
  assert identification.num_rivals(table, True).tolist() == [[[0, 3, 2, 2]]]
  assert identification.num_rivals(table, False).tolist() == [[[3, 0, 2, 2]]]
  np.testing.assert_allclose(
    identification.expected_n_way(identification.num_rivals(table, True), 2), [[[1, 0, 1 / 3, 1 / 3]]]
  )


def test_a_blank_reconstruction_identifies_nothing():
  rivals = identification.num_rivals(np.zeros((2, 1, 9)), True)
  assert identification.expected_n_way(rivals, 2).max() == 0


def test_refusals():
  with pytest.raises(ValueError, match='NaN'):
    identification.num_rivals(np.full((1, 1, 3), np.nan), True)
  with pytest.raises(ValueError, match='at least 2'):
    identification.expected_n_way(np.zeros((3, 1, 1), int), 2)


@pytest.mark.parametrize(('n', 'how'), [(2, 'mean_of_samples'), (3, 'best_of_samples'), (6, 'first_sample')])
def test_influence_of_candidates_equals_leaving_each_out(n, how):
  rng = np.random.default_rng(n)
  stimulus = np.array([0, 1, 2, 3, 4, 5, 6, 3, 3])
  table = rng.integers(0, 9, (9, 2, 7)).astype(np.float64)
  found = identification.candidate_influence(table, stimulus, n, how, True)

  def item(i, candidates):
    rows = table[i][:, candidates]
    place = candidates.index(stimulus[i])
    values = identification.expected_n_way(identification.num_rivals(rows[None], True), n)[0, :, place]
    return {'mean_of_samples': values.mean(), 'best_of_samples': values.max(), 'first_sample': values[0]}[how]

  for v in range(7):
    items = [i for i in range(9) if stimulus[i] != v]
    change = [item(i, [u for u in range(7) if u != v]) - item(i, list(range(7))) for i in items]
    assert found[v] == pytest.approx(-6 * np.mean(change))
  once = identification.candidate_influence(table[:7], stimulus[:7], n, how, True)
  assert once.sum() == pytest.approx(0, abs=1e-9) or how == 'best_of_samples'
  assert not identification.candidate_influence(table, stimulus, 7, how, True).any()
