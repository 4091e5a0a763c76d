"""Charts: training curves from the stages' metric files, and fMRI traces. Each is an SVG of the page; the curves are a PNG too."""

import base64
import io
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from brainjax.evaluation.report.contents import Trace
from brainjax.evaluation.report.figures import Figure, to_csv
from brainjax.files import atomic_write
from brainjax.metric_writer import read_metrics
from brainjax.stages.registry import STAGES

LINE_COLOURS = {'train': '#4a86cf', 'validation': '#d6453f'}
TRACE_COLOURS = {'original': '#8b93a1', 'predicted': '#4a86cf', 'masked': '#8b93a140'}
MAX_POINTS = 600  # of a line
MAX_VOXELS = 320  # of a trace
# Grey that can be read on white and on black.
FAINT = '#808793'
STYLE = {
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.color': '#9aa0aa50',
  'axes.edgecolor': '#9aa0aa',
  'text.color': FAINT,
  'axes.labelcolor': FAINT,
  'xtick.color': FAINT,
  'ytick.color': FAINT,
  'svg.fonttype': 'none',
}


def order_scalars(records: Sequence[dict]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
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


def read_curves(workdir: Path) -> dict[str, dict]:
  """Curves of every stage that left <workdir>/<stage>/metrics.jsonl, in the order of the stages.

  Raises:
    UserError: a metrics file is damaged.
  """
  paths = {path.parent.name: path for path in sorted(Path(workdir).glob('*/metrics.jsonl'))}
  names = sorted(paths, key=lambda name: list(STAGES).index(name) if name in STAGES else len(STAGES))
  return {name: order_scalars(read_metrics(paths[name])) for name in names}


def draw_curves(workdir: Path, path: Path) -> bool:
  """Writes the training curves of all stages as one PNG: a row per stage, a panel per scalar.

  Returns:
    False where no stage has left a scalar (nothing is written then).
  """
  metrics = {stage: panels for stage, panels in read_curves(workdir).items() if panels}
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
        axis.set_title(f'{stage}: {name}', fontsize=9.5, loc='left', fontweight='bold')
        draw_curve(axis, metrics[stage][name])
      for axis in row[len(names) :]:
        axis.set_visible(False)
    with atomic_write(path) as temporary:
      figure.savefig(temporary, dpi=140)
    plt.close(figure)
  return True


def draw_curve(axis: plt.Axes, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
  """Draws a training curve: split -> (steps, values). A long one stays visible behind its running mean."""
  for split, (steps, values) in splits.items():
    colour, every = LINE_COLOURS.get(split, FAINT), -(-len(steps) // MAX_POINTS)
    if len(steps) > 60:
      axis.plot(steps[::every], values[::every], color=colour, alpha=0.25, linewidth=0.8)
      window = len(steps) // 30
      values = np.convolve(values, np.ones(window) / window, 'valid')
      steps = steps[window // 2 :][: len(values)]
    marker = 'o' if len(steps) < 25 else None
    axis.plot(steps[::every], values[::every], color=colour, linewidth=1.6, marker=marker, markersize=3, label=split)
  axis.set_xlabel('step')
  axis.set_axisbelow(True)
  if len(splits) > 1:
    axis.legend(frameon=False, fontsize=8)


def draw_trace(axis: plt.Axes, trace: Trace) -> None:
  """Draws neighbouring voxels of one fMRI sample: original, prediction and (shaded) what the model did not see.

  They are the first ones, or those around the first border of the mask where that comes later.
  """
  borders = np.flatnonzero(np.diff(trace.masked.astype(int)))
  first = int(borders[0]) + 1 - MAX_VOXELS // 2 if len(borders) else 0
  first = min(max(first, 0), max(len(trace.original) - MAX_VOXELS, 0))
  shown = slice(first, first + MAX_VOXELS)
  edges = np.flatnonzero(np.diff(np.concatenate([[0], trace.masked[shown].astype(int), [0]])))
  for start, stop in first + edges.reshape(-1, 2):  # runs of masked voxels
    axis.axvspan(start, stop, color=TRACE_COLOURS['masked'], linewidth=0)
  for name in ('original', 'predicted'):
    values = getattr(trace, name)[shown]
    axis.plot(first + np.arange(len(values)), values, color=TRACE_COLOURS[name], linewidth=1.2, label=name)
  axis.set_xlabel('voxel')
  axis.legend(frameon=False, fontsize=8, ncols=2)


def trace_figure(stage: str, number: int, trace: Trace) -> Figure:
  """The figure of one fMRI sample, with all its voxels."""
  columns = zip(trace.original.tolist(), trace.predicted.tolist(), trace.masked.tolist(), strict=True)
  table = [['voxel', 'original', 'predicted', 'masked'], *([v, a, b, int(m)] for v, (a, b, m) in enumerate(columns))]
  alt = f'{stage}, response {number}: original and predicted fMRI'
  return Figure(f'{stage}_response_{number}', alt, table, partial(draw_trace, trace=trace))


def to_image(figure: Figure) -> str:
  """An HTML image of a figure, as SVG with its numbers, and the buttons that save both."""
  with plt.rc_context(STYLE):
    canvas, axis = plt.subplots(figsize=(3.4, 3.4 * figure.shape), layout='constrained')
    figure.draw(axis)
    file = io.BytesIO()
    canvas.savefig(file, format='svg', transparent=True)
    plt.close(canvas)
  data = base64.b64encode(file.getvalue()).decode()
  return (
    f'<img class="chart" alt="{escape(figure.alt)}" src="data:image/svg+xml;base64,{data}">'
    f'{save_buttons(figure.name, to_csv(figure.table), figure.alt)}'
  )


def save_buttons(name: str, csv: str, what: str) -> str:
  """Buttons that save the picture before them, and its numbers."""
  return (
    f'<span class="save" data-name="{escape(name)}" data-csv="{escape(csv)}">'
    f'<button type="button" data-kind="svg" aria-label="Save as SVG: {escape(what)}">SVG</button>'
    f'<button type="button" data-kind="csv" aria-label="Save as CSV: {escape(what)}">CSV</button></span>'
  )
