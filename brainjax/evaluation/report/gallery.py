"""The report's gallery: cards of stimulus, samples, baselines and nearest training pictures, with their controls."""

from html import escape

import numpy as np

from brainjax.evaluation.report import drawings, encode
from brainjax.evaluation.report.contents import Page
from brainjax.evaluation.report.labels import choose_headline, format_baseline, format_label

MARKUP = 600  # bytes of text around a picture, at most
MANY = 4  # more columns than this are wrapped on a narrow screen


def _categories(page: Page) -> list[str]:
  if page.images.categories is None:
    return [f'stimulus {number}' for number in page.images.stimulus]
  return [str(name) for name in page.images.categories]


def collect_data(page: Page, count: int) -> dict:
  """What the page's script needs of the first items: scores by item and sample, categories, subjects."""
  scores = page.scores['scores']
  subjects = page.subject if page.subject is not None else [''] * len(page.images.stimulus)
  items = [
    {
      'category': category,
      'subject': str(subject),
      'scores': {name: [round(float(v), 5) for v in page.items[f'scores/{name}'][i]] for name in scores},
    }
    for i, (category, subject) in enumerate(zip(_categories(page)[:count], subjects[:count], strict=True))
  ]
  about = {
    name: {'label': format_label(name), 'unit': entry['unit'], 'higher_is_better': entry['higher_is_better']}
    for name, entry in scores.items()
  }
  return {'scores': about, 'headline': choose_headline(scores), 'items': items}


def _figure(
  address: str,
  alt: str,
  caption: str,
  size: tuple[int, int],
  css: str = '',
  attributes: str = '',
  place: tuple[int, int] | None = None,
) -> str:
  pixels = ' class="pixels"' if max(size) <= encode.SMALL else ''
  style = f' style="grid-row:{place[0]};grid-column:{place[1]}"' if place else ''
  return (
    f'<figure class="{css}"{style}><button type="button" class="picture" aria-label="Enlarge: {escape(alt)}"{attributes}>'
    f'<img{pixels} src="{address}" alt="{escape(alt)}" width="{size[1]}" height="{size[0]}" loading="lazy"></button>'
    f'<figcaption>{escape(caption)}</figcaption></figure>'
  )


def _row_label(text: str, row: int, css: str) -> str:
  return f'<p class="label {css}" style="grid-row:{row};grid-column:1">{text}</p>'


def _baseline_scores(page: Page, baseline: str, i: int) -> list[str]:
  """The headline scores of a baseline's picture of item `i`, if they were saved."""
  texts = []
  for name in choose_headline(page.scores['scores']):
    values = page.items.get(f'baselines/{baseline}/{name}')
    if values is not None:
      unit = page.scores['scores'][name]['unit']
      texts.append(f'{format_label(name)} {drawings.format_number(float(values[i].mean()), unit)}')
  return texts


def _words(scored: list[str]) -> str:
  """The attribute that the viewer shows below an enlarged picture."""
  return f' data-words="{escape(", ".join(scored))}"' if scored else ''


