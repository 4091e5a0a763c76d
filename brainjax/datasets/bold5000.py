"""BOLD5000 (Chang et al. 2019, GLMsingle betas of 2021): reader of the raw folder, TFDS builder, and the loader of its rows.

bold5000.prepare('data/BOLD5000', 'data/prepared')    # or: brainjax prepare bold5000 --raw=... --out=...
train = bold5000.load('data/prepared', ['CSI1'], roi='VC', split='train', image_size=256)

Files: BOLD5000_GLMsingle_ROI_betas/py/<subject>_GLMbetas-..._allses_<LH|RH><ROI>.npy (rows: presentations), and below
BOLD5000_Stimuli: Stimuli_Presentation_Lists/<subject>/<session>/<run>.txt, Scene_Stimuli/repeated_stimuli_113_list.txt,
Scene_Stimuli/Presented_Stimuli/ with img_dict.npy (a pickled dict: name -> picture) or with the picture files.
"""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from brainjax import unpickle
from brainjax.datasets import data_set, paired, paired_rows, pictures, raw
from brainjax.errors import UserError

BETAS = 'BOLD5000_GLMsingle_ROI_betas/py'
BETA_NAME = '{subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{side}{roi}.npy'
LISTS = 'BOLD5000_Stimuli/Stimuli_Presentation_Lists'
SCENES = 'BOLD5000_Stimuli/Scene_Stimuli'
ROIS = ('EarlyVis', 'LOC', 'OPA', 'PPA', 'RSC')
SIDES = ('LH', 'RH')
IMAGENET = re.compile(r'(n\d{8})_\d+\.jpe?g', re.IGNORECASE)  # n01440764_10110.JPEG
REPEATED = 'rep_'  # before the name of a picture that is shown again
MAX_BYTES = 1 << 30  # of a subject's betas (published: 0.04 GB); they are copied once
IMAGE_SIZE = 256  # larger pictures (375 pixels as published) are reduced to this side


@dataclasses.dataclass
class Subject:
  """A subject's presentations in order."""

  fmri: np.ndarray  # N V
  names: list[str]  # N
  rois: dict[str, np.ndarray]  # name -> V bool
  sessions: list[str]  # N


@dataclasses.dataclass
class Stimuli:
  """All pictures of the data set, the same for every subject; those repeated are the test pictures."""

  train: list[str]  # sorted names
  test: list[str]  # names in the order of the list
  table: dict[str, Any]  # name -> picture or file
  folder: Path

  def picture(self, name: str) -> np.ndarray:
    """A square picture, uint8 `H H 3`, at most 256 pixels a side.

    Raises:
      UserError: it cannot be read.
    """
    return pictures.read_square(self.table[name], IMAGE_SIZE, f'{self.folder}: picture {name!r}')


def _find_subjects(folder: Path) -> list[str]:
  """Names of the subjects whose betas are there.

  Raises:
    UserError: the folder is missing or holds no betas.
  """
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; expected the folder of BOLD5000 (see data/README.md)')
  names = sorted({path.name.split('_')[0] for path in (folder / BETAS).glob('*_allses_LH*.npy')})
  if not names:
    raise UserError(f'{folder / BETAS}: no betas such as CSI1_GLMbetas-..._allses_LHLOC.npy there; see data/README.md')
  return names


def list_files(folder: Path, subject: str) -> dict[str, Path]:
  """The raw files that a subject's data depend on, by path below the folder.

  Raises:
    UserError: a file or the presentation lists are missing.
  """
  paths = [folder / BETAS / BETA_NAME.format(subject=subject, side=side, roi=roi) for roi in ROIS for side in SIDES]
  paths.append(folder / SCENES / 'repeated_stimuli_113_list.txt')
  lists = _lists(folder, subject)
  if not lists:
    raise UserError(f'{folder / LISTS / subject}: no presentation lists <session>/<run>.txt there; see data/README.md')
  paths += [*lists, *_stimulus_files(folder)]
  return {str(path.relative_to(folder)): raw.check_file(path) for path in paths}


