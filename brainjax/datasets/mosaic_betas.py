"""Streams the single-trial betas of one subject out of the HDF5 file of MOSAIC: `betas/<trial>`, 91,282 grayordinates each.

A trial is read at a time, and only the chosen grayordinates are kept, in a file of float32 rows. Beside it stands how far
reading came, so that a killed command goes on from there.

Values that are not finite: a vertex gets its mean over the training trials that have a finite value there (0 if none has). A
trial without one finite value among the chosen grayordinates is left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.datasets import neuroimaging, raw, store
from brainjax.datasets.glasser import NUM_GRAYORDINATES
from brainjax.errors import UserError, as_user_error
from brainjax.files import atomic_write
from brainjax.progress import progress

ROWS, NOTE, MEANS = 'rows.f32', 'note.json', 'means.npy'
NOTE_EVERY = 500  # trials
BLOCK = 256  # rows


def read(
  path: Path, trials: Mapping[str, str], train: Sequence[str], columns: np.ndarray, folder: Path, name: str
) -> tuple[np.ndarray, list[str], list[str]]:
  """Single trials in the order of the file.

  Args:
    path: HDF5 file of the subject.
    trials: name of each wanted trial -> the stimulus that was presented.
    train: names of the training stimuli.
    columns: V, the grayordinates to keep.
    folder: for the rows; what a killed call left there is used. The caller removes it.
    name: of the subject, for messages.

  Returns:
    The rows `N V` float32, mapped from the file in `folder`; the stimulus of each; and sentences on what was left out.

  Raises:
    UserError: the file is damaged, of another format or another subject, or holds none of the trials.
  """
  h5py = neuroimaging.need('h5py')
  if not h5py.is_hdf5(raw.check_file(path)):
    raise UserError(f'{path}: not an HDF5 file; {raw.AGAIN}')
  with as_user_error(f'{path}: damaged or not the betas of MOSAIC', raw.AGAIN), h5py.File(path, 'r') as file:
    betas = file.get('betas')
    if not isinstance(betas, h5py.Group) or not isinstance(file.get('betas', getlink=True), h5py.HardLink):
      raise UserError(
        f'{path}: holds {", ".join(list(file)[:10]) or "nothing"}; expected a group betas, one array a trial'
      )
    owner = file.attrs.get('subjectID', name.split('_')[0])
    if str(owner) != name.split('_')[0]:
      raise UserError(f'{path}: the data of {owner}, by its attribute subjectID; rename the file')
    wanted = [key for key in betas if key in trials]
    if not wanted:
      raise UserError(
        f'{path}: none of its {len(betas)} trials is in the split; the first is {next(iter(betas), "")!r}, expected such as '
        f'{next(iter(trials))!r}'
      )
    empty = _extract(h5py, betas, path, wanted, trials, columns, folder, name)
  kept = [key for key in wanted if key not in empty]
  rows = np.memmap(folder / ROWS, np.float32, 'r+', shape=(len(kept), len(columns)))
  stimuli = [trials[key] for key in kept]
  seen_in_training = np.isin(stimuli, train)
  remarks = []
  if absent := trials.keys() - set(wanted):
    remarks.append(f'{path}: {len(absent)} trials of the split are not in it, the first is {min(absent)!r}; left out')
  if empty:
    remarks.append(
      f'{path}: {len(empty)} trials have no finite value in the chosen areas, the first is {min(empty)!r}; left out'
    )
  remarks += _fill(rows, seen_in_training, folder, path)
  return rows, stimuli, remarks


def _extract(
  h5py: Any,
  betas: Any,
  path: Path,
  wanted: Sequence[str],
  trials: Mapping[str, str],
  columns: np.ndarray,
  folder: Path,
  name: str,
) -> set[str]:
  """Writes the rows of the wanted trials, as far as that is not done; returns the trials without a finite value."""
  status = path.stat()
  source = {
    'size': status.st_size,
    'mtime_ns': status.st_mtime_ns,
    'trials': store.digest_names([text for key in wanted for text in (key, trials[key])]),
    'columns': store.digest_names(columns.tolist()),
  }
  note = store.read_note(folder / NOTE)
  if note.get('source') != source:
    note = {'source': source, 'done': 0, 'empty': []}
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / ROWS, 'r+b' if (folder / ROWS).exists() else 'w+b') as file:
    file.truncate((note['done'] - len(note['empty'])) * 4 * len(columns))
    file.seek(0, 2)
    if not note['done']:
      (folder / MEANS).unlink(missing_ok=True)
    bar = progress(
      len(wanted), f'{name} trials', note['done'], steps=wanted[note['done'] :], unit='trials', is_brief=True
    )
    for key in bar:
      row = _read_trial(h5py, betas, path, key, trials[key])[columns]
      if np.isfinite(row).any():
        file.write(row.tobytes())
      else:
        note['empty'].append(key)
      note['done'] += 1
      if note['done'] % NOTE_EVERY == 0:
        file.flush()
        _write_note(folder, note)
  _write_note(folder, note)
  if len(note['empty']) == len(wanted):
    raise UserError(
      f'{path}: no trial has a finite value in the chosen areas; choose others with --rois, or download it again'
    )
  return set(note['empty'])


def _write_note(folder: Path, note: Mapping[str, Any]) -> None:
  with atomic_write(folder / NOTE) as temporary:
    temporary.write_text(json.dumps(note))


def _read_trial(h5py: Any, betas: Any, path: Path, key: str, stimulus: str) -> np.ndarray:
  """One trial: float32, the 91,282 grayordinates."""
  item = betas[key]
  is_elsewhere = not isinstance(betas.get(key, getlink=True), h5py.HardLink)
  if not isinstance(item, h5py.Dataset) or is_elsewhere or item.external or item.is_virtual:
    raise UserError(f'{path}: {key} is not an array in this file; download it again')
  if item.shape != (NUM_GRAYORDINATES,) or item.dtype.kind != 'f':
    raise UserError(
      f'{path}: {key} is {item.dtype} of shape {item.shape}; expected {NUM_GRAYORDINATES} floating-point numbers (all '
      'grayordinates of fsLR32k)'
    )
  shown = item.attrs.get('presented_stimulus_filename', stimulus)
  if str(shown) != stimulus:
    raise UserError(f'{path}: {key} showed {str(shown)!r} by its attribute, but {stimulus!r} by the split; {raw.AGAIN}')
  with np.errstate(over='ignore'):  # infinite then, which is treated like NaN
    return item[:].astype(np.float32)


def _fill(rows: np.ndarray, in_training: np.ndarray, folder: Path, path: Path) -> Iterator[str]:
  """Replaces values that are not finite; yields what was done."""
  means = folder / MEANS
  if not means.exists():  # before the first value is replaced
    total, count = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for start in range(0, len(rows), BLOCK):
      block = rows[start : start + BLOCK][in_training[start : start + BLOCK]]
      finite = np.isfinite(block)
      total += np.where(finite, block, 0).sum(axis=0, dtype=np.float64)
      count += finite.sum(axis=0)
    with atomic_write(means) as temporary, open(temporary, 'wb') as file:
      np.save(file, np.stack([np.divide(total, count, out=np.zeros_like(total), where=count > 0), count]))
  mean, count = np.load(means, allow_pickle=False)
  replaced = 0
  for start in range(0, len(rows), BLOCK):
    block = rows[start : start + BLOCK]
    if (bad := ~np.isfinite(block)).any():
      replaced += int(bad.sum())
      block[bad] = np.broadcast_to(mean.astype(np.float32), block.shape)[bad]
  if replaced:
    yield (
      f'{path}: {replaced} values are not finite; each became the mean of its vertex over training trials. '
      f'{int((count == 0).sum())} of {rows.shape[1]} vertices have no finite value in training and became 0'
    )
