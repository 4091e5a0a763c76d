"""A workdir: its lock, its complete stages, and the config of each stage."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from brainjax import files, hosts
from brainjax.errors import UserError
from brainjax.files import put_aside
from brainjax.stages import registry
from brainjax.stages.registry import STAGES
from brainjax.train import check_same_inputs
from brainjax.trees import flatten, lists_to_tuples
from configs import base

DEVICES = 'mesh.devices'  # as a field of --accept_changes: their number, where results depend on it
# Fields that may differ between the runs of one workdir, because they do not change results. The same holds for how often
# a stage saves, and for how often it validates where validation selects nothing.
FREE = (
  'stages',
  'mesh',
  'remat',
  'attention',
  'compilation_cache',
  'log_every',
  'skip_nonfinite',
  'wandb',
  'stage_minutes',
)


def is_complete(folder: Path) -> bool:
  """Whether the stage of this folder has ended well."""
  return (folder / 'complete.json').is_file()


def finished(workdir: Path) -> dict[str, float | None]:
  """Finished stage -> seconds that it took (None: not recorded), in the order in which they ended.

  Raises:
    UserError: a complete.json is damaged.
  """
  files = sorted(workdir.glob('*/complete.json'), key=lambda file: file.stat().st_mtime)
  return {file.parent.name: read_json(file).get('seconds') for file in files}


def fill_in_paths(config: ConfigDict, workdir: Path) -> ConfigDict:
  """A copy of the config whose texts have the workdir's path in place of '{workdir}'.

  Raises:
    UserError: such a text leads out of the workdir.
  """
  config = config.copy_and_resolve_references()
  for part, section in {'config': config, **{f'config.{name}': value for name, value in config.items()}}.items():
    for name, value in section.items() if isinstance(section, ConfigDict) else ():
      if isinstance(value, tuple):
        section[name] = tuple(_fill_in(workdir, item, f'{part}.{name}') for item in value)
      else:
        section[name] = _fill_in(workdir, value, f'{part}.{name}')
  return config


def _fill_in(workdir: Path, value: Any, field: str) -> Any:
  if not isinstance(value, str) or '{workdir}' not in value:
    return value
  path = value.replace('{workdir}', str(workdir))
  if not Path(path).resolve().is_relative_to(workdir.resolve()):  # '..' and links
    raise UserError(f'{field} is {value!r}, which leads out of the workdir; expected a path below it.')
  return path


def _portable(tree: Any, workdir: Path) -> Any:
  """A JSON tree with '{workdir}' in place of that path, so that the folder can be moved."""
  if isinstance(tree, dict):
    return {name: _portable(value, workdir) for name, value in tree.items()}
  if isinstance(tree, list):
    return [_portable(value, workdir) for value in tree]
  if isinstance(tree, str) and (tree == str(workdir) or tree.startswith(f'{workdir}/')):
    return '{workdir}' + tree.removeprefix(str(workdir))
  return tree


def relevant(config: ConfigDict, workdir: Path, name: str) -> dict[str, Any]:
  """The part of the config that a stage's result depends on."""
  ancestors = registry.ancestors(name)
  unused = {stage for stage in STAGES if stage not in ancestors} | set(STAGES[name].unused)
  kept = json.loads(config.to_json_best_effort())
  kept = {key: value for key, value in kept.items() if key not in unused and key not in FREE}
  kept['simulate'].pop('workers')
  for key in ancestors:
    if key in kept:
      free = {'checkpoint_every'} if kept[key].get('select') == 'best' else {'checkpoint_every', 'eval_every'}
      kept[key] = {field: value for field, value in kept[key].items() if field not in free}
  if STAGES[name].uses_devices(config):
    kept['mesh'] = {'devices': jax.device_count()}
  return _portable(kept, workdir)


def read_config(workdir: Path, stages: Sequence[str]) -> ConfigDict:
  """The resolved config of a run, as the first of `stages` that is complete saved it.

  Sections that this stage does not depend on have the values of configs/base.py.

  Raises:
    UserError: none of them is complete, or the file is damaged.
  """
  complete = [name for name in stages if is_complete(workdir / name)]
  if not complete:
    raise UserError(f'{workdir} has no finished stage {" or ".join(stages)}; give the workdir of a finished run.')
  fields = base.get_config().to_dict()
  for name, value in read_json(workdir / complete[0] / 'config.json').items():
    value = lists_to_tuples(value) if isinstance(value, dict) else lists_to_tuples({name: value})[name]
    fields[name] = fields.get(name, {}) | value if isinstance(value, dict) else value
  return fill_in_paths(ConfigDict(fields), workdir.absolute()).lock()


def refuse_unknown_fields(config: ConfigDict, accepted: Sequence[str]) -> None:
  """Checks the field names of `--accept_changes`: a mistyped one would accept nothing.

  Raises:
    UserError: the config has no such field.
  """
  known = {*flatten(json.loads(config.to_json_best_effort()), '.'), DEVICES}
  if unknown := [field for field in accepted if field not in known]:
    raise UserError(
      f'--accept_changes={",".join(unknown)}: no such field of the config; the fields are in configs/base.py.'
    )


