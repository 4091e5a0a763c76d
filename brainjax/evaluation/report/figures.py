"""Figures with their data: the page shows them, and `brainjax report figures` writes them for a paper."""

import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib

matplotlib.use('Agg')  # files only, no display

import matplotlib.pyplot as plt
import numpy as np

from brainjax.evaluation.report.labels import choose_headline, format_baseline, format_label

# Colours that people with any kind of colour blindness tell apart (Okabe & Ito 2008), readable on white and on black.
BLUE, ORANGE, GREEN, RED, GREY = '#0072b2', '#e69f00', '#009e73', '#d55e00', '#808793'
# Legends stand above the axes: bars leave no room inside.
ABOVE = {'loc': 'lower right', 'bbox_to_anchor': (1, 1), 'ncols': 3, 'borderaxespad': 0.2, 'columnspacing': 1.0}
ABOVE |= {'handlelength': 1.2, 'frameon': False, 'fontsize': 'small'}
MOST_GROUPS = 12  # best and worst groups that are drawn
KINDS = {'mean': ('its training mean instead', BLUE), 'swap': ("another stimulus' instead", ORANGE)}


@dataclasses.dataclass(frozen=True)
class Figure:
  """One picture of numbers.

  Attributes:
    name: of its file.
    alt: what it shows, for a screen reader and as its caption.
    table: the numbers, the names of the columns first.
    draw: draws it on an axis.
    shape: height over width.
  """

  name: str
  alt: str
  table: Sequence[Sequence[Any]]
  draw: Callable[[plt.Axes], None]
  shape: float = 0.62


def to_csv(table: Sequence[Sequence[Any]]) -> str:
  """The numbers as text: a comma between columns, quotes around texts that need them."""
  import csv

  out = io.StringIO()
  csv.writer(out, lineterminator='\n').writerows(
    [[f'{value:.6g}' if isinstance(value, float) else value for value in row] for row in table]
  )
  return out.getvalue()


def _rows(axis: plt.Axes, names: Sequence[str]) -> None:
  """A row for each name, the first one at the top."""
  axis.set_yticks(range(len(names)), names)
  axis.set_ylim(len(names) - 0.5, -0.5)
  axis.tick_params(axis='y', length=0)


def score_table(scores: Mapping[str, Any], names: Sequence[str]) -> list[list[Any]]:
  """The numbers of some scores (mean over samples): a row each, below the names of the columns."""
  baselines = scores['baselines']
  table: list[list[Any]] = [
    ['score', 'value', 'low', 'high', 'chance', 'shuffled_low', 'shuffled_high', 'p_value', *baselines]
  ]
  for name in names:
    entry = scores['scores'][name]
    part = entry['mean_of_samples']
    null = part['null']
    others = [values[name]['first_sample']['value'] for values in baselines.values()]
    table.append([name, part['value'], *part['interval'], entry['chance'], *null['interval'], null['p_value'], *others])
  return table


def scores(scores: Mapping[str, Any]) -> Figure:
  """All scores that are fractions, with interval, shuffled pairings, chance and baselines."""
  table = score_table(scores, [name for name, entry in scores['scores'].items() if entry['unit'] == 'fraction'])
  baselines = scores['baselines']

  def draw(axis: plt.Axes) -> None:
    for place, (_, value, low, high, chance, null_low, null_high, _, *others) in enumerate(table[1:]):
      axis.barh(place, null_high - null_low, left=null_low, height=0.6, color=GREY, alpha=0.3, linewidth=0)
      if chance is not None:
        axis.plot([chance, chance], [place - 0.35, place + 0.35], color=GREY, linestyle=':', linewidth=1)
      for marker, colour, other in zip('D^s', (ORANGE, RED, GREEN), others, strict=False):
        axis.plot(other, place, marker, color=colour, markersize=3.5, fillstyle='none')
      axis.plot([low, high], [place, place], color=BLUE, linewidth=1.6)
      axis.plot(value, place, 'o', color=BLUE, markersize=4)
    _rows(axis, [format_label(row[0]) for row in table[1:]])
    axis.set_xlim(0, 1)
    axis.set_xlabel('fraction; grey: shuffled, dotted: chance')
    handles = [
      plt.Line2D([], [], marker=marker, color=colour, linestyle='', fillstyle='none', markersize=4)
      for marker, colour in zip('D^s', (ORANGE, RED, GREEN), strict=True)
    ][: len(baselines)]
    if handles:
      axis.legend(handles, [format_baseline(name) for name in baselines], **ABOVE)

  alt = 'Scores with 95 % intervals, the range of shuffled pairings, chance and baselines'
  return Figure('scores', alt, table, draw, 0.25 + 0.055 * len(table))


