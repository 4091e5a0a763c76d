"""What a workdir holds: whose run is at work in it, which stages are complete, and with which config each was made."""

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
from brainjax.files import atomic_write, put_aside

METHOD = ('contrast', 'attend', 'diffuse', 'reconstruct', 'evaluate')
PAIRED = METHOD[1:]  # those that read fMRI with pictures
PRIOR = ('first_stage_training', 'image_mae_training', 'label2img', 'scene_classifier')
STAGES = METHOD + PRIOR
REMADE = ('reconstruct', 'evaluate')  # made again when the user names them
# What evaluate leaves in the workdir itself.
SCORES = ('scores.json', 'scores_items.npz', 'pictures.png', 'training_curves.png', 'report.html')
# Models that a stage does not use.
UNUSED = {
  'contrast': {'image_mae', 'first_stage', 'unet', 'conditioner'},
  'attend': {'first_stage', 'unet', 'conditioner'},
}
DEVICES = 'mesh.devices'  # as a field of --accept_changes: their number, where results depend on it
# Fields that may differ between the runs of one workdir: they do not change results. Of a stage also how often it saves, and
# how often it validates where that selects nothing.
FREE = ('stages', 'mesh', 'remat', 'compilation_cache', 'log_every', 'skip_nonfinite', 'wandb')


def is_complete(folder: Path) -> bool:
  """Whether the stage of this folder has ended well."""
  return (folder / 'complete.json').is_file()


def with_paths(config: ConfigDict, workdir: Path) -> ConfigDict:
  """The config with '{workdir}' replaced in its texts, which then name something below the workdir."""
  config = config.copy_and_resolve_references()
  for part, section in {'config': config, **{f'config.{name}': value for name, value in config.items()}}.items():
    for name, value in section.items() if isinstance(section, ConfigDict) else ():
      if isinstance(value, tuple):
        section[name] = tuple(_below(workdir, item, f'{part}.{name}') for item in value)
      else:
        section[name] = _below(workdir, value, f'{part}.{name}')
  return config


def _below(workdir: Path, value: Any, field: str) -> Any:
  """A value with its '{workdir}' replaced, if it is a text that has it."""
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
  order = METHOD if name in METHOD else PRIOR
  later = set(STAGES) - set(order[: order.index(name) + 1]) | UNUSED.get(name, set())
  kept = json.loads(config.to_json_best_effort())
  kept = {key: value for key, value in kept.items() if key not in later and key not in FREE}
  kept['simulate'].pop('workers')
  for key in STAGES:
    if key in kept:
      free = {'checkpoint_every'} if kept[key].get('select') == 'best' else {'checkpoint_every', 'eval_every'}
      kept[key] = {field: value for field, value in kept[key].items() if field not in free}
  if name == 'contrast' and config.contrast.negatives == 'per_device':
    kept['mesh'] = {'devices': jax.device_count()}  # each contrasts its own rows
  return _portable(kept, workdir)


def refuse_unknown_fields(config: ConfigDict, accepted: Sequence[str]) -> None:
  """A mistyped field of --accept_changes would accept nothing."""
  known = {*_flat(json.loads(config.to_json_best_effort())), DEVICES}
  if unknown := [field for field in accepted if field not in known]:
    raise UserError(
      f'--accept_changes={",".join(unknown)}: no such field of the config; the fields are in configs/base.py.'
    )


