"""The sample grid, the training curves, and the drawings of the page."""

import base64
import html
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from brainjax.errors import UserError
from brainjax.evaluation import report
from brainjax.evaluation.report import charts, drawings, figures
from brainjax.evaluation.report.labels import choose_headline, format_label


def pictures(n=7, s=3, height=9, width=9):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8), rng.integers(
    0, 256, (n, s, height, width, 3), dtype=np.uint8
  )


@pytest.mark.parametrize(('height', 'width', 'columns'), [(9, 9, 2), (16, 12, 1), (9, 9, None)])
def test_grid_shows_every_picture_stimulus_first(tmp_path, height, width, columns):
  stimuli, samples = pictures(height=height, width=width)
  path = tmp_path / 'grid.png'
  report.draw_grid(
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
  report.draw_grid(stimuli, samples, tmp_path / 'one.png')
  assert Image.open(tmp_path / 'one.png').size[0] > 128
  with pytest.raises(ValueError, match='do not match'):
    report.draw_grid(stimuli[:, :8], samples, tmp_path / 'two.png')
  with pytest.raises(ValueError, match='2 captions for 1 items'):
    report.draw_grid(stimuli, samples, tmp_path / 'two.png', captions=['a', 'b'])
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
  found = report.read_curves(tmp_path)
  assert list(found) == ['contrast', 'diffuse']
  assert list(found['contrast']) == ['loss', 'learning_rate'] and list(found['diffuse']) == ['eps']
  steps, values = found['contrast']['loss']['train']
  np.testing.assert_array_equal(steps, np.arange(100))
  np.testing.assert_allclose(values, 1 / (steps + 1))
  assert found['contrast']['loss']['validation'][1].tolist() == [0.5]
  assert report.draw_curves(tmp_path, tmp_path / 'curves.png')
  assert np.asarray(Image.open(tmp_path / 'curves.png')).std() > 5


def test_a_resumed_step_counts_once():
  records = [{'step': 1, 'split': 'train', 'loss': 9.0}, {'step': 2, 'split': 'train', 'loss': 8.0}]
  found = charts.order_scalars([*records, {'step': 1, 'split': 'train', 'loss': 3.0}])
  assert found['loss']['train'][1].tolist() == [3.0, 8.0]


def test_skipped_steps_are_shown_only_if_there_are_some():
  records = [{'step': i, 'split': 'train', 'gradient_norm': 0.0, 'skipped_steps': 0} for i in range(3)]
  assert list(charts.order_scalars(records)) == ['gradient_norm']  # a gradient of 0 is a fault that must be seen
  records.append({'step': 3, 'split': 'train', 'gradient_norm': 0.0, 'skipped_steps': 1})
  assert charts.order_scalars(records)['skipped_steps']['train'][1].tolist() == [0, 0, 0, 1]


def test_no_metrics_no_file_and_damage_is_one_sentence(tmp_path):
  assert not report.draw_curves(tmp_path, tmp_path / 'curves.png')
  assert not (tmp_path / 'curves.png').exists()
  write(tmp_path / 'attend' / 'metrics.jsonl', ['{"step": 1', {'step': 2, 'split': 'train', 'loss': 1}])
  with pytest.raises(UserError, match=r'metrics.jsonl, line 1 is not a JSON object'):
    report.draw_curves(tmp_path, tmp_path / 'curves.png')


def test_numbers_read_well():
  assert drawings.format_number(0.0203, 'fraction') == '2.0 %'
  assert [drawings.format_number(v) for v in (0.12345, 1234.5, -0.0512, 12.0)] == ['0.123', '1234', '-0.0512', '12']
  assert [
    format_label(name) for name in ('class_50way_top1', 'pairwise_pcc', 'identification_5way_ssim', 'lpips_alex', 'mse')
  ] == [
    '50-way top-1 class',
    'pairwise PCC',
    '5-way SSIM',
    'LPIPS',
    'MSE',
  ]
  table = {'mse': {}, 'pairwise_pcc': {}, 'class_2way_top1': {}, 'class_20way_top1': {}}
  assert choose_headline(table) == ['class_20way_top1', 'pairwise_pcc']


def test_score_row_places_marks_by_value():
  entry = {'value': 0.5, 'interval': [0.25, 0.75], 'null': {'mean': 0.02, 'interval': [0.0, 0.1]}}
  row = ElementTree.fromstring(drawings.draw_score(entry, 'fraction', 0.02, {'ridge': 1.0}))
  assert row.find('circle').get('cx') == '150.0'  # half of the axis from 8 to 292
  assert [line.get('x1') for line in row.findall('line') if line.get('class') == 'interval'] == [
    '79.0',
    '79.0',
    '221.0',
  ]
  assert row.find('line[@class="chance"]').get('x1') == '13.68'
  for words in ('50.0 %', '95 % interval 25.0 % to 75.0 %', 'chance 2.0 %', 'ridge 100.0 %'):
    assert words in row.get('aria-label')


def test_a_long_curve_is_drawn_with_few_points_around_its_running_mean():
  steps = np.arange(5000)
  axis = Figure().subplots()
  charts.draw_curve(axis, {'train': (steps, np.sin(steps / 500)), 'validation': (steps[:1], steps[:1] + 0.2)})
  raw, mean, single = axis.lines
  assert len(raw.get_xdata()) <= charts.MAX_POINTS >= len(mean.get_xdata()) > 500
  np.testing.assert_allclose(raw.get_ydata(), np.sin(raw.get_xdata() / 500))
  np.testing.assert_allclose(mean.get_ydata(), np.sin(mean.get_xdata() / 500), atol=0.03)
  assert single.get_xydata().tolist() == [[0, 0.2]] and single.get_marker() == 'o'
  assert axis.get_axisbelow() is True  # the grid is behind the lines


def test_a_chart_is_a_whole_svg_with_its_description():
  drawn = figures.Figure('x', 'a < b', [['name', 'value'], ['"q", <b>', 1 / 3]], lambda axis: axis.plot([0.0]))
  image, save = charts.to_image(drawn).split('<span', 1)
  image = ElementTree.fromstring(image.replace('">', '"/>'))
  name, csv = re.search('data-name="(.*?)" data-csv="(.*?)"', save, re.DOTALL).groups()
  assert html.unescape(csv) == 'name,value\n"""q"", <b>",0.333333\n' and name == 'x' and '<b>' not in save
  assert save.count('<button') == 2 and 'aria-label="Save as SVG: a &lt; b"' in save
  kind, data = image.get('src').split(',')
  assert image.get('alt') == 'a < b' and kind == 'data:image/svg+xml;base64'
  assert ElementTree.fromstring(base64.b64decode(data)).tag == '{http://www.w3.org/2000/svg}svg'


@pytest.mark.parametrize(
  ('border', 'first', 'shaded'), [(16, 0, (0, 16)), (512, 352, (352, 512)), (990, 680, (680, 990))]
)
def test_trace_shows_a_border_of_the_mask(border, first, shaded):
  """With patches wider than the drawing the first voxels would be all masked, or none."""
  values, axis = np.arange(1000.0), Figure().subplots()
  charts.draw_trace(axis, report.Trace(values, -values, values < border))
  (run,) = axis.patches
  assert (run.get_x(), run.get_x() + run.get_width()) == shaded
  for line, sign in zip(axis.lines, (1, -1), strict=True):
    assert line.get_xdata().tolist() == list(range(first, first + 320))
    np.testing.assert_array_equal(line.get_ydata(), sign * line.get_xdata())


def test_trace_shades_every_run_of_masked_voxels():
  axis = Figure().subplots()
  masked = np.array([1, 1, 0, 0, 1, 0, 0, 1], bool)
  charts.draw_trace(axis, report.Trace(np.arange(8.0), np.ones(8), masked))
  assert [(run.get_x(), run.get_width()) for run in axis.patches] == [(0, 2), (4, 1), (7, 1)]
