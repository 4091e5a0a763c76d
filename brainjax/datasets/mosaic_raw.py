"""Finds the files of MOSAIC (Lahner et al.) below a folder, and reads its lists: who saw which stimulus, in which split.

| File, at any depth | What |
| --- | --- |
| `sub-01_GOD.hdf5`, `sub-01_GOD_crc32-1a2b3c4d.hdf5` | single-trial betas of a subject, see `mosaic_betas` |
| `train.json`, `test.json`; `train_naturalistic.json`, `test_naturalistic.json` | the split over all data sets |
| `god_stiminfo.tsv`, ... | stimuli of one data set; its own split, used where there is no split over all |
| `stimuli/...` | pictures by file name; of a video the picture in `frames_middle`, or the middle one in `frames/<video>` |
"""

import csv
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from brainjax.datasets import raw
from brainjax.errors import UserError, as_user_error, list_names

SUBJECT = re.compile(r'(sub-\d+_([A-Za-z0-9]+))(?:_crc32-[0-9a-fA-F]+)?\.hdf5')
MERGED = ('mosaic_ind.hdf5', 'mosaic_chunks.hdf5')
SPLITS = {'train': ('train.json', 'train_naturalistic.json'), 'test': ('test.json', 'test_naturalistic.json')}
SHORT = {
  'BOLD5000': 'b5000'
}  # data set -> beginning of the name of its stiminfo, if it is not the same in small letters
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm')
MAX_LIST_BYTES = 256 << 20  # of a split; the published ones have about 40 MB


@dataclasses.dataclass
class Split:
  """Which stimulus is for what, numbered alike for all subjects, and what one subject saw.

  Attributes:
    train, test: names of the stimuli, sorted.
    trials: name of each trial of the subject in its file -> stimulus.
    path: the file that says so.
  """

  train: list[str]
  test: list[str]
  trials: dict[str, str]
  path: Path


