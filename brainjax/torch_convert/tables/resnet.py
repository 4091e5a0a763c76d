"""Torch names of ResNet-50 (torchvision `resnet50`, and SwAV's release)."""

from brainjax.torch_convert.engine import Row, batch_norm, linear

_BLOCK, _PATH = 'layer{i}.{i}', 'level_{i}_block_{i}'

TABLE = [
  Row('conv1.weight', 'stem/kernel', 'conv2d'),
  *batch_norm('bn1', 'stem_norm'),
  *(
    row
    for k in (1, 2, 3)
    for row in (
      Row(f'{_BLOCK}.conv{k}.weight', f'{_PATH}/conv{k}/kernel', 'conv2d'),
      *batch_norm(f'{_BLOCK}.bn{k}', f'{_PATH}/norm{k}'),
    )
  ),
  Row(f'{_BLOCK}.downsample.0.weight', f'{_PATH}/shortcut/kernel', 'conv2d'),
  *batch_norm(f'{_BLOCK}.downsample.1', f'{_PATH}/shortcut_norm'),
  *linear('fc', 'head'),
]
