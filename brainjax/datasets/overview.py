"""Looks prepared data over before anyone spends GPU hours on them: facts, doubts, and one page of pictures."""

import dataclasses
import hashlib
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from brainjax.datasets import registry, store
from brainjax.errors import UserError
from brainjax.files import atomic_write

MAX_SUBJECTS = 4  # drawn; facts are told of all
MAX_ROWS = 150  # of a heat map
NUM_PICTURES = 7  # of each split
STRIP = 1.95  # inches, of a row of pictures with captions of two lines
INK, BLUE, ORANGE = '#222222', '#3b6ea5', '#c96a28'


@dataclasses.dataclass
class Subject:
  """What is told and drawn of one subject."""

  name: str
  facts: list[str] = dataclasses.field(default_factory=list)
  doubts: list[str] = dataclasses.field(default_factory=list)
  rows: np.ndarray | None = None  # some rows x voxels, for the heat map
  rois: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # ROI -> noise ceilings, or deviations
  pictures: list[tuple[str, str, np.ndarray]] = dataclasses.field(default_factory=list)  # split, name, H H 3


def find(prepared: Path) -> dict[str, list[Path]]:
  """Data set -> folders of its prepared subjects (one folder for HCP), in order of names and numbers."""
  found: dict[str, list[Path]] = {}
  for path in prepared.glob('*/**/dataset_info.json') if prepared.is_dir() else ():
    name = path.relative_to(prepared).parts[0]
    if name in registry.DATA_SETS:
      found.setdefault(name, []).append(path.parent)
  return {name: sorted(found[name], key=lambda path: (len(str(path)), str(path))) for name in sorted(found)}


def look(name: str, folders: list[Path]) -> list[Subject]:
  """Reads every row of a data set once."""
  subjects = []
  for folder in folders:
    try:
      source = tfds.builder_from_directory(folder)
      source.info.metadata  # noqa: B018  reads it
      has_pictures = registry.get(name).has_pictures
      subjects += [_look_paired(source, folder)] if has_pictures else _look_hcp(source)
    except UserError:
      raise
    except Exception as error:
      raise UserError(
        f'{folder}: damaged prepared data ({type(error).__name__}); delete this folder and prepare again'
      ) from None
  return subjects


def _facts_of(folder: Path) -> store.Metadata:
  metadata = store.Metadata()
  metadata.load_metadata(folder)
  return metadata


def noise_ceiling(explainable: np.ndarray, repetitions: float) -> np.ndarray:
  """Share of the variance of a mean over `repetitions` trials that the stimulus explains, from that of one trial."""
  return explainable / np.maximum(explainable + (1 - explainable) / repetitions, 1e-12)


def _look_paired(source: Any, folder: Path) -> Subject:
  facts = _facts_of(folder)
  subject = Subject(str(facts['subject']))
  subject.rois = {key.removeprefix('roi/'): np.asarray(mask) for key, mask in facts.items() if key.startswith('roi/')}
  splits = {split: info.num_examples for split, info in source.info.splits.items()}
  repetitions = np.atleast_1d(facts['repetitions'])
  subject.facts += [
    f'{facts["num_voxels"]} voxels; ROIs {_counts(facts["rois"])}',
    'rows: ' + _counts(splits),
    f'{facts["num_train_stimuli"]} training and {facts["num_test_stimuli"]} test pictures; test pictures shown '
    + (
      f'{repetitions.min()}'
      if repetitions.min() == repetitions.max()
      else f'{repetitions.min()} to {repetitions.max()}'
    )
    + ' times',
  ]
  pictures: dict[str, dict[str, str]] = {}
  for split in ('train', 'test'):
    seen = pictures.setdefault(split, {})
    statistics = _Statistics()
    for row in store.rows_of(store.undecoded(source, split)):
      statistics.add(row['fmri'])
      digest = hashlib.sha256(row['image']).hexdigest()
      if digest not in seen and len(seen) < NUM_PICTURES:
        subject.pictures.append((split, row['name'].decode(), store.decode_png(row['image'])))
      seen.setdefault(digest, row['name'].decode())
    subject.doubts += statistics.doubts(split)
    if split == 'train':
      subject.rows = statistics.kept()
  both = pictures['train'].keys() & pictures['test'].keys()
  if both:
    subject.doubts.append(f'{len(both)} pictures are in both splits, such as {pictures["test"][min(both)]}')
  explainable = facts.get('explainable_variance')
  if explainable is None:
    subject.doubts.append('no noise ceilings: test pictures were shown once, or the order of test trials is unknown')
  else:
    ceiling = noise_ceiling(np.asarray(explainable, np.float64), float(repetitions.mean()))
    subject.values = {roi: ceiling[mask] for roi, mask in subject.rois.items()}
    medians = {roi: f'{np.median(values):.2f}' for roi, values in subject.values.items()}
    subject.facts.append(f'noise ceiling of the averaged test trials, median: {_counts(medians)}')
    if np.median(ceiling) < 0.05:
      subject.doubts.append(
        'half of the voxels have a noise ceiling below 0.05: do trials and pictures agree in order?'
      )
  return subject