@dataclasses.dataclass
class Files:
  """What there is below a folder.

  Attributes:
    folder: the folder.
    betas: subject, such as 'sub-01_GOD' -> its HDF5 file; subjects in sorted order.
    splits: 'train' and 'test' -> the list over all data sets; empty if there is none.
    stiminfo: 'god' -> god_stiminfo.tsv.
    stimuli: folder and names of files, of all folders in one that is called stimuli.
  """

  folder: Path
  betas: dict[str, Path]
  splits: dict[str, Path]
  stiminfo: dict[str, Path]
  stimuli: list[tuple[Path, list[str]]]

  def lists(self, subject: str) -> dict[str, Path]:
    """The lists that the data of a subject depend on.

    Raises:
      UserError: there is none.
    """
    short = _short(subject)
    stiminfo = {'stiminfo': self.stiminfo[short]} if short in self.stiminfo else {}
    if not self.splits and not stiminfo:
      raise UserError(
        f'{self.folder}: neither the split of MOSAIC (train.json and test.json, or train_naturalistic.json and '
        f'test_naturalistic.json) nor {short}_stiminfo.tsv there; download them with the responses'
      )
    return self.splits | stiminfo

  def split(self, subject: str) -> Split:
    """The split over all data sets, or that of the subject's own data set where there is no other.

    Raises:
      UserError: lists are missing or damaged, contradict each other, or do not name this subject.
    """
    lists = self.lists(subject)
    own = _read_stiminfo(lists['stiminfo'], subject) if 'stiminfo' in lists else None
    if not self.splits:
      return own
    names = {part: sorted(stimuli) for part, stimuli in self._entries.items()}
    trials: dict[str, str] = {}
    for part, stimuli in self._entries.items():
      for stimulus, by_subject in stimuli.items():
        for key in by_subject.get(subject, ()):
          if key in trials:
            raise UserError(f'{self.splits[part]}: trial {key} is named twice, for {trials[key]!r} and {stimulus!r}')
          trials[key] = stimulus
    if not trials:
      raise UserError(f'{self.splits["train"]}: names no trial of {subject}; is it the split of these data?')
    if own and (unknown := set(trials.values()) - {*own.train, *own.test}):
      raise UserError(
        f'{lists["stiminfo"]}: {len(unknown)} stimuli that the split gives to {subject} are not in it, the first is {min(unknown)!r}'
      )
    return Split(names['train'], names['test'], trials, self.splits['train'])

  @functools.cached_property
  def _entries(self) -> dict[str, dict[str, dict[str, list[str]]]]:
    """'train' and 'test' -> stimulus -> subject -> names of trials."""
    entries = {}
    for part, path in self.splits.items():
      entries[part] = stimuli = {}
      with as_user_error(f'{path}: not a split of MOSAIC'):
        for stimulus, subject, keys in _walk_split(raw.read_json(path, MAX_LIST_BYTES)):
          known = stimuli.setdefault(stimulus, {}).setdefault(subject, [])
          known += [key.removesuffix('.npz') for key in keys]
    if both := entries['train'].keys() & entries['test'].keys():
      raise UserError(
        f'{self.splits["train"]}: {len(both)} stimuli are in {self.splits["test"].name} too, the first is {min(both)!r}'
      )
    return entries

  def find_pictures(self, stimuli: list[str]) -> dict[str, Path]:
    """The picture file of each stimulus.

    Raises:
      UserError: some are missing, or two files have the name of one.
    """
    found = {name: self._picture(name) for name in stimuli}
    if missing := [name for name, path in found.items() if path is None]:
      raise UserError(
        f'{self.folder}: {len(missing)} of {len(found)} stimuli have no picture in a folder stimuli, the first is {missing[0]!r} '
        '(of a video: a picture in frames_middle); MOSAIC does not come with them, so collect them from the original data sets'
      )
    return found

  def _picture(self, stimulus: str) -> Path | None:
    place = Path(stimulus)
    if place.suffix.lower() not in VIDEOS:
      return self._only(
        stimulus, [path for path in self._by_name.get(stimulus, ()) if path.parent.parent.name != 'frames']
      )
    middle = [path for path in self._by_stem.get(place.stem, ()) if path.parent.name == 'frames_middle']
    if middle:
      return self._only(stimulus, middle)
    frames = self._frames.get(place.stem, [])
    return frames[len(frames) // 2] if frames else None

  def _only(self, stimulus: str, paths: list[Path]) -> Path | None:
    originals = [path for path in paths if path.parent.name == 'raw'] or paths
    if len(originals) > 1:
      raise UserError(f'{originals[1]}: a second picture of {stimulus!r}, beside {originals[0]}; keep one of them')
    return originals[0] if originals else None

  @functools.cached_property
  def _by_name(self) -> dict[str, list[Path]]:
    by_name: dict[str, list[Path]] = {}
    for folder, names in self.stimuli:
      for name in names:
        by_name.setdefault(name, []).append(folder / name)
    return by_name

  @functools.cached_property
  def _by_stem(self) -> dict[str, list[Path]]:
    by_stem: dict[str, list[Path]] = {}
    for folder, names in self.stimuli:
      for name in names:
        by_stem.setdefault(Path(name).stem, []).append(folder / name)
    return by_stem

  @functools.cached_property
  def _frames(self) -> dict[str, list[Path]]:
    """Video without its suffix -> its frames in order."""
    of_videos = [(folder, names) for folder, names in self.stimuli if folder.parent.name == 'frames']
    return {folder.name: [folder / name for name in names] for folder, names in of_videos}


def _short(subject: str) -> str:
  data_set = subject.split('_', 1)[1]
  return SHORT.get(data_set, data_set.lower())


def has_files(folder: Path) -> bool:
  """Whether there are betas of a subject below the folder; stops at the first."""
  return folder.is_dir() and any(SUBJECT.fullmatch(name) for _, names in raw.walk(folder) for name in names)


def find(folder: Path) -> Files:
  """The files below a folder. None of them is opened.

  Raises:
    UserError: no betas, two files for one purpose, or half of a split.
  """
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; expected the folder of MOSAIC (see data/README.md)')
  betas: dict[str, Path] = {}
  lists: dict[str, Path] = {}
  stiminfo: dict[str, Path] = {}
  stimuli, merged = [], []
  purposes = {name: part for part, names in SPLITS.items() for name in names}
  for place, names in raw.walk(folder):
    if 'stimuli' in place.relative_to(folder.parent).parts:
      pictures = [name for name in names if Path(name).suffix.lower() in PICTURES and not name.startswith('.')]
      stimuli += [(place, pictures)] if pictures else []
    for name in names:
      if match := SUBJECT.fullmatch(name):
        _keep_one(betas, match[1], place / name)
      elif name in purposes:
        _keep_one(lists, purposes[name], place / name)
      elif name.endswith('_stiminfo.tsv') and not name.startswith(('.', 'compiled_')):
        _keep_one(stiminfo, name.removesuffix('_stiminfo.tsv'), place / name)
      elif name in MERGED:
        merged.append(place / name)
  if not betas and merged:
    raise UserError(
      f'{merged[0]}: subjects merged into one file; download the file of each subject, sub-01_GOD.hdf5, ...'
    )
  if not betas:
    raise UserError(f'{folder}: no file of a subject such as sub-01_GOD.hdf5 below it; see data/README.md')
  if len(lists) == 1:
    part, path = next(iter(lists.items()))
    other = next(
      name for name in SPLITS[{'train': 'test', 'test': 'train'}[part]] if path.stem[-5:] == Path(name).stem[-5:]
    )
    raise UserError(f'{path}: half of a split; download {other} too')
  return Files(folder, dict(sorted(betas.items())), dict(sorted(lists.items(), reverse=True)), stiminfo, stimuli)


def _keep_one(files: dict[str, Path], purpose: str, path: Path) -> None:
  if (other := files.setdefault(purpose, path)) is not path:
    raise UserError(f'{path}: a second file for {purpose}, beside {other}; keep one of them')


def _walk_split(content: dict | list) -> Iterator[tuple[str, str, list[str]]]:
  """Stimulus, subject, names of its trials; of both forms in which the split was published."""
  if isinstance(content, dict):  # {stimulus: {data set: {subject: trials}}}
    for stimulus, data_sets in content.items():
      for subjects in data_sets.values():
        for subject, keys in subjects.items():
          yield stimulus, subject, keys
    return
  for entry in content:  # [{'sub-01_GOD_stimulus-<stimulus>': trials}]
    for name, keys in entry.items():
      subject, stimulus = name.split('_stimulus-', 1)
      yield stimulus, subject, keys


def _read_stiminfo(path: Path, subject: str) -> Split:
  """The split of one data set, and which trials of the subject it says there are."""
  rows = list(csv.DictReader(raw.read_text(path).splitlines(), delimiter='\t'))
  header = list(rows[0]) if rows else []
  person = subject.split('_')[0]
  if missing := {'filename', 'test_train'} - set(header):
    raise UserError(f'{path}: no column {list_names(missing)}; it has {", ".join(header) or "no rows"}')
  if f'{person}_reps' not in header:
    named = [name.removesuffix('_reps') for name in header if name.endswith('_reps')]
    raise UserError(
      f'{path}: no column {person}_reps; it is about {list_names(named) or "no subject"}, so it is not the one of {subject}'
    )
  phases: dict[str, str] = {}
  trials: dict[str, str] = {}
  for row in rows:
    name, phase = row['filename'], row['test_train']
    if phases.setdefault(name, phase) != phase or phase not in SPLITS:
      raise UserError(f'{path}: stimulus {name!r} is {phase!r}; expected train or test, the same in every row')
    count = row[f'{person}_reps'] or '0'
    if not re.fullmatch(r'\d+(\.0)?', count):
      raise UserError(f'{path}: {person}_reps of {name!r} is {count!r}; expected a number')
    trials |= {f'{subject}_stimulus-{Path(name).stem}_phase-{phase}_rep-{k}': name for k in range(int(float(count)))}
  train, test = (sorted(name for name, phase in phases.items() if phase == part) for part in SPLITS)
  return Split(train, test, trials, path)
