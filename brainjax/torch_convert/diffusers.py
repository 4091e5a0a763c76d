"""Folders of diffusers: reads a UNet and an image autoencoder from one, and writes them to one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.errors import UserError, as_user_error
from brainjax.torch_convert import engine, kinds, schedule_buffers
from brainjax.torch_convert.convert_file import Converted, move
from brainjax.torch_convert.source import open_source
from brainjax.torch_convert.tables import diffusers as names
from brainjax.torch_convert.writer import write_state
from brainjax.trees import add_prefix, subtree

_UNET_CLASS = 'UNet2DConditionModel'
_AUTOENCODERS = {'VQModel': 'label2img', 'AutoencoderKL': 'sd1'}  # class -> the kind that has this first stage
_SUBFOLDERS = ('unet', 'vqvae', 'vae', 'first_stage')
_SCHEDULER = 'scheduler/scheduler_config.json'
WEIGHTS = 'diffusion_pytorch_model.safetensors'
# Attention names of files written before diffusers 0.16.
_OLD_NAMES = {'.query.': '.to_q.', '.key.': '.to_k.', '.value.': '.to_v.', '.proj_attn.': '.to_out.0.'}


def _read_json(file: Path) -> dict[str, Any]:
  with as_user_error(f'{file} is not JSON', 'download it again', (ValueError,)):
    content = json.loads(file.read_text())
  if not isinstance(content, dict):
    raise UserError(f'{file} holds {type(content).__name__}, expected a JSON object; download it again')
  return content


def _model_configs(path: Path) -> dict[Path, dict[str, Any]]:
  """Folder -> config of each model of a supported class, in a folder and its subfolders."""
  folders = (path, *(path / name for name in _SUBFOLDERS))
  configs = {folder: _read_json(folder / 'config.json') for folder in folders if (folder / 'config.json').is_file()}
  return {f: config for f, config in configs.items() if config.get('_class_name') in (_UNET_CLASS, *_AUTOENCODERS)}


def is_diffusers(path: Path) -> bool:
  """Whether this is a folder of a diffusers model, or of several.

  Raises:
    UserError: a config.json there is damaged.
  """
  return path.is_dir() and bool(_model_configs(path))


def read_folder(path: Path, plan_only: bool = False) -> Converted:
  """Converts the models of a diffusers folder (or of its subfolders unet, vqvae, vae).

  Parameters are at `unet/...` and `first_stage/...`.

  Raises:
    UserError: no such model there, or one that is not of our architectures.
  """
  configs = _model_configs(path)
  if not configs:
    raise UserError(
      f'{path} is not a folder of diffusers: no config.json of {", ".join((_UNET_CLASS, *_AUTOENCODERS))} there'
    )
  params, kwargs, models, notes, sources = {}, {}, {}, [], []
  for folder, config in configs.items():
    source = open_source(folder)
    sources.append(source)
    notes.extend(note for note in source.notes if not note.startswith('read config.json'))
    part = 'unet' if config['_class_name'] == _UNET_CLASS else 'first_stage'
    if part in kwargs:
      raise UserError(f'{path} holds several models for {part}; name the folder of one of them')
    faults = (KeyError, TypeError, ValueError, IndexError)
    with as_user_error(f'{folder / "config.json"} lacks a field or has an unusable one', 'download it again', faults):
      kwargs[part] = (unet_kwargs if part == 'unet' else autoencoder_kwargs)(config, str(folder))
    kind = kinds.KINDS[_AUTOENCODERS.get(config['_class_name'], 'label2img')]
    spec = kind._replace(parts=tuple(each._replace(path='') for each in kind.parts if each.path == f'{part}/'))
    models[part] = spec.parts[0].model.__name__
    expected = kinds.compute_shapes(spec, kwargs[part], str(folder))
    table = (names.unet_table if part == 'unet' else names.autoencoder_table)(kwargs[part])
    state = {_new_name(name): tensor for name, tensor in source.state.items()}
    params |= add_prefix(part, move(tuple(table), state, expected, str(folder), notes, plan_only))
  if 'unet' in kwargs:
    kwargs['schedule'] = _schedule(path, kwargs, notes)
    if (path / _SCHEDULER).is_file():
      sources[0].config_files.append(path / _SCHEDULER)
  tensors = [tensor for source in sources for tensor in source.state.values()]
  num_values = sum(tensor.size for tensor in tensors)
  return Converted(params, 'diffusers', kwargs, models, sources, len(tensors), num_values, notes)


def _schedule(path: Path, kwargs: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
  """The noise schedule in the folder's scheduler, else that of the release which has such a first stage."""
  file = path / _SCHEDULER
  if file.is_file():
    with as_user_error(f'{file} lacks a field', 'download it again', (KeyError,)):
      return schedule_constants(_read_json(file), str(file))
  is_kl = 'first_stage' in kwargs and 'n_embed' not in kwargs['first_stage']
  schedule = dict(schedule_buffers.STABLE_DIFFUSION if is_kl else schedule_buffers.PUBLISHED)
  notes.append(
    f'no {_SCHEDULER} is in the folder; assumed the published noise schedule, {schedule_buffers.describe(schedule)}'
  )
  return schedule


