"""Reads the constructor arguments of each model off the shapes of its PyTorch tensors."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from brainjax.errors import UserError
from brainjax.models.inception import FID_CLASSES

Shapes = Mapping[str, tuple[int, ...]]

RESOLUTION = 256  # pixels of the pictures of every published first stage


class KnownShapes(dict[str, tuple[int, ...]]):
  """Torch name -> shape, without the prefix of this part; a name that is not there is the user's error."""

  def __init__(self, shapes: Shapes, prefix: str, source: str):
    super().__init__({name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)})
    self._where = source, prefix

  def __missing__(self, name: str) -> tuple[int, ...]:
    source, prefix = self._where
    raise UserError(
      f'{source} has no tensor {prefix}{name}, from which the size of the model is read; is the kind right?'
    )

  def axis(self, name: str, axis: int) -> int:
    """The length of one axis."""
    shape = self[name]
    if axis >= len(shape) or not shape[axis]:
      source, prefix = self._where
      raise UserError(f'{source}: tensor {prefix}{name} has the shape {tuple(shape)}, which no such model has')
    return shape[axis]

  def count(self, pattern: str) -> int:
    """How many different integers `pattern` (a regex with one group) meets at the start of a name."""
    return len({match[1] for name in self if (match := re.match(pattern, name))})


class Hints:
  """What shapes cannot tell, from the checkpoint's own config where it says so, else a default and a sentence."""

  def __init__(self, config: Mapping[str, Any], notes: list[str], source: str = 'the file'):
    self._config, self._source = config, source
    self.notes = notes

  def pick(self, names: Iterable[str], default: int, what: str) -> int:
    """The first whole number that the config has under one of `names`."""
    for name in names:
      if value := self.count(name):
        return value
    self.notes.append(f'{what} is not in the file; assumed the published {default}')
    return default

  def count(self, name: str) -> int | None:
    """A whole number above 0 that the config has under a name, or None (also of -1, as CompVis says "not this one").

    Raises:
      UserError: it has something else there.
    """
    value = self._config.get(name)
    if value is not None and (type(value) is not int or value == 0):
      raise UserError(
        f'{self._source}: {name} in its config is {value!r}; expected a whole number above 0, so correct it'
      )
    return value if value and value > 0 else None

  def get(self, name: str) -> Any:
    """What the config has under a name, or None."""
    return self._config.get(name)

  def below(self, name: str) -> 'Hints':
    """Those of the config of one part, if the config has such a part."""
    part = self._config.get(name)
    return Hints(part, self.notes, self._source) if isinstance(part, dict) else self

  def heads(self, names: Sequence[str], default: int, width: int, what: str) -> int:
    """A number of attention heads, which must divide the width."""
    known = len(self.notes)
    heads = self.pick(names, default, what)
    if width % heads:
      found = 'assumed, since its config does not say it,' if len(self.notes) > known else 'in its config'
      raise UserError(
        f'{self._source}: {what} {found} is {heads}, which does not divide the width {width}; correct its config, or put a '
        f'config.json with {names[0]} beside the file'
      )
    return heads


def fmri_mae(shapes: KnownShapes, hints: Hints) -> dict[str, Any]:
  """Arguments of `FmriMAE`, phase 1 or 2."""
  width = shapes.axis('decoder_pos_embed', 2)
  settings = _fmri_encoder(shapes, hints, '', (width, shapes.axis('decoder_blocks.0.mlp.fc1.weight', 0)))
  settings |= {
    'decoder_width': width,
    'decoder_depth': shapes.count(r'decoder_blocks\.(\d+)\.'),
    'decoder_num_heads': hints.heads(['decoder_num_heads'], 16, width, 'the number of decoder heads'),
  }
  if depth := shapes.count(r'cross_blocks\.(\d+)\.'):
    cross = shapes.axis('cross_map_in.weight', 0)
    settings |= {
      'cross_depth': depth,
      'cross_width': cross,
      'cross_heads': hints.heads(
        ['num_attention_heads', 'cross_heads'], 12, cross, 'the number of heads of the cross-attention'
      ),
      'cross_mlp_dim': shapes.axis('cross_blocks.0.intermediate.dense.weight', 0),
    }
  return settings