def lesions(changes: Mapping[str, Mapping[str, Mapping[str, Any]]], score: str, name: str = 'lesion') -> Figure:
  """Bars: the change of a score for each area.

  Args:
    changes: kind of replacement -> area -> score -> entry of `interpretation.lesions.compare`.
    score: name.
    name: of the file, before that of the score.
  """
  areas = list(next(iter(changes.values())))
  table: list[list[Any]] = [['kind', 'area', 'difference', 'low', 'high', 'p_value', 'p_corrected', 'value', 'intact']]
  for kind, entries in changes.items():
    for area in areas:
      entry = entries[area][score]
      numbers = [entry['difference'], *entry['interval'], *(entry[key] for key in table[0][5:])]
      table.append([kind, area, *numbers])

  def draw(axis: plt.Axes) -> None:
    height = 0.8 / len(changes)
    for k, (kind, entries) in enumerate(changes.items()):
      label, colour = KINDS.get(kind, (kind, BLUE))
      place = np.arange(len(areas)) + (k - (len(changes) - 1) / 2) * height
      found = [entries[area][score] for area in areas]
      axis.barh(place, [e['difference'] for e in found], height=0.9 * height, color=colour, alpha=0.55, label=label)
      for y, entry in zip(place, found, strict=True):
        axis.plot(entry['interval'], [y, y], color=colour, linewidth=1.4)
        if entry['p_corrected'] <= 0.05:
          axis.annotate('*', (entry['interval'][0], y), (-7, -3.5), textcoords='offset points', color=colour)
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.margins(x=0.08)
    _rows(axis, areas)
    axis.set_xlabel(f'change of {format_label(score)}')
    if len(changes) > 1:
      axis.legend(**ABOVE)

  entry = next(iter(changes.values()))[areas[0]][score]
  better = 'lower' if entry['higher_is_better'] else 'higher'
  what = 'without each area' if name == 'lesion' else 'from each area alone'
  alt = (
    f'Change of {format_label(score)} {what}; {better} is worse. Lines: intervals that hold together with 95 %; '
    '* corrected p at most 0.05'
  )
  return Figure(f'{name}_{score}', alt, table, draw, 0.3 + 0.07 * len(areas))


def _heat(axis: plt.Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str) -> None:
  """A table of colours with its scale."""
  # Cells, not pixels: a vector also in a paper. Edges in their colour leave no seams.
  image = axis.pcolormesh(values, cmap='cividis', edgecolors='face', linewidth=0.4)
  axis.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=30, ha='right')
  axis.set_yticks(np.arange(len(rows)) + 0.5, rows)
  axis.invert_yaxis()
  axis.grid(False)
  scale = axis.figure.colorbar(image, ax=axis, label=label)
  scale.solids.set(rasterized=False, edgecolor='face', linewidth=0.4)


def saliency(found: Mapping[str, Any], subject: str) -> Figure:
  """Mean magnitude of the gradient over the voxels of each area, by target and noise level; 1 is the mean of all voxels."""
  by_target = found['mean_magnitude'][subject]
  method = 'gradient'
  areas = list(next(iter(by_target.values()))[method])
  columns = [f'{target}, {100 * noise:.0f} % noise' for target in by_target for noise in found['noise']]
  values = np.array(
    [[x for target in by_target for x in by_target[target][method][area]] for area in areas], np.float64
  )
  table = [['area', *columns], *([area, *row] for area, row in zip(areas, values.tolist(), strict=True))]
  alt = f'Saliency ({method}) of a voxel by area, over the mean of all voxels; {subject}'
  draw = lambda axis: _heat(axis, values, areas, columns, 'over the mean')
  return Figure(f'saliency_{subject}_{method}', alt, table, draw, 0.3 + 0.055 * len(areas))


def attention(found: Mapping[str, Any]) -> Figure:
  """How evenly attention spreads over the tokens, by layer and step of the sampler; 1 is even."""
  layers = [
    f'{layer.split("/")[0]} ({side}×{side})' for layer, side in zip(found['layers'], found['resolutions'], strict=True)
  ]
  columns = [f'{steps} steps' for steps in found['steps_done']]
  values = np.array(found['relative_entropy']).T
  table = [['layer', *columns], *([layer, *row] for layer, row in zip(layers, values.tolist(), strict=True))]
  alt = 'Entropy of attention over the fMRI tokens, over that of even attention, by layer and sampler step'
  draw = lambda axis: _heat(axis, values, layers, columns, 'entropy, 1 is even')
  return Figure('attention', alt, table, draw, 0.3 + 0.06 * len(layers))


