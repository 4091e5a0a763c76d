"""Names of diffusers' `UNet2DConditionModel`, `VQModel` and `AutoencoderKL`. Its blocks are numbered by level, so the
rows are enumerated from the model's sizes."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from brainjax.torch_convert.engine import Row, linear, norm
from brainjax.torch_convert.tables import autoencoder
from brainjax.torch_convert.tables.unet import transformer

_res = partial(autoencoder.res, shortcut='conv_shortcut')


def _unet_res(torch: str, path: str) -> list[Row]:
  return [
    *norm(f'{torch}.norm1', f'{path}/in_norm'),
    *linear(f'{torch}.conv1', f'{path}/in_conv', 'conv2d'),
    *linear(f'{torch}.time_emb_proj', f'{path}/emb'),
    *norm(f'{torch}.norm2', f'{path}/out_norm'),
    *linear(f'{torch}.conv2', f'{path}/out_conv', 'conv2d'),
    *linear(f'{torch}.conv_shortcut', f'{path}/skip', 'conv1x1_linear'),
  ]


def unet_table(kwargs: Mapping[str, Any]) -> list[Row]:
  """Rows for a `UNet` of these constructor arguments."""
  levels, per_level = len(kwargs['channel_mult']), kwargs['num_res_blocks']
  rows = [
    *linear('time_embedding.linear_1', 'time_embed_0'),
    *linear('time_embedding.linear_2', 'time_embed_2'),
    *linear('class_embedding', 'class_embedding'),
    *linear('conv_in', 'input_0', 'conv2d'),
    *_unet_res('mid_block.resnets.0', 'middle_res_0'),
    *transformer('mid_block.attentions.0', 'middle_transformer'),
    *_unet_res('mid_block.resnets.1', 'middle_res_2'),
    *norm('conv_norm_out', 'out_norm'),
    *linear('conv_out', 'out_conv', 'conv2d'),
  ]
  for level in range(levels):
    first = 1 + level * (per_level + 1)  # of input_<i>: a level has its blocks and one downsampling
    for j in range(per_level):
      rows += _unet_res(f'down_blocks.{level}.resnets.{j}', f'input_{first + j}/res')
      rows += transformer(f'down_blocks.{level}.attentions.{j}', f'input_{first + j}/transformer')
    rows += linear(f'down_blocks.{level}.downsamplers.0.conv', f'input_{first + per_level}', 'conv2d')
    up = levels - 1 - level
    for j in range(per_level + 1):
      index = up * (per_level + 1) + j
      rows += _unet_res(f'up_blocks.{up}.resnets.{j}', f'output_{index}/res')
      rows += transformer(f'up_blocks.{up}.attentions.{j}', f'output_{index}/transformer')
    place = 2 if 2**level in kwargs['attention_resolutions'] else 1  # after the block, and its transformer if any
    rows += linear(f'up_blocks.{up}.upsamplers.0.conv', f'output_{index}/upsample_{place}', 'conv2d')
  return rows


def _pixel_attention(torch: str, path: str) -> list[Row]:
  return [
    *norm(f'{torch}.group_norm', f'{path}/norm'),
    *(row for part in 'qkv' for row in linear(f'{torch}.to_{part}', f'{path}/{part}')),
    *linear(f'{torch}.to_out.0', f'{path}/proj_out'),
  ]


def _ends(side: str) -> list[Row]:
  return [
    *linear(f'{side}.conv_in', f'{side}/conv_in', 'conv2d'),
    *_res(f'{side}.mid_block.resnets.0', f'{side}/mid_block_1'),
    *_pixel_attention(f'{side}.mid_block.attentions.0', f'{side}/mid_attn_1'),
    *_res(f'{side}.mid_block.resnets.1', f'{side}/mid_block_2'),
    *norm(f'{side}.conv_norm_out', f'{side}/norm_out'),
    *linear(f'{side}.conv_out', f'{side}/conv_out', 'conv2d'),
  ]


def autoencoder_table(kwargs: Mapping[str, Any]) -> list[Row]:
  """Rows for a `VQModel` or `KLModel` of these constructor arguments."""
  rows = [
    *_ends('encoder'),
    *_ends('decoder'),
    *linear('quant_conv', 'quant_conv', 'conv1x1_linear'),
    *linear('post_quant_conv', 'post_quant_conv', 'conv1x1_linear'),
    Row('quantize.embedding.weight', 'codebook', 'same'),
  ]
  levels = len(kwargs['ch_mult'])
  for level in range(levels):
    sides = (
      (f'encoder.down_blocks.{level}', f'encoder/down_{level}', 'downsample'),
      (f'decoder.up_blocks.{levels - 1 - level}', f'decoder/up_{level}', 'upsample'),
    )
    for torch, path, resample in sides:
      rows += _res(f'{torch}.resnets.{{i}}', f'{path}_block_{{i}}')
      rows += _pixel_attention(f'{torch}.attentions.{{i}}', f'{path}_attn_{{i}}')
      rows += linear(f'{torch}.{resample}rs.0.conv', f'{path}_{resample}', 'conv2d')
  return rows
