"""What `prepare check` looks for in the prepared data of one subject: facts, doubts, and what `overview_page` draws."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.datasets import pictures, store

MAX_SUBJECTS = 4  # drawn; facts are reported of all
MAX_ROWS = 150  # of a heat map
NUM_PICTURES = 7  # of each split, and of kinds of picture files
WAYS = {
  'subject': 'one z-score for all voxels',
  'voxel': 'one z-score for each voxel',
  'voxel_session': 'one z-score for each voxel and session',
}
MAX_OFFSET_SHARE = 0.5  # of the variance
MAX_SESSION_SHARE = 0.1  # of the variance that a z-score per voxel leaves, beyond what chance explains


@dataclasses.dataclass
class Subject:
  """What is reported and drawn of one subject.

  Attributes:
    name: of the subject.
    facts: one sentence each.
    doubts: what may be wrong, one sentence each.
    rows: the first training rows in the ways of WAYS: `R V` each; by session only where the data set is z-scored so.
    rois: name -> `V` bool.
    values: ROI -> noise ceilings of its voxels, or their deviations.
    pictures: (strip, caption, `H H 3` uint8); the strips are 'train', 'test' and 'kinds of files'.
  """

  name: str
  facts: list[str] = dataclasses.field(default_factory=list)
  doubts: list[str] = dataclasses.field(default_factory=list)
  rows: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  rois: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  pictures: list[tuple[str, str, np.ndarray]] = dataclasses.field(default_factory=list)


def noise_ceiling(explainable: np.ndarray, repetitions: float) -> np.ndarray:
  """Share of the variance of a mean over `repetitions` trials that the stimulus explains, from that of one trial."""
  return explainable / np.maximum(explainable + (1 - explainable) / repetitions, 1e-12)


def check_pictures(source: Any, zscore: str) -> Subject:
  """Reads every row of prepared data with pictures once.

  Args:
    source: their builder.
    zscore: what `config.data.zscore = 'auto'` means for them.

  Raises:
    UserError: the prepared data are damaged.
  """
  facts = store.read_metadata(Path(source.data_dir))
  subject = Subject(str(facts['subject']))
  subject.rois = facts.masks
  splits = {split: info.num_examples for split, info in source.info.splits.items()}
  repetitions = np.atleast_1d(facts['repetitions'])
  low, high = repetitions.min(), repetitions.max()
  subject.facts += [
    f'{facts["num_voxels"]} voxels; ROIs {format_counts(facts["rois"])}',
    'rows: ' + format_counts(splits),
    f'{facts["num_train_stimuli"]} training and {facts["num_test_stimuli"]} test pictures; test pictures shown '
    f'{low if low == high else f"{low} to {high}"} times',
    f'the model gets {WAYS[zscore]} (config.data.zscore = auto)',
  ]
  if sessions := facts.get('sessions'):
    count = len({name for names in sessions.values() for name in names})
    subject.facts.append(f'{count} sessions are known: config.data.zscore = voxel_session can be used')
  kinds = _picture_kinds(facts, subject)
  seen_in: dict[str, dict[str, str]] = {}
  stimuli: dict[str, set[int]] = {}  # of each picture
  for split in ('train', 'test'):
    seen = seen_in.setdefault(split, {})
    statistics = Statistics()
    names = sessions[split] if sessions and split == 'train' else []
    of_session: dict[str, Statistics] = {}
    for number, row in enumerate(store.read_rows(source, split)):
      statistics.add(row['fmri'])
      if names:
        if names[number] not in of_session:
          of_session[names[number]] = Statistics(0 if of_session else MAX_ROWS)  # rows of the first one are drawn
        of_session[names[number]].add(row['fmri'])
      digest = hashlib.sha256(row['image']).hexdigest()
      if digest not in seen and len(seen) < NUM_PICTURES:
        subject.pictures.append((split, row['name'].decode(), store.decode_png(row['image'])))
      if kind := kinds.pop(int(row['stimulus']), None):
        subject.pictures.append(('kinds of files', kind, store.decode_png(row['image'])))
      seen.setdefault(digest, row['name'].decode())
      stimuli.setdefault(digest, set()).add(int(row['stimulus']))
    subject.doubts += statistics.find_doubts(split)
    if split == 'train':
      subject.rows = statistics.standardise()
      _check_offsets(statistics, zscore, subject)
      if zscore == 'voxel_session':
        if names:
          subject.rows['voxel_session'] = of_session[names[0]].standardise()['voxel']
      elif len(of_session) > 1:
        _check_sessions(statistics, list(of_session.values()), subject)
  if copies := sum(len(numbers) - 1 for numbers in stimuli.values()):
    subject.doubts.append(f'{copies} pictures are copies of another one, but count as different stimuli')
  both = seen_in['train'].keys() & seen_in['test'].keys()
  if both:
    subject.doubts.append(f'{len(both)} pictures are in both splits, such as {seen_in["test"][min(both)]}')
  _check_noise_ceilings(facts, subject)
  return subject


def _check_noise_ceilings(facts: store.Metadata, subject: Subject) -> None:
  """Reports what share of the averaged test trials can be predicted."""
  explainable = facts.get('explainable_variance')
  if explainable is None:
    subject.doubts.append('no noise ceilings: test pictures were shown once, or the order of test trials is unknown')
  else:
    ceiling = noise_ceiling(np.asarray(explainable, np.float64), np.mean(facts['repetitions']))
    subject.values = {roi: ceiling[mask] for roi, mask in subject.rois.items()}
    medians = {roi: f'{np.median(values):.2f}' for roi, values in subject.values.items()}
    subject.facts.append(f'noise ceiling of the averaged test trials, median: {format_counts(medians)}')
    if np.median(ceiling) < 0.05:
      subject.doubts.append(
        'half of the voxels have a noise ceiling below 0.05: do trials and pictures agree in order?'
      )


def _picture_kinds(facts: store.Metadata, subject: Subject) -> dict[int, str]:
  """Reports kinds and sizes of the picture files; one stimulus of each kind that is drawn -> caption, rare kinds first."""
  kinds, sizes = facts.get('picture_kinds', {}), facts.get('picture_sizes', {})
  if not kinds:
    return {}
  subject.facts.append('picture files: ' + '; '.join(f'{kind} ({count})' for kind, (count, _) in kinds.items()))
  more = f' and {len(sizes) - 3} other sizes' if len(sizes) > 3 else ''
  frequent = [f'{size} ({count})' for size, count in list(sizes.items())[:3]]
  subject.facts.append(f'width x height of picture files: {", ".join(frequent)}{more}')
  subject.doubts += pictures.find_doubts(kinds)
  return {number: f'{kind} ({count})' for kind, (count, number) in list(kinds.items())[: -NUM_PICTURES - 1 : -1]}


def _check_offsets(statistics: 'Statistics', zscore: str, subject: Subject) -> None:
  """Reports the share of the responses' variance that does not depend on the picture, and whether the model gets it."""
  share = statistics.measure_offsets(subject.rois.get('VC'))
  fact = f'constant offsets of voxels are {share:.0%} of the variance of the training rows'
  subject.facts.append(fact + ('' if zscore == 'subject' else '; the z-score of each voxel removes them'))
  if zscore == 'subject' and share > MAX_OFFSET_SHARE:
    subject.doubts.append(
      f'with one z-score for all voxels (config.data.zscore = "subject"), {share:.0%} of the variance that the model '
      'gets is the constant offset of each voxel, which says nothing about the picture; train with '
      '--config.data.zscore=voxel'
    )


