"""Torch names of Inception v3 (torchvision `inception_v3`, and the FID network of pytorch-fid)."""

from brainjax.models.inception import layer_names
from brainjax.torch_convert.engine import Ignored, Row, batch_norm, linear


def _layer(name: str) -> list[Row | Ignored]:
  path = name.replace('.', '/')
  return [Row(f'{name}.conv.weight', f'{path}/conv/kernel', 'conv2d'), *batch_norm(f'{name}.bn', f'{path}/norm')]


TABLE = [row for name in layer_names() for row in _layer(name)] + linear('fc', 'head')
