"""The sample grid, the training curves and the page, which is used in a real browser."""

import base64
import dataclasses
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from brainjax import evaluate, report
from brainjax.errors import UserError
from brainjax.report import curves, drawings, encode, gallery, score_section
from brainjax.report.labels import headline, label
from tests import webdriver


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


def test_numbers_read_well():
  assert drawings.number(0.0203, 'fraction') == '2.0 %'
  assert [drawings.number(v) for v in (0.12345, 1234.5, -0.0512, 12.0)] == ['0.123', '1234', '-0.0512', '12']
  assert [
    label(name) for name in ('class_50way_top1', 'pairwise_pcc', 'identification_5way_ssim', 'lpips_alex', 'mse')
  ] == [
    '50-way top-1 class',
    'pairwise PCC',
    '5-way SSIM',
    'LPIPS',
    'MSE',
  ]
  table = {'mse': {}, 'pairwise_pcc': {}, 'class_2way_top1': {}, 'class_20way_top1': {}}
  assert headline(table) == ['class_20way_top1', 'pairwise_pcc']


def test_score_row_places_marks_by_value():
  entry = {'value': 0.5, 'interval': [0.25, 0.75], 'null': {'mean': 0.02, 'interval': [0.0, 0.1]}}
  row = ElementTree.fromstring(drawings.score_row(entry, 'fraction', 0.02, {'ridge': 1.0}))
  assert row.find('circle').get('cx') == '150.0'  # half of the axis from 8 to 292
  assert [line.get('x1') for line in row.findall('line') if line.get('class') == 'interval'] == [
    '79.0',
    '79.0',
    '221.0',
  ]
  assert row.find('line[@class="chance"]').get('x1') == '13.68'
  for words in ('50.0 %', '95 % interval 25.0 % to 75.0 %', 'chance 2.0 %', 'ridge 100.0 %'):
    assert words in row.get('aria-label')


def test_charts_are_well_formed_and_bounded():
  steps = np.arange(5000)
  chart = ElementTree.fromstring(
    drawings.curve('a < b', {'train': (steps, np.sin(steps / 500)), 'validation': (steps[:1], steps[:1] + 0.2)})
  )
  (line,) = chart.findall('polyline')
  points = [tuple(map(float, point.split(','))) for point in line.get('points').split()]
  assert len(points) == drawings.MAX_POINTS
  assert all(0 <= x <= drawings.CHART_WIDTH and 0 <= y <= drawings.CHART_HEIGHT for x, y in points)
  assert chart.find('circle') is not None
  flat = ElementTree.fromstring(drawings.curve('flat', {'train': (np.array([3]), np.array([0.0]))}))
  assert 'nan' not in ElementTree.tostring(flat).decode()
  masked = np.array([1, 1, 0, 0, 1, 0, 0, 1], bool)
  trace = ElementTree.fromstring(drawings.trace('t', np.arange(8.0), np.ones(8), masked))
  assert len([r for r in trace.findall('rect') if r.get('class') == 'masked']) == 3


@pytest.mark.parametrize(
  ('border', 'first', 'shaded'), [(16, 0, (0, 16)), (512, 452, (452, 512)), (990, 880, (880, 990))]
)
def test_trace_shows_a_border_of_the_mask(border, first, shaded):
  """With patches wider than the drawing the first voxels would be all masked, or none."""
  values = np.arange(1000.0)
  trace = ElementTree.fromstring(drawings.trace('t', values, values, values < border, num_voxels=120))
  assert [text.text for text in trace.findall('text')][-2:] == [str(first), str(first + 119)]
  (rectangle,) = (r for r in trace.findall('rect') if r.get('class') == 'masked')
  left, width = (float(rectangle.get(name)) for name in ('x', 'width'))
  scale = (drawings.CHART_WIDTH - drawings.LEFT - drawings.RIGHT) / 119
  np.testing.assert_allclose((left, width), (drawings.LEFT, (shaded[1] - shaded[0]) * scale), atol=0.11)