def _card(page: Page, i: int, category: str, urls: dict[tuple, str]) -> str:
  size, num_samples = page.images.stimuli.shape[1:3], page.images.samples.shape[1]
  number = int(page.images.stimulus[i])
  figures = [_figure(urls['stimulus', i], f'{category}, stimulus', 'stimulus', size, 'stimulus')]
  for s in range(num_samples):
    mark = f' data-item="{i}" data-sample="{s}"'
    figures.append(_figure(urls['sample', i, s], f'{category}, sample {s + 1}', f'sample {s + 1}', size, '', mark))
  # A row of the nearest training pictures below their samples, then the baselines; labels below the stimulus.
  if page.nearest is not None:
    figures.append(_row_label('nearest training picture', 2, 'of-nearest'))
    for s in range(num_samples):
      alt = f'{category}, training picture nearest to sample {s + 1}'
      alt += f': {page.nearest_names[i, s]}' if page.nearest_names is not None else ''
      near = page.items.get('nearest_training/pcc')
      scored = [] if near is None else [f'PCC {drawings.format_number(float(near[i, s]))}']
      caption = ': '.join([f'nearest to {s + 1}', *scored])
      words = _words([f'{text} with the sample' for text in scored])
      figures.append(_figure(urls['nearest', i, s], alt, caption, size, 'of-nearest', words, place=(2, 2 + s)))
  if page.baselines:
    figures.append(_row_label('baselines', 3, 'of-baseline'))
  for k, name in enumerate(page.baselines):
    alt, scored = f'{category}, baseline {format_baseline(name)}', _baseline_scores(page, name, i)
    caption = ': '.join([format_baseline(name), *scored[:1]])
    place = (3 + k // num_samples, 2 + k % num_samples)
    figures.append(_figure(urls['baseline', i, name], alt, caption, size, 'of-baseline', _words(scored), place=place))
  scores = page.scores['scores']
  values = [
    f'<div><dt>{escape(format_label(name))}</dt><dd>'
    f'{drawings.format_number(float(page.items[f"scores/{name}"][i].mean()), scores[name]["unit"])}</dd></div>'
    for name in choose_headline(scores)
  ]
  many = ' many' * (1 + num_samples > MANY)
  subject = f' · {escape(str(page.subject[i]))}' if page.subject is not None else ''
  return (
    f'<article aria-label="{escape(category)}"><h3>{escape(category)} <small>#{number}{subject}</small></h3>'
    f'<div class="pictures{many}" style="--columns:{1 + num_samples}">{"".join(figures)}</div>'
    f'<dl>{"".join(values)}<div class="chosen"><dt></dt><dd></dd></div></dl></article>'
  )


def _controls(page: Page) -> str:
  def options(pairs) -> str:
    return ''.join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in pairs)

  scores = page.scores['scores']
  first = choose_headline(scores)
  names = [*first, *(name for name in scores if name not in first)]
  orders = {
    'given': 'as in the data',
    'best': 'score, best first',
    'worst': 'score, worst first',
    'category': 'category',
    'rule': 'best, median and worst by rule',
  }
  parts = [
    f'<label>Order<select id="order">{options(orders.items())}</select></label>',
    f'<label>Score (mean over samples)<select id="score">{options((n, format_label(n)) for n in names)}</select></label>',
    '<label><span>Score from<span id="unit"></span></span><input id="low" type="number" step="any"></label>',
    '<label>to<input id="high" type="number" step="any"></label>',
    '<label>Category contains<input id="category" type="search" autocomplete="off"></label>',
  ]
  if page.subject is not None and len(set(page.subject.tolist())) > 1:
    subjects = [('', 'all'), *((s, s) for s in sorted({str(s) for s in page.subject}))]
    parts.append(f'<label>Subject<select id="subject">{options(subjects)}</select></label>')
  for kind, text, there in (
    ('baseline', 'show baselines', page.baselines),
    ('nearest', 'show nearest training pictures', page.nearest is not None),
  ):
    if there:
      parts.append(f'<label class="check"><input id="show-{kind}" type="checkbox" checked> {text}</label>')
  parts.append('<button type="button" id="clear">Reset</button>')
  return (
    f'<form class="controls" id="controls" aria-label="Order and filters">{"".join(parts)}</form>'
    '<p class="note" id="count" role="status" aria-live="polite"></p>'
  )


def format_sections(page: Page, count: int, budget: int) -> tuple[str, str]:
  """The gallery of the first items, and the denoising strip ('' without one, or without room).

  Args:
    page: what to show.
    count: of items.
    budget: bytes for both.

  Raises:
    NoRoom: the pictures do not fit.
  """
  pictures: dict[tuple, np.ndarray] = {}
  for i in range(count):
    pictures['stimulus', i] = page.images.stimuli[i]
    pictures |= {('sample', i, s): sample for s, sample in enumerate(page.images.samples[i])}
    pictures |= {('baseline', i, name): images[i] for name, images in page.baselines.items()}
    if page.nearest is not None:
      pictures |= {('nearest', i, s): picture for s, picture in enumerate(page.nearest[i])}
  for row, steps in (page.denoising.rows if page.denoising and count else {}).items():
    pictures |= {('denoising', row, k): picture for k, picture in enumerate(steps)}
  urls = dict(zip(pictures, encode.to_data_urls(list(pictures.values()), budget - MARKUP * len(pictures)), strict=True))
  cards = (_card(page, i, category, urls) for i, category in enumerate(_categories(page)[:count]))
  strip = _strip(page, urls) if page.denoising and count else ''
  return f'{_controls(page)}<div class="cards" id="cards">{"".join(cards)}</div>', strip


def _strip(page: Page, urls: dict[tuple, str]) -> str:
  """Columns are steps; below each other stand the rows."""
  columns = []
  for k, label_of_step in enumerate(page.denoising.labels):
    images = ''.join(
      f'<img src="{urls["denoising", row, k]}" alt="{escape(f"{label_of_step}: {row}")}" '
      f'width="{steps.shape[2]}" height="{steps.shape[1]}"{" class=pixels" * (max(steps.shape[1:3]) <= encode.SMALL)}>'
      for row, steps in page.denoising.rows.items()
    )
    columns.append(f'<figure>{images}<figcaption>{escape(label_of_step)}</figcaption></figure>')
  rows = '; below it: '.join(page.denoising.rows)
  note = f'Sample 1 of the first item, {escape(_categories(page)[0])}. Above: {escape(rows)}.'
  return f'<p class="note">{note}</p><div class="strip">{"".join(columns)}</div>'