def _fmri_encoder(shapes: KnownShapes, hints: Hints, prefix: str, *more: tuple[int, int]) -> dict[str, Any]:
  """`more`: (width, hidden width) of other blocks with the same MLP ratio."""
  width, patch_size = (
    shapes.axis(f'{prefix}patch_embed.proj.weight', 0),
    shapes.axis(f'{prefix}patch_embed.proj.weight', 2),
  )
  hidden = shapes.axis(f'{prefix}blocks.0.mlp.fc1.weight', 0)
  return {
    'num_voxels': (shapes.axis(f'{prefix}pos_embed', 1) - 1) * patch_size,
    'patch_size': patch_size,
    'width': width,
    'depth': shapes.count(rf'{re.escape(prefix)}blocks\.(\d+)\.'),
    'num_heads': hints.heads(['num_heads'], 16, width, 'the number of heads'),
    'mlp_ratio': _mlp_ratio([(width, hidden), *more], hints.get('mlp_ratio')),
  }


def _mlp_ratio(blocks: Sequence[tuple[int, int]], stated: Any) -> float:
  """The ratio whose product with each width, cut to an integer, is the hidden width; the stated one if it is such."""
  least = max(hidden / width for width, hidden in blocks)
  ratios = [*([float(stated)] if isinstance(stated, int | float) else []), least, math.nextafter(least, math.inf)]
  return next((r for r in ratios if all(int(width * r) == hidden for width, hidden in blocks)), least)


def conditioner(shapes: KnownShapes, hints: Hints) -> dict[str, Any]:
  """Arguments of `FmriConditioner`."""
  settings = _fmri_encoder(shapes, hints, 'mae.')
  settings['context_dim'] = shapes.axis('dim_mapper.weight', 0)
  settings['global_pool'] = 'channel_mapper.0.weight' not in shapes
  if not settings['global_pool']:
    settings['context_tokens'] = shapes.axis('channel_mapper.1.weight', 0)
  return settings


def image_mae(shapes: KnownShapes, hints: Hints) -> dict[str, Any]:
  """Arguments of `ImageMAE`."""
  width, patch_size = (shapes.axis('vit.embeddings.patch_embeddings.projection.weight', axis) for axis in (0, 2))
  tokens, decoder_width = (
    shapes.axis('vit.embeddings.position_embeddings', 1) - 1,
    shapes.axis('decoder.decoder_embed.weight', 0),
  )
  settings = {
    'image_size': round(tokens**0.5) * patch_size,
    'patch_size': patch_size,
    'width': width,
    'depth': shapes.count(r'vit\.encoder\.layer\.(\d+)\.'),
    'num_heads': hints.heads(['num_attention_heads'], 12, width, 'the number of heads'),
    'mlp_dim': shapes.axis('vit.encoder.layer.0.intermediate.dense.weight', 0),
    'decoder_width': decoder_width,
    'decoder_depth': shapes.count(r'decoder\.decoder_layers\.(\d+)\.'),
    'decoder_num_heads': hints.heads(['decoder_num_attention_heads'], 16, decoder_width, 'the number of decoder heads'),
    'decoder_mlp_dim': shapes.axis('decoder.decoder_layers.0.intermediate.dense.weight', 0),
  }
  if depth := shapes.count(r'vit\.encoder\.layer_cross\.(\d+)\.'):
    settings |= {'cross_depth': depth, 'fmri_width': shapes.axis('vit.encoder.cross_map_in.weight', 1)}
  return settings