def _lists(folder: Path, subject: str) -> list[Path]:
  """Presentation lists in the order of sessions and runs; not what macOS puts beside them (._run01.txt).

  Raises:
    UserError: two sessions or runs have the same number, or one has none, so their order is not known.
  """
  paths = [path for path in (folder / LISTS / subject).glob('*/*.txt') if not path.name.startswith('.')]
  sessions = _in_order({path.parent for path in paths})
  return [path for session in sessions for path in _in_order({path for path in paths if path.parent == session})]


def _in_order(paths: set[Path]) -> list[Path]:
  """Sessions or runs by the last number in their names: run2 before run10. A single one needs no number."""
  numbers: dict[int, Path] = {}
  for path in sorted(paths):
    digits = re.findall(r'\d+', path.name) or ['0'] * (len(paths) == 1)
    if not digits:
      raise UserError(f'{path}: no number in this name; expected sessions and runs such as CSI1_sess01/run01.txt')
    if (other := numbers.setdefault(int(digits[-1]), path)) is not path:
      raise UserError(f'{path}: has the number {digits[-1]}, the same as {other.name}; keep one of them')
  return [numbers[number] for number in sorted(numbers)]


def _stimulus_files(folder: Path) -> list[Path]:
  presented = folder / SCENES / 'Presented_Stimuli'
  if (presented / 'img_dict.npy').is_file():
    return [presented / 'img_dict.npy']
  files = sorted(
    path
    for path in presented.rglob('*')
    if path.suffix.lower() in ('.jpg', '.jpeg', '.png', '.tif') and not path.name.startswith('.')
  )
  if not files:
    raise UserError(f'{presented}: neither img_dict.npy nor pictures there; expected the stimuli of BOLD5000')
  return files


def _lines(path: Path) -> list[str]:
  return [line.strip() for line in raw.read_text(path).splitlines() if line.strip()]


def read_subject(folder: Path, subject: str) -> Subject:
  """Betas with the ROIs side by side (EarlyVis, LOC, OPA, PPA, RSC; left then right), and what was shown.

  Raises:
    UserError: a file is missing or damaged, too large, or does not fit the presentation lists.
  """
  shown = [(path.parent.name, line) for path in _lists(folder, subject) for line in _lines(path)]
  names = [line.removeprefix(REPEATED) for _, line in shown]
  parts, owner = [], []
  for roi in ROIS:
    for side in SIDES:
      path = folder / BETAS / BETA_NAME.format(subject=subject, side=side, roi=roi)
      betas = raw.check_fmri(raw.read_npy(path, ndim=2, kinds='f'), str(path))
      if len(betas) != len(names):
        raise UserError(
          f'{path}: {len(betas)} rows, but the presentation lists of {subject} name {len(names)} pictures; '
          'they must agree row by row'
        )
      parts.append(betas)
      if (size := sum(part.nbytes for part in parts)) > MAX_BYTES:
        raise UserError(
          f'{path}: with it the betas of {subject} take {size / 2**30:.1f} GiB; at most 1 GiB is accepted'
        )
      owner += [roi] * betas.shape[1]
  rois = {roi: np.array(owner) == roi for roi in ROIS} | {'VC': np.ones(len(owner), bool)}
  return Subject(np.concatenate(parts, axis=1), names, rois, [session for session, _ in shown])


def read_stimuli(folder: Path, subject: Subject) -> Stimuli:
  """All pictures, checked to hold what the subject saw: test pictures, and others to train on.

  Raises:
    UserError: pictures are missing or damaged, or the list of test pictures does not fit them.
  """
  files = _stimulus_files(folder)
  is_table = files[0].name == 'img_dict.npy'
  table = read_picture_dict(files[0]) if is_table else _by_name(files)
  missing = [name for name in subject.names if name not in table]
  if missing:
    raise UserError(
      f'{files[0].parent}: {len(missing)} presented pictures are missing, the first is {missing[0][:80]!r}'
    )
  path = folder / SCENES / 'repeated_stimuli_113_list.txt'
  listed = list(dict.fromkeys(line.removeprefix(REPEATED) for line in _lines(path)))
  test = [name for name in listed if name in table]
  if absent := sorted(set(listed) - set(test)):
    print(
      f'{path}: {len(absent)} of its {len(listed)} pictures are not among the stimuli, the first is {absent[0][:80]!r}'
    )
  seen = set(subject.names)
  if not seen & set(test) or not seen - set(test):
    raise UserError(
      f'{path}: {len(seen & set(test))} of the {len(seen)} pictures shown are in this list; '
      'expected some, as test pictures, and others to train on'
    )
  return Stimuli(sorted(set(table) - set(test)), test, table, files[0].parent)