def refuse_other_config(
  given: ConfigDict, config: ConfigDict, workdir: Path, name: str, asked: bool, accepted: Sequence[str]
) -> None:
  """Raises a `UserError` where a stage's folder was made with another config, unless the stage is to be made again.

  Args:
    given: the config before `resolve`: earlier versions saved it.
    config: the resolved one.
    workdir: of the run.
    name: of the stage.
    asked: whether the user named the stage.
    accepted: fields that may differ.
  """
  folder = workdir / name
  if folder.exists() and not folder.is_dir():
    raise UserError(
      f'{folder} is a file, where the folder of stage {name} belongs; move it away or choose another --workdir.'
    )
  remake = asked and STAGES[name].run
  begun = is_complete(folder) or (folder / 'weights').exists() or any((folder / 'checkpoints').glob('[0-9]*'))
  if not begun:
    return
  if not (folder / 'config.json').is_file():
    raise UserError(
      f'{folder} holds results, but no config.json that says how they were made; put it back or move {folder} away.'
    )
  before = flatten(_portable(read_json(folder / 'config.json'), workdir), '.')
  now, also = (flatten(relevant(some, workdir, name), '.') for some in (config, given))
  # A field that only one version of brainjax has is at its default in the other.
  changed = sorted(
    field for field in before.keys() & now.keys() if before[field] not in (now[field], also.get(field, now[field]))
  )
  if is_complete(folder) and DEVICES in changed:
    changed.remove(DEVICES)  # a finished stage trains no more
  if allowed := [field for field in changed if field in accepted]:
    what = 'is complete and stays unchanged; it was made' if is_complete(folder) and not remake else 'resumes'
    hosts.log(f'{name}: {what} with another {", ".join(allowed)}, as --accept_changes allows')
  changed = [field for field in changed if field not in accepted]
  own = tuple(f'{stage}.' for stage, spec in STAGES.items() if spec.run)
  if not changed or remake and all(field.startswith(own) for field in changed):
    return
  listed = ', '.join(f'{field} (there {before.get(field)}, here {now.get(field)})' for field in changed[:5])
  accept = f'--accept_changes={",".join(changed)}'
  advice = (
    f'{accept} keeps the finished stage unchanged' if is_complete(folder) else f'{accept} resumes with the new values'
  )
  raise UserError(
    f'{folder} was made with another config: {listed}. Choose another --workdir, the config of that run, '
    f'or move {folder} away to make it again. {advice}.'
  )


def remat_of_checkpoints(folder: Path) -> str:
  """What `config.remat` meant when the checkpoints of a stage's folder were made; empty where there are none.

  Raises:
    UserError: config.json is damaged.
  """
  if not any((folder / 'checkpoints').glob('[0-9]*')):
    return ''
  # Earlier versions did not save it; their default was this.
  return read_json(folder / 'config.json').get('remat', 'everything')


def put_result_aside(workdir: Path, name: str) -> None:
  """Renames the result of a stage that runs again."""
  aside = put_aside(workdir / name)
  for file in (workdir / name for name in STAGES[name].results):
    if file.exists():
      file.rename(aside / file.name)
  print(f'{name}: the earlier result is now in {aside}')


def read_json(path: Path) -> dict[str, Any]:
  """A JSON file of a stage.

  Raises:
    UserError: it is missing or damaged.
  """
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'{path} is damaged ({error}); move {path.parent} away to make it again.') from error


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
  """Refuses a second run in one workdir, and hosts that do not share it. The lock ends with the process.

  Raises:
    UserError: another run holds the lock, or the hosts see different folders.
  """
  file = workdir / '.lock'
  with contextlib.ExitStack() as held:
    hosts.on_first(lambda: held.enter_context(_locked(file)))
    if not hosts.all_equal(file.read_text() if file.is_file() else ''):
      raise UserError(f'--workdir={workdir} is not one folder that all hosts see; choose one on a shared file system.')
    yield


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
  def busy():
    raise UserError(f'another run uses {file.parent} now; wait for it or choose another --workdir.')

  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = files.lock(file, busy)
  except OSError as error:
    what = f'--workdir={file.parent}: {error.strerror}; choose a folder that can be written'
    raise UserError(f'{what}, on a file system with locks (Lustre: mount -o flock).') from error
  with handle:
    if not os.fstat(handle.fileno()).st_nlink:  # a refused run held it and has just removed the folder
      busy()
    handle.truncate(0)
    handle.write(f'{socket.gethostname()} {os.getpid()} {time.time()}\n')  # what the other hosts must find
    handle.flush()
    os.fsync(handle.fileno())
    try:
      yield
    finally:
      if [path.name for path in file.parent.iterdir()] == [file.name]:  # a refused run leaves nothing
        file.unlink()
        file.parent.rmdir()


def refuse_other_raw_files(workdir: Path, stages: Sequence[str], inputs: Mapping[str, str]) -> None:
  """Raises a `UserError` where the raw files (`inputs`: name -> SHA-256) changed since an earlier stage was made."""
  for earlier in registry.with_ancestors(stages):
    file = workdir / earlier / 'weights' / 'weights.json'
    if is_complete(workdir / earlier) and file.is_file():
      check_same_inputs(read_json(file).get('inputs', {}), inputs, f'{workdir / earlier} was made')
