"""Lesions: what replaces an area, and the paired comparison corrected for their number."""

import numpy as np
import pytest

from brainjax.errors import UserError
from brainjax.evaluation.images import Images
from brainjax.evaluation.interpretation import lesions
from brainjax.evaluation.interpretation.areas import Areas
from brainjax.evaluation.score import Judge


def test_partners_show_another_stimulus_of_the_same_subject():
  stimulus, subject = np.array([7, 7, 8, 9, 3, 4, 4]), np.array([0, 0, 0, 0, 1, 1, 1])
  rows = lesions.partners(stimulus, subject, 0)
  assert (stimulus[rows] != stimulus).all() and (subject[rows] == subject).all()
  assert set(stimulus[rows].tolist()) == {7, 8, 9, 3, 4}
  np.testing.assert_array_equal(rows, lesions.partners(stimulus, subject, 0))
  with pytest.raises(UserError, match='one stimulus cannot be replaced'):
    lesions.partners(np.array([1, 1]), np.zeros(2, int), 0)


def test_replace_changes_an_area_or_all_but_it():
  areas = [
    Areas({'V1': np.array([1, 0, 0], bool)}, np.array([0, 1, 2, 0]), 3),
    Areas({'V1': np.array([0, 1], bool)}, np.array([0, 1, 0, 1]), 2),
  ]
  fmri, other, subject = np.ones((2, 4)), np.full((2, 4), 5.0), np.array([0, 1])
  np.testing.assert_array_equal(lesions.replace(fmri, other, areas, subject, 'V1'), [[5, 1, 1, 5], [1, 5, 1, 5]])
  np.testing.assert_array_equal(lesions.replace(fmri, other, areas, subject, 'V1', True), [[1, 5, 5, 1], [5, 1, 5, 1]])


def test_only_a_lesion_that_costs_something_is_significant():
  rng = np.random.default_rng(0)
  stimuli = rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
  images = Images(stimuli, stimuli[:, None], np.arange(24), np.full(24, -1))
  judge = Judge(images, perceptual=False)

  def noisy(deviation):
    drawn = stimuli[:, None] + rng.normal(0, deviation, (24, 2, 8, 8, 3))
    return np.clip(drawn, 0, 255).astype(np.uint8)

  scores = {name: judge(noisy(sd)).scores((2,)) for name, sd in (('intact', 60), ('V1', 130), ('V2', 60))}
  result = lesions.compare(scores['intact'], {'V1': scores['V1'], 'V2': scores['V2']}, judge.stimulus, 4000, 0)
  lost, kept = result['V1']['pcc'], result['V2']['pcc']
  assert lost['interval'][1] < 0 and lost['p_corrected'] <= 0.01 and kept['p_corrected'] > 0.05
  assert lost['difference'] == pytest.approx(lost['value'] - lost['intact'])
  assert result['V1']['mse']['difference'] > 0 and not result['V1']['mse']['higher_is_better']
  # Two changes: intervals of 97.5 %, and the smaller p value twice.
  values = [scores[name]['pcc'].table for name in ('V1', 'intact')]
  own = [np.stack([table[n, :, n] for n in range(24)]).mean(axis=1) for table in values]
  boot = np.random.default_rng(0).multinomial(24, np.full(24, 1 / 24), size=4000) @ (own[0] - own[1]) / 24
  np.testing.assert_allclose(lost['interval'], np.quantile(boot, [0.0125, 0.9875]))
  assert lost['p_corrected'] == pytest.approx(2 * lost['p_value'])
