"""Small SVG drawings for the report: score rows with intervals, training curves, fMRI traces."""

from collections.abc import Sequence
from html import escape

import numpy as np

ROW_WIDTH, ROW_HEIGHT = 300, 34
CHART_WIDTH, CHART_HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 24
MAX_POINTS = 240
# Symbol of each baseline, in their order: for the legend, and as the corners of a polygon.
MARKS = (
  ('◇', '0,-5.5 5.5,0 0,5.5 -5.5,0'),
  ('△', '0,-5.5 5.5,4.5 -5.5,4.5'),
  ('□', '-4.5,-4.5 4.5,-4.5 4.5,4.5 -4.5,4.5'),
  ('▽', '0,5.5 5.5,-4.5 -5.5,-4.5'),
)


def number(value: float, unit: str = '') -> str:
  """A score as text: fractions in per cent, others with three significant digits."""
  if unit == 'fraction':
    return f'{100 * value:.1f} %'
  return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def _ticks(low: float, high: float, count: int = 4) -> np.ndarray:
  """Round numbers inside [low, high]."""
  raw = (high - low) / count
  magnitude = 10.0 ** np.floor(np.log10(raw))
  step = magnitude * next(m for m in (1, 2, 5, 10) if m * magnitude >= raw * 0.999)
  return np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step + 0.0  # no minus zero


def _bounds(values: Sequence[float] | np.ndarray, pad: float = 0.06) -> tuple[float, float]:
  low, high = float(np.min(values)), float(np.max(values))
  margin = (high - low) * pad or abs(high) * 0.1 or 1.0
  return low - margin, high + margin


def score_row(entry: dict, unit: str, chance: float | None, baselines: dict[str, float]) -> str:
  """One score on its axis: band of the shuffled pairings, chance mark, interval with its value, baselines.

  Args:
    entry: value, interval and null as in scores.json.
    unit: 'fraction' makes the axis 0..1.
    chance: chance level or None.
    baselines: name -> value.

  Returns:
    An SVG element, described for a screen reader.
  """
  shown = [entry['value'], *entry['interval'], *entry['null']['interval'], *baselines.values()]
  low, high = (0.0, 1.0) if unit == 'fraction' else _bounds(shown, 0.1)

  def x(value: float) -> float:
    return round(8 + (value - low) / (high - low) * (ROW_WIDTH - 16), 2)

  def text(value: float) -> str:
    return number(value, unit)

  middle = ROW_HEIGHT / 2
  left, right = (x(v) for v in entry['interval'])
  null_left, null_right = (x(v) for v in entry['null']['interval'])
  words = f'{text(entry["value"])}, 95 % interval {text(entry["interval"][0])} to {text(entry["interval"][1])}, '
  words += f'shuffled pairings {text(entry["null"]["interval"][0])} to {text(entry["null"]["interval"][1])}'
  words += f', chance {text(chance)}' if chance is not None else ''
  words += ''.join(f', {name} {text(value)}' for name, value in baselines.items())
  parts = [
    f'<svg class="row" viewBox="0 0 {ROW_WIDTH} {ROW_HEIGHT}" role="img" aria-label="{escape(words)}">',
    f'<line class="axis" x1="8" x2="{ROW_WIDTH - 8}" y1="{middle}" y2="{middle}"/>',
    f'<rect class="null" x="{null_left}" y="{middle - 8}" width="{max(2.0, null_right - null_left):.2f}" height="16"/>',
  ]
  if chance is not None:
    parts.append(f'<line class="chance" x1="{x(chance)}" x2="{x(chance)}" y1="4" y2="{ROW_HEIGHT - 4}"/>')
  for i, (name, value) in enumerate(baselines.items()):
    corners, place = MARKS[i % len(MARKS)][1], f'translate({x(value)} {middle})'
    shape = f'<polygon class="baseline" points="{corners}" transform="{place}">'
    parts.append(f'{shape}<title>{escape(name)} {text(value)}</title></polygon>')
  parts.append(f'<line class="interval" x1="{left}" x2="{right}" y1="{middle}" y2="{middle}"/>')
  parts += [f'<line class="interval" x1="{e}" x2="{e}" y1="{middle - 5}" y2="{middle + 5}"/>' for e in (left, right)]
  parts.append(f'<circle class="value" cx="{x(entry["value"])}" cy="{middle}" r="5"/></svg>')
  return ''.join(parts)


