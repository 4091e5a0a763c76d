"""Finds the weights inside a released file: which key holds them, what lies beside them, under which prefixes."""

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from brainjax.errors import UserError
from brainjax.pickled_values import StandIn, plain
from brainjax.torch_convert.reader import Content, LazyTensor, read_file

WEIGHT_KEYS = ('model_state_dict', 'state_dict', 'model')
_OPTIMIZER_KEYS = ('optimizer', 'optimizer_states', 'optimizer_state_dict', 'scaler', 'lr_schedulers', 'scheduler')
_AVERAGE = 'model_ema.'


class Source(NamedTuple):
  """A state dict and what its file says about it: plain config values, the epoch, sentences to tell the user."""

  path: Path
  form: str
  state: dict[str, LazyTensor]
  config: dict[str, Any]
  epoch: int | None
  notes: list[str]


def open_source(path: str | Path, ema: bool = False) -> Source:
  """Reads a file of weights, or a Hugging Face folder with one, and finds the state dict in it.

  Args:
    path: the file or folder.
    ema: take the averaged weights (`model_ema.*`) instead of the last ones.

  Raises:
    UserError: as `read_file`; or the file has no state dict, or no averages though they were asked for.
  """
  path = weights_file(Path(path))
  content = read_file(path)
  notes = list(content.notes)
  state, key = _state_dict(content)
  state, config = dict(state), {}
  beside = content.value if key else {}
  if ignored := [name for name in _OPTIMIZER_KEYS if name in beside]:
    notes.append(f'ignored: {", ".join(ignored)} (states of the training, not weights)')
  for name in ('config', 'config_merge', 'hyper_parameters', 'args'):
    if isinstance(found := plain(beside.get(name)), dict):
      config |= _flattened(found)
  config |= _config_beside(path, notes)
  state = _without_prefix(state, path, notes)
  averages = [name for name in state if name.startswith(_AVERAGE)]
  if ema:
    state = _averaged(state, path)
    notes.append(f'took the averaged weights ({_AVERAGE}*)')
  elif averages:
    notes.append(f'ignored: {len(averages)} averaged weights ({_AVERAGE}*); --ema takes them instead of the last ones')
  state = {name: tensor for name, tensor in state.items() if not name.startswith(_AVERAGE)}
  epoch = beside.get('epoch')
  return Source(path, content.form, state, config, epoch if type(epoch) is int else None, notes)


def weights_file(path: Path) -> Path:
  """The file itself, or the one file of weights in a Hugging Face folder."""
  if path.is_dir():
    for name in (
      'diffusion_pytorch_model.safetensors',
      'model.safetensors',
      'diffusion_pytorch_model.bin',
      'pytorch_model.bin',
    ):
      if (path / name).is_file():
        return path / name
  return path


def _state_dict(content: Content) -> tuple[Mapping[str, LazyTensor], str]:
  """The weights and the key that they were under ('' for a bare state dict)."""
  value = content.value
  if isinstance(value, StandIn):
    raise UserError(
      f'{content.path} holds a whole pickled object ({value.kind}), not a state dict; save its state_dict() instead'
    )
  if isinstance(value, dict):
    for key in WEIGHT_KEYS:
      found = value.get(key)
      if isinstance(found, StandIn):
        raise UserError(
          f'{content.path}: key {key} holds a whole pickled object ({found.kind}), not a state dict; save its state_dict() instead'
        )
      if isinstance(found, dict) and _is_state_dict(found):
        return found, key
    if _is_state_dict(value):
      return value, ''
  what = (
    f'the keys {", ".join(map(str, list(value)[:8]))}' if isinstance(value, dict) else f'one {type(value).__name__}'
  )
  raise UserError(
    f'{content.path} holds no state dict: it has {what}; expected weights there or under {", ".join(WEIGHT_KEYS)}'
  )


def _is_state_dict(found: Mapping[Any, Any]) -> bool:
  return bool(found) and all(isinstance(n, str) and isinstance(x, LazyTensor) for n, x in found.items())


def _flattened(config: Mapping[str, Any]) -> dict[str, Any]:
  """Nested config objects' fields beside the outer ones, which win."""
  result = {}
  for value in config.values():
    if isinstance(value, dict):
      result |= _flattened(value)
  return result | {name: value for name, value in config.items() if not isinstance(value, dict) and value is not None}


def _config_beside(path: Path, notes: list[str]) -> dict[str, Any]:
  """The published configuration files that lie beside weights: Hugging Face `config.json`, CompVis `config.yaml`."""
  config = {}
  for name, load in (('config.json', json.loads), ('config.yaml', yaml.safe_load)):
    beside = path.with_name(name)
    if not beside.is_file():
      continue
    try:
      found = load(beside.read_text())
    except (ValueError, yaml.YAMLError) as error:
      message = str(error).split('\n')[0]
      raise UserError(f'{beside} (beside the weights) cannot be read ({message}); repair or remove it') from None
    if not isinstance(found, dict):
      continue
    parameters = found.get('model', {}).get('params', {}) if isinstance(found.get('model'), dict) else {}
    if isinstance(unet := parameters.get('unet_config'), dict) and isinstance(unet.get('params'), dict):
      kept = {name: parameters[name] for name in ('scale_factor',) if name in parameters}
      with contextlib.suppress(KeyError, TypeError):
        kept['first_stage_resolution'] = parameters['first_stage_config']['params']['ddconfig']['resolution']
      found = {f'unet_{key}': value for key, value in unet['params'].items()} | kept
    config |= {key: x for key, x in found.items() if not (isinstance(x, dict) and 'value' in x)}  # as of wandb
    notes.append(f'read {beside.name} beside the weights')
  return config


def _without_prefix(state: dict[str, LazyTensor], path: Path, notes: list[str]) -> dict[str, LazyTensor]:
  """Without the `module.` that DistributedDataParallel puts before names."""
  prefixed = [name for name in state if name.startswith('module.')]
  if not prefixed:
    return state
  if doubled := [name for name in prefixed if name.removeprefix('module.') in state]:
    raise UserError(f'{path} holds tensors twice, with and without the prefix module.: {", ".join(doubled[:20])}')
  notes.append('removed the prefix module. (DistributedDataParallel)')
  return {name.removeprefix('module.'): tensor for name, tensor in state.items()}


def _averaged(state: dict[str, LazyTensor], path: Path) -> dict[str, LazyTensor]:
  """Puts each average in the place of its weight. Averages are stored under the weights' names without their dots."""
  owners: dict[str, list[str]] = {}
  for name in state:
    if name.startswith('model.'):
      owners.setdefault(_AVERAGE + name.removeprefix('model.').replace('.', ''), []).append(name)
  averages = [name for name in state if name.startswith(_AVERAGE) and not re.search(r'\.(decay|num_updates)$', name)]
  if not averages:
    raise UserError(f'{path} holds no averaged weights ({_AVERAGE}*); leave --ema out')
  if lost := [name for name in averages if len(owners.get(name, ())) != 1]:
    raise UserError(f'{path}: averaged weights that belong to no weight, or to several: {", ".join(lost[:20])}')
  if without := [names[0] for average, names in owners.items() if average not in state]:
    raise UserError(
      f'{path}: weights without an average: {", ".join(without[:20])}' + (' ...' if len(without) > 20 else '')
    )
  return state | {owners[name][0]: state[name] for name in averages}