def _look_hcp(source: Any) -> list[Subject]:
  facts = _facts_of(Path(source.data_dir))
  rois = {key.removeprefix('roi/'): np.asarray(mask) for key, mask in facts.items() if key.startswith('roi/')}
  data, start, subjects = source.as_data_source('train'), 0, []
  for place, (name, count) in enumerate(zip(facts['subjects'], facts['windows'], strict=True)):
    subject = Subject(
      name, [f'{count} windows of {facts["num_voxels"]} voxels; ROIs {_counts(facts["rois"])}'], rois=rois
    )
    statistics = _Statistics()
    for row in data.__getitems__(list(range(start, start + count))):
      statistics.add(row['fmri'])
    subject.doubts += statistics.doubts('train')
    subject.rows = statistics.kept() if place < MAX_SUBJECTS else None
    deviation = np.sqrt(facts['voxel_variance'][place])
    subject.values = {roi: deviation[mask] for roi, mask in rois.items() if roi != 'VC'}
    start += count
    subjects.append(subject)
  return subjects


class _Statistics:
  """Of rows seen one by one: which voxels never change, what is not finite, and the first rows."""

  def __init__(self):
    self._first, self._changes, self._bad, self._rows, self._count = None, None, 0, [], 0

  def add(self, row: np.ndarray) -> None:
    """One row: `V`."""
    if self._first is None:
      self._first, self._changes = row.copy(), np.zeros(row.shape, bool)
    self._changes |= row != self._first
    self._bad += int((~np.isfinite(row)).sum())
    self._count += 1
    if len(self._rows) < MAX_ROWS:
      self._rows.append(row.copy())

  def doubts(self, split: str) -> list[str]:
    """What is wrong with them."""
    told = [f'{split}: {self._bad} values are NaN or infinite'] if self._bad else []
    constant = 0 if self._changes is None or self._count < 2 else int((~self._changes).sum())
    return told + ([f'{split}: {constant} voxels never change'] if constant else [])

  def kept(self) -> np.ndarray:
    """The first rows, each voxel z-scored over them: `R V`."""
    rows = np.stack(self._rows)
    rows = rows - rows.mean(axis=0)
    return rows / np.maximum(rows.std(axis=0), 1e-6)


def _counts(table: Any) -> str:
  return ', '.join(f'{name} {value}' for name, value in table.items())


def lines(name: str, subjects: list[Subject]) -> list[str]:
  """For people to read."""
  out = [f'{name}: {len(subjects)} subjects']
  for subject in subjects if len(subjects) <= 20 else subjects[:3]:
    out += [f'  {subject.name}: {fact}' for fact in subject.facts]
  if len(subjects) > 20:
    out.append(f'  ... and {len(subjects) - 3} more')
  doubts = [f'  look at this: {subject.name}: {doubt}' for subject in subjects for doubt in subject.doubts]
  return out + (doubts or ['  nothing doubtful found'])


