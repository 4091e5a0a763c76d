"""HCP resting-state CIFTI files (.dtseries.nii) -> npz/<subject>/HCP_visual_voxel.npz, subject by subject.

Glasser parcels V1 to V4 of both hemispheres, z-scored per grayordinate over time in each run; runs one after the other.
The subject is in the name of a folder, or before the name of the file (100206_rfMRI_...), as some flat copies have it.
Names of the S1200 release (rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii) and of YA2025, which also had
temporal ICA (..._clean_rclean_tclean.dtseries.nii) and keeps the runs joined in one file too (rfMRI_REST_Atlas_...).
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from brainjax.datasets import glasser, neuroimaging, store
from brainjax.datasets.raw import walk
from brainjax.errors import UserError
from brainjax.files import atomic_write
from brainjax.progress import progress
from brainjax.raw_layout import HCP_FILE as FILE

AREAS = ('V1', 'V2', 'V3', 'V4')  # order of the arrays, and of the voxels
RUNS = ('REST1_LR', 'REST1_RL', 'REST2_LR', 'REST2_RL')
SUFFIX = '.dtseries.nii'
NAME = re.compile(
  r'(?:(\d{6})_)?rfMRI_(REST[12]_(?:LR|RL)|REST)_Atlas_MSMAll_hp2000_clean(_rclean_tclean)?\.dtseries\.nii'
)
VOLUME = re.compile(r'(?:\d{6}_)?rfMRI_REST\w*\.nii(?:\.gz)?')  # rfMRI_REST1_LR_hp2000_clean.nii.gz
CORTEX = (('CORTEX_LEFT', 0, 29696), ('CORTEX_RIGHT', 29696, 59412))  # structure, first and last + 1 grayordinate
MIN_FRAMES = 10  # one window
SOURCE = 'source.json'  # beside the .npz: which files it came from


@dataclasses.dataclass
class Summary:
  """What was done with a folder of CIFTI files."""

  written: list[str] = dataclasses.field(default_factory=list)  # subjects
  kept: list[str] = dataclasses.field(default_factory=list)  # done before, files unchanged
  skipped: dict[str, str] = dataclasses.field(default_factory=dict)  # subject or file -> reason
  earlier: list[str] = dataclasses.field(
    default_factory=list
  )  # prepared by an earlier run; this one skipped them, or their files are gone

  def lines(self) -> list[str]:
    """For people to read."""
    lines = [f'{len(self.written)} subjects written, {len(self.kept)} were there already, {len(self.skipped)} skipped']
    lines += [f'skipped {name}: {reason}' for name, reason in sorted(self.skipped.items())]
    return lines + ([f'used as prepared earlier: {", ".join(self.earlier)}'] if self.earlier else [])


def has_files(raw: Path) -> bool:
  """Whether there are CIFTI time series below `raw`; stops at the first."""
  return any(True for _ in _walk(raw))


def refuse_volumes(raw: Path) -> None:
  """Names the surface files to download where `raw` has no CIFTI files, but resting-state volumes.

  Raises:
    UserError: there are such volumes.
  """
  for folder, names in walk(raw):
    for name in names:
      if VOLUME.fullmatch(name):
        run = re.search(r'REST[12]_(?:LR|RL)', name)
        run = run[0] if run else 'REST1_LR'
        raise UserError(
          f'{folder / name}: a volume, and there are no surface files below {raw}. Download '
          f'<subject>/MNINonLinear/Results/rfMRI_{run}/rfMRI_{run}_Atlas_MSMAll_hp2000_clean{SUFFIX} of the same '
          'subjects (package "Resting State fMRI FIX-Denoised (Compact)")'
        )


def _walk(raw: Path) -> Iterator[Path]:
  for folder, names in walk(raw):
    yield from (folder / name for name in names if name.endswith(SUFFIX) and not name.startswith('.'))


def check_runs(runs: Sequence[str]) -> None:
  """Checks names of resting-state runs.

  Raises:
    UserError: a name is unknown, or there is none.
  """
  unknown = [run for run in runs if run not in RUNS]
  if unknown or not runs:
    raise UserError(f'runs: {", ".join(unknown) or "none"} found; expected some of {", ".join(RUNS)}')


def find(raw: Path, runs: Sequence[str] = RUNS) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
  """Subject -> run -> file, subjects sorted; and the files that are left out, with the reason.

  The subject is a number of 6 digits: before the name of the file, or the innermost folder of such a name; else the first
  folder below `raw`. If both releases contain a run, YA2025 is used. The file that joins all runs is used only if all four
  are asked for and no single run exists.

  Raises:
    UserError: a run is unknown.
  """
  check_runs(runs)
  by_subject: dict[str, dict[str, Path]] = {}
  skipped: dict[str, str] = {}
  for path in _walk(raw):
    short = str(path.relative_to(raw))
    match = NAME.fullmatch(path.name)
    if not match:
      skipped[short] = 'not named like a cleaned MSMAll resting-state run (rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean...)'
      continue
    run = match[2]
    if run not in (*runs, 'REST'):
      skipped[short] = f'only {", ".join(runs)} were asked for'
      continue
    if run == 'REST' and set(runs) != set(RUNS):
      skipped[short] = f'it holds all four runs, and only {", ".join(runs)} were asked for'
      continue
    numbered = _numbered_folder(path.relative_to(raw), raw)
    subject = match[1] or numbered or next(iter(path.relative_to(raw).parts[:-1]), None)
    if subject is None:
      skipped[short] = 'no folder in its path names a subject'
      continue
    if match[1] and numbered and match[1] != numbered:
      skipped[short] = f'subject {match[1]} by its name, but {numbered} by its folder'
      continue
    if not path.is_file():
      skipped[short] = 'a link to a file that is not there'
      continue
    files = by_subject.setdefault(subject, {})
    other = files.get(run)
    if other and ('tclean' in other.name or not match[3]):
      skipped[short] = f'{other.name} is used for the same run'
      continue
    if other:
      skipped[str(other.relative_to(raw))] = f'{path.name} is the later release of it'
    files[run] = path
  for files in by_subject.values():
    if len(files) > 1 and 'REST' in files:
      skipped[str(files.pop('REST').relative_to(raw))] = 'the files of its single runs are used'
  return {name: dict(sorted(by_subject[name].items())) for name in sorted(by_subject)}, skipped


def _numbered_folder(path: Path, raw: Path) -> str | None:
  """The innermost folder around `path`, relative to `raw`, whose name is a number of 6 digits."""
  numbered = [name for name in (raw.absolute().name, *path.parts[:-1]) if re.fullmatch(r'\d{6}', name)]
  return numbered[-1] if numbered else None


def read_run(path: Path, columns: np.ndarray) -> np.ndarray:
  """A run's grayordinates `columns`, z-scored over time: `T V` float32. Where the signal never changes it is 0.

  Raises:
    UserError: the file is no resting-state run, or its values are not finite or never change.
  """
  series = neuroimaging.read_dense_series(path, columns, glasser.NUM_GRAYORDINATES, CORTEX)
  if len(series) < MIN_FRAMES:
    raise UserError(f'{path}: {len(series)} frames; expected a resting-state run (1200 frames)')
  if not np.isfinite(series).all():
    frame, place = np.argwhere(~np.isfinite(series))[0]
    raise UserError(f'{path}: not finite in frame {frame}, grayordinate {columns[place]}; download it again')
  series -= series.mean(axis=0, dtype=np.float64)
  deviation = series.std(axis=0, dtype=np.float64)
  if not deviation.any():
    raise UserError(f'{path}: no grayordinate of V1 to V4 ever changes; download it again')
  return np.divide(series, deviation, out=np.zeros_like(series), where=deviation > 0, casting='same_kind')


def convert(files: dict[str, Path], target: Path, columns: dict[str, np.ndarray]) -> dict[str, str]:
  """Writes one subject's .npz and its note. Returns run -> why it was left out.

  Raises:
    UserError: no run can be read; nothing is written then.
  """
  together = np.concatenate([columns[area] for area in AREAS])
  source = _describe(files)
  parts, faults = [], {}
  for run, path in files.items():
    try:
      parts.append(read_run(path, together))
    except UserError as error:
      faults[run] = str(error)
  if not parts:
    raise UserError('; '.join(faults.values()))
  series = np.concatenate(parts)
  edges = np.cumsum([0] + [len(columns[area]) for area in AREAS])
  (target.parent / SOURCE).unlink(missing_ok=True)  # from here on the note would be wrong
  with atomic_write(target) as path:
    np.savez(path, **{area: series[:, edges[i] : edges[i + 1]] for i, area in enumerate(AREAS)})
  with atomic_write(target.parent / SOURCE) as path:
    path.write_text(json.dumps({'files': source, 'left_out': faults}, indent=1) + '\n')
  return faults


def _describe(files: dict[str, Path]) -> dict[str, dict]:
  """Name, size and time of each run's file. Their bytes (0.4 GB a run) are not summed."""
  described = {}
  for run, path in files.items():
    status = path.stat()
    described[run] = {'name': path.name, 'size': status.st_size, 'mtime_ns': status.st_mtime_ns}
  return described