def test_pictures_keep_to_the_budget():
  rng = np.random.default_rng(0)
  small = list(rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
  exact = encode.addresses(small, 10**6)
  assert all(address.startswith('data:image/png;base64,') for address in exact)
  decoded = Image.open(io.BytesIO(base64.b64decode(exact[2].split(',')[1])))
  np.testing.assert_array_equal(np.asarray(decoded), small[2])
  tight = encode.addresses(small, 6 * 900)
  assert all(address.startswith('data:image/webp') for address in tight) and sum(map(len, tight)) <= 6 * 900
  with pytest.raises(encode.NoRoom) as caught:
    encode.addresses(small, 60)
  assert 0 < caught.value.share < 0.5
  assert encode.addresses([], 10) == []


ZERO_SHOT = {
  'matched_by': 'WordNet id',
  'num_test_categories': 7,
  'num_training_categories': 150,
  'num_test_categories_in_training': 1,
  'test_categories_in_training': ['red <disc>'],
  'note': 'training of the fMRI models',
}
CEILING = {
  'repetitions': [24, 35],
  'voxels': {'description': '', 'median': 0.62, 'quartiles': [0.5, 0.7]},
  'split_half_identification': {'description': '', 'value': 0.91, 'interval': [0.88, 0.94], 'chance': 0.5},
}
CATEGORIES = ['red disc', 'blue ring', 'red star', 'green <b>cube</b> & co', 'blue disc', 'striped ring', 'red ring']


def make_page(folder: Path, size: int = 16) -> report.Page:
  """A page with everything on it, from real scores of random pictures."""
  rng = np.random.default_rng(1)
  stimuli = rng.integers(0, 256, (7, size, size, 3), dtype=np.uint8)
  samples = np.clip(
    stimuli[:, None] + rng.normal(0, rng.uniform(20, 150, (7, 3, 1, 1, 1)), (7, 3, size, size, 3)), 0, 255
  )
  images = evaluate.Images(stimuli, samples.astype(np.uint8), np.arange(7), np.full(7, -1), np.array(CATEGORIES))
  training = rng.integers(0, 256, (8, size, size, 3), dtype=np.uint8)
  ridge = rng.integers(0, 256, stimuli.shape, dtype=np.uint8)
  seen = np.arange(7) < 3
  scores = evaluate.evaluate(
    images,
    None,
    None,
    num_ways=(5,),
    num_bootstrap=200,
    out=folder,
    baselines={'ridge': ridge},
    subsets={'seen': seen, 'unseen': ~seen},
    training_images=training,
    features={'rows': lambda pictures: pictures.mean(axis=(2, 3))},
    facts={
      'zero_shot': ZERO_SHOT,
      'noise_ceiling': {'sbj_1': CEILING, 'sbj_2': {'missing': 'one trial each'}},
      'about_baselines': {'ridge': {'method': 'ridge <regression>'}},
    },
  )
  with np.load(folder / 'scores_items.npz') as archive:
    items = dict(archive)
  steps = np.arange(50)
  return report.Page(
    title='What <subject> 1 saw',
    images=images,
    scores=scores,
    items=items,
    summary='7 stimuli & 3 samples',
    subject=np.array(['sbj_1', 'sbj_2'])[np.arange(7) % 2],
    baselines={'ridge': ridge},
    nearest=training[items['nearest_training/row']],
    nearest_names=np.array([f'training <{i}>' for i in range(8)])[items['nearest_training/row']],
    curves={'contrast': {'loss': {'train': (steps, 1 / (steps + 1)), 'validation': (steps[::9], steps[::9] / 50)}}},
    traces={'attend': [report.Trace(rng.normal(size=40), rng.normal(size=40), rng.random(40) < 0.5, 'r = <0.5>')]},
    denoising=report.Strip([f'step {i}' for i in range(4)], {'noisy': stimuli[:4], 'expected': stimuli[3:]}),
    provenance={'Config': {'seed': 0, 'note': '</script><script>alert(1)</script>'}},
  )


class Reader(HTMLParser):
  """Collects tags, checks that they nest."""

  VOID = frozenset({'meta', 'link', 'img', 'input', 'br'})

  def __init__(self):
    super().__init__()
    self.open, self.tags = [], []

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_page_is_whole_self_contained_and_escaped(tmp_path):
  page = make_page(tmp_path)
  report.write_page(page, tmp_path / 'report.html')
  text = (tmp_path / 'report.html').read_text()
  reader = Reader()
  reader.feed(text)
  assert reader.open == []
  for tag, attributes in reader.tags:
    for name in ('src', 'href'):
      assert attributes.get(name, '#').startswith(('#', 'data:')), (tag, attributes)
    if tag == 'img' and attributes.get('id') != 'viewer-image':
      assert attributes['alt'] and attributes['width'] == '16'
  identities = [attributes['id'] for _, attributes in reader.tags if 'id' in attributes]
  assert len(identities) == len(set(identities))
  assert 'alert(1)' in text and '<script>alert' not in text and '<b>cube' not in text and '<subject>' not in text
  # 7 stimuli, 21 samples, 7 baselines, 21 nearest, 2 x 4 of the strip, 1 in the viewer
  assert sum(tag == 'img' for tag, _ in reader.tags) == 7 + 21 + 7 + 21 + 8 + 1
  # A drawing each of the headline scores and of every score three ways, a curve, a trace.
  scores = page.scores['scores']
  assert sum(tag == 'svg' for tag, _ in reader.tags) == len(headline(scores)) + 3 * len(scores) + 2


def test_page_tells_what_may_be_concluded(tmp_path):
  page = make_page(tmp_path)
  text = html.unescape(score_section.section(page)).replace('<b>', '').replace('</b>', '')
  entry = page.scores['baselines']['ridge']['pairwise_pcc']['model_minus_baseline']
  assert entry['interval'][0] > 0  # samples are noisy stimuli, the baseline is noise
  low, high = (f'{100 * v:+.1f} points' for v in entry['interval'])
  assert 'In pairwise PCC, the model beats ridge (ridge <regression>)' in text and f'{low} to {high}' in text
  assert '1 of 7 test categories have pictures in the training set (matched by WordNet id): red <disc>.' in text
  assert 'sbj_1: with 24 to 35 repetitions' in text and '91.0 % (95 % interval 88.0 to 94.0, chance 50 %)' in text
  assert 'sbj_2: none (one trial each)' in text
  distance = page.scores['fid']['rows']
  told = f'rows: model, first sample {drawings.number(distance["first_sample"])}, ridge '
  assert told + drawings.number(distance['baselines']['ridge']) in text
  for interval, words in (
    ([-0.2, -0.1], 'the model does not beat, and is worse than, ridge'),
    ([-0.1, 0.1], 'the model is not shown to differ from ridge'),
  ):
    entry['interval'] = interval
    assert words in html.unescape(score_section.section(page)).replace('<b>', '')


def test_page_needs_only_scores_and_images(tmp_path):
  full = make_page(tmp_path)
  scores = evaluate.evaluate(full.images, None, None, num_ways=(2,), num_bootstrap=200, out=tmp_path)
  bare = report.Page('Bare', dataclasses.replace(full.images, categories=None), scores, full.items)
  report.write_page(bare, tmp_path / 'report.html')
  text = (tmp_path / 'report.html').read_text()
  assert 'id="denoising"' not in text and 'id="training"' not in text and 'stimulus 3' in text


def test_page_without_room_shows_the_first_items_and_says_so(tmp_path):
  page = make_page(tmp_path)

  def write(room):
    report.write_page(page, tmp_path / 'report.html', room)
    text = (tmp_path / 'report.html').read_text()
    count = text.count('<article')
    told = f'The first {count} of 7 items; the pictures of more do not fit into this page.'
    assert (told in text) == (count < 7)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert len(data['items']) == count
    assert not count or len(text.encode()) <= room
    return count, len(text.encode())

  whole, none = write(10**7), write(0)
  assert whole[0] == 7 and none[0] == 0
  counts = [write(none[1] + int(share * (whole[1] - none[1])))[0] for share in (0.1, 0.2, 0.4, 0.6, 0.8, 1)]
  assert counts == sorted(counts) and len(set(counts)) > 2


def test_pictures_of_baselines_and_neighbours_tell_their_scores(tmp_path):
  page = make_page(tmp_path)
  text = html.unescape(gallery.sections(page, 10**6)[0])
  for i in range(7):
    pairwise = drawings.number(float(page.items['baselines/ridge/pairwise_pcc'][i, 0]), 'fraction')
    ssim = drawings.number(float(page.items['baselines/ridge/ssim'][i, 0]))
    assert f'data-words="pairwise PCC {pairwise}, SSIM {ssim}"' in text
    assert f'<figcaption>ridge: pairwise PCC {pairwise}</figcaption>' in text
    near = drawings.number(float(page.items['nearest_training/pcc'][i, 2]))
    assert f'<figcaption>nearest to 3: PCC {near}</figcaption>' in text


def test_best_of_samples_has_no_chance_level(tmp_path):
  page = make_page(tmp_path)
  rows = re.findall(r'<tr role="row" data-how="(\w+)">(.*?)</tr>', score_section.section(page), re.S)
  for how, row in rows:
    if 'pairwise' in row:
      assert ('class="chance"' in row, 'data-label="chance">50.0 %' in row) == 2 * (how != 'best_of_samples',)


@pytest.mark.slow
def test_fifty_items_of_five_samples_at_256_pixels_fit(tmp_path):
  small = make_page(tmp_path)
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (50, 6, 32, 32, 3), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
  fine = np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)
  index = np.arange(50) % 7
  images = evaluate.Images(fine[:, 0], fine[:, 1:], np.arange(50), np.full(50, -1), np.array(CATEGORIES)[index])
  items = {
    name: values[index][:, [0, 1, 2, 0, 1]] for name, values in small.items.items() if name.startswith('scores/')
  }
  page = report.Page('Large', images, small.scores, items, baselines={'ridge': fine[:, 1]}, nearest=fine[:, 1:])
  report.write_page(page, tmp_path / 'report.html')
  assert (tmp_path / 'report.html').stat().st_size < 15_000_000


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
  if not (webdriver.CHROMEDRIVER and webdriver.CHROMIUM):
    pytest.skip('no chromium with chromedriver on this machine (Debian: apt-get install chromium chromium-driver)')
  folder = tmp_path_factory.mktemp('page')
  page = make_page(folder)
  report.write_page(page, folder / 'report.html')
  with webdriver.Browser() as browser:
    browser.open(folder / 'report.html')
    yield browser, page
    assert browser.console() == []


