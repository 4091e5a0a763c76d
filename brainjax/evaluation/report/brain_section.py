"""The report's section on the brain: lesions of areas, saliency, attention, and the pictures of each item without an area."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from brainjax.evaluation.report import charts, drawings, encode, figures
from brainjax.evaluation.report.labels import format_label

MARKUP = 400  # bytes of text around a picture, at most
WARNING = (
  'An area that costs nothing may still carry the information: other areas may carry it too. An area that costs much may be '
  'large, or its absence may be unlike anything in training. Saliency and attention show what this model uses, not what the '
  'brain does; docs/interpretation.md tests them against a known cortex.'
)


def format_section(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], budget: int) -> str:
  """The body of the section.

  Args:
    plain, arrays: what interpret.json and interpret.npz hold.
    budget: bytes of the pictures; items that do not fit are left out.
  """
  drawn = figures.of_interpretation(plain)
  titles = {
    'lesion': 'Without an area',
    'alone': 'From an area alone',
    'saliency': 'Saliency of voxels',
    'attention': 'Attention to fMRI',
    'encoding': 'Encoding models',
  }
  parts = [f'<p class="note">{escape(WARNING)}</p>']
  for method, title in titles.items():
    charted = [
      f'<figure>{charts.to_image(figure)}<figcaption>{escape(figure.alt)}</figcaption></figure>'
      for figure in drawn
      if figure.name.split('_')[0] == method
    ]
    if not charted:
      continue
    parts.append(f'<h3>{title}</h3><div class="charts">{"".join(charted)}</div>')
    if method == 'lesion':
      parts.append(_table(plain['lesion']) + _viewer(plain, arrays, budget))
  return ''.join(parts)


def _table(changes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
  rows = []
  for kind, areas in changes.items():
    for area, scores in areas.items():
      for score in figures.shown_scores(areas):
        entry = scores[score]
        cells = [drawings.format_number(entry['intact'], entry['unit'])]
        cells.append(drawings.format_number(entry['value'], entry['unit']))
        cells += [f'{entry["difference"]:+.3g}', ' to '.join(f'{x:+.3g}' for x in entry['interval'])]
        cells.append(f'{entry["p_corrected"]:.3g}')
        rows.append(
          f'<tr><th scope="row">{escape(area)}</th><td>{escape(figures.KINDS[kind][0])}</td>'
          f'<td>{escape(format_label(score))}</td>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        )
  heads = (
    'area',
    'replaced by',
    'score',
    'intact',
    'without',
    'change',
    'interval (all areas together 95 %)',
    'p (Holm)',
  )
  columns = ''.join(f'<th scope="col">{head}</th>' for head in heads)
  return (
    '<details><summary>Every area and score</summary><div class="scroll" tabindex="0" role="region" '
    f'aria-label="Lesions"><table class="plain"><thead><tr>{columns}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    '</div></details>'
  )


def _viewer(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], budget: int) -> str:
  """Items with their picture from the whole response and from the response without the chosen area."""
  kinds = {
    f'{kind}/{area}': f'{area}: {figures.KINDS[kind][0]}' for kind, areas in plain['lesion'].items() for area in areas
  }
  total = len(plain['stimulus'])
  for count in sorted({total, *(n for n in (24, 12, 6, 3, 1) if n < total)}, reverse=True):
    pictures = [x for n in range(count) for x in (arrays['items/stimuli'][n], arrays['lesion/intact'][n, 0])]
    pictures += [arrays[f'lesion/{key}'][n, 0] for n in range(count) for key in kinds]
    try:
      urls = iter(encode.to_data_urls(pictures, budget - MARKUP * len(pictures)))
      break
    except encode.NoRoom:
      continue
  else:
    return '<p class="note">The pictures do not fit into this page; interpret.npz has them.</p>'
  fixed = [(next(urls), next(urls)) for _ in range(count)]
  small = ' class="pixels"' if max(arrays['items/stimuli'].shape[1:3]) <= encode.SMALL else ''

  def figure(address: str, alt: str, caption: str, more: str = '') -> str:
    return (
      f'<figure{more}><img{small} src="{address}" alt="{escape(alt)}" loading="lazy"><figcaption>{escape(caption)}'
      '</figcaption></figure>'
    )

  cards = []
  for n, (stimulus, intact) in enumerate(fixed):
    name = plain['names'][n]
    shown = [figure(stimulus, f'{name}, stimulus', 'stimulus'), figure(intact, f'{name}, whole response', 'intact')]
    for key, words in kinds.items():
      hidden = '' if key == next(iter(kinds)) else ' hidden'
      shown.append(figure(next(urls), f'{name}, without {words}', 'without', f' data-lesion="{escape(key)}"{hidden}'))
    cards.append(
      f'<article class="lesion" aria-label="{escape(name)}"><h4>{escape(name)}</h4>{"".join(shown)}</article>'
    )
  options = ''.join(f'<option value="{escape(key)}">{escape(words)}</option>' for key, words in kinds.items())
  note = '' if count == total else f'<p class="note">The first {count} of {total} items; interpret.npz has all.</p>'
  return (
    f'<form class="controls" id="lesions"><label>Without<select id="area">{options}</select></label></form>{note}'
    f'<div class="lesions">{"".join(cards)}</div>'
  )