def draw(name: str, subjects: list[Subject], path: Path) -> None:
  """One page: per subject a heat map of fMRI and a summary per ROI, and below it sample stimuli."""
  shown = subjects[:MAX_SUBJECTS]
  pictures = shown[0].pictures
  strips = 2 if pictures else 0
  figure = Figure(figsize=(12, 1.1 + 2.3 * len(shown) + STRIP * strips), facecolor='white', layout='constrained')
  FigureCanvasAgg(figure)
  more = '' if len(shown) == len(subjects) else f' (the first {len(shown)} of {len(subjects)} subjects)'
  figure.suptitle(f'{name}{more}', fontsize=15, x=0.012, ha='left', color=INK)
  # With fixed heights, pages of one and of four subjects look alike.
  parts = figure.subfigures(2 if strips else 1, 1, height_ratios=[2.3 * len(shown), STRIP * strips] if strips else None)
  upper = parts[0] if strips else parts
  axes = upper.subplots(len(shown), 2, width_ratios=(2.2, 1), squeeze=False)
  for subject, (left, right) in zip(shown, axes, strict=True):
    _heat_map(left, subject)
    _per_roi(right, subject, is_ceiling=registry.get(name).has_pictures)
  if strips:
    cells = parts[1].subplots(strips, NUM_PICTURES, squeeze=False)
    for split, row in zip(('train', 'test'), cells, strict=True):
      mine = [picture[1:] for picture in pictures if picture[0] == split]
      row[0].set_ylabel(f'{split} pictures', fontsize=9, color=INK)
      for place, cell in enumerate(row):
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
        if place < len(mine):
          cell.imshow(mine[place][1])
          cell.set_title('\n'.join(textwrap.wrap(_short(mine[place][0], 50), 26)), fontsize=8, color=INK)
  with atomic_write(path) as temporary:
    figure.savefig(temporary, dpi=110)


def _short(text: str, length: int = 30) -> str:
  text = ''.join(letter if letter.isprintable() else '?' for letter in text).replace('$', r'\$')
  return text if len(text) <= length else text[: length - 1] + '…'


def _heat_map(axis: Any, subject: Subject) -> None:
  """Rows x voxels, voxels in the order of the smaller ROIs, whose bounds are marked."""
  small = {roi: mask for roi, mask in subject.rois.items() if not mask.all()}
  owner = np.full(subject.rows.shape[1], len(small))
  for place, mask in reversed(list(enumerate(small.values()))):
    owner[mask] = place
  order = np.argsort(owner, kind='stable')
  image = axis.imshow(
    subject.rows[:, order], aspect='auto', cmap='RdBu_r', vmin=-3, vmax=3, interpolation='nearest', rasterized=True
  )
  edges = np.searchsorted(owner[order], np.arange(len(small) + 1))
  for place, roi in enumerate(small):
    stop = edges[place + 1]
    if stop - edges[place] > 0.02 * len(order):
      axis.text(
        (edges[place] + stop) / 2, -0.02 * len(subject.rows), roi, ha='center', va='bottom', fontsize=8, color=INK
      )
    if 0 < stop < len(order):
      axis.axvline(stop - 0.5, color=INK, linewidth=0.5)
  axis.set_title(f'{_short(subject.name)}: first training rows, z', fontsize=10, loc='left', pad=16, color=INK)
  axis.set_xlabel('voxels', fontsize=8, color=INK)
  axis.set_ylabel('rows', fontsize=8, color=INK)
  axis.tick_params(labelsize=7)
  axis.figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01).ax.tick_params(labelsize=7)


def _per_roi(axis: Any, subject: Subject, is_ceiling: bool) -> None:
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
