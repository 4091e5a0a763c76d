"""Identification against the original's numbers, enumeration and hand-made tables."""

import itertools

import numpy as np
import pytest

from brainjax.evaluation.scores import identification, pixels
from tests import golden_files


@pytest.mark.parametrize('score', ['mse', 'pcc', 'ssim'])
def test_numbers_of_the_original(score):
  golden = golden_files.group(golden_files.load('data')[0], 'metrics')
  higher = pixels.HIGHER_IS_BETTER[score]
  table = pixels.table(score, golden['pred_u8'][:, None], golden['gt_u8'])
  own = np.arange(6)
  rivals = identification.num_rivals(table, higher)
  diagonal = identification.pairwise(rivals)[own, 0, own]
  np.testing.assert_allclose(diagonal, golden[f'float/pair_wise_{score}'], atol=1e-6)
  for n in (2, 4):
    success = identification.sampled_n_way(table[:, 0], own, golden[f'n_way{n}_picks'], higher)
    np.testing.assert_allclose(success.mean(axis=1), golden[f'float/n_way{n}_{score}'], atol=1e-6)
  np.testing.assert_allclose(identification.expected_n_way(rivals, 2), identification.pairwise(rivals))


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
  np.testing.assert_allclose(identification.pairwise(identification.num_rivals(table, True)), [[[1, 0, 1 / 3, 1 / 3]]])


def test_a_blank_reconstruction_identifies_nothing():
  rivals = identification.num_rivals(np.zeros((2, 1, 9)), True)
  assert identification.pairwise(rivals).max() == 0


def test_picks_and_refusals():
  picks = identification.draw_picks(np.random.default_rng(0), 7, 9, 4, 50)
  assert picks.shape == (7, 50, 3) and picks.min() == 0 and picks.max() == 7
  assert np.all(np.diff(np.sort(picks, axis=-1), axis=-1) > 0)
  with pytest.raises(ValueError, match='9-way needs at least 9'):
    identification.draw_picks(np.random.default_rng(0), 7, 8, 9, 5)
  with pytest.raises(ValueError, match='NaN'):
    identification.num_rivals(np.full((1, 1, 3), np.nan), True)
  with pytest.raises(ValueError, match='at least 2'):
    identification.pairwise(np.zeros((3, 1, 1)))
