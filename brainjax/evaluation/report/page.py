"""The self-contained report.html: scores, gallery, curves, provenance in one file that opens from disk."""

import json
from functools import partial
from html import escape
from pathlib import Path
from string import Template

from brainjax.evaluation.report import charts, encode, gallery, labels, score_section
from brainjax.evaluation.report.contents import Page
from brainjax.files import atomic_write

ASSETS = Path(__file__).parent
MAX_BYTES = 15_000_000


def _charts_section(page: Page) -> str:
  parts = []
  for stage, panels in page.curves.items():
    figures = []
    for name, splits in panels.items():
      ends = '; '.join(f'{split} ends at {values[-1]:.4g}' for split, (_, values) in splits.items())
      chart = charts.to_image(f'{stage} {name}: {ends}', partial(charts.draw_curve, splits=splits))
      figures.append(f'<figure>{chart}<figcaption>{escape(labels.explain_curve(name))}</figcaption></figure>')
    parts.append(f'<h3>{escape(stage)}</h3><div class="charts">{"".join(figures)}</div>')
  return ''.join(parts)


def _traces_section(page: Page) -> str:
  parts = [
    '<p class="note">Some neighbouring voxels of test responses, which no stage has learned from. Shaded: masked.</p>'
  ]
  for stage, samples in page.traces.items():
    figures = []
    for number, trace in enumerate(samples, 1):
      label = f'{stage}, response {number}: original and predicted fMRI'
      chart = charts.to_image(label, partial(charts.draw_trace, trace=trace))
      figures.append(f'<figure>{chart}<figcaption>response {number}. {escape(trace.caption)}</figcaption></figure>')
    parts.append(f'<h3>{escape(stage)}</h3><div class="charts">{"".join(figures)}</div>')
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
    'training': ('Training curves', _charts_section(page)) if page.curves else None,
    'fmri': ('fMRI reconstructions', _traces_section(page)) if page.traces else None,
    'provenance': ('Provenance', _provenance_section(page)),
  }
  assets = {name: (ASSETS / f'page.{name}').read_text() for name in ('html', 'css', 'js')}
  fixed = len(copying) + sum(len(part[1]) for part in body.values() if part) + sum(map(len, assets.values()))
  data, pictures, strip = _gallery(page, max_bytes - fixed)
  body['gallery'] = ('Gallery', copying + pictures)
  body['denoising'] = ('Denoising', strip) if strip else None
  order = [key for key in ('scores', 'gallery', 'denoising', 'training', 'fmri', 'provenance') if body[key]]
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