def _by_name(files: list[Path]) -> dict[str, Path]:
  table: dict[str, Path] = {}
  for path in files:
    if (other := table.setdefault(path.name, path)) is not path:
      raise UserError(
        f'{path}: a picture of the same name as {other}; the presentation lists name files only, so keep one of them'
      )
  return table


def read_picture_dict(path: Path) -> dict[str, np.ndarray]:
  """img_dict.npy, a pickled dictionary of name -> uint8 picture `H W 3` or `H W`.

  Raises:
    UserError: the file is missing, holds anything else, or as `unpickle.read_pickled_npy`.
  """
  table = unpickle.read_pickled_npy(raw.check_file(path))
  if not isinstance(table, dict):
    raise UserError(f'{path} holds a {type(table).__name__}; expected a dictionary of name -> uint8 picture')
  by_name = {}
  for name, picture in table.items():
    name = name.decode('latin1') if isinstance(name, bytes) else name
    is_picture = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim in (2, 3)
    if not isinstance(name, str) or not is_picture:
      description = f'{picture.dtype} {picture.shape}' if isinstance(picture, np.ndarray) else repr(picture)[:80]
      raise UserError(
        f'{path}: entry {str(name)[:80]!r} is {description}; expected a uint8 picture of height, width, 3'
      )
    by_name[name] = picture
  return by_name


def label(picture: str) -> paired.Label:
  """Pictures of ImageNet have a WordNet id in their name; nothing says what those of COCO and SUN show."""
  match = IMAGENET.fullmatch(picture)
  return paired.Label(paired.NO_CLASS, match[1].lower() if match else '', picture)


class Bold5000(paired.Builder):
  """TFDS data set `bold5000/CSIk`: train (pictures shown once), test (means over repeated pictures), test_trials."""

  VERSION = tfds.core.Version('1.1.0')  # 1.0.0 had no WordNet ids
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f'CSI{k}') for k in range(1, 5)]
  DESCRIPTION = 'fMRI betas of one subject for pictures of scenes, COCO and ImageNet. `name` is the picture file.'
  HOMEPAGE = 'https://bold5000-dataset.github.io/website/'
  LICENSE = 'CC0 (betas); the pictures keep the terms of SUN, COCO and ImageNet'
  CITATION = """@article{chang2019bold5000,
  title = {{BOLD5000}, a public {fMRI} dataset while viewing 5000 visual images},
  author = {Chang, Nadine and Pyles, John A. and Marcus, Austin and Gupta, Abhinav and others},
  journal = {Scientific Data}, volume = {6}, pages = {49}, year = {2019}
}"""

  subjects_in = staticmethod(_find_subjects)

  def raw_files(self, raw_dir):
    """The files that this subject's data depend on."""
    return list_files(raw_dir, self.subject)

  def read(self, raw_dir):
    """Betas, pictures of each presentation, and all pictures."""
    subject = read_subject(raw_dir, self.subject)
    stimuli = read_stimuli(raw_dir, subject)
    facts = pictures.survey([stimuli.table[name] for name in (*stimuli.train, *stimuli.test)])
    return paired.Trials(
      subject.fmri,
      subject.names,
      subject.rois,
      stimuli.train,
      stimuli.test,
      stimuli.picture,
      label,
      sessions=subject.sessions,
      facts=facts,
    )


DATA_SET = data_set.DataSet(
  name='bold5000',
  title='BOLD5000: GLMsingle ROI betas, presentation lists and stimuli',
  builder=Bold5000,
  has_raw=lambda folder: (folder / BETAS).is_dir(),
  rois=('VC', *ROIS),
  zscore='subject',  # the paper's way
  raw_field='bold5000',
  origin='https://bold5000-dataset.github.io/website/',
)
prepare = Bold5000.prepare
load = functools.partial(paired_rows.load, DATA_SET)
