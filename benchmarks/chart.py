"""Charts of the speed table and of the scaling curves."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from benchmarks.table import in_words

COLOURS = {'ours': '#0b3c6f', 'released': '#e69f00', 'engineer': '#56b4e9', 'compile': '#009e73'}
LABELS = {
  'ours': 'brainjax',
  'released': 'PyTorch, as released',
  'engineer': 'PyTorch, good engineer',
  'compile': 'PyTorch, torch.compile',
}


def draw(results: dict[str, dict], path: Path) -> None:
  """Draws each row's times, divided by ours, as horizontal bars with their spread and the machine's limit."""
  shown = {key: result for key, result in results.items() if result.get('ours', {}).get('seconds')}
  figure, axis = plt.subplots(figsize=(9, 1.2 + 0.75 * max(len(shown), 1)), layout='constrained')
  height, used = 0.2, set()
  for place, result in enumerate(shown.values()):
    unit = result['ours']['seconds']
    parts = {'ours': result['ours']} | {way: part for way, part in result['peers'].items() if 'seconds' in part}
    for number, (way, part) in enumerate(parts.items()):
      y = place + height * (number - (len(parts) - 1) / 2)
      centre = part['seconds'] / unit
      spread = [[centre - part['least'] / unit], [part['most'] / unit - centre]]
      label = LABELS[way] if way not in used else None
      used.add(way)
      axis.barh(y, centre, 0.9 * height, xerr=spread, color=COLOURS[way], label=label, error_kw={'linewidth': 0.9})
    if limit := result.get('limit_seconds'):
      label = "the machine's limit" if 'limit' not in used else None
      used.add('limit')
      axis.plot([limit / unit] * 2, [place - 0.4, place + 0.4], color='#cc0000', linewidth=2, label=label)
  names = [f'{result["title"]}\n{in_words(result["ours"]["seconds"])}' for result in shown.values()]
  axis.set_yticks(range(len(shown)), names, fontsize=8)
  axis.invert_yaxis()
  axis.axvline(1, color='#888888', linewidth=0.8, linestyle='--')
  axis.set_xlim(0, min(4.5, axis.get_xlim()[1]))
  axis.set_xlabel("time over brainjax's (shorter is faster; bars: median, lines: least to most)")
  axis.spines[['top', 'right']].set_visible(False)
  if used:
    axis.legend(frameon=False, fontsize=8, loc='best')
  figure.savefig(path, dpi=130)
  plt.close(figure)


def draw_curves(curves: dict[str, dict], path: Path) -> None:
  """Draws a panel for each curve: time against the varied quantity, both axes logarithmic."""
  figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.6), squeeze=False, layout='constrained')
  for axis, curve in zip(axes[0], curves.values(), strict=True):
    for way, points in curve['seconds'].items():
      xs = np.array([float(x) for x in points])
      axis.loglog(xs, list(points.values()), 'o-', color=COLOURS[way], label=LABELS[way], markersize=4)
    axis.set_title(curve['title'], fontsize=10)
    axis.set_xlabel(curve['of'])
    axis.set_xticks(xs, labels=[f'{x:,.0f}' for x in xs], fontsize=8)
    axis.yaxis.set_major_formatter('{x:g}')
    axis.tick_params(axis='x', which='minor', bottom=False, labelbottom=False)
    axis.tick_params(axis='y', which='minor', labelleft=False)
    axis.set_ylabel('seconds')
    axis.spines[['top', 'right']].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
  figure.savefig(path, dpi=130)
  plt.close(figure)
