"""Finds the files of the Natural Scenes Dataset and of MindEye2 below a folder, at any depth."""

import dataclasses
import re
from pathlib import Path

from brainjax.datasets import nsd_rois, raw
from brainjax.datasets.masks import suffix_of
from brainjax.datasets.volume_series import NIFTI
from brainjax.errors import UserError
from brainjax.raw_layout import (
  MIND_EYE_BETAS,
  MIND_EYE_INDICES,
  MIND_EYE_SHARED,
  MIND_EYE_STIMULI,
  NSD_DESIGN,
  NSD_RESPONSES,
  NSD_STIMULI,
)

BETAS = 'betas_fithrf_GLMdenoise_RR'  # the version that most studies use
MIND_EYE = 'mindeye2'  # stands for the betas of MindEye2 where a version is named
PREPARED = re.compile(MIND_EYE_BETAS.format(r'(subj\d\d)').replace('.hdf5', r'\.hdf5'))
SESSION = re.compile(r'betas_session(\d\d)\.(hdf5|nii\.gz|nii)')
SUBJECT = re.compile(r'subj\d\d')
OTHER_SPACES = {'func1mm', 'anat', 'MNI', 'fsaverage', 'nativesurface', 'freesurfer'}
DESIGNS = {NSD_DESIGN: 'expdesign', MIND_EYE_INDICES: 'indices', MIND_EYE_SHARED: 'shared1000'}
STIMULI = (NSD_STIMULI, MIND_EYE_STIMULI)  # the first that is there is used


@dataclasses.dataclass
class Found:
  """What is below a folder.

  Attributes:
    folder: where it was looked for.
    betas: subject -> version, the name of its folder or MIND_EYE -> the files of the sessions by number, or one file (0).
    rois: subject -> name of an ROI file without suffix -> file.
    responses: subject -> responses.tsv.
    shared: name of another file, of DESIGNS or STIMULI -> file.
  """

  folder: Path
  betas: dict[str, dict[str, dict[int, Path]]] = dataclasses.field(default_factory=dict)
  rois: dict[str, dict[str, Path]] = dataclasses.field(default_factory=dict)
  responses: dict[str, dict[str, Path]] = dataclasses.field(default_factory=dict)
  shared: dict[str, Path] = dataclasses.field(default_factory=dict)

  def design(self, subject: str) -> dict[str, Path]:
    """Arguments of `nsd_design.read`.

    Raises:
      UserError: nothing says which picture a trial showed.
    """
    files = {key: self.shared[name] for name, key in DESIGNS.items() if name in self.shared}
    if 'expdesign' not in files and not {'indices', 'shared1000'} <= files.keys():
      raise UserError(
        f'{self.folder}: no {NSD_DESIGN} there, nor {MIND_EYE_INDICES} with {MIND_EYE_SHARED}, so the pictures that '
        f'were shown are not known; {NSD_DESIGN} is in nsddata/experiments/nsd of NSD'
      )
    return files | self.responses.get(subject, {})

  @property
  def stimuli(self) -> Path:
    """The file of the pictures.

    Raises:
      UserError: there is none.
    """
    for name in STIMULI:
      if name in self.shared:
        return self.shared[name]
    raise UserError(
      f'{self.folder}: no {" or ".join(STIMULI)} there; the pictures are in nsddata_stimuli/stimuli/nsd/{NSD_STIMULI} of NSD'
    )

  def version(self, subject: str, wanted: str | None) -> tuple[str, dict[int, Path]]:
    """The betas of a subject to use: the version that is wanted, else BETAS, else the only one; and its files.

    Raises:
      UserError: it is not there, there are several others, or a session is missing.
    """
    versions = self.betas[subject]
    name = wanted or (BETAS if BETAS in versions else next(iter(versions)))
    if name not in versions or wanted is None and len(versions) > 1 and name != BETAS:
      raise UserError(
        f'{self.folder}: the betas of {subject} are {", ".join(sorted(versions))}; expected {wanted or BETAS}, or name one of '
        'these with --betas'
      )
    files = versions[name]
    if name != MIND_EYE and (missing := sorted(set(range(1, max(files) + 1)) - files.keys())):
      raise UserError(
        f'{next(iter(files.values())).parent}: session {", ".join(map(str, missing))} of {subject} is missing, but there are '
        f'{len(files)} up to session {max(files)}; download it, or move later ones away'
      )
    return name, dict(sorted(files.items()))


def has_files(folder: Path) -> bool:
  """Whether there are betas below a folder; stops at the first."""
  return folder.is_dir() and any(
    SESSION.fullmatch(name) and _subject_of(place / name, folder) or PREPARED.fullmatch(name)
    for place, names in raw.walk(folder)
    for name in names
  )


def find(folder: Path) -> Found:
  """All files below a folder that are needed.

  Raises:
    UserError: there is no such folder, it holds no betas, or two files have the same meaning.
  """
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; expected the folder of NSD (see data/README.md)')
  found = Found(folder)
  for place, names in raw.walk(folder):
    for name in names:
      _add(found, place / name)
  if not found.betas:
    raise UserError(
      f'{folder}: no betas there; expected subj01/func1pt8mm/{BETAS}/betas_session01.hdf5 (or .nii.gz), or '
      'betas_all_subj01_fp32_renorm.hdf5 of MindEye2, at any depth (see data/README.md)'
    )
  found.betas = dict(sorted(found.betas.items()))
  return found


def _add(found: Found, path: Path) -> None:
  """Notes a file, if it is one that is needed."""
  name = path.name
  if name in DESIGNS or name in STIMULI:
    _note(found.shared, name, path)
  elif match := PREPARED.fullmatch(name):
    _note(found.betas.setdefault(match[1], {}).setdefault(MIND_EYE, {}), 0, path)
  elif subject := _subject_of(path, found.folder):
    if match := SESSION.fullmatch(name):
      if match[2] != 'hdf5' and path.with_name(f'betas_session{match[1]}.hdf5').exists():
        return  # NSD has each session in both formats
      _note(found.betas.setdefault(subject, {}).setdefault(path.parent.name, {}), int(match[1]), path)
    elif name == NSD_RESPONSES:
      _note(found.responses.setdefault(subject, {}), 'responses', path)
    elif suffix_of(path) in NIFTI:
      stem = name[: -len(suffix_of(path))]
      if path.parent.name == 'roi' or stem == nsd_rois.DEFAULT or stem in nsd_rois.AREAS:
        _note(found.rois.setdefault(subject, {}), stem, path)


def _note(table: dict, key: object, path: Path) -> None:
  other = table.setdefault(key, path)
  if other is not path:
    raise UserError(f'{path}: {other} has the same meaning; keep one of them below this folder')


def _subject_of(path: Path, folder: Path) -> str | None:
  """The subject in the name of the innermost folder that has one; None in spaces other than func1pt8mm."""
  parts = (folder.absolute().name, *path.relative_to(folder).parts[:-1])
  subjects = [part for part in parts if SUBJECT.fullmatch(part)]
  return subjects[-1] if subjects and not OTHER_SPACES & set(parts) else None