def shown(browser) -> list[int]:
  """Items in their order on the page."""
  script = "return [...document.querySelectorAll('#cards article')].filter(a => !a.hidden).map(a => "
  return browser.run(script + "Number(a.querySelector('[data-item]').dataset.item))")


def test_browser_order_by_every_score(opened):
  browser, page = opened
  assert shown(browser) == list(range(7)) and browser.console() == []
  for name, entry in page.scores['scores'].items():
    values = page.items[f'scores/{name}'].mean(axis=1).round(5)
    browser.select('#score', name)
    browser.select('#order', 'best')
    ordered = values[shown(browser)]
    assert np.all(np.diff(ordered) <= 1e-4) if entry['higher_is_better'] else np.all(np.diff(ordered) >= -1e-4)
    browser.select('#order', 'worst')
    ordered = values[shown(browser)]
    assert np.all(np.diff(ordered) >= -1e-4) if entry['higher_is_better'] else np.all(np.diff(ordered) <= 1e-4)
  browser.select('#order', 'category')
  assert [CATEGORIES[i] for i in shown(browser)] == sorted(CATEGORIES)
  browser.click('#clear')
  assert shown(browser) == list(range(7))


def test_browser_filters(opened):
  browser, page = opened
  browser.type('#category', 'RING')
  assert shown(browser) == [1, 5, 6]
  assert browser.run("return document.getElementById('count').textContent") == '3 of 7 items shown'
  browser.select('#subject', 'sbj_2')
  assert shown(browser) == [1, 5]
  browser.click('#clear')
  values = page.items['scores/ssim'].mean(axis=1)
  cut = float(np.sort(values)[3]) + 1e-4
  browser.select('#score', 'ssim')
  browser.type('#low', f'{cut:.5f}')
  assert shown(browser) == np.flatnonzero(values > cut).tolist()
  browser.type('#low', ' ')
  browser.type('#high', f'{cut:.5f}')
  assert shown(browser) == np.flatnonzero(values < cut).tolist()
  browser.click('#clear')
  browser.select('#score', 'pairwise_mse')
  browser.type('#low', '99.9')  # per cent
  assert shown(browser) == np.flatnonzero(page.items['scores/pairwise_mse'].mean(axis=1) >= 0.999).tolist()
  browser.click('#clear')
  visible = 'return document.querySelector(".of-{}").offsetParent !== null'
  for kind in ('baseline', 'nearest'):
    browser.click(f'#show-{kind}')
    assert not browser.run(visible.format(kind))
    browser.click(f'#show-{kind}')
    assert browser.run(visible.format(kind))


