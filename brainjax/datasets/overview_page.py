"""Draws what `prepare check` found in prepared data: one page with responses, a summary per ROI, and pictures."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from brainjax.datasets import checks, registry
from brainjax.files import atomic_write

MAP_HEIGHT, STRIP_HEIGHT = 2.3, 1.95  # inches, of a subject and of a row of pictures with captions of two lines
INK, BLUE, ORANGE = '#222222', '#3b6ea5', '#c96a28'


def draw(name: str, subjects: list[checks.Subject], path: Path) -> None:
  """One page: per subject the responses as the model gets them and a summary per ROI; below, sample pictures.

  The last row of pictures has one picture of each kind of file (mode, orientation, transparency), the rarest first.
  """
  shown = subjects[: checks.MAX_SUBJECTS]
  pictures = shown[0].pictures
  strips = list(
    dict.fromkeys(strip for strip in ('train', 'test', 'kinds of files') if any(p[0] == strip for p in pictures))
  )
  heights = [MAP_HEIGHT * len(shown), STRIP_HEIGHT * len(strips)]
  figure = Figure(figsize=(12, 1.1 + sum(heights)), facecolor='white', layout='constrained')
  FigureCanvasAgg(figure)
  more = '' if len(shown) == len(subjects) else f' (the first {len(shown)} of {len(subjects)} subjects)'
  figure.suptitle(f'{name}{more}', fontsize=15, x=0.012, ha='left', color=INK)
  # With fixed heights, pages of one and of four subjects look alike.
  parts = figure.subfigures(2 if strips else 1, 1, height_ratios=heights if strips else None)
  axes = (parts[0] if strips else parts).subplots(len(shown), 3, width_ratios=(1.2, 1.2, 1), squeeze=False)
  for subject, (left, middle, right) in zip(shown, axes, strict=True):
    used = registry.get(name).zscore
    other = next(zscore for zscore in checks.WAYS if zscore != used)
    _heat_map(left, subject, used, f'as the model gets them:\n{checks.WAYS[used]}')
    _heat_map(middle, subject, other, f'for comparison:\n{checks.WAYS[other]}')
    _per_roi(right, subject, is_ceiling=registry.get(name).has_pictures)
  if strips:
    cells = parts[1].subplots(len(strips), checks.NUM_PICTURES, squeeze=False)
    for strip, row in zip(strips, cells, strict=True):
      row[0].set_ylabel(strip if strip == 'kinds of files' else f'{strip} pictures', fontsize=9, color=INK)
      for cell in row:
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
      chosen = [picture[1:] for picture in pictures if picture[0] == strip]
      for cell, (caption, pixels) in zip(row, chosen, strict=False):
        cell.imshow(pixels)
        cell.set_title('\n'.join(textwrap.wrap(_short(caption, 50), 26)), fontsize=8, color=INK)
  with atomic_write(path) as temporary:
    figure.savefig(temporary, dpi=110)


def _short(text: str, length: int = 30) -> str:
  text = ''.join(letter if letter.isprintable() else '?' for letter in text).replace('$', r'\$')
  return text if len(text) <= length else text[: length - 1] + '…'


def _heat_map(axis: Any, subject: checks.Subject, zscore: str, title: str) -> None:
  """Rows x voxels, voxels in the order of the smaller ROIs, whose bounds are marked."""
  rows = subject.rows[zscore]
  small = {roi: mask for roi, mask in subject.rois.items() if not mask.all()}
  owner = np.full(rows.shape[1], len(small))
  for place, mask in reversed(list(enumerate(small.values()))):
    owner[mask] = place
  order = np.argsort(owner, kind='stable')
  image = axis.imshow(
    rows[:, order], aspect='auto', cmap='RdBu_r', vmin=-3, vmax=3, interpolation='nearest', rasterized=True
  )
  edges = np.searchsorted(owner[order], np.arange(len(small) + 1))
  for place, roi in enumerate(small):
    stop = edges[place + 1]
    if stop - edges[place] > 0.02 * len(order):
      axis.text(
        (edges[place] + stop) / 2, -0.5 - 0.02 * len(rows), roi, ha='center', va='bottom', fontsize=8, color=INK
      )
    if 0 < stop < len(order):
      axis.axvline(stop - 0.5, color=INK, linewidth=0.5)
  axis.set_title(f'{_short(subject.name, 12)}: training rows, {title}', fontsize=10, loc='left', pad=16, color=INK)
  axis.set_xlabel('voxels', fontsize=8, color=INK)
  axis.set_ylabel('rows', fontsize=8, color=INK)
  axis.tick_params(labelsize=7)
  axis.figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01).ax.tick_params(labelsize=7)


def _per_roi(axis: Any, subject: checks.Subject, is_ceiling: bool) -> None:
  """A box per ROI: the middle half, whiskers from 5 to 95 %."""
  axis.spines[['top', 'right']].set_visible(False)
  axis.tick_params(labelsize=8)
  title = 'noise ceiling of test means' if is_ceiling else 'deviation over windows'
  axis.set_title(title, fontsize=10, loc='left', color=INK)
  if not subject.values:
    axis.text(0.5, 0.5, 'needs repeated test pictures\nin a known order', ha='center', va='center', fontsize=9)
    axis.set(xticks=[], yticks=[])
    return
  names = [roi for roi, values in subject.values.items() if len(values)]
  boxes = axis.boxplot(
    [subject.values[roi] for roi in names], whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6
  )
  for box in boxes['boxes']:
    box.set(facecolor='#c9d8ea', edgecolor=BLUE)
  for median in boxes['medians']:
    median.set(color=ORANGE, linewidth=2)
  axis.set_xticks(range(1, len(names) + 1), names, rotation=45 if len(names) > 6 else 0)
  axis.set_ylim(0, 1 if is_ceiling else None)
  axis.grid(axis='y', linewidth=0.3)
  axis.set_axisbelow(True)