def refuse_other_config(config: ConfigDict, workdir: Path, name: str, asked: bool, accepted: Sequence[str]) -> None:
  """A stage's folder made with another config is never mixed with this one's, unless it is to be made again."""
  folder = workdir / name
  if folder.exists() and not folder.is_dir():
    raise UserError(
      f'{folder} is a file, where the folder of stage {name} belongs; move it away or choose another --workdir.'
    )
  remake = asked and name in REMADE
  begun = is_complete(folder) or (folder / 'weights').exists() or any((folder / 'checkpoints').glob('[0-9]*'))
  if begun and not (folder / 'config.json').is_file():
    raise UserError(
      f'{folder} holds results, but no config.json that says what they were made with; put it back or move {folder} away.'
    )
  if begun:
    before = _flat(_portable(_read_json(folder / 'config.json'), workdir))
    now = _flat(relevant(config, workdir, name))
    # What an earlier version had no field for was as the default of that field has it.
    changed = sorted(field for field in before if before[field] != now.get(field))
    if is_complete(folder) and DEVICES in changed:
      changed.remove(DEVICES)  # nothing more is trained there
    if taken := [field for field in changed if field in accepted]:
      what = 'is complete and stays as it was made, with' if is_complete(folder) and not remake else 'goes on with'
      hosts.log(f'{name}: {what} another {", ".join(taken)}, as --accept_changes says')
    changed = [field for field in changed if field not in accepted]
    if changed and not (remake and all(field.startswith(('reconstruct.', 'evaluate.')) for field in changed)):
      told = ', '.join(f'{field} (there {before.get(field)}, here {now.get(field)})' for field in changed[:5])
      raise UserError(
        f'{folder} was made with another config: {told}. Choose another --workdir, the config of that run, '
        f'or move {folder} away to make it again. --accept_changes={",".join(changed)} goes on with the new values.'
      )


def put_result_aside(workdir: Path, name: str) -> None:
  """Keeps the result of a stage that is made again."""
  aside = put_aside(workdir / name)
  for file in (workdir / name for name in (SCORES if name == 'evaluate' else ())):
    if file.exists():
      file.rename(aside / file.name)
  print(f'{name}: the result that was there is now in {aside}')


def with_earlier(stages: Sequence[str]) -> list[str]:
  """The stages and all before them, whose results they start from."""
  last = {order: max((order.index(name) for name in stages if name in order), default=-1) for order in (METHOD, PRIOR)}
  return [name for order, index in last.items() for name in order[: index + 1]]


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    flat |= _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
  return flat


def _read_json(path: Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'{path} is damaged ({error}); move {path.parent} away to make it again.') from error


def write_json(path: Path, value: Any) -> None:
  """Writes a file that appears when it is whole."""
  with atomic_write(path) as temporary:
    temporary.write_text(json.dumps(value, indent=2) + '\n')


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
  """Refuses a second run in one workdir, and hosts that do not share it. The lock goes with the process, however it ends."""
  file = workdir / '.lock'
  with contextlib.ExitStack() as held:
    hosts.on_first(lambda: held.enter_context(_taken(file)))
    if not hosts.all_equal(file.read_text() if file.is_file() else ''):
      raise UserError(f'--workdir={workdir} is not one folder that all hosts see; choose one on a shared file system.')
    yield


@contextlib.contextmanager
def _taken(file: Path) -> Iterator[None]:
  def busy():
    raise UserError(f'another run is at work in {file.parent}; wait for it or choose another --workdir.')

  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = files.lock(file, busy)
  except OSError as error:
    what = f'--workdir={file.parent}: {error.strerror}; choose a folder that can be written'
    raise UserError(f'{what}, on a file system with locks (Lustre: mount -o flock).') from error
  with handle:
    handle.truncate(0)
    handle.write(f'{socket.gethostname()} {os.getpid()} {time.time()}\n')  # what the other hosts must find
    handle.flush()
    os.fsync(handle.fileno())
    yield


def refuse_other_raw_files(workdir: Path, stages: Sequence[str], inputs: Mapping[str, str]) -> None:
  """Raw files may change between two runs of a workdir; stages that saw other ones do not go together.

  Args:
    workdir: of the run.
    stages: that are to be done.
    inputs: what one of them reads -> SHA-256.
  """
  for earlier in with_earlier(stages):
    file = workdir / earlier / 'weights' / 'weights.json'
    if is_complete(workdir / earlier) and file.is_file():
      refuse_other_inputs(_read_json(file).get('inputs', {}), inputs, f'{workdir / earlier} was made')


def refuse_other_inputs(before: Mapping[str, str], now: Mapping[str, str], since: str) -> None:
  """Raises a `UserError` where data or weights (what they are -> SHA-256) are not what they were."""
  if changed := sorted(name for name in before.keys() & now.keys() if before[name] != now[name]):
    raise UserError(
      f'not the same as when {since}: {", ".join(changed)}. Put the old ones back or choose another --workdir.'
    )
