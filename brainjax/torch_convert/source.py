"""Finds the weights of a release: its files, the key that holds them, their prefixes, and the configs beside them."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from brainjax.errors import UserError, as_user_error, list_names
from brainjax.pickled_values import StandIn, to_plain
from brainjax.torch_convert.config_fields import compvis_fields, flatten_config, heads_fields
from brainjax.torch_convert.reader import Content, LazyTensor, read_file

WEIGHT_KEYS = ('model_state_dict', 'state_dict', 'model', 'module')  # the last one of DeepSpeed
CARRIED = 'brainjax_info'  # entry of a PyTorch file: JSON
_CONFIG_KEYS = ('config', 'config_merge', 'hyper_parameters', 'hparams', 'cfg', 'args')  # the last one wins
_CONFIG_FILES = ('.hydra/config.yaml', 'hparams.yaml', 'config.yml', 'config.yaml', 'config.json')  # the last one wins
_OPTIMIZER_KEYS = ('optimizer', 'optimizer_states', 'optimizer_state_dict', 'scaler', 'lr_schedulers', 'scheduler')
_AVERAGE = 'model_ema.'
# What torch.compile, FullyShardedDataParallel and activation checkpointing put into names, wherever they wrap a module.
_WRAPPERS = ('_orig_mod.', '_fsdp_wrapped_module.', '_checkpoint_wrapped_module.')
_STEMS = ('diffusion_pytorch_model', 'model', 'pytorch_model')  # of the files in Hugging Face folders
_SHARD = re.compile(r'(.*-)(\d{5})-of-(\d{5})(\..*)')


class Source(NamedTuple):
  """A state dict and what its files say about it: plain config values, the epoch, sentences for the user.

  Attributes:
    files: with weights; more than one if they are sharded.
    carried: what `convert --to_torch` put beside weights of brainjax, so that nothing is lost on the way back.
    config_files: that lie beside the weights and were read, the index of shards among them.
  """

  files: list[Path]
  config_files: list[Path]
  form: str
  state: dict[str, LazyTensor]
  config: dict[str, Any]
  epoch: int | None
  notes: list[str]
  carried: dict[str, Any]

  @property
  def path(self) -> Path:
    """The file, or the first of several."""
    return self.files[0]


def open_source(
  path: str | Path, ema: bool = False, fits: Callable[[Mapping[str, LazyTensor]], bool] = lambda state: True
) -> Source:
  """Reads a file of weights, or a Hugging Face folder of them, and finds the state dict.

  Args:
    path: a file, the index of a sharded file, or a folder.
    ema: take the averaged weights (`model_ema.*`) instead of the last ones.
    fits: whether the names are those of a known model. The prefix `model.`, which belongs to the names of some models, is
      removed only if the names fit no model with it.

  Raises:
    UserError: as `read_file`; or the file has no state dict, a shard is missing, or there are no averages though they were
      asked for.
  """
  files, notes = find_weights_files(Path(path))
  contents = [read_file(file) for file in files]
  first = contents[0]
  state: dict[str, LazyTensor] = {}
  for content in contents:
    notes.extend(note for note in content.notes if note not in notes)
    tensors, key = _state_dict(content, notes)
    if doubled := state.keys() & tensors.keys():
      raise UserError(f'{content.path} holds tensors that another shard holds too: {list_names(doubled)}')
    state |= tensors
  index = _in_folder(Path(path)) if Path(path).is_dir() else Path(path)
  if is_index := index.name.endswith('.json'):
    _check_index(index, state)
  beside = first.value if key else {}
  if ignored := [name for name in _OPTIMIZER_KEYS if name in beside]:
    notes.append(f'ignored: {", ".join(ignored)} (states of the training, not weights)')
  config = _config_inside(beside)
  config_files = [file for name in _CONFIG_FILES if (file := first.path.parent / name).is_file()]
  for file in config_files:
    config |= _config_beside(file)
    notes.append(f'read {file.relative_to(first.path.parent)} beside the weights')
  config_files += [index] if is_index else []
  state = _without_prefixes(state, fits, first.path, notes)
  averages = [name for name in state if name.startswith(_AVERAGE)]
  if ema:
    state = _averaged(state, first.path)
    notes.append(f'used the averaged weights ({_AVERAGE}*)')
  elif averages:
    notes.append(f'ignored: {len(averages)} averaged weights ({_AVERAGE}*); --ema uses them instead of the last ones')
  state = {name: tensor for name, tensor in state.items() if not name.startswith(_AVERAGE)}
  epoch = beside.get('epoch')
  return Source(
    files,
    config_files,
    first.form,
    state,
    config,
    epoch if type(epoch) is int else None,
    notes,
    _carried(beside, first.path),
  )


def find_weights_files(path: Path) -> tuple[list[Path], list[str]]:
  """The files of weights that a path names, and sentences for the user.

  Args:
    path: a file, one of several shards, the index of shards (`*.index.json`), or a Hugging Face folder.

  Raises:
    UserError: a shard is missing, or the folder holds several variants.
  """
  if path.is_dir():
    path = _in_folder(path)
  if path.is_dir():
    return [path], []  # `read_file` says what the folder holds
  notes = []
  if match := re.fullmatch(rf'(?:{"|".join(_STEMS)})\.(\w+)\.(?:safetensors|bin)', path.name):
    notes.append(f'read the variant {match[1]} of the weights ({path.name})')
  if path.name.endswith('.json') and path.is_file():
    names = sorted(set(_weight_map(path).values()))
  elif match := _SHARD.fullmatch(path.name):
    names = [f'{match[1]}{number:05d}-of-{match[3]}{match[4]}' for number in range(1, int(match[3]) + 1)]
  else:
    return [path], notes
  if missing := [name for name in names if not path.with_name(name).is_file()]:
    raise UserError(
      f'{path}: {len(missing)} of {len(names)} shards are missing: {list_names(missing)}; download them too'
    )
  return [path.with_name(name) for name in names], [*notes, f'read {len(names)} shards']


def _in_folder(folder: Path) -> Path:
  """The file of weights, or the index or first shard of sharded ones, in a Hugging Face folder; else the folder itself."""
  for suffix in ('safetensors', 'bin'):
    for stem in _STEMS:
      variants = [
        file for file in folder.glob(f'{stem}.*.{suffix}') if not _SHARD.fullmatch(file.name)
      ]  # fp16, non_ema
      for files in (
        folder.glob(f'{stem}.{suffix}'),
        folder.glob(f'{stem}.{suffix}.index.json'),
        folder.glob(f'{stem}-00001-of-*.{suffix}'),
        variants,
        folder.glob(f'{stem}.{suffix}.index.*.json'),
      ):
        files = sorted(files)
        if len(files) > 1:
          raise UserError(f'{folder} holds several variants: {list_names(file.name for file in files)}; name one file')
        if files:
          return files[0]
  return folder


def _weight_map(index: Path) -> dict[str, str]:
  """Tensor name -> name of the shard that holds it."""
  with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
    shards = json.loads(index.read_text())['weight_map']
    if shards and all(isinstance(name, str) for name in shards.values()):
      if outside := {name for name in shards.values() if Path(name).name != name}:
        raise UserError(
          f'{index} names shards outside its folder: {list_names(outside)}; put the shards beside the index and name them '
          'without a path'
        )
      return shards
  raise UserError(
    f'{index} is no index of shards: expected a JSON object weight_map of tensor name -> file name; name it, the '
    'file of weights or their folder'
  )


def _check_index(index: Path, state: Mapping[str, Any]) -> None:
  if missing := [name for name in _weight_map(index) if name not in state and not name.endswith('_extra_state')]:
    raise UserError(f'{index} names tensors that no shard holds: {list_names(missing)}; download the shards again')


def _state_dict(content: Content, notes: list[str]) -> tuple[dict[str, LazyTensor], str]:
  """The weights and the key that they were under ('' for a bare state dict). Notes other entries among them."""
  value = content.value
  candidates = [(key, value[key]) for key in WEIGHT_KEYS if key in value] if isinstance(value, dict) else []
  for key, candidate in [*candidates, ('', value)]:
    if isinstance(candidate, StandIn):
      place = f'{content.path}: key {key}' if key else str(content.path)
      raise UserError(
        f'{place} holds a whole pickled object ({candidate.kind}), not a state dict; save its state_dict() instead'
      )
    if isinstance(candidate, dict) and _is_state_dict(candidate):
      return _only_tensors(candidate, content.path, notes), key
  if isinstance(value, LazyTensor):
    raise UserError(
      f'{content.path} holds one tensor of shape {value.shape} without a name; save the state_dict() of the whole model'
    )
  what = f'the keys {list_names(map(str, value), 8)}' if isinstance(value, dict) else f'one {type(value).__name__}'
  raise UserError(
    f'{content.path} holds no state dict: it has {what}; expected weights there or under {", ".join(WEIGHT_KEYS)}'
  )


def _is_state_dict(mapping: Mapping[Any, Any]) -> bool:
  """Whether a dictionary holds tensors by name, and no other dictionary of tensors."""
  nested = (x for x in mapping.values() if isinstance(x, dict))
  return (
    all(isinstance(name, str) for name in mapping)
    and any(isinstance(x, LazyTensor) for x in mapping.values())
    and not any(isinstance(x, LazyTensor) for inner in nested for x in inner.values())
  )


def _only_tensors(mapping: Mapping[str, Any], path: Path, notes: list[str]) -> dict[str, LazyTensor]:
  if unread := [name for name, x in mapping.items() if isinstance(x, StandIn) and x.kind.module.startswith('torch.')]:
    kinds = list_names({str(mapping[name].kind) for name in unread})
    raise UserError(
      f'{path}: {list_names(unread)} are tensors of an unsupported type ({kinds}); save dense, unquantised tensors'
    )
  tensors = {name: x for name, x in mapping.items() if isinstance(x, LazyTensor) and not name.endswith('_extra_state')}
  if others := sorted(mapping.keys() - tensors.keys()):
    notes.append(f'ignored: {list_names(others)} (among the weights, but no tensors of the model)')
  return tensors


def _config_inside(beside: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of the config objects that a checkpoint has beside its weights, and fields about heads that lie elsewhere."""
  known = (*WEIGHT_KEYS, *_CONFIG_KEYS, *_OPTIMIZER_KEYS, CARRIED)
  config = heads_fields({name: to_plain(value) for name, value in beside.items() if name not in known})
  for name in _CONFIG_KEYS:
    if isinstance(fields := to_plain(beside.get(name)), dict):
      config |= compvis_fields(fields) or flatten_config(fields)
  return config