def test_browser_viewer_by_mouse_and_keyboard(opened):
  browser, _ = opened
  source = "return document.getElementById('viewer-image').src"
  picture = "return document.querySelectorAll('#cards button.picture img')[arguments[0]].src"
  is_open = "return document.getElementById('viewer').open"
  browser.click('article button.picture')
  assert browser.run(is_open) and browser.run(source) == browser.run(picture, 0)
  browser.press('Right')
  assert browser.run(source) == browser.run(picture, 1)
  assert 'sample 1' in browser.run("return document.getElementById('viewer-caption').textContent")
  assert 'SSIM' in browser.run("return document.getElementById('viewer-caption').textContent")
  browser.press('Left')
  browser.press('Left')
  assert browser.run(source) == browser.run(picture, 55)  # wraps to the last of 56
  browser.click('#next')
  browser.click('#previous')
  assert browser.run(source) == browser.run(picture, 55)
  browser.press('Escape')
  assert not browser.run(is_open)
  assert browser.run('return document.activeElement.className') == 'picture'
  browser.press('Enter')
  assert browser.run(is_open)
  browser.click('#close')
  assert not browser.run(is_open)


def test_browser_aggregates_have_their_own_rows(opened):
  browser, page = opened
  rows = (
    "return [...document.querySelectorAll('#scores tr[data-how]')].filter(r => r.offsetParent).map(r => r.dataset.how)"
  )
  for how in ('best_of_samples', 'first_sample', 'mean_of_samples'):
    browser.click(f'input[value={how}]')
    assert browser.run(rows) == [how] * len(page.scores['scores'])