def prepare(raw: Path, out: Path, runs: Sequence[str] = RUNS, workers: int | None = None) -> Summary:
  """Writes `out`/<subject>/HCP_visual_voxel.npz for every subject below `raw`, unless it exists and its files are unchanged.

  Args:
    raw: folder of the subjects, as downloaded.
    out: the npz folder.
    runs: which to use; the paper used REST1_LR.
    workers: processes; None: one a core, at most 8. Each needs about 1 GB.

  Raises:
    UserError: no subject can be prepared.
  """
  subjects, skipped = find(raw, runs)
  summary = Summary(skipped=skipped)
  jobs = {}
  for name, files in subjects.items():
    target = out / name / FILE
    note = store.read_note(target.parent / SOURCE) if target.is_file() else {}
    if note.get('files') == _describe(files):
      summary.kept.append(name)
      summary.skipped |= {f'{name} {run}': reason for run, reason in dict(note.get('left_out') or {}).items()}
    else:
      jobs[name] = (files, target)
  if jobs:
    columns = glasser.columns(AREAS)
    for name, outcome in _run(jobs, columns, workers or min(8, os.cpu_count() or 1)):
      if isinstance(outcome, UserError):
        summary.skipped[name] = str(outcome)
      else:
        summary.written.append(name)
        summary.skipped |= {f'{name} {run}': reason for run, reason in outcome.items()}
    summary.written.sort()
  if not summary.written and not summary.kept:
    reasons = list(summary.skipped.items())
    first = f'; the first: {reasons[0][0]}: {reasons[0][1]}' if reasons else ''
    raise UserError(f'{raw}: no subject could be prepared from its {len(reasons)} CIFTI files{first}')
  done = {*summary.written, *summary.kept}
  summary.earlier = sorted({path.parent.name for path in out.glob(f'*/{FILE}')} - done)
  return summary


