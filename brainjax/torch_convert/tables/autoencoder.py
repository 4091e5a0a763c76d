"""Torch names of the first stages (CompVis `VQModelInterface` and `AutoencoderKL`)."""

from brainjax.torch_convert.engine import Ignored, Row, linear, norm


def res(torch: str, path: str, shortcut: str = 'nin_shortcut') -> list[Row]:
  """Rows of a residual block."""
  return [
    *norm(f'{torch}.norm1', f'{path}/norm1'),
    *linear(f'{torch}.conv1', f'{path}/conv1', 'conv2d'),
    *norm(f'{torch}.norm2', f'{path}/norm2'),
    *linear(f'{torch}.conv2', f'{path}/conv2', 'conv2d'),
    *linear(f'{torch}.{shortcut}', f'{path}/shortcut', 'conv1x1_linear'),
  ]


def _attention(torch: str, path: str) -> list[Row]:
  return [
    *norm(f'{torch}.norm', f'{path}/norm'),
    *linear(f'{torch}.q', f'{path}/q', 'conv1x1_linear'),
    *linear(f'{torch}.k', f'{path}/k', 'conv1x1_linear'),
    *linear(f'{torch}.v', f'{path}/v', 'conv1x1_linear'),
    *linear(f'{torch}.proj_out', f'{path}/proj_out', 'conv1x1_linear'),
  ]


def _half(name: str, side: str, resample: str) -> list[Row]:
  """Encoder (side down) or decoder (side up)."""
  return [
    *linear(f'{name}.conv_in', f'{name}/conv_in', 'conv2d'),
    *res(f'{name}.{side}.{{i}}.block.{{i}}', f'{name}/{side}_{{i}}_block_{{i}}'),
    *_attention(f'{name}.{side}.{{i}}.attn.{{i}}', f'{name}/{side}_{{i}}_attn_{{i}}'),
    *linear(f'{name}.{side}.{{i}}.{resample}.conv', f'{name}/{side}_{{i}}_{resample}', 'conv2d'),
    *res(f'{name}.mid.block_1', f'{name}/mid_block_1'),
    *_attention(f'{name}.mid.attn_1', f'{name}/mid_attn_1'),
    *res(f'{name}.mid.block_2', f'{name}/mid_block_2'),
    *norm(f'{name}.norm_out', f'{name}/norm_out'),
    *linear(f'{name}.conv_out', f'{name}/conv_out', 'conv2d'),
  ]


KL_TABLE = [
  *_half('encoder', 'down', 'downsample'),
  *_half('decoder', 'up', 'upsample'),
  *linear('quant_conv', 'quant_conv', 'conv1x1_linear'),
  *linear('post_quant_conv', 'post_quant_conv', 'conv1x1_linear'),
  *(
    Ignored(f'loss.{name}', 'a loss of the training of the first stage')
    for name in (
      'logvar',
      'perceptual_loss.scaling_layer.shift',
      'perceptual_loss.scaling_layer.scale',
      'perceptual_loss.net.slice{i}.{i}.weight',
      'perceptual_loss.net.slice{i}.{i}.bias',
      'perceptual_loss.lin{i}.model.{i}.weight',
      'discriminator.main.{i}.weight',
      'discriminator.main.{i}.bias',
      'discriminator.main.{i}.running_mean',
      'discriminator.main.{i}.running_var',
      'discriminator.main.{i}.num_batches_tracked',
    )
  ),
]

VQ_TABLE = [*KL_TABLE, Row('quantize.embedding.weight', 'codebook', 'same')]