def encoding(found: Mapping[str, Any], subject: str) -> Figure:
  """Mean accuracy of encoding models over the voxels of each area, by features of the picture."""
  means = found['mean'][subject]
  columns, areas = list(means), list(next(iter(means.values())))
  values = np.array([[means[name][area] for name in columns] for area in areas], np.float64)
  table = [['area', *columns], *([area, *row] for area, row in zip(areas, values.tolist(), strict=True))]
  alt = (
    'Correlation of measured responses with those that encoding models predict from features of unseen pictures, mean over '
    f'the voxels of each area; {subject}, {found["num_stimuli"][subject]} test pictures'
  )
  draw = lambda axis: _heat(axis, values, areas, columns, 'correlation')
  return Figure(f'encoding_{subject}', alt, table, draw, 0.3 + 0.055 * len(areas))


def of_categories(scores: Mapping[str, Any]) -> list[Figure]:
  """Scores of each category and attribute value with intervals, and what attributes are taken for."""
  result = []
  for name, part in scores.get('groups', {}).items():  # earlier versions did not write it
    groups = dict(sorted(part['groups'].items(), key=lambda item: -item[1]['value']))
    table: list[list[Any]] = [[name, 'value', 'low', 'high', 'num_items', 'num_stimuli']]
    for group, entry in groups.items():
      table.append([group, entry['value'], *(entry['interval'] or ['', '']), entry['num_items'], entry['num_stimuli']])
    label = format_label(part['score'])
    alt = f'{label} by {name}, with 95 % intervals over the stimuli of each; none where there is one stimulus'
    if len(groups) > 2 * MOST_GROUPS:
      names = list(groups)
      groups = {group: groups[group] for group in (*names[:MOST_GROUPS], *names[-MOST_GROUPS:])}
      alt += f'. Drawn are the {MOST_GROUPS} best and the {MOST_GROUPS} worst of {len(names)}; the CSV has all'
    draw = partial(_draw_groups, groups=groups, label=label)
    result.append(Figure(f'by_{name}', alt, table, draw, 0.3 + 0.045 * len(groups)))
  for name, part in scores.get('confusion', {}).items():
    if name == 'classes':
      continue
    values, counts = part['values'], np.array(part['counts'], np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    table = [
      [f'{name} shown', *values],
      *([value, *row] for value, row in zip(values, part['counts'], strict=True)),
    ]
    alt = f'What each {name} (row) is taken for (column): share of samples'
    draw = partial(_heat, values=shares, rows=values, columns=values, label='share')
    result.append(Figure(f'confusion_{name}', alt, table, draw, 0.75))
  return result


def _draw_groups(axis: plt.Axes, groups: Mapping[str, Any], label: str) -> None:
  for place, entry in enumerate(groups.values()):
    if entry['interval']:
      axis.plot(entry['interval'], [place, place], color=BLUE, linewidth=1.4)
    axis.plot(entry['value'], place, 'o', color=BLUE, markersize=3.5)
  _rows(axis, list(groups))
  axis.set_xlabel(label)


def curve(stage: str, name: str, splits: Mapping[str, Any], draw: Callable[[plt.Axes], None]) -> Figure:
  """A training curve, drawn by `charts.draw_curve`."""
  ends = '; '.join(f'{split} ends at {values[-1]:.4g}' for split, (_, values) in splits.items())
  table: list[list[Any]] = [['split', 'step', 'value']]
  for split, (steps, values) in splits.items():
    table += [[split, int(step), float(value)] for step, value in zip(steps, values, strict=True)]
  return Figure(f'{stage}_{name}', f'{stage} {name}: {ends}', table, draw)


def of_interpretation(plain: Mapping[str, Any]) -> list[Figure]:
  """All figures of interpret.json."""
  result = []
  if 'lesion' in plain:
    result += [lesions(plain['lesion'], score) for score in shown_scores(next(iter(plain['lesion'].values())))]
  if 'alone' in plain:
    alone = {'mean': plain['alone']}
    result += [lesions(alone, score, 'alone') for score in shown_scores(plain['alone'])]
  if 'saliency' in plain:
    result += [
      saliency(plain['saliency'], subject) for subject in _with_areas(plain, plain['saliency']['mean_magnitude'])
    ]
  if 'attention' in plain:
    result.append(attention(plain['attention']))
  if 'encoding' in plain:
    result += [encoding(plain['encoding'], subject) for subject in _with_areas(plain, plain['encoding']['mean'])]
  return result


def _with_areas(plain: Mapping[str, Any], subjects: Iterable[str]) -> list[str]:
  """Those subjects whose data have ROIs inside the model input."""
  return [subject for subject in subjects if plain['areas'][subject]]


def shown_scores(changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """The scores of lesions that are drawn: the headline, and the attributes of simulated scenes."""
  names = next(iter(changes.values()))
  return [*choose_headline(names), *(name for name in names if name.startswith('attribute_'))]