def _new_name(name: str) -> str:
  if 'attentions' in name:
    for old, new in _OLD_NAMES.items():
      name = name.replace(old, new)
  return name


def write_folder(folder: Path, params: Mapping[str, np.ndarray], kwargs: Mapping[str, Any]) -> list[str]:
  """Writes `unet/` and `vqvae/` (or `vae/`) below a folder, each with config.json and safetensors.

  Args:
    folder: where to; the caller makes it appear only when complete.
    params: path -> array with the prefixes unet/ and first_stage/, or those of one autoencoder without a prefix.
    kwargs: of each model by its prefix, or of the autoencoder.

  Returns:
    sentences for the user.

  Raises:
    UserError: the weights hold neither a UNet nor an image autoencoder, or diffusers has no class for them.
  """
  if 'ch_mult' in kwargs:
    params = add_prefix('first_stage', params)
    kwargs = {'first_stage': kwargs}
  if not kwargs.keys() & {'unet', 'first_stage'}:
    raise UserError(
      'these weights hold neither a UNet nor an image autoencoder, so there is nothing to write for diffusers'
    )
  notes = []
  if unet_args := kwargs.get('unet'):
    unet = merge_time_condition(subtree(params, 'unet'))
    _write(folder / 'unet', unet, names.unet_table(unet_args), unet_config(unet_args))
    schedule = schedule_buffers.PUBLISHED | kwargs.get('schedule', {})
    _write_config(folder / 'scheduler', 'scheduler_config.json', scheduler_config(schedule))
    if unet_args['time_cond']:
      notes.append(
        'the time conditioning became a class embedding: call the UNet with class_labels=context.reshape(B, -1)'
      )
  if autoencoder_args := kwargs.get('first_stage'):
    target = folder / ('vqvae' if 'n_embed' in autoencoder_args else 'vae')
    table, config = names.autoencoder_table(autoencoder_args), autoencoder_config(autoencoder_args)
    _write(target, subtree(params, 'first_stage'), table, config)
  if 'conditioner' in kwargs:
    notes.append('the fMRI conditioner has no class in diffusers and was left out')
  return notes


def _write(folder: Path, params: Mapping[str, np.ndarray], table: list, config: Mapping[str, Any]) -> None:
  _write_config(folder, 'config.json', config)
  write_state(folder / WEIGHTS, engine.to_torch(table, params))


def _write_config(folder: Path, name: str, config: Mapping[str, Any]) -> None:
  folder.mkdir(parents=True)
  (folder / name).write_text(json.dumps(config, indent=2) + '\n')


