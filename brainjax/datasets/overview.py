"""Checks prepared data before training, whatever data sets a folder holds."""

from pathlib import Path

import tensorflow_datasets as tfds

from brainjax.datasets import checks, registry, store
from brainjax.errors import UserError


def find_prepared(prepared: Path) -> dict[str, list[Path]]:
  """Data set -> folders of its prepared subjects (one folder for data without pictures), in order of names and numbers."""
  newest: dict[str, dict[Path, Path]] = {}  # data set -> folder of a subject -> that of its newest version
  for path in sorted(prepared.glob('*/**/dataset_info.json'), key=_by_number) if prepared.is_dir() else ():
    name = path.relative_to(prepared).parts[0]
    if name in registry.DATA_SETS:
      newest.setdefault(name, {})[path.parent.parent] = path.parent
  return {name: sorted(newest[name].values(), key=_by_number) for name in sorted(newest)}


def _by_number(path: Path) -> tuple[int, str]:
  """Sorts sbj_2 before sbj_10, and 1.9.0 before 1.10.0."""
  return len(str(path)), str(path)


def check_prepared(name: str, folders: list[Path]) -> list[checks.Subject]:
  """Reads every row of a data set once.

  Raises:
    UserError: prepared data are damaged, or of a kind that is not checked.
  """
  subjects: list[checks.Subject] = []
  data_set = registry.get(name)
  for folder in folders:
    with store.as_damaged(folder):
      source = tfds.builder_from_directory(folder)
      if data_set.check:
        subjects += data_set.check(source)
      elif data_set.has_pictures:
        subjects.append(checks.check_pictures(source, data_set.zscore))
      else:
        raise UserError(
          f'{folder}: {name} has neither pictures nor a check of its own (DataSet.check), so brainjax does not know what to '
          'look for; brainjax info says what it is.'
        )
  return subjects


def format_report(name: str, subjects: list[checks.Subject]) -> list[str]:
  """Facts and doubts of a data set, one per line."""
  out = [f'{name}: {len(subjects)} subjects']
  for subject in subjects if len(subjects) <= 20 else subjects[:3]:
    out += [f'  {subject.name}: {fact}' for fact in subject.facts]
  if len(subjects) > 20:
    out.append(f'  ... and {len(subjects) - 3} more')
  doubts = [f'  look at this: {subject.name}: {doubt}' for subject in subjects for doubt in subject.doubts]
  return out + (doubts or ['  nothing doubtful found'])