def _run(
  jobs: dict[str, tuple[dict[str, Path], Path]], columns: dict[str, np.ndarray], workers: int
) -> Iterator[tuple[str, dict[str, str] | UserError]]:
  """Does the jobs with a progress bar; yields (subject, reasons of runs left out, or the fault)."""
  work = functools.partial(_try, columns)
  with contextlib.ExitStack() as stack:
    outcomes: Iterator = map(work, jobs.values())
    if min(workers, len(jobs)) > 1:
      # Not forked: threads of other libraries may hold locks.
      context = multiprocessing.get_context('spawn')
      pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context))
      stack.callback(pool.shutdown, cancel_futures=True)
      outcomes = pool.map(work, jobs.values())
    try:
      yield from zip(jobs, progress(len(jobs), 'hcp', steps=outcomes, unit='subjects', is_brief=True), strict=True)
    except concurrent.futures.process.BrokenProcessPool:
      raise UserError(
        'a worker process was killed, probably because memory ran out; run again with fewer --workers, '
        'finished subjects are kept'
      ) from None


def _try(columns: dict[str, np.ndarray], job: tuple[dict[str, Path], Path]) -> dict[str, str] | UserError:
  files, target = job
  try:
    return convert(files, target, columns)
  except UserError as error:
    return error
  except OSError as error:
    return UserError(f'{target}: {error}')
