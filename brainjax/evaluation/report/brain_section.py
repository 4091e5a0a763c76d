"""The report's section on the brain: lesions of areas, saliency, attention, and the pictures of each item without an area."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from brainjax.evaluation.report import charts, drawings, encode, figures
from brainjax.evaluation.report.labels import format_label

MARKUP = 400  # bytes of text around a picture, at most
TRUTH = {  # of `interpretation.truth.agreement`
  'signal_correlation': "rank correlation with the signal's deviation",
  'noise_auc': 'chance that a voxel with signal has more than one of pure noise',
}
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
      parts.append(_lesions(plain['lesion']) + _viewer(plain, arrays, budget))
    if method == 'saliency' and 'truth' in plain:
      parts.append(_truth(plain))
  return ''.join(parts)


def _lesions(changes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
  rows = []
  for kind, areas in changes.items():
    for area, scores in areas.items():
      for score in figures.shown_scores(areas):
        entry = scores[score]
        cells = [area, figures.KINDS[kind][0], format_label(score)]
        cells += [drawings.format_number(entry[key], entry['unit']) for key in ('intact', 'value')]
        cells += [f'{entry["difference"]:+.3g}', _span(entry['interval']), f'{entry["p_corrected"]:.3g}']
        rows.append(cells)
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
  return _table('Every area and score', heads, rows)


def _truth(plain: Mapping[str, Any]) -> str:
  """Simulated data: maps against the cortex that made them, and the same of shuffled models."""
  rows, moved = [], []
  for subject, found in plain['truth'].items():
    for name, levels in found['maps'].items():
      for level, noise in enumerate(plain['saliency']['noise']):
        cells = [subject, name, f'{100 * noise:.0f} %']
        for key in TRUTH:
          entry = levels[level].get(key)
          cells.append(f'{entry["value"]:.2f} ({_span(entry["interval"])})' if entry else '–')
          other = found['shuffled'].get(name, [{}] * len(levels))[level].get(key)
          cells.append(f'{other["mean"]:.2f} ({_span(other["range"])})' if other else '–')
        rows.append(cells)
    for name, levels in found['moved'].items():
      for noise, entry in zip(plain['saliency']['noise'], levels, strict=True):
        moved.append([subject, name, f'{100 * noise:.0f} %', f'{entry["value"]:+.2f}', _span(entry['interval'])])
  heads = ['subject', 'map', 'noise']
  for words in TRUTH.values():
    heads += [f'{words} (95 %)', 'shuffled models (range)']
  return _table('Against the cortex that made the data', heads, rows) + _table(
    'How far saliency moves with an object that moves from left to right (half widths of the picture)',
    ('subject', 'map', 'noise', 'shift', '95 % over scenes'),
    moved,
  )


def _span(interval: Sequence[float]) -> str:
  return ' to '.join(f'{x:+.3g}' for x in interval)


def _table(summary: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table that opens on a click; the first cell of a row is its head."""
  lines = (
    f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
    for first, *cells in rows
  )
  return f'<details><summary>{escape(summary)}</summary>{drawings.format_table(summary, heads, lines)}</details>'


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