def _check_sessions(statistics: 'Statistics', sessions: Sequence['Statistics'], subject: Subject) -> None:
  """Reports the share of the variance that the sessions explain, where they are not z-scored one by one."""
  share = statistics.measure_sessions(sessions, subject.rois.get('VC'))
  if share > MAX_SESSION_SHARE:
    subject.doubts.append(
      f'sessions explain {share:.0%} of the variance that a z-score per voxel leaves (more than {MAX_SESSION_SHARE:.0%}), '
      'which says nothing about the picture; --config.data.zscore=voxel_session removes it'
    )


class Statistics:
  """Mean and variance of each voxel over rows that come one by one, and the first rows."""

  def __init__(self, max_rows: int = MAX_ROWS):
    self._max_rows = max_rows
    self._first, self._sum, self._squares, self._bad, self._rows, self._count = None, 0.0, 0.0, 0, [], 0

  def add(self, row: np.ndarray) -> None:
    """One row: `V`."""
    if self._first is None:
      self._first = row.astype(np.float64)
    change = row - self._first  # offsets of thousands would cost digits of the squares
    self._sum = self._sum + change
    self._squares = self._squares + change**2
    self._bad += int((~np.isfinite(row)).sum())
    self._count += 1
    if len(self._rows) < self._max_rows:
      self._rows.append(row.copy())

  def _moments(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance: `V` each."""
    mean = self._sum / self._count
    return self._first + mean, np.maximum(self._squares / self._count - mean**2, 0)

  def find_doubts(self, split: str) -> list[str]:
    """Lists what may be wrong with the data."""
    bad = [f'{split}: {self._bad} values are NaN or infinite'] if self._bad else []
    constant = int((self._squares == 0).sum()) if self._count > 1 else 0
    return bad + ([f'{split}: {constant} voxels never change'] if constant else [])

  def measure_offsets(self, mask: np.ndarray | None = None) -> float:
    """Share of the variance over rows and voxels that is the variance of the voxels' means, in [0, 1].

    `mask`: voxels to use, `V` bool; by default all.
    """
    mean, variance = (values if mask is None else values[mask] for values in self._moments())
    return float(mean.var() / max(mean.var() + variance.mean(), 1e-300))

  def measure_sessions(self, sessions: Sequence['Statistics'], mask: np.ndarray | None = None) -> float:
    """Share of a voxel's variance over all rows that the means of its sessions explain, in [0, 1]; mean over voxels that change.

    The share is adjusted as R squared is: 0 is expected where sessions do not differ.

    Args:
      sessions: the same rows, session by session.
      mask: voxels to use, `V` bool; by default all.
    """
    mean, variance = self._moments()
    between = sum(part._count * (part._moments()[0] - mean) ** 2 for part in sessions) / self._count
    used = (variance > 0) if mask is None else mask & (variance > 0)
    if self._count <= len(sessions) or not used.any():
      return 0.0
    unexplained = 1 - np.mean(between[used] / variance[used])
    return float(max(1 - unexplained * (self._count - 1) / (self._count - len(sessions)), 0.0))

  def standardise(self) -> dict[str, np.ndarray]:
    """The first rows `R V` z-scored as a whole and voxel by voxel, with the mean and deviation of all rows."""
    mean, variance = self._moments()
    rows = np.stack(self._rows)
    whole = max(np.sqrt(mean.var() + variance.mean()), 1e-6)
    return {
      'subject': (rows - mean.mean()) / whole,
      'voxel': (rows - mean) / np.maximum(np.sqrt(variance), 1e-6),
    }


def format_counts(table: Mapping[str, Any]) -> str:
  """'V1 20, V2 31'."""
  return ', '.join(f'{name} {value}' for name, value in table.items())
