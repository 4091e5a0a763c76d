"""Figures and tables for a paper: vectors with embedded fonts, one and two columns wide, and LaTeX."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from brainjax.evaluation.report.figures import Figure, to_csv
from brainjax.evaluation.report.labels import format_baseline, format_label

WIDTHS = {'single': 89, 'double': 183}  # mm
STYLE = {
  'font.size': 7,
  'font.family': 'sans-serif',
  'pdf.fonttype': 42,  # TrueType: text stays text
  'svg.fonttype': 'path',  # outlines: nothing is missing elsewhere
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.linewidth': 0.6,
  'lines.linewidth': 1.0,
}
_SPECIAL = {
  '%': r'\%',
  '&': r'\&',
  '_': r'\_',
  '#': r'\#',
  '$': r'\$',
  '{': r'\{',
  '}': r'\}',
  '–': '--',
  '↑': r'$\uparrow$',
  '↓': r'$\downarrow$',
}


def write(figure: Figure, folder: Path) -> None:
  """Writes <name>_single and <name>_double as .pdf and .svg, and <name>.csv."""
  (folder / f'{figure.name}.csv').write_text(to_csv(figure.table))
  for kind, millimetres in WIDTHS.items():
    width = millimetres / 25.4
    height = min(width * figure.shape, 0.62 * WIDTHS['double'] / 25.4 + 2 * figure.shape)
    with plt.rc_context(STYLE):
      canvas, axis = plt.subplots(figsize=(width, height), layout='constrained')
      figure.draw(axis)
      for suffix in ('pdf', 'svg'):
        # No date: the same numbers give the same file.
        date = {'CreationDate': None} if suffix == 'pdf' else {'Date': None}
        canvas.savefig(folder / f'{figure.name}_{kind}.{suffix}', metadata=date)
      plt.close(canvas)


def latex(scores: Mapping[str, Any]) -> str:
  """The table of scores (mean over samples) for LaTeX with the package booktabs."""
  baselines = list(scores['baselines'])
  heads = [
    'Score',
    'Model',
    '95\\,\\% interval',
    'Chance',
    'Shuffled',
    '$p$',
    *map(escape, map(format_baseline, baselines)),
  ]
  rows = []
  for name, entry in scores['scores'].items():
    part = entry['mean_of_samples']
    number = lambda value, entry=entry: _number(value, entry['unit'])
    others = [scores['baselines'][baseline].get(name) for baseline in baselines]
    cells = [
      escape(format_label(name)),
      number(part['value']),
      f'{number(part["interval"][0])} to {number(part["interval"][1])}',
      '--' if entry['chance'] is None else number(entry['chance']),
      f'{number(part["null"]["interval"][0])} to {number(part["null"]["interval"][1])}',
      f'{part["null"]["p_value"]:.2g}',
      *('--' if other is None else number(other['first_sample']['value']) for other in others),
    ]
    rows.append(cells)
  note = f'{scores["num_stimuli"]} stimuli, {scores["num_samples"]} samples of each, mean over samples'
  return booktabs(heads, rows, [note])


def booktabs(heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
  """A table for LaTeX with the package booktabs; the cells are LaTeX, the notes become a comment."""
  lines = [
    f'% {"; ".join([*notes, "needs booktabs"])}',
    f'\\begin{{tabular}}{{l{"r" * (len(heads) - 1)}}}',
    '\\toprule',
    f'{" & ".join(heads)} \\\\',
    '\\midrule',
    *(f'{" & ".join(row)} \\\\' for row in rows),
  ]
  return '\n'.join([*lines, '\\bottomrule', '\\end{tabular}', ''])


def escape(text: str) -> str:
  """Text as LaTeX."""
  return ''.join(_SPECIAL.get(letter, letter) for letter in text)


def _number(value: float, unit: str) -> str:
  return f'{value:.3f}' if unit == 'fraction' else f'{value:.4g}'
