"""The sample grid and the training curves."""

import json

import numpy as np
import pytest
from PIL import Image

from brainjax import report
from brainjax.errors import UserError
from brainjax.report import curves


def pictures(n=7, s=3, height=9, width=9):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8), rng.integers(
    0, 256, (n, s, height, width, 3), dtype=np.uint8
  )


@pytest.mark.parametrize(('height', 'width', 'columns'), [(9, 9, 2), (16, 12, 1), (9, 9, None)])
def test_grid_shows_every_picture_stimulus_first(tmp_path, height, width, columns):
  stimuli, samples = pictures(height=height, width=width)
  path = tmp_path / 'grid.png'
  report.picture_grid(
    stimuli,
    samples,
    path,
    captions=[f'item {i} ' * 9 for i in range(7)],
    title='A title',
    num_columns=columns,
    cell=height * 4,
  )
  sheet = np.asarray(Image.open(path))
  # Enlarged four times without smoothing: each picture is found pixel for pixel, the stimulus left of its samples.
  small = sheet.astype(int)

  def position(picture):
    big = picture.repeat(4, axis=0).repeat(4, axis=1).astype(int)
    corner = np.all(small[: 1 - big.shape[0], : 1 - big.shape[1]] == big[0, 0], axis=-1)
    places = [
      (y, x) for y, x in np.argwhere(corner) if np.array_equal(small[y : y + big.shape[0], x : x + big.shape[1]], big)
    ]
    assert len(places) == 1
    return places[0]

  for stimulus, row in zip(stimuli, samples, strict=True):
    y, x = position(stimulus)
    others = [position(sample) for sample in row]
    assert all(other[0] == y for other in others)
    assert [x, *(other[1] for other in others)] == sorted([x, *(other[1] for other in others)])
  assert list(tmp_path.iterdir()) == [path]


def test_grid_of_one_item_and_refusals(tmp_path):
  stimuli, samples = pictures(1, 1)
  report.picture_grid(stimuli, samples, tmp_path / 'one.png')
  assert Image.open(tmp_path / 'one.png').size[0] > 128
  with pytest.raises(ValueError, match='do not match'):
    report.picture_grid(stimuli[:, :8], samples, tmp_path / 'two.png')
  with pytest.raises(ValueError, match='2 captions for 1 items'):
    report.picture_grid(stimuli, samples, tmp_path / 'two.png', captions=['a', 'b'])
  assert not (tmp_path / 'two.png').exists()


def write(path, lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def test_curves_of_each_stage(tmp_path):
  train = [
    {'step': i, 'split': 'train', 'loss': 1 / (i + 1), 'learning_rate': 0.1, 'note': 'x', 'ok': True}
    for i in range(100)
  ]
  write(
    tmp_path / 'contrast' / 'metrics.jsonl',
    [*train, {'step': 50, 'split': 'validation', 'loss': 0.5}, '{"step": 7, "spl'],
  )
  write(tmp_path / 'diffuse' / 'metrics.jsonl', [{'step': 3, 'split': 'train', 'loss': float('nan'), 'eps': 2}, ''])
  found = report.stage_metrics(tmp_path)
  assert list(found) == ['contrast', 'diffuse']
  assert list(found['contrast']) == ['loss', 'learning_rate'] and list(found['diffuse']) == ['eps']
  steps, values = found['contrast']['loss']['train']
  np.testing.assert_array_equal(steps, np.arange(100))
  np.testing.assert_allclose(values, 1 / (steps + 1))
  assert found['contrast']['loss']['validation'][1].tolist() == [0.5]
  assert report.training_curves(tmp_path, tmp_path / 'curves.png')
  assert np.asarray(Image.open(tmp_path / 'curves.png')).std() > 5


def test_a_resumed_step_counts_once():
  records = [{'step': 1, 'split': 'train', 'loss': 9.0}, {'step': 2, 'split': 'train', 'loss': 8.0}]
  found = curves.curves([*records, {'step': 1, 'split': 'train', 'loss': 3.0}])
  assert found['loss']['train'][1].tolist() == [3.0, 8.0]


def test_no_metrics_no_file_and_damage_is_one_sentence(tmp_path):
  assert not report.training_curves(tmp_path, tmp_path / 'curves.png')
  assert not (tmp_path / 'curves.png').exists()
  write(tmp_path / 'attend' / 'metrics.jsonl', ['{"step": 1', {'step': 2, 'split': 'train', 'loss': 1}])
  with pytest.raises(UserError, match=r'metrics.jsonl, line 1 is not a JSON object'):
    report.training_curves(tmp_path, tmp_path / 'curves.png')
