"""The page in a real browser."""

import base64
import csv
import io
import urllib.parse
from xml.etree import ElementTree

import numpy as np
import pytest

from brainjax.evaluation import report
from tests import webdriver
from tests.evaluation.report.pages import CATEGORIES, explained, make_page


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
  if not (webdriver.CHROMEDRIVER and webdriver.CHROMIUM):
    pytest.skip('no chromium with chromedriver on this machine (Debian: apt-get install chromium chromium-driver)')
  folder = tmp_path_factory.mktemp('page')
  page = make_page(folder)
  report.write_page(page, folder / 'report.html')
  report.put_brain_section(folder / 'report.html', *explained())
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
  assert (
    count == 7
  )  # the fractions of groups, a baseline, the areas, maps and truth, moved objects, the protocol, the config
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
      return [...document.querySelectorAll('#gallery article:first-child img')].map(e => e.getBoundingClientRect().width);"""
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


def test_browser_shows_the_pictures_without_the_chosen_area(opened):
  browser, _ = opened
  shown = "return [...document.querySelectorAll('[data-lesion]')].filter(f => !f.hidden).map(f => f.dataset.lesion)"
  assert set(browser.run(shown)) == {'mean/V1'} and len(browser.run(shown)) == 5
  browser.select('#area', 'swap/V<2>')
  assert set(browser.run(shown)) == {'swap/V<2>'}


def test_browser_saves_figures_and_their_numbers(opened):
  browser, page = opened
  # What a click on a link would save, without a file.
  browser.run(
    'window.saved = []; HTMLAnchorElement.prototype.click = function () { saved.push([this.download, this.href]); };'
    "document.querySelectorAll('.save button').forEach((button) => button.click());"
  )
  saved = dict(browser.run('return saved'))
  assert {'scores.csv', 'contrast_loss.svg', 'lesion_pairwise_pcc.csv', 'score_pairwise_pcc.svg'} <= set(saved)
  for name, address in saved.items():
    kind, data = address.split(',', 1)
    text = base64.b64decode(data).decode() if kind.endswith('base64') else urllib.parse.unquote(data)
    if name.endswith('.svg'):
      assert ElementTree.fromstring(text).tag == '{http://www.w3.org/2000/svg}svg'
      assert 'var(--' not in text
    else:
      assert len({len(row) for row in csv.reader(io.StringIO(text))}) == 1
  rows = list(csv.DictReader(io.StringIO(urllib.parse.unquote(saved['score_pairwise_pcc.csv'].split(',', 1)[1]))))
  value = page.scores['scores']['pairwise_pcc']['mean_of_samples']['value']
  assert float(rows[0]['value']) == pytest.approx(value, rel=1e-5)


def test_browser_finds_the_best_median_and_worst_items(opened):
  browser, page = opened
  browser.select('#score', 'pcc')
  browser.select('#order', 'rule')
  values = page.items['scores/pcc'].mean(axis=1).round(5)
  order = np.argsort(-values, kind='stable')
  assert shown(browser) == order.tolist()  # three of each kind are all seven; the middle ones are also best or worst
  words = "return [...document.querySelectorAll('#cards article h3')].map(h => h.dataset.rule)"
  assert browser.run(words) == ['best: '] * 3 + ['median: '] * 2 + ['worst: '] * 2
  assert 'the three in the middle' in browser.run("return document.getElementById('count').textContent")
  browser.click('#clear')