def _frame(label: str, low: float, high: float, steps: tuple[float, float]) -> tuple[list[str], tuple]:
  """Opens a chart with axes: (parts, (x, y) functions of arrays)."""

  def x(v):
    return LEFT + (np.asarray(v, float) - steps[0]) / ((steps[1] - steps[0]) or 1) * (CHART_WIDTH - LEFT - RIGHT)

  def y(v):
    return CHART_HEIGHT - BOTTOM - (np.asarray(v, float) - low) / (high - low) * (CHART_HEIGHT - TOP - BOTTOM)

  parts = [f'<svg class="chart" viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{escape(label)}">']
  for tick in _ticks(low, high):
    place = f'{y(tick):.1f}'
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{CHART_WIDTH - RIGHT}" y1="{place}" y2="{place}"/>')
    parts.append(f'<text x="{LEFT - 5}" y="{place}" dy=".35em" text-anchor="end">{tick:.4g}</text>')
  for step, anchor in zip(steps, ('start', 'end'), strict=True):
    parts.append(f'<text x="{x(step):.1f}" y="{CHART_HEIGHT - 7}" text-anchor="{anchor}">{step:.6g}</text>')
  return parts, (x, y)


def _line(x: np.ndarray, y: np.ndarray, name: str) -> str:
  if len(x) == 1:
    return f'<circle class="{name} dot" cx="{x[0]:.1f}" cy="{y[0]:.1f}" r="3"/>'
  points = ' '.join(f'{a:.1f},{b:.1f}' for a, b in zip(x, y, strict=True))
  return f'<polyline class="{name}" points="{points}"/>'


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Means of neighbouring points, at most MAX_POINTS of them."""
  if len(steps) <= MAX_POINTS:
    return steps, values
  parts = np.array_split(np.arange(len(steps)), MAX_POINTS)
  return np.array([steps[p].mean() for p in parts]), np.array([values[p].mean() for p in parts])


def curve(title: str, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
  """A training curve: split -> (steps, values). Long ones are drawn as means of neighbours."""
  thin = {split: _thin(*points) for split, points in splits.items()}
  low, high = _bounds(np.concatenate([values for _, values in thin.values()]))
  steps = np.concatenate([s for s, _ in splits.values()])
  ends = '; '.join(f'{split} ends at {values[-1]:.4g}' for split, (_, values) in splits.items())
  parts, (x, y) = _frame(f'{title}: {ends}', low, high, (float(steps.min()), float(steps.max())))
  for i, (s, values) in enumerate(thin.values()):
    parts.append(_line(x(s), y(values), f'line{i % 3}'))
  return ''.join(parts) + '</svg>'


def trace(title: str, original: np.ndarray, predicted: np.ndarray, masked: np.ndarray, num_voxels: int = 320) -> str:
  """Neighbouring voxels of one fMRI sample, each V: original, prediction and (shaded) what the model did not see.

  They are the first ones, or those around the first border of the mask where that comes later.
  """
  borders = np.flatnonzero(np.diff(masked.astype(int)))
  first = int(borders[0]) + 1 - num_voxels // 2 if len(borders) else 0
  first = min(max(first, 0), max(len(original) - num_voxels, 0))
  original, predicted, masked = (row[first : first + num_voxels] for row in (original, predicted, masked))
  last = len(original) - 1
  low, high = _bounds(np.concatenate([original, predicted]))
  parts, (x, y) = _frame(f'{title}: original and predicted fMRI', low, high, (float(first), float(first + last)))
  edges = np.flatnonzero(np.diff(np.concatenate([[0], masked.astype(int), [0]])))
  for start, stop in edges.reshape(-1, 2):  # runs of masked voxels
    left, right = x(first + start), x(first + min(stop, last))
    height = CHART_HEIGHT - TOP - BOTTOM
    parts.append(f'<rect class="masked" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{height}"/>')
  voxels = first + np.arange(len(original))
  parts += [_line(x(voxels), y(original), 'line2'), _line(x(voxels), y(predicted), 'line0')]
  return ''.join(parts) + '</svg>'
