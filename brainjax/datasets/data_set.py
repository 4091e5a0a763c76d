"""The description of a data set; `registry` holds them all and shows how to add one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from brainjax.datasets import arrays, checks, store
from brainjax.rules import Rule


@dataclasses.dataclass(frozen=True)
class Argument:
  """One option of `brainjax prepare <data set>`.

  Attributes:
    name: `raw` for `--raw`; `prepare` of the data set gets the value under this name.
    help: one line.
    value: what the help shows for the value.
    type: makes the value from the text of the command line.
    required: whether the option must be given; `prepare` uses its own default for others.
  """

  name: str
  help: str
  value: str = 'DIR'
  type: Callable[[str], Any] = str
  required: bool = False


def split_names(text: str) -> list[str]:
  """'a,b' -> ['a', 'b'], the type of an argument that takes several names."""
  return text.split(',')


RAW = Argument('raw', 'folder of the raw files', required=True)
SUBJECTS = Argument('subjects', 'comma-separated names; default: all subjects found', 'NAMES', split_names)


@dataclasses.dataclass(frozen=True)
class DataSet:
  """A data set.

  Attributes:
    name: of the `prepare` command, of `config.data.dataset` and of the folder of the prepared data.
    title: one line, the help of its `prepare` command.
    builder: TFDS builder class, a `paired.Builder` if it has pictures. It holds the description, home page, citation,
      licence and version.
    has_raw: whether a folder holds raw files of this data set.
    origin: where people get its raw files, for `brainjax fetch`; empty: it says nothing of this data set.
    prepare: (out=..., and each of `arguments` by name) -> `store.States`; None: the builder's own.
    arguments: of its `prepare` command, without `--out`.
    rois: masks that every subject has.
    default_roi: the mask to use where the config names none.
    zscore: what `config.data.zscore = 'auto'` means for it, see `InputTransform.fit`.
    has_pictures: False for resting-state data.
    raw_field: the field of `config.data` that names the raw folder, which a run then prepares by itself; empty: the user
      must prepare the data by the command.
    fields: fields of `config.data` that it alone reads -> what their value must be.
    unpaired: (prepared_dir, split, patch_size=, full_extra_patch=, seed=, and each of `fields` by name) -> rows without
      pictures of the split 'train', or 'val' (None: nothing is held out). With it, and where `config.data` names its raw
      folder, `contrast` learns from it. Data with pictures need none: contrast reads the training rows of the subjects that
      `config.data.contrast_<name>_subjects` names.
    check: builder of prepared data -> what `prepare check` reports and draws of each subject in it. None: what it reports
      of data with pictures.
    released_raw_scale: the release does not z-score its test rows; `config.released.god_test_raw_scale` does the same
      (quirk B2).
    needs_command: whether raw files in a folder need a conversion with options that only the command has. A run then
      keeps existing prepared data as they are.
  """

  name: str
  title: str
  builder: type[store.Builder]
  has_raw: Callable[[Path], bool]
  prepare: Callable[..., store.States] | None = None
  arguments: tuple[Argument, ...] = (RAW, SUBJECTS)
  rois: tuple[str, ...] = ('VC',)
  default_roi: str = 'VC'
  zscore: str = 'voxel'
  has_pictures: bool = True
  raw_field: str = ''
  origin: str = ''
  fields: Mapping[str, Rule] = dataclasses.field(default_factory=dict)
  unpaired: Callable[..., arrays.Dataset | None] | None = None
  check: Callable[[Any], list[checks.Subject]] | None = None
  released_raw_scale: bool = False
  needs_command: Callable[[Path], bool] = lambda folder: False

  def run_prepare(self, out: str | Path, values: Mapping[str, Any]) -> store.States:
    """Prepares the data into `out`; values of arguments by name, without those that are None."""
    prepare = self.prepare or self.builder.prepare
    return prepare(out=out, **{name: value for name, value in values.items() if value is not None})

  @property
  def command(self) -> str:
    """How to prepare it: 'god --raw=DIR'."""
    options = [f'--{argument.name}={argument.value}' for argument in self.arguments if argument.required]
    return ' '.join([self.name, *options])

  def open(self, prepared_dir: str | Path, subject: str = '') -> store.Builder:
    """The builder of a subject's prepared data (all subjects for a data set without pictures).

    Raises:
      UserError: not prepared yet, or corrupt.
    """
    return store.open_prepared(lambda out: self.builder.of(out, subject), prepared_dir, self.command)

  def is_prepared(self, prepared_dir: str | Path, subjects: Sequence[str] = ()) -> bool:
    """Whether the data of all these subjects exist, whole or not."""
    return all(
      store.is_prepared(lambda out, subject=subject: self.builder.of(out, subject), prepared_dir)
      for subject in subjects or ('',)
    )