def unet_config(kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """Arguments of `UNet` -> config of `UNet2DConditionModel`."""
  mults = kwargs['channel_mult']
  widths = [mult * kwargs['model_channels'] for mult in mults]
  attends = [2**level in kwargs['attention_resolutions'] for level in range(len(mults))]
  heads = kwargs.get('num_heads', 1)
  if channels := kwargs.get('num_head_channels'):
    heads = [width // channels for width in widths]
  config = {
    '_class_name': 'UNet2DConditionModel',
    'sample_size': 64,  # diffusers needs one; the network takes any
    'in_channels': kwargs['in_channels'],
    'out_channels': kwargs['out_channels'],
    'block_out_channels': widths,
    'layers_per_block': kwargs['num_res_blocks'],
    'down_block_types': ['CrossAttnDownBlock2D' if attend else 'DownBlock2D' for attend in attends],
    'up_block_types': ['CrossAttnUpBlock2D' if attend else 'UpBlock2D' for attend in attends[::-1]],
    'cross_attention_dim': kwargs['context_dim'],
    'attention_head_dim': heads,  # in diffusers this field is the number of heads
    'transformer_layers_per_block': kwargs.get('transformer_depth', 1),
    'norm_num_groups': kwargs.get('num_groups', 32),
  }
  if kwargs['time_cond']:
    tokens = 1 if kwargs['global_pool'] else kwargs['context_tokens']
    config |= {
      'class_embed_type': 'simple_projection',
      'projection_class_embeddings_input_dim': tokens * kwargs['context_dim'],
    }
  return config


def merge_time_condition(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Folds the time conditioning of a UNet (three linear maps of the context T D) into one map of the flattened context.

  diffusers has no such layer, but a class embedding that is one linear map; callers pass
  `class_labels=context.reshape(B, T * D)`.
  """
  prefix = 'time_embed_condition/'
  rest = {path: array for path, array in params.items() if not path.startswith(prefix)}
  parts = {
    path.removeprefix(prefix): array.astype(np.float64) for path, array in params.items() if path.startswith(prefix)
  }
  if 'pooled/kernel' in parts:
    kernel, bias = parts['pooled/kernel'], parts['pooled/bias']
  elif parts:
    tokens = parts['tokens_0/kernel'] @ parts['tokens_1/kernel']  # T 1
    shift = parts['tokens_0/bias'] @ parts['tokens_1/kernel'] + parts['tokens_1/bias']  # 1
    dense = parts['dense/kernel']  # D E
    kernel = np.einsum('t,de->tde', tokens[:, 0], dense).reshape(-1, dense.shape[1])  # (T D) E
    bias = parts['dense/bias'] + shift * dense.sum(axis=0)
  else:
    return rest
  return rest | {'class_embedding/kernel': kernel.astype(np.float32), 'class_embedding/bias': bias.astype(np.float32)}


def scheduler_config(schedule: Mapping[str, float]) -> dict[str, Any]:
  """Noise schedule (num_steps, start, end) -> config of diffusers' `PNDMScheduler`, which other schedulers load as well."""
  return {
    '_class_name': 'PNDMScheduler',
    'beta_schedule': 'scaled_linear',
    'beta_start': schedule['start'],
    'beta_end': schedule['end'],
    'num_train_timesteps': schedule['num_steps'],
    'prediction_type': 'epsilon',
    'set_alpha_to_one': False,
    'skip_prk_steps': True,
    'steps_offset': 1,
  }


def schedule_constants(config: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Config of a scheduler -> constants of our noise schedule.

  Raises:
    UserError: the schedule is unknown, or not one of ours.
  """
  wanted = {'beta_schedule': 'scaled_linear', 'prediction_type': 'epsilon', 'trained_betas': None}
  if config.get('beta_schedule') is None:
    raise UserError(f'{where} has no beta_schedule, so the noise schedule is unknown')
  _refuse(config, wanted, where)
  return {'num_steps': config['num_train_timesteps'], 'start': config['beta_start'], 'end': config['beta_end']}


def autoencoder_config(kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """Arguments of `VQModel` or `KLModel` -> config of diffusers' `VQModel` or `AutoencoderKL`.

  Raises:
    UserError: diffusers has no such autoencoder.
  """
  attends = [kwargs['resolution'] // 2**level in kwargs['attn_resolutions'] for level in range(len(kwargs['ch_mult']))]
  config = {
    '_class_name': 'VQModel' if 'n_embed' in kwargs else 'AutoencoderKL',
    'in_channels': kwargs['in_channels'],
    'out_channels': kwargs['in_channels'],
    'block_out_channels': [mult * kwargs['ch'] for mult in kwargs['ch_mult']],
    'layers_per_block': kwargs['num_res_blocks'],
    'down_block_types': ['AttnDownEncoderBlock2D' if attend else 'DownEncoderBlock2D' for attend in attends],
    'up_block_types': ['AttnUpDecoderBlock2D' if attend else 'UpDecoderBlock2D' for attend in attends[::-1]],
    'latent_channels': kwargs['z_channels'],
    'sample_size': kwargs['resolution'],
    'scaling_factor': 1.0 if 'n_embed' in kwargs else kwargs.get('latent_scale', 0.18215),
    'norm_num_groups': kwargs.get('num_groups', 32),
  }
  if 'n_embed' in kwargs:
    return config | {'num_vq_embeddings': kwargs['n_embed'], 'vq_embed_dim': kwargs['embed_dim']}
  if kwargs['embed_dim'] != kwargs['z_channels']:
    raise UserError("diffusers' AutoencoderKL needs embed_dim = z_channels; in these weights they differ")
  return config


def _multiples(widths: list[int], where: str) -> list[int]:
  if not widths or any(width % widths[0] for width in widths):
    raise UserError(
      f'{where}: block_out_channels {widths} are not multiples of the first, which the models here require'
    )
  return [width // widths[0] for width in widths]


def _refuse(config: Mapping[str, Any], neutral: Mapping[str, Any], where: str) -> None:
  if odd := [
    f'{name}={config[name]!r}' for name, value in neutral.items() if config.get(name, value) not in (value, None)
  ]:
    raise UserError(f'{where} asks for {", ".join(odd)}, which no model here has')


def unet_kwargs(config: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Config of `UNet2DConditionModel` -> arguments of `UNet`.

  Raises:
    UserError: no UNet of this package can have this config.
  """
  neutral = {
    'class_embed_type': None, 'addition_embed_type': None, 'encoder_hid_dim_type': None, 'encoder_hid_dim': None,
    'use_linear_projection': False, 'resnet_time_scale_shift': 'default', 'act_fn': 'silu', 'flip_sin_to_cos': True,
    'freq_shift': 0, 'only_cross_attention': False, 'dual_cross_attention': False,
    'center_input_sample': False, 'time_embedding_type': 'positional', 'num_attention_heads': None,
    'mid_block_type': 'UNetMidBlock2DCrossAttn', 'downsample_padding': 1, 'conv_in_kernel': 3, 'conv_out_kernel': 3,
  }  # fmt: skip
  _refuse(config, neutral, where)
  widths, types = config['block_out_channels'], config['down_block_types']
  heads = config.get('attention_head_dim', 8)
  kwargs = {
    'in_channels': config['in_channels'],
    'out_channels': config['out_channels'],
    'model_channels': widths[0],
    'channel_mult': _multiples(widths, where),
    'num_res_blocks': config['layers_per_block'],
    'attention_resolutions': [2**level for level, name in enumerate(types) if name == 'CrossAttnDownBlock2D'][::-1],
    'num_heads': heads,
    'context_dim': config['cross_attention_dim'],
    'transformer_depth': config.get('transformer_layers_per_block', 1),
    'num_groups': config.get('norm_num_groups', 32),
    'time_cond': False,
    'global_pool': False,
  }
  if isinstance(heads, list):
    sizes = {width // number for width, number in zip(widths, heads, strict=True)}
    if len(sizes) != 1:
      raise UserError(f'{where}: attention_head_dim {heads} gives heads of unequal width, which no model here has')
    kwargs |= {'num_heads': 1, 'num_head_channels': sizes.pop()}
  return kwargs


def autoencoder_kwargs(config: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Config of `VQModel` or `AutoencoderKL` -> arguments of ours.

  Raises:
    UserError: no autoencoder of this package can have this config.
  """
  neutral = {
    'act_fn': 'silu', 'norm_type': 'group', 'mid_block_add_attention': True, 'lookup_from_codebook': False,
    'shift_factor': None,
  }  # fmt: skip
  _refuse(config, neutral, where)
  widths, types = config['block_out_channels'], config['down_block_types']
  resolution = 256
  kwargs = {
    'ch': widths[0],
    'ch_mult': _multiples(widths, where),
    'num_res_blocks': config['layers_per_block'],
    'in_channels': config['in_channels'],
    'z_channels': config['latent_channels'],
    'embed_dim': config.get('vq_embed_dim') or config['latent_channels'],
    'resolution': resolution,
    'attn_resolutions': [resolution // 2**level for level, name in enumerate(types) if name.startswith('Attn')],
    'num_groups': config.get('norm_num_groups', 32),
  }
  if config['_class_name'] == 'VQModel':
    kwargs['n_embed'] = config['num_vq_embeddings']
  else:
    kwargs['latent_scale'] = float(config.get('scaling_factor', 0.18215))
  return kwargs