def _carried(beside: Mapping[str, Any], path: Path) -> dict[str, Any]:
  text = beside.get(CARRIED)
  try:
    return json.loads(text) if isinstance(text, str) else {}
  except ValueError:
    raise UserError(f'{path}: the entry {CARRIED} is not JSON; expected what convert --to_torch writes') from None


def _config_beside(file: Path) -> dict[str, Any]:
  """The fields of a configuration file: Hugging Face, CompVis, OmegaConf (Hydra), Lightning or wandb."""
  kinds = (ValueError, yaml.YAMLError, OSError)
  with as_user_error(f'{file} (beside the weights) cannot be read', 'repair or remove it', kinds):
    config = to_plain((json.loads if file.suffix == '.json' else yaml.safe_load)(file.read_text()))
  if not isinstance(config, dict):
    return {}
  config = {name: x['value'] if isinstance(x, dict) and 'value' in x else x for name, x in config.items()}  # wandb
  model = config.get('model')
  parameters = model.get('params') if isinstance(model, dict) else None
  if isinstance(parameters, dict) and (fields := compvis_fields(parameters)):
    return fields
  # Whole parts too: CLIP has a config for each of its towers.
  return flatten_config(config) | {name: part for name, part in config.items() if isinstance(part, dict)}


def _without_prefixes(
  state: dict[str, LazyTensor], fits: Callable[[Mapping[str, LazyTensor]], bool], path: Path, notes: list[str]
) -> dict[str, LazyTensor]:
  """Without what wrappers put into names: `_orig_mod.` and the like anywhere, `module.` and `model.` at the start."""

  def renamed(state: Mapping[str, LazyTensor], prefix: str, new_name: Callable[[str], str]) -> dict[str, LazyTensor]:
    if doubled := [name for name in state if new_name(name) != name and new_name(name) in state]:
      raise UserError(f'{path} holds tensors twice, with and without the prefix {prefix}: {list_names(doubled)}')
    removed[prefix] = None
    return {new_name(name): tensor for name, tensor in state.items()}

  removed: dict[str, None] = {}
  for wrapper in _WRAPPERS:
    if any(wrapper in name for name in state):
      state = renamed(state, wrapper, lambda name, wrapper=wrapper: name.replace(wrapper, ''))
  with_model = None
  while True:
    if any(name.startswith('module.') for name in state):
      state = renamed(state, 'module.', lambda name: name.removeprefix('module.'))
    elif not fits(state) and any(name.startswith('model.') for name in state):
      with_model = with_model or (state, dict(removed))
      state = renamed(state, 'model.', lambda name: name.removeprefix('model.'))
    else:
      break
  if with_model and not fits(state):  # error messages should show the names in the file
    state, removed = with_model
  notes.extend(f'removed the prefix {prefix} ({_PREFIX_OF[prefix]})' for prefix in removed)
  return state


_PREFIX_OF = {
  '_orig_mod.': 'torch.compile',
  '_fsdp_wrapped_module.': 'FullyShardedDataParallel',
  '_checkpoint_wrapped_module.': 'activation checkpointing',
  'module.': 'DistributedDataParallel',
  'model.': 'a module that holds the model',
}


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
    raise UserError(f'{path}: averaged weights without exactly one weight of that name: {list_names(lost)}')
  if without := [names[0] for average, names in owners.items() if average not in state]:
    raise UserError(f'{path}: weights without an average: {list_names(without)}')
  return state | {owners[name][0]: state[name] for name in averages}
