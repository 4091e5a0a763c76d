"""Folders of diffusers: reads a UNet and an autoencoder from one, and writes them to one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.errors import UserError
from brainjax.torch_convert import diffusers_config, engine, kinds, schedule_buffers
from brainjax.torch_convert.convert_file import Converted, move
from brainjax.torch_convert.source import open_source
from brainjax.torch_convert.tables import diffusers
from brainjax.torch_convert.writer import write_state

_UNET_CLASS = 'UNet2DConditionModel'
_AUTOENCODERS = {'VQModel': 'label2img', 'AutoencoderKL': 'sd1'}  # class -> the kind that has this first stage
_SUBFOLDERS = ('unet', 'vqvae', 'vae', 'first_stage')
WEIGHTS = 'diffusion_pytorch_model.safetensors'
# Attention names of files written before diffusers 0.16.
_OLD_NAMES = {'.query.': '.to_q.', '.key.': '.to_k.', '.value.': '.to_v.', '.proj_attn.': '.to_out.0.'}


def _config(folder: Path) -> dict[str, Any] | None:
  if not (folder / 'config.json').is_file():
    return None
  try:
    config = json.loads((folder / 'config.json').read_text())
  except ValueError as error:
    raise UserError(f'{folder / "config.json"} is damaged ({error})') from None
  known = isinstance(config, dict) and config.get('_class_name') in (_UNET_CLASS, *_AUTOENCODERS)
  return config if known else None


def is_diffusers(path: Path) -> bool:
  """Whether this is a folder of a diffusers model, or of several."""
  return path.is_dir() and any(_config(folder) for folder in (path, *(path / name for name in _SUBFOLDERS)))


def read_folder(path: Path, plan_only: bool = False) -> Converted:
  """Converts the models of a diffusers folder (or of its subfolders unet, vqvae, vae).

  Parameters are at `unet/...` and `first_stage/...`.

  Raises:
    UserError: no such model there, or one that is not of our architectures.
  """
  found = {folder: config for folder in (path, *(path / name for name in _SUBFOLDERS)) if (config := _config(folder))}
  if not found:
    raise UserError(
      f'{path} is not a folder of diffusers: no config.json of {", ".join((_UNET_CLASS, *_AUTOENCODERS))} there'
    )
  params, settings, models, notes, tensors, values, sources = {}, {}, {}, [], 0, 0, []
  for folder, config in found.items():
    where = str(folder)
    source = open_source(folder)
    sources.append(source)
    state = {_renamed(name): tensor for name, tensor in source.state.items()}
    is_unet = config['_class_name'] == _UNET_CLASS
    part = 'unet' if is_unet else 'first_stage'
    if part in settings:
      raise UserError(f'{path} holds several models for {part}; name the folder of one of them')
    try:
      own = (diffusers_config.unet_settings if is_unet else diffusers_config.autoencoder_settings)(config, where)
    except (KeyError, TypeError, ValueError, IndexError) as error:
      raise UserError(f'{folder / "config.json"} lacks or garbles a field ({error!r})') from None
    kind = kinds.KINDS[_AUTOENCODERS.get(config['_class_name'], 'label2img')]
    spec = kind._replace(parts=tuple(part_._replace(path='') for part_ in kind.parts if part_.path == part + '/'))
    expected = kinds.expected_shapes(spec, own, where)
    table = (diffusers.unet_table if is_unet else diffusers.autoencoder_table)(own)
    moved = move(tuple(table), state, expected, where, notes, plan_only)
    params |= {f'{part}/{name}': array for name, array in moved.items()}
    settings[part], models[part] = own, spec.parts[0].model.__name__
    notes.extend(note for note in source.notes if not note.startswith('read config.json'))
    tensors += len(state)
    values += sum(tensor.size for tensor in state.values())
  if 'unet' in settings:
    settings |= _schedule(path, settings, notes)
  return Converted(params, 'diffusers', settings, models, sources, tensors, values, notes)


def _schedule(path: Path, settings: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
  """The noise schedule that the folder's scheduler says, or that of the release which has such a first stage."""
  beside = path / 'scheduler' / 'scheduler_config.json'
  if beside.is_file():
    try:
      return {'schedule': diffusers_config.schedule_settings(json.loads(beside.read_text()), str(beside))}
    except (ValueError, KeyError, AttributeError) as error:
      raise UserError(f'{beside} is damaged ({error!r})') from None
  is_kl = 'first_stage' in settings and 'n_embed' not in settings['first_stage']
  schedule = dict(schedule_buffers.STABLE_DIFFUSION if is_kl else schedule_buffers.PUBLISHED)
  said = ', '.join(f'{name}={value}' for name, value in schedule.items())
  notes.append(f'no scheduler/scheduler_config.json is in the folder; taken is the published noise schedule, {said}')
  return {'schedule': schedule}


def _renamed(name: str) -> str:
  if 'attentions' in name:
    for old, new in _OLD_NAMES.items():
      name = name.replace(old, new)
  return name


def write_folder(folder: Path, params: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> list[str]:
  """Writes `unet/` and `vqvae/` (or `vae/`) below a folder, each with config.json and safetensors.

  Args:
    folder: where to; the caller sees to it that it appears only when complete.
    params: path -> array with the prefixes unet/ and first_stage/, or those of one autoencoder without a prefix.
    settings: of each model by its prefix, or of the autoencoder.

  Returns:
    sentences for the user.
  """
  if 'ch_mult' in settings:
    params = {f'first_stage/{path}': array for path, array in params.items()}
    settings = {'first_stage': settings}
  notes, written = [], False
  if own := settings.get('unet'):
    unet = diffusers_config.merge_time_condition(_part(params, 'unet/'))
    _write(folder / 'unet', unet, diffusers.unet_table(own), diffusers_config.unet_config(own))
    written = True
    schedule = schedule_buffers.PUBLISHED | settings.get('schedule', {})
    _write_config(folder / 'scheduler', 'scheduler_config.json', diffusers_config.scheduler_config(schedule))
    if own['time_cond']:
      notes.append(
        'the time conditioning became a class embedding: call the UNet with class_labels=context.reshape(B, -1)'
      )
  if own := settings.get('first_stage'):
    is_vq = 'n_embed' in own
    config = diffusers_config.autoencoder_config(own)
    _write(
      folder / ('vqvae' if is_vq else 'vae'), _part(params, 'first_stage/'), diffusers.autoencoder_table(own), config
    )
    written = True
  if not written:
    raise UserError(
      'these weights hold neither a UNet nor an image autoencoder, so there is nothing to write for diffusers'
    )
  if 'conditioner' in settings:
    notes.append('the fMRI conditioner has no class in diffusers and was left out')
  return notes


def _part(params: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  return {path.removeprefix(prefix): array for path, array in params.items() if path.startswith(prefix)}


def _write(folder: Path, params: Mapping[str, np.ndarray], table: list, config: Mapping[str, Any]) -> None:
  _write_config(folder, 'config.json', config)
  write_state(folder / WEIGHTS, engine.to_torch(table, params))


def _write_config(folder: Path, name: str, config: Mapping[str, Any]) -> None:
  folder.mkdir(parents=True)
  (folder / name).write_text(json.dumps(config, indent=2) + '\n')