def test_browser_links_lead_to_sections_and_details_open(opened):
  browser, page = opened
  for key in ('scores', 'gallery', 'denoising', 'training', 'fmri', 'provenance'):
    browser.click(f'nav a[href="#{key}"]')
    assert browser.run(
      'return document.getElementById(arguments[0]).getBoundingClientRect().top < innerHeight - 20', key
    )
  browser.run('document.querySelector(".skip").focus()')
  assert browser.run('return document.querySelector(".skip").getBoundingClientRect().left >= 0')
  count = browser.run('return document.querySelectorAll("details").length')
  assert count == 3  # a baseline, the protocol, the config
  for i in range(count):
    browser.run('document.querySelectorAll("details summary")[arguments[0]].click()', i)
  assert browser.run('return [...document.querySelectorAll("details")].every(d => d.open)')
  assert browser.run('return [...document.querySelectorAll("details :is(dd, td)")].every(d => d.offsetHeight > 0)')
  browser.run('for (const d of document.querySelectorAll("details")) d.open = false')
  browser.run('scrollTo(0, 0)')


def test_browser_pictures_by_keyboard_alone(opened):
  browser, _ = opened
  browser.run('document.getElementById("clear").focus()')
  browser.press('Tab')
  assert browser.run('return document.activeElement.className') == 'picture'
  browser.press('Enter')
  assert browser.run("return document.getElementById('viewer').open")
  for _ in range(4):  # the focus stays inside the open dialog
    browser.press('Tab')
    assert browser.run('return document.activeElement === document.body || !!document.activeElement.closest("#viewer")')
  browser.press('Escape')
  assert browser.run('return document.activeElement.dataset.item') is None  # the stimulus of the first card
  assert browser.run('return document.activeElement.closest("article").getAttribute("aria-label")') == CATEGORIES[0]


