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


@pytest.mark.parametrize('damage', ['no json', 'half an npz', 'other json'])
def test_a_result_that_cannot_be_read_is_kept_and_made_again(damage, tmp_path):
  results.write(tmp_path, {'seed': 1}, {'lesion': 1}, {'lesion/V1': np.arange(3)})
  plain, arrays = (tmp_path / results.FOLDER / name for name in (results.JSON_FILE, results.ARRAYS_FILE))
  if damage == 'no json':  # killed between the two files
    plain.unlink()
  elif damage == 'half an npz':
    arrays.write_bytes(arrays.read_bytes()[:50])
  else:
    plain.write_text('[]')
  before = arrays.read_bytes()
  results.write(tmp_path, {'seed': 1}, {'alone': 2}, {'alone/V1': np.arange(4)})
  assert arrays.with_name(f'{arrays.name}.1').read_bytes() == before
  again, values = results.read(tmp_path)
  assert again['alone'] == 2 and 'lesion' not in again and values.keys() == {'alone/V1'}


def test_numbers_of_items():
  assert interpret._numbers('0,3,7-9') == (0, 3, 7, 8, 9)
  for text in ('3-1', '', 'a', '-2', '1,,2', '\u00b2', '0-9999999'):
    with pytest.raises(UserError, match='expected numbers of test items from 0'):
      interpret._numbers(text)
