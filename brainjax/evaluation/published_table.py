"""A row for each run in the columns of published tables, as Markdown, LaTeX or CSV."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.errors import UserError
from brainjax.evaluation.report import figures, paper
from brainjax.evaluation.score import read_items, read_scores
from brainjax.evaluation.scores.published import CANDIDATES, COLUMNS, RETRIEVALS

FORMATS = ('markdown', 'latex', 'csv')


def make(runs: Sequence[Path], form: str) -> str:
  """The table as text, with notes on what cannot be compared.

  Args:
    runs: workdirs of evaluated runs, or folders with scores.json and scores_items.npz.
    form: one of `FORMATS`.

  Raises:
    UserError: a run has no scores, or none of those of published tables.
  """
  read = {str(run): read_scores(run) for run in runs}
  for run, scores in read.items():
    if not COLUMNS.keys() & scores['scores'].keys():
      raise UserError(
        f'{run} has no scores of published tables; set config.evaluate.published and run its stage evaluate again.'
      )
  sets = _letters([read_items(run)['stimulus_check'] for run in runs])
  columns = [name for name in COLUMNS if any(name in scores['scores'] for scores in read.values())]
  if form == 'csv':
    return figures.to_csv(_numbers(read, sets, columns))
  heads = ['Run', 'Test pictures', *(f'{COLUMNS[name].title} {_arrow(name)}' for name in columns)]
  many = len(set(sets)) > 1
  rows = [
    [run, f'{scores["num_stimuli"]}{f" ({letter})" if many else ""}', *(_cell(scores, name) for name in columns)]
    for (run, scores), letter in zip(read.items(), sets, strict=True)
  ]
  notes = _notes(read, columns, many)
  if form == 'latex':
    escaped = [[paper.escape(cell) for cell in row] for row in rows]
    return paper.booktabs([paper.escape(head) for head in heads], escaped, notes)
  lines = [heads, ['---'] * len(heads), *([cell.replace('|', '\\|') for cell in row] for row in rows)]
  return '\n'.join([*(f'| {" | ".join(line)} |' for line in lines), '', *notes, ''])


def _letters(checks: Sequence[np.ndarray]) -> list[str]:
  """A letter for each run, the same for the same test pictures in whatever order."""
  keys = [np.sort(np.unique(check)).tobytes() for check in checks]
  order = list(dict.fromkeys(keys))
  return [string.ascii_uppercase[order.index(key) % 26] for key in keys]


def _arrow(name: str) -> str:
  return '↑' if COLUMNS[name].higher_is_better else '↓'


def _cell(scores: dict[str, Any], name: str) -> str:
  """Mean over samples and its 95 % interval."""
  if name not in scores['scores']:
    return '–'
  part = scores['scores'][name]['mean_of_samples']
  values = (part['value'], *part['interval'])
  if COLUMNS[name].percent:
    value, low, high = (f'{100 * number:.1f}' for number in values)
    return f'{value} % ({low}–{high})'
  value, low, high = (f'{number:.3f}' for number in values)
  return f'{value} ({low}–{high})'


def _numbers(read: dict[str, dict], sets: Sequence[str], columns: Sequence[str]) -> list[list[Any]]:
  """The same as numbers: value, low and high end of the interval of each column."""
  table: list[list[Any]] = [
    ['run', 'test_pictures', 'set', *(f'{name}{end}' for name in columns for end in ('', '_low', '_high'))]
  ]
  for (run, scores), letter in zip(read.items(), sets, strict=True):
    row = [run, scores['num_stimuli'], letter]
    for name in columns:
      part = scores['scores'].get(name, {}).get('mean_of_samples')
      row += [part['value'], *part['interval']] if part else ['', '', '']
    table.append(row)
  return table


def _notes(read: dict[str, dict], columns: Sequence[str], many: bool) -> list[str]:
  """Sentences below the table."""
  notes = ['Mean over samples, 95 % interval over test pictures.']
  if many:
    notes.append('Runs with another letter have other test pictures, or pictures of another size: do not compare them.')
  for column in columns:
    networks = {
      scores.get('published_networks', {}).get(column) for scores in read.values() if column in scores['scores']
    }
    if len(networks) > 1:
      notes.append(f'{COLUMNS[column].title} is by different weights in these runs: do not compare it.')
  for run, scores in read.items():
    ways = {round(1 / scores['scores'][name]['chance']) for name in RETRIEVALS if name in scores['scores']}
    if ways and ways != {CANDIDATES}:
      notes.append(f'{run} retrieves among {ways.pop()} candidates; published tables among {CANDIDATES}.')
  if missing := [column.title for name, column in COLUMNS.items() if name not in columns]:
    notes.append(f'Not scored: {", ".join(missing)} (config.evaluate.published names their networks).')
  return notes
