"""The self-contained report.html: scores, gallery, curves, provenance in one file that opens from disk."""

import json
import re
from collections.abc import Mapping
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from brainjax.evaluation.report import brain_section, charts, encode, figures, gallery, labels, score_section
from brainjax.evaluation.report.contents import Page
from brainjax.files import atomic_write

BRAIN_SECTION = re.compile(r'<section id="brain".*?</section>\n|<a href="#brain">.*?</a>', re.DOTALL)
ASSETS = Path(__file__).parent
MAX_BYTES = 15_000_000
BRAIN_BYTES = 3_000_000  # of these, kept for the section that the stage interpret adds


def _groups_section(page: Page) -> str:
  """Scores by category and attribute, and what is taken for what."""
  drawn = [
    f'<figure>{charts.to_image(figure)}<figcaption>{escape(figure.alt)}</figcaption></figure>'
    for figure in figures.of_categories(page.scores)
  ]
  listed = [
    f'<li>{escape(pair["of"])} taken for {escape(pair["taken_for"])}: {pair["samples"]}</li>'
    for pair in page.confused_classes
  ]
  mistakes = f'<h3>Most frequent mistakes of the classifier (samples)</h3><ol>{"".join(listed)}</ol>' if listed else ''
  return f'<div class="charts">{"".join(drawn)}</div>{mistakes}'


def _charts_section(page: Page) -> str:
  parts = []
  for stage, panels in page.curves.items():
    drawn = []
    for name, splits in panels.items():
      chart = charts.to_image(figures.curve(stage, name, splits, partial(charts.draw_curve, splits=splits)))
      drawn.append(f'<figure>{chart}<figcaption>{escape(labels.explain_curve(stage, name))}</figcaption></figure>')
    parts.append(f'<h3>{escape(stage)}</h3><div class="charts">{"".join(drawn)}</div>')
  return ''.join(parts)


def _traces_section(page: Page) -> str:
  parts = [
    '<p class="note">Some neighbouring voxels of test responses, which no stage has learned from. Shaded: masked.</p>'
  ]
  for stage, samples in page.traces.items():
    drawn = []
    for number, trace in enumerate(samples, 1):
      chart = charts.to_image(charts.trace_figure(stage, number, trace))
      drawn.append(f'<figure>{chart}<figcaption>response {number}. {escape(trace.caption)}</figcaption></figure>')
    parts.append(f'<h3>{escape(stage)}</h3><div class="charts">{"".join(drawn)}</div>')
  return ''.join(parts)


def _mapping(mapping: dict) -> str:
  def text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)

  return f'<dl>{"".join(f"<dt>{escape(str(k))}</dt><dd>{escape(text(v))}</dd>" for k, v in mapping.items())}</dl>'


def _provenance_section(page: Page) -> str:
  parts = {'Protocol of the scores': page.scores['protocol'], **page.provenance}
  if 'released_protocol' in page.scores:
    parts["The release's own protocol (for comparison with papers only)"] = page.scores['released_protocol']
  return ''.join(
    f'<details><summary>{escape(name)}</summary>{_mapping(part)}</details>' for name, part in parts.items()
  )


def write_page(page: Page, path: Path, max_bytes: int = MAX_BYTES) -> None:
  """Writes the report.

  Args:
    page: what it shows.
    path: the HTML file.
    max_bytes: size limit of the file; pictures are compressed as far as it asks.
  """
  copying = score_section.format_copying(page.scores)
  body = {
    'scores': ('Scores', score_section.format_section(page)),
    'groups': ('Categories', _groups_section(page)) if page.scores.get('groups') else None,
    'training': ('Training curves', _charts_section(page)) if page.curves else None,
    'fmri': ('fMRI reconstructions', _traces_section(page)) if page.traces else None,
    'provenance': ('Provenance', _provenance_section(page)),
  }
  assets = {name: (ASSETS / f'page.{name}').read_text() for name in ('html', 'css', 'js')}
  fixed = len(copying) + sum(len(part[1]) for part in body.values() if part) + sum(map(len, assets.values()))
  data, pictures, strip = _gallery(page, max_bytes - fixed - min(BRAIN_BYTES, max_bytes // 5))
  body['gallery'] = ('Gallery', copying + pictures)
  body['denoising'] = ('Denoising', strip) if strip else None
  order = [key for key in ('scores', 'groups', 'gallery', 'denoising', 'training', 'fmri', 'provenance') if body[key]]
  shown = ' data-shown="mean_of_samples"'
  sections = (
    f'<section id="{key}" aria-labelledby="{key}-title"{shown * (key == "scores")}>'
    f'<h2 id="{key}-title">{body[key][0]}</h2>{body[key][1]}</section>'
    for key in order
  )
  text = Template(assets['html']).substitute(
    title=escape(page.title),
    summary=escape(page.summary),
    css=assets['css'],
    script=assets['js'],
    data=data,
    navigation=''.join(f'<a href="#{key}">{body[key][0]}</a>' for key in order),
    sections='\n'.join(sections),
  )
  with atomic_write(path) as temporary:
    temporary.write_text(text)


def put_brain_section(path: Path, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
  """Adds the section on the brain to a report, or replaces it.

  Args:
    path: of the report.
    plain, arrays: what interpret.json and interpret.npz hold.
  """
  text = BRAIN_SECTION.sub('', path.read_text())
  body = brain_section.format_section(plain, arrays, min(BRAIN_BYTES, MAX_BYTES - len(text)) - 1000)
  section = f'<section id="brain" aria-labelledby="brain-title"><h2 id="brain-title">Brain</h2>{body}</section>\n'
  text = text.replace('<a href="#provenance">', '<a href="#brain">Brain</a><a href="#provenance">', 1)
  text = text.replace('<section id="provenance"', f'{section}<section id="provenance"', 1)
  with atomic_write(path) as temporary:
    temporary.write_text(text)


def _gallery(page: Page, budget: int) -> tuple[str, str, str]:
  """The script's data, the gallery and the denoising strip: only the first items if not all fit."""
  total = count = len(page.images.stimuli)
  note = ''
  while True:
    data = json.dumps(gallery.collect_data(page, count)).replace('<', '\\u003c')
    try:
      pictures, strip = gallery.format_sections(page, count, budget - len(data))
      return data, note + pictures, strip
    except encode.NoRoom as error:
      count = min(count - 1, int(count * max(0.5, error.share)))
      note = (
        f'<p class="note">The first {count} of {total} items; the pictures of more do not fit into this page. '
        'images.npz has all pictures, scores_items.npz all scores.</p>'
      )
