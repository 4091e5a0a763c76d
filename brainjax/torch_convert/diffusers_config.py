"""Translates model settings to diffusers' `config.json` and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from brainjax.errors import UserError

Settings = Mapping[str, Any]


def unet_config(settings: Settings, sample_size: int = 64) -> dict[str, Any]:
  """Settings of `UNet` -> config of `UNet2DConditionModel`."""
  mults = settings['channel_mult']
  widths = [mult * settings['model_channels'] for mult in mults]
  attends = [2**level in settings['attention_resolutions'] for level in range(len(mults))]
  heads = settings.get('num_heads', 1)
  if channels := settings.get('num_head_channels'):
    heads = [width // channels for width in widths]
  config = {
    '_class_name': 'UNet2DConditionModel',
    'sample_size': sample_size,
    'in_channels': settings['in_channels'],
    'out_channels': settings['out_channels'],
    'block_out_channels': widths,
    'layers_per_block': settings['num_res_blocks'],
    'down_block_types': ['CrossAttnDownBlock2D' if attend else 'DownBlock2D' for attend in attends],
    'up_block_types': ['CrossAttnUpBlock2D' if attend else 'UpBlock2D' for attend in attends[::-1]],
    'cross_attention_dim': settings['context_dim'],
    'attention_head_dim': heads,  # in diffusers this field is the number of heads
    'transformer_layers_per_block': settings.get('transformer_depth', 1),
    'norm_num_groups': settings.get('num_groups', 32),
  }
  if settings['time_cond']:
    tokens = 1 if settings['global_pool'] else settings['context_tokens']
    config |= {
      'class_embed_type': 'simple_projection',
      'projection_class_embeddings_input_dim': tokens * settings['context_dim'],
    }
  return config


def merge_time_condition(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Folds the time conditioning of a UNet (three linear maps of the context T D) into one map of the flattened context.

  diffusers has no such layer, but a class embedding that is one linear map; callers pass
  `class_labels=context.reshape(B, T * D)`.
  """
  prefix = 'time_embed_condition/'
  rest = {path: array for path, array in params.items() if not path.startswith(prefix)}
  own = {
    path.removeprefix(prefix): array.astype(np.float64) for path, array in params.items() if path.startswith(prefix)
  }
  if 'pooled/kernel' in own:
    kernel, bias = own['pooled/kernel'], own['pooled/bias']
  elif own:
    tokens = own['tokens_0/kernel'] @ own['tokens_1/kernel']  # T 1
    shift = own['tokens_0/bias'] @ own['tokens_1/kernel'] + own['tokens_1/bias']  # 1
    dense = own['dense/kernel']  # D E
    kernel = np.einsum('t,de->tde', tokens[:, 0], dense).reshape(-1, dense.shape[1])  # (T D) E
    bias = own['dense/bias'] + shift * dense.sum(axis=0)
  else:
    return rest
  return rest | {'class_embedding/kernel': kernel.astype(np.float32), 'class_embedding/bias': bias.astype(np.float32)}


def scheduler_config(schedule: Settings) -> dict[str, Any]:
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


def schedule_settings(config: Settings, where: str) -> dict[str, Any]:
  """The way back, from the config of any scheduler."""
  wanted = {'beta_schedule': 'scaled_linear', 'prediction_type': 'epsilon', 'trained_betas': None}
  if config.get('beta_schedule') is None:
    raise UserError(f'{where} says no beta_schedule, so that the noise schedule is not known')
  _refuse(config, wanted, where)
  return {'num_steps': config['num_train_timesteps'], 'start': config['beta_start'], 'end': config['beta_end']}


def autoencoder_config(settings: Settings) -> dict[str, Any]:
  """Settings of `VQModel` or `KLModel` -> config of diffusers' `VQModel` or `AutoencoderKL`."""
  attends = [
    settings['resolution'] // 2**level in settings['attn_resolutions'] for level in range(len(settings['ch_mult']))
  ]
  config = {
    '_class_name': 'VQModel' if 'n_embed' in settings else 'AutoencoderKL',
    'in_channels': settings['in_channels'],
    'out_channels': settings['in_channels'],
    'block_out_channels': [mult * settings['ch'] for mult in settings['ch_mult']],
    'layers_per_block': settings['num_res_blocks'],
    'down_block_types': ['AttnDownEncoderBlock2D' if attend else 'DownEncoderBlock2D' for attend in attends],
    'up_block_types': ['AttnUpDecoderBlock2D' if attend else 'UpDecoderBlock2D' for attend in attends[::-1]],
    'latent_channels': settings['z_channels'],
    'sample_size': settings['resolution'],
    'scaling_factor': 1.0 if 'n_embed' in settings else settings.get('latent_scale', 0.18215),
    'norm_num_groups': settings.get('num_groups', 32),
  }
  if 'n_embed' in settings:
    return config | {'num_vq_embeddings': settings['n_embed'], 'vq_embed_dim': settings['embed_dim']}
  if settings['embed_dim'] != settings['z_channels']:
    raise UserError("diffusers' AutoencoderKL needs embed_dim = z_channels; these weights have others")
  return config


def _multiples(widths: list[int], where: str) -> list[int]:
  if not widths or any(width % widths[0] for width in widths):
    raise UserError(f'{where}: block_out_channels {widths} are not multiples of the first, as the models here have it')
  return [width // widths[0] for width in widths]


def _refuse(config: Settings, neutral: Settings, where: str) -> None:
  if odd := [
    f'{name}={config[name]!r}' for name, value in neutral.items() if config.get(name, value) not in (value, None)
  ]:
    raise UserError(f'{where} asks for {", ".join(odd)}, which no model here has')


def unet_settings(config: Settings, where: str) -> dict[str, Any]:
  """Config of `UNet2DConditionModel` -> settings of `UNet`."""
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
  settings = {
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
    settings |= {'num_heads': 1, 'num_head_channels': sizes.pop()}
  return settings


def autoencoder_settings(config: Settings, where: str) -> dict[str, Any]:
  """Config of `VQModel` or `AutoencoderKL` -> settings of ours."""
  neutral = {
    'act_fn': 'silu', 'norm_type': 'group', 'mid_block_add_attention': True, 'lookup_from_codebook': False,
    'shift_factor': None,
  }  # fmt: skip
  _refuse(config, neutral, where)
  widths, types = config['block_out_channels'], config['down_block_types']
  resolution = 256
  settings = {
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
    settings['n_embed'] = config['num_vq_embeddings']
  else:
    settings['latent_scale'] = float(config.get('scaling_factor', 0.18215))
  return settings
