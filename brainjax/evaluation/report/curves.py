"""Training curves: reads the stages' metric files and draws them as a PNG."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use('Agg')  # files only, no display

import matplotlib.pyplot as plt
import numpy as np

from brainjax.files import atomic_write
from brainjax.metric_writer import read_metrics
from brainjax.stages.registry import STAGES

LINE_COLOURS = {'train': '#2f6db5', 'validation': '#d6453f'}
STYLE = {
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.color': '#e6e8ec',
  'axes.edgecolor': '#9aa0aa',
}


def curves(records: Sequence[dict]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
  """Orders scalars by name and split: name -> split -> (steps, values). The later of two records of a step counts.

  The number of skipped steps is left out while it is 0. Any other scalar that stays 0 is shown: it may be a fault.
  """
  result: dict[str, dict[str, dict[int, float]]] = {}
  for record in records:
    for name, value in record.items():
      if name in ('step', 'epoch') or isinstance(value, bool | str) or not isinstance(value, int | float):
        continue
      if np.isfinite(value):
        result.setdefault(name, {}).setdefault(record['split'], {})[record['step']] = float(value)

  def ordered(points: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    steps = sorted(points)
    return np.array(steps), np.array([points[step] for step in steps])

  return {
    name: {split: ordered(points) for split, points in splits.items()}
    for name, splits in result.items()
    if name != 'skipped_steps' or any(value for points in splits.values() for value in points.values())
  }


def stage_metrics(workdir: Path) -> dict[str, dict]:
  """Curves of every stage that left <workdir>/<stage>/metrics.jsonl, in the order of the stages."""
  paths = {path.parent.name: path for path in sorted(Path(workdir).glob('*/metrics.jsonl'))}
  names = sorted(paths, key=lambda name: list(STAGES).index(name) if name in STAGES else len(STAGES))
  return {name: curves(read_metrics(paths[name])) for name in names}


def training_curves(workdir: Path, path: Path) -> bool:
  """Writes the training curves of all stages as one PNG: a row per stage, a panel per scalar.

  Args:
    workdir: holds <stage>/metrics.jsonl.
    path: the PNG.

  Returns:
    False where no stage has left a scalar (nothing is written then).
  """
  metrics = {stage: panels for stage, panels in stage_metrics(workdir).items() if panels}
  if not metrics:
    return False
  width = min(4, max(len(panels) for panels in metrics.values()))
  layout = []  # (stage, names of one row)
  for stage, panels in metrics.items():
    names = list(panels)
    layout += [(stage, names[i : i + width]) for i in range(0, len(names), width)]
  with plt.rc_context(STYLE):
    size = (3.3 * width, 2.4 * len(layout))
    figure, axes = plt.subplots(len(layout), width, figsize=size, squeeze=False, layout='constrained')
    for row, (stage, names) in zip(axes, layout, strict=True):
      for axis, name in zip(row, names, strict=False):
        _panel(axis, f'{stage}: {name}', metrics[stage][name])
      for axis in row[len(names) :]:
        axis.set_visible(False)
    with atomic_write(path) as temporary:
      figure.savefig(temporary, dpi=140)
    plt.close(figure)
  return True


def _panel(axis: plt.Axes, title: str, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
  for split, (steps, values) in splits.items():
    colour = LINE_COLOURS.get(split, '#555b66')
    if len(steps) > 60:
      # The raw values stay visible behind their running mean.
      axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
      window = len(steps) // 30
      values = np.convolve(values, np.ones(window) / window, 'valid')
      steps = steps[window // 2 :][: len(values)]
    marker = 'o' if len(steps) < 25 else None
    axis.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=3, label=split)
  axis.set_title(title, fontsize=9.5, loc='left', fontweight='bold')
  axis.set_xlabel('step')
  axis.set_axisbelow(True)
  if len(splits) > 1:
    axis.legend(frameon=False, fontsize=8)