def test_browser_reads_it_aloud(opened):
  browser, _ = opened
  nodes = browser.accessible()
  for role in (
    'button',
    'combobox',
    'image',
    'searchbox',
    'spinbutton',
    'checkbox',
    'radio',
    'img',
    'article',
    'region',
    'link',
  ):
    assert all(name for kind, name in nodes if kind == role), f'a {role} has no name'
  assert ('heading', 'Gallery') in nodes and ('combobox', 'Order') in nodes
  assert any(kind == 'image' and 'chance 50.0 %' in name for kind, name in nodes)
  assert ('button', 'Enlarge: blue ring, sample 2') in nodes


def test_browser_phone_and_dark(opened):
  browser, _ = opened
  paper = 'return getComputedStyle(document.body).backgroundColor'
  light = browser.run(paper)
  browser.devtools('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': 'dark'}])
  browser.devtools('Emulation.setDeviceMetricsOverride', width=360, height=740, deviceScaleFactor=2, mobile=True)
  try:
    assert browser.run(paper) != light
    assert browser.run('return document.documentElement.scrollWidth') <= 360
    assert browser.run("return document.querySelector('article').getBoundingClientRect().right") <= 360
    # Every score is whole on the screen: name, value, drawing and numbers.
    boxes = browser.run("""return [...document.querySelectorAll('.scores tr[data-how=mean_of_samples] > *')].map(e => {
      const box = e.getBoundingClientRect(); return [box.left, box.right, box.height]; })""")
    assert len(boxes) == 7 * 10  # pairwise, 5-way and plain MSE, PCC, SSIM; pairwise by features
    assert all(0 <= left < right <= 360 and height > 10 for left, right, height in boxes)
    # With five samples they wrap, and none is too small to see.
    widths = """document.querySelector('.pictures').classList.add('many');
      document.querySelector('.pictures').style.setProperty('--columns', 6);
      return [...document.querySelectorAll('article:first-child img')].map(e => e.getBoundingClientRect().width);"""
    assert min(browser.run(widths)) >= 65  # its button has a border of 2 pixels
    assert browser.run('return document.documentElement.scrollWidth') <= 360
  finally:
    browser.devtools('Emulation.clearDeviceMetricsOverride')
    browser.devtools('Emulation.setEmulatedMedia', features=[])


def test_browser_pictures_are_whole_and_captions_below_them(opened):
  browser, _ = opened
  boxes = browser.run("""return [...document.querySelectorAll('.pictures figure')].map(f => {
    const box = (s) => f.querySelector(s).getBoundingClientRect();
    return [box('img').width, box('img').height, box('img').bottom, box('figcaption').top, box('button').height];
  })""")
  for width, height, bottom, caption, button in boxes:
    assert width == pytest.approx(height, abs=1) and width > 20 and button >= height and caption >= bottom
