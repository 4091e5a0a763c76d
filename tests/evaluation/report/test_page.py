"""The page: whole, self-contained, within its budget."""

import base64
import dataclasses
import html
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from brainjax import evaluate
from brainjax.evaluation import report
from brainjax.evaluation.report import drawings, encode, gallery, score_section
from brainjax.evaluation.report.labels import choose_headline
from tests.evaluation.report.pages import CATEGORIES, make_page


def test_pictures_keep_to_the_budget():
  rng = np.random.default_rng(0)
  small = list(rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
  exact = encode.to_data_urls(small, 10**6)
  assert all(address.startswith('data:image/png;base64,') for address in exact)
  decoded = Image.open(io.BytesIO(base64.b64decode(exact[2].split(',')[1])))
  np.testing.assert_array_equal(np.asarray(decoded), small[2])
  tight = encode.to_data_urls(small, 6 * 900)
  assert all(address.startswith('data:image/webp') for address in tight) and sum(map(len, tight)) <= 6 * 900
  with pytest.raises(encode.NoRoom) as caught:
    encode.to_data_urls(small, 60)
  assert 0 < caught.value.share < 0.5
  assert encode.to_data_urls([], 10) == []


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
      assert attributes['alt'] and (attributes.get('class') == 'chart' or attributes['width'] == '16')
  identities = [attributes['id'] for _, attributes in reader.tags if 'id' in attributes]
  assert len(identities) == len(set(identities))
  assert 'alert(1)' in text and '<script>alert' not in text and '<b>cube' not in text and '<subject>' not in text
  # 7 stimuli, 21 samples, 7 baselines, 21 nearest, 2 x 4 of the strip, 1 in the viewer; all scores, categories, a curve, a trace
  assert sum(tag == 'img' for tag, _ in reader.tags) == 7 + 21 + 7 + 21 + 8 + 1 + 4
  # A drawing each of the headline scores and of every score three ways.
  scores = page.scores['scores']
  assert sum(tag == 'svg' for tag, _ in reader.tags) == len(choose_headline(scores)) + 3 * len(scores)


def test_page_tells_what_may_be_concluded(tmp_path):
  page = make_page(tmp_path)
  text = html.unescape(score_section.format_section(page)).replace('<b>', '').replace('</b>', '')
  entry = page.scores['baselines']['ridge']['pairwise_pcc']['model_minus_baseline']
  assert entry['interval'][0] > 0  # samples are noisy stimuli, the baseline is noise
  low, high = (f'{100 * v:+.1f} points' for v in entry['interval'])
  assert 'In pairwise PCC, the model beats ridge (ridge <regression>)' in text and f'{low} to {high}' in text
  assert '1 of 7 test categories have pictures in the training set (matched by WordNet id): red <disc>.' in text
  assert 'sbj_1: with 24 to 35 repetitions' in text and '91.0 % (95 % interval 88.0 to 94.0, chance 50 %)' in text
  assert 'sbj_2: none (one trial each)' in text
  distance = page.scores['fid']['rows']
  told = f'rows: model, first sample {drawings.format_number(distance["first_sample"])}, ridge '
  assert told + drawings.format_number(distance['baselines']['ridge']) in text
  for interval, words in (
    ([-0.2, -0.1], 'the model is worse than ridge'),
    ([-0.1, 0.1], 'the model is not shown to differ from ridge'),
  ):
    entry['interval'] = interval
    assert words in html.unescape(score_section.format_section(page)).replace('<b>', '')


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
  text = html.unescape(gallery.format_sections(page, len(page.images.stimuli), 10**6)[0])
  for i in range(7):
    pairwise = drawings.format_number(float(page.items['baselines/ridge/pairwise_pcc'][i, 0]), 'fraction')
    ssim = drawings.format_number(float(page.items['baselines/ridge/ssim'][i, 0]))
    assert f'data-words="pairwise PCC {pairwise}, SSIM {ssim}"' in text
    assert f'<figcaption>ridge: pairwise PCC {pairwise}</figcaption>' in text
    near = drawings.format_number(float(page.items['nearest_training/pcc'][i, 2]))
    assert f'<figcaption>nearest to 3: PCC {near}</figcaption>' in text


def test_best_of_samples_has_no_chance_level(tmp_path):
  page = make_page(tmp_path)
  rows = re.findall(r'<tr role="row" data-how="(\w+)">(.*?)</tr>', score_section.format_section(page), re.S)
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


def test_baselines_have_their_own_marks_and_small_p_values_are_bounds(tmp_path):
  page = make_page(tmp_path)
  page.scores['baselines']['second'] = page.scores['baselines']['ridge']
  text = score_section.format_section(page)
  for symbol, points in drawings.MARKS[:2]:
    assert f'<span class="mark">{symbol}</span>' in text and f'points="{points}"' in text
  entry = page.scores['scores']['pairwise_pcc']['mean_of_samples']['null']
  for p, words in ((1 / 101, '&lt; 0.01'), (2 / 101, '0.0198')):
    entry['p_value'] = p
    assert f'data-label="p">{words}</td>' in score_section.format_section(page)


def test_single_trials_stand_beside_means(tmp_path):
  page = make_page(tmp_path)
  assert 'single trials' not in score_section.format_section(page)
  page.scores['single_trials'] = {'num_items': 14, 'scores': page.scores['scores'], 'baselines': {}}
  assert 'single trials, one sample each</th><td>14</td>' in score_section.format_section(page)


def test_curves_say_what_they_mean(tmp_path):
  report.write_page(make_page(tmp_path), tmp_path / 'report.html')
  assert '<figcaption>loss: what the stage minimises</figcaption>' in (tmp_path / 'report.html').read_text()
