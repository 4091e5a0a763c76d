"""Numbers as text, HTML tables, and small SVG drawings of scores with their intervals."""

from collections.abc import Iterable
from html import escape

ROW_WIDTH, ROW_HEIGHT = 300, 34
# Symbol of each baseline, in their order: for the legend, and as the corners of a polygon.
MARKS = (
  ('◇', '0,-5.5 5.5,0 0,5.5 -5.5,0'),
  ('△', '0,-5.5 5.5,4.5 -5.5,4.5'),
  ('□', '-4.5,-4.5 4.5,-4.5 4.5,4.5 -4.5,4.5'),
  ('▽', '0,5.5 5.5,-4.5 -5.5,-4.5'),
)


def format_number(value: float, unit: str = '') -> str:
  """A score as text: fractions in per cent, others with three significant digits."""
  if unit == 'fraction':
    return f'{100 * value:.1f} %'
  return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def format_table(name: str, heads: Iterable[str], rows: Iterable[str], css: str = 'plain') -> str:
  """An HTML table that scrolls sideways by itself on a narrow screen, also by keyboard. `rows`: their HTML."""
  columns = ''.join(f'<th scope="col">{escape(head)}</th>' for head in heads)
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table class="{css}">'
    f'<thead><tr>{columns}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
  )


def draw_score(entry: dict, unit: str, chance: float | None, baselines: dict[str, float]) -> str:
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
  low, high = 0.0, 1.0
  if unit != 'fraction':
    margin = 0.1 * (max(shown) - min(shown) or abs(max(shown)) or 10.0)
    low, high = min(shown) - margin, max(shown) + margin

  def x(value: float) -> float:
    return round(8 + (value - low) / (high - low) * (ROW_WIDTH - 16), 2)

  def text(value: float) -> str:
    return format_number(value, unit)

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
