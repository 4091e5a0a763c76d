"""interpret.json and interpret.npz: methods add up, other settings put the earlier files aside and nothing else."""

import numpy as np
import pytest

from brainjax import interpret
from brainjax.errors import UserError
from brainjax.evaluation.interpretation import results


def test_methods_add_up_and_other_settings_put_the_earlier_result_aside(tmp_path, capsys):
  results.write(tmp_path, {'seed': 1}, {'lesion': {'V1': 0.5}}, {'lesion/V1': np.arange(3)})
  plain, arrays = results.write(tmp_path, {'seed': 1}, {'alone': {'V1': 0.7}}, {'alone/V1': np.arange(2)})
  assert plain['lesion'] == {'V1': 0.5} and plain['alone'] == {'V1': 0.7} and arrays.keys() == {'lesion/V1', 'alone/V1'}
  folder = tmp_path / results.FOLDER
  (folder / 'config.json').write_text('{}')
  plain, arrays = results.write(tmp_path, {'seed': 2}, {'alone': {'V1': 0.1}}, {'alone/V1': np.arange(4)})
  assert plain['alone'] == {'V1': 0.1} and 'lesion' not in plain and arrays.keys() == {'alone/V1'}
  assert {path.name for path in folder.iterdir()} == {
    'config.json', results.JSON_FILE, results.ARRAYS_FILE, f'{results.JSON_FILE}.1', f'{results.ARRAYS_FILE}.1'
  }  # fmt: skip
  assert f'kept as {folder / results.JSON_FILE}.1' in capsys.readouterr().out


def test_numbers_of_items():
  assert interpret._numbers('0,3,7-9') == (0, 3, 7, 8, 9)
  for text in ('3-1', '', 'a', '-2', '1,,2'):
    with pytest.raises(UserError, match='expected numbers of test items from 0'):
      interpret._numbers(text)
