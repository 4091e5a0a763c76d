"""The stages of a run. A stage is one file, which describes itself by a `StageSpec`; no other file lists its name.

A file of the package has a `STAGE`, and `all_stages` registers it. A module outside the package calls `register(StageSpec(...))`
itself; put its name into `config.plugins`. Stages run in the order of `config.stages`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from brainjax import checkpoints
from brainjax.datasets.arrays import Dataset
from brainjax.errors import UserError
from brainjax.rules import Rule
from brainjax.stages.problem import Training

RANDOM = 'random'  # as a stage's `init_from`: it starts from random weights


class WeightsField(NamedTuple):
  """A field of a stage's config that names weights, or a tuple of them.

  Attributes:
    name: of the field, such as 'init_from'.
    needed: whether the stage cannot start without them (unless its `random_init` is on).
    origin: the command that makes the published ones, for the message that asks for them.
    check: raises a UserError where the file or folder cannot be used; the argument is its path.
  """

  name: str
  needed: bool = False
  origin: str = ''
  check: Callable[[str], Any] = checkpoints.check_weights


class Source(NamedTuple):
  """Prepared data that a stage reads: some subjects of a data set (none for a data set without separate subjects)."""

  data_set: str
  subjects: tuple[str, ...] = ()


class Sizes(NamedTuple):
  """Model sizes saved with weights; they replace those of the config.

  Attributes:
    section: of the config, such as 'fmri_mae'.
    kwargs: field -> value.
    source: the weights, for messages.
    whole: the weights have all sizes of the section and replace it. Otherwise only fields of the section are set.
  """

  section: str
  kwargs: Mapping[str, Any]
  source: str
  whole: bool = False


class Release(NamedTuple):
  """The released PyTorch file that the weights of a stage can be written as.

  Attributes:
    kind: in `torch_convert.kinds`.
    part: of the weights, which the file holds; empty: all of them.
  """

  kind: str
  part: str = ''


class HeldOut(NamedTuple):
  """Whether a stage has validation data, and where it has none, which field would hold some out."""

  is_some: bool
  reason: str


def _held_out_stimuli(config: ConfigDict) -> HeldOut:
  return HeldOut(
    config.data.num_val_stimuli > 0, 'config.data.num_val_stimuli is 0: hold some stimuli out to select by'
  )


def _check_weights_of(folder: Path) -> None:
  checkpoints.check_weights(folder / 'weights')


class StageSpec(NamedTuple):
  """Describes a stage to the rest of the code.

  Attributes:
    name: of its section of the config and of its folder in the workdir.
    after: the stage whose result it starts from, unless `init_from` names other weights; empty: none.
    make: (config, mesh) -> what to train. None for a stage that trains nothing.
    run: (config, workdir) -> None, for a stage that trains nothing. It runs again when the user names the stage, and the old
      result is kept.
    weights: fields of its config that name weights.
    sources: the data that it reads.
    train_rows: the training rows, checked before the first stage begins; None where they are rendered during training.
    sizes: (config, field -> info of the weights it names) -> sizes saved with these weights.
    held_out: whether its validation data exist.
    rules: field -> what its value must be.
    check: raises a UserError for values that exclude each other.
    unused: sections of the config that do not change its result.
    batch_size: rows of a training batch over all devices; None: the field of its section.
    uses_devices: whether its result depends on the number of devices.
    results: files that it leaves in the workdir itself.
    curves: name of a metric -> what it means. The report writes this below the training curve.
    rebuild: (config, parameters, kwargs of the models, fMRI B V, rows that it comes from) -> 'pred' and 'mask' of the masked
      autoencoder, which the report draws.
    release: the released file that `convert --to_torch` writes. None: the kind of the weights is the name of the stage.
    check_result: raises a UserError where the finished result in its folder cannot be used.
  """

  name: str
  after: str = ''
  make: Callable[[ConfigDict, Mesh], Training] | None = None
  run: Callable[[ConfigDict, Path], None] | None = None
  weights: tuple[WeightsField, ...] = ()
  sources: Callable[[ConfigDict], list[Source]] = lambda config: []
  train_rows: Callable[[ConfigDict], Dataset] | None = None
  sizes: Callable[[ConfigDict, Mapping[str, Mapping[str, Any]]], list[Sizes]] = lambda config, infos: []
  held_out: Callable[[ConfigDict], HeldOut] = _held_out_stimuli
  rules: Callable[[ConfigDict], dict[str, Rule]] = lambda config: {}
  check: Callable[[ConfigDict, tuple[str, ...]], None] = lambda config, stages: None
  unused: tuple[str, ...] = ()
  batch_size: Callable[[ConfigDict], int] | None = None
  uses_devices: Callable[[ConfigDict], bool] = lambda config: False
  results: tuple[str, ...] = ()
  curves: Mapping[str, str] = MappingProxyType({})
  rebuild: Callable[[ConfigDict, Any, Mapping[str, Any], Any, Any], Mapping[str, Any]] | None = None
  release: Release | None = None
  check_result: Callable[[Path], None] = _check_weights_of

  def check_source(self, field: WeightsField, source: str) -> None:
    """Checks weights that a field of the stage's config names.

    Raises:
      UserError: they cannot be used; the sentence names the field, and where such weights come from.
    """
    try:
      field.check(source)
    except UserError as error:
      origin = f' (published ones: {field.origin}; docs/weights.md)' if field.origin else ''
      raise UserError(f'config.{self.name}.{field.name} = {source!r}{origin}: {error}') from error


STAGES: dict[str, StageSpec] = {}


def register(spec: StageSpec) -> None:
  """Adds a stage.

  Raises:
    UserError: another stage has this name.
  """
  if STAGES.setdefault(spec.name, spec) is not spec:
    raise UserError(f'there is a stage {spec.name!r} already; give yours another name.')


def ancestors(name: str) -> list[str]:
  """The stage and all whose results it starts from, the first one first."""
  spec = STAGES[name]
  return [*(ancestors(spec.after) if spec.after else []), name]


def weights_before(workdir: Path, name: str) -> str:
  """The weights that the stage before this one saves in the workdir; '' for a stage that has none before it."""
  return str(workdir / STAGES[name].after / 'weights') if STAGES[name].after else ''


def starts_here(config: ConfigDict, workdir: Path, name: str) -> bool:
  """Whether a stage starts from the result of the stage before, in this workdir, and not from weights that the user names."""
  before = weights_before(workdir, name)
  return before != '' and config.get(name, {}).get('init_from', '') in ('', before)


def with_ancestors(stages: Sequence[str]) -> list[str]:
  """The stages and all whose results they start from, each once."""
  return list(dict.fromkeys(ancestor for name in stages for ancestor in ancestors(name)))


def check_names(stages: tuple[str, ...]) -> None:
  """Raises a UserError unless these are registered stages, each once and after those whose results it starts from."""
  unknown = [name for name in stages if name not in STAGES]
  if unknown or not stages:
    what = f'there is no stage {" or ".join(unknown)}' if unknown else 'no stage is named'
    raise UserError(f'stages: {what}; choose among {", ".join(STAGES)}.')
  if len(set(stages)) < len(stages):
    raise UserError(f'stages = {", ".join(stages)}: expected each once.')
  for place, name in enumerate(stages):
    if late := [before for before in ancestors(name) if before in stages[place + 1 :]]:
      raise UserError(f'stages = {", ".join(stages)}: expected {late[0]} before {name}, which starts from its result.')