def unet(heads: int) -> Callable[[KnownShapes, Hints], dict[str, Any]]:
  """Arguments of `UNet`, for a release that has `heads` heads in every attention unless its config says otherwise."""

  def read(shapes: KnownShapes, hints: Hints) -> dict[str, Any]:
    base = shapes.axis('input_blocks.0.0.weight', 0)
    mults, blocks, resolutions = [], [0], []
    for i in range(1, shapes.count(r'input_blocks\.(\d+)\.')):
      if f'input_blocks.{i}.0.op.weight' in shapes:
        blocks.append(0)
        continue
      if not blocks[-1]:
        mults.append(shapes.axis(f'input_blocks.{i}.0.out_layers.3.weight', 0) // base)
      blocks[-1] += 1
      if f'input_blocks.{i}.1.norm.weight' in shapes and 2 ** (len(blocks) - 1) not in resolutions:
        resolutions.append(2 ** (len(blocks) - 1))
    context = 'middle_block.1.transformer_blocks.0.attn2.to_k.weight'
    settings = {
      'in_channels': shapes.axis('input_blocks.0.0.weight', 1),
      'out_channels': shapes.axis('out.2.weight', 0),
      'model_channels': base,
      'channel_mult': mults,
      'num_res_blocks': blocks[0],
      'attention_resolutions': resolutions[::-1],
      'num_heads': hints.pick(['unet_num_heads'], heads, 'the number of heads of the UNet'),
      'context_dim': shapes.axis(context, 1),
      'transformer_depth': shapes.count(r'middle_block\.1\.transformer_blocks\.(\d+)\.'),
      'global_pool': 'time_embed_condtion.weight' in shapes,
    }
    settings['time_cond'] = settings['global_pool'] or 'time_embed_condtion.0.weight' in shapes
    for name in ('num_head_channels', 'num_groups'):  # the second of a run that went to PyTorch; 32 in all releases
      if value := hints.count(f'unet_{name}'):
        settings[name] = value
    if 'time_embed_condtion.0.weight' in shapes:
      settings['context_tokens'] = shapes.axis('time_embed_condtion.0.weight', 1)
    return settings

  return read


def autoencoder(shapes: KnownShapes, hints: Hints) -> dict[str, Any]:
  """Arguments of `VQModel` or `KLModel`."""
  ch, levels = shapes.axis('encoder.conv_in.weight', 0), shapes.count(r'encoder\.down\.(\d+)\.')
  resolution = hints.count('first_stage_resolution') or RESOLUTION
  settings = {
    'ch': ch,
    'ch_mult': [shapes.axis(f'encoder.down.{i}.block.0.conv1.weight', 0) // ch for i in range(levels)],
    'num_res_blocks': shapes.count(r'encoder\.down\.0\.block\.(\d+)\.'),
    'in_channels': shapes.axis('encoder.conv_in.weight', 1),
    'z_channels': shapes.axis('post_quant_conv.weight', 0),
    'embed_dim': shapes.axis('post_quant_conv.weight', 1),
    'resolution': resolution,
    'attn_resolutions': [resolution // 2**i for i in range(levels) if f'encoder.down.{i}.attn.0.norm.weight' in shapes],
  }
  if groups := hints.count('first_stage_num_groups') or hints.count('num_groups'):
    settings['num_groups'] = groups
  if 'quantize.embedding.weight' in shapes:
    settings['n_embed'] = shapes.axis('quantize.embedding.weight', 0)
  else:
    scale = hints.get('scale_factor')  # of the latent diffusion model, in its config.yaml
    settings['latent_scale'] = float(scale) if type(scale) in (int, float) and scale > 0 else 0.18215
  return settings


def classifier(shapes: KnownShapes, hints: Hints) -> dict[str, Any]:
  """Arguments of the ViT classifier (torchvision's names)."""
  width, patch_size = shapes.axis('conv_proj.weight', 0), shapes.axis('conv_proj.weight', 2)
  tokens = shapes.axis('encoder.pos_embedding', 1) - 1
  return {
    'image_size': round(tokens**0.5) * patch_size,
    'patch_size': patch_size,
    'width': width,
    'depth': shapes.count(r'encoder\.layers\.encoder_layer_(\d+)\.'),
    'num_heads': hints.heads(['num_heads'], 16, width, 'the number of heads'),
    'mlp_dim': shapes.axis('encoder.layers.encoder_layer_0.mlp.0.weight', 0),
    'num_classes': shapes.axis('heads.head.weight', 0),
  }


def efficientnet(shapes: KnownShapes, hints: Hints) -> dict[str, Any]:
  """Arguments of `EfficientNetLite`: Lite0, whose sizes the engine then demands; the number of classes is the file's."""
  del hints
  return {'num_classes': shapes.axis('_fc.weight', 0)}


def inception(shapes: KnownShapes, hints: Hints) -> dict[str, Any]:
  """Arguments of `InceptionV3`; the network of the Frechet Inception distance is told by its number of classes."""
  del hints
  num_classes = shapes.axis('fc.weight', 0)
  return {'num_classes': num_classes, 'fid': num_classes == FID_CLASSES}


def clip(shapes: KnownShapes, hints: Hints) -> dict[str, Any]:
  """Arguments of `ClipVision`."""
  hints = hints.below('vision_config')
  width, patch_size = (shapes.axis('vision_model.embeddings.patch_embedding.weight', axis) for axis in (0, 2))
  tokens = shapes.axis('vision_model.embeddings.position_embedding.weight', 0) - 1
  projected = 'visual_projection.weight' in shapes
  if (activation := hints.get('hidden_act')) is None:
    activation = 'quick_gelu'
    hints.notes.append(f'the activation is not in the file; assumed {activation}, as OpenAI published')
  return {
    'image_size': round(tokens**0.5) * patch_size,
    'patch_size': patch_size,
    'width': width,
    'depth': shapes.count(r'vision_model\.encoder\.layers\.(\d+)\.'),
    'num_heads': hints.heads(['num_attention_heads'], max(width // 64, 1), width, 'the number of heads'),
    'mlp_dim': shapes.axis('vision_model.encoder.layers.0.mlp.fc1.weight', 0),
    'projection_dim': shapes.axis('visual_projection.weight', 0) if projected else 0,
    'activation': str(activation),
  }
