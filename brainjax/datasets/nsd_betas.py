"""Betas of the Natural Scenes Dataset -> one .npy a session with the chosen voxels alone; a stopped run goes on where it was."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.datasets import neuroimaging, nsd_rois, own_betas, raw, store, volume_series
from brainjax.datasets.nsd_files import MIND_EYE
from brainjax.errors import UserError
from brainjax.files import atomic_write, write_json
from brainjax.progress import progress
from brainjax.raw_layout import NSD_TRIALS as TRIALS
from brainjax.raw_layout import NSD_UNIT as UNIT

SOURCE = 'source.json'  # beside the sessions: the files that they came from


class Sessions:
  """Rows of all sessions, read from disk when asked for (`paired.Rows`).

  Attributes:
    files: one .npy of TRIALS rows a session, in their order.
    scale: the files hold responses times this.
    shape: N V.
  """

  def __init__(self, files: list[Path], scale: float):
    self.files, self.scale = files, scale
    self._parts = [np.load(path, mmap_mode='r', allow_pickle=False) for path in files]
    self.shape = TRIALS * len(files), self._parts[0].shape[1]

  def __getitem__(self, rows: Any) -> np.ndarray:
    """One row `V`, or the rows of an array of numbers."""
    session, place = np.divmod(rows, TRIALS)
    if np.ndim(rows) == 0:
      values = self._parts[session][place]
    else:
      values = np.empty((len(rows), self.shape[1]), np.result_type(*self._parts))
      for number in np.unique(session).tolist():
        values[session == number] = self._parts[number][place[session == number]]
    return own_betas.to_float32(values, None if self.scale == 1 else self.scale)


@dataclasses.dataclass
class Source:
  """The betas of one subject.

  Attributes:
    version: see `nsd_files.Found.version`.
    files: the files of the sessions by number, or the one of MindEye2 (0).
    chosen: the voxels to store; None: all of the file of MindEye2, whose places are not known.
    columns: of MindEye2: which of its voxels are chosen, bool; None: all.
    scale: whole numbers in the files are responses times this; None: `UNIT`. Other numbers need it.
  """

  version: str
  files: dict[int, Path]
  chosen: nsd_rois.Chosen | None
  columns: np.ndarray | None = None
  scale: float | None = None

  @property
  def is_one_file(self) -> bool:
    """Whether one file holds all sessions, as MindEye2 has them."""
    return self.version == MIND_EYE

  @property
  def used_scale(self) -> float:
    """What the stored numbers are divided by."""
    return self.scale or (1.0 if self.is_one_file else float(UNIT))

  def file(self, number: int) -> Path:
    """The file that holds a session."""
    return self.files[0 if self.is_one_file else number]

  def num_sessions(self) -> int:
    """Number of sessions in the files.

    Raises:
      UserError: the file of MindEye2 does not hold whole sessions, or other voxels than the mask.
    """
    if not self.is_one_file:
      return len(self.files)
    with neuroimaging.open_hdf5(self.file(0), ('betas',)) as (_, item):
      if item.ndim != 2 or not len(item) or len(item) % TRIALS:
        raise UserError(
          f'{self.file(0)}: betas has shape {item.shape}; expected a row of voxels for each trial, {TRIALS} a session'
        )
      if self.columns is not None and item.shape[1] != len(self.columns):
        raise UserError(
          f'{self.file(0)}: {item.shape[1]} voxels, but {nsd_rois.DEFAULT} has {len(self.columns)}; expected as many, so the '
          'file or the mask is of another subject'
        )
      return len(item) // TRIALS

  def read(self, number: int) -> np.ndarray:
    """A session: `TRIALS V` in the type of the file.

    Raises:
      UserError: the file is damaged, does not fit, or holds trials without a response.
    """
    path, is_scaled = self.file(number), False
    if self.is_one_file:
      with neuroimaging.open_hdf5(path, ('betas',)) as (_, item):
        values = item[(number - 1) * TRIALS : number * TRIALS]
      values = values if self.columns is None else values[:, self.columns]
    else:
      values, is_scaled = volume_series.read(path, self.chosen.mask, self.chosen.image, TRIALS)
      if len(values) != TRIALS:
        raise UserError(f'{path}: {len(values)} trials; expected {TRIALS}, as in every session of NSD')
      if self.scale is None and (is_scaled or values.dtype.kind == 'f'):
        raise UserError(
          f'{path}: {"scaled by its header" if is_scaled else values.dtype}; the betas of NSD are whole numbers, {UNIT} for a '
          'per cent. If these are betas all the same, name the number that they were multiplied by, such as --scale=1'
        )
    _check(values, f'{path}: session {number}')
    return values

  def digest(self) -> str:
    """What the stored numbers depend on, beside the files."""
    where = None if self.chosen is None else self.chosen.where
    return hashlib.sha256(json.dumps([self.version, self.used_scale, where]).encode()).hexdigest()


def convert(source: Source, folder: Path, name: str) -> Sessions:
  """Writes the sessions that `folder` lacks, or whose file or voxels changed; returns all of them.

  Args:
    source: of one subject.
    folder: for this subject.
    name: of the subject, for the progress bar.

  Raises:
    UserError: see `Source.read`.
  """
  targets = {number: folder / f'session{number:02d}.npy' for number in range(1, source.num_sessions() + 1)}
  files = {number: _describe(source.file(number)) for number in targets}
  known = store.read_note(folder / SOURCE)
  done = dict(known.get('sessions') or {}) if known.get('digest') == source.digest() else {}
  wanted = [number for number in targets if done.get(str(number)) != files[number] or not targets[number].is_file()]
  for number in progress(len(wanted), f'nsd/{name}', steps=wanted, unit='sessions', is_brief=True):
    values = source.read(number)
    with atomic_write(targets[number]) as temporary:
      np.save(temporary, values)
    done[str(number)] = files[number]
    write_json(folder / SOURCE, {'digest': source.digest(), 'sessions': done})
  for old in set(folder.glob('session*.npy')) - set(targets.values()):
    old.unlink()
  return Sessions(list(targets.values()), source.used_scale)


def _check(values: np.ndarray, where: str) -> None:
  """Refuses trials without a response, and responses that are not finite."""
  empty = np.flatnonzero(~(np.nan_to_num(values) if values.dtype.kind == 'f' else values).any(axis=1))
  if len(empty):
    raise UserError(
      f'{where}: {len(empty)} trials hold no response (all values NaN or 0), the first is trial {empty[0] + 1} of {len(values)}; '
      'download the file again'
    )
  raw.check_fmri(values, where)


def _describe(path: Path) -> dict[str, Any]:
  """Name, size and time of a file. Its bytes (1 GB a session) are not summed."""
  status = path.stat()
  return {'name': path.name, 'size': status.st_size, 'mtime_ns': status.st_mtime_ns}
