"""Torch names of the fMRI conditioner (`cond_stage_model` of the fine-tuned diffusion model, without that prefix)."""

from brainjax.torch_convert.engine import Row, linear
from brainjax.torch_convert.tables.fmri_mae import ENCODER

TABLE = [
  *(Row(f'mae.{row.torch}', row.path.replace('encoder/', 'mae/', 1), row.layout) for row in ENCODER),
  Row('mae.mask_token', 'mae/mask_token', 'same'),
  *linear('channel_mapper.0', 'channel_mapper_0', 'conv1_linear'),
  *linear('channel_mapper.1', 'channel_mapper_1', 'conv1_linear'),
  *linear('dim_mapper', 'dim_mapper'),
]
