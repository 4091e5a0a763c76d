"""Reads the constructor arguments of each model off the shapes of its PyTorch tensors and the fields of its config."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from brainjax.errors import UserError
from brainjax.models.efficientnet import B1_DEPTH
from brainjax.models.inception import FID_CLASSES
from brainjax.torch_convert.config_fields import ConfigFields

Shapes = Mapping[str, tuple[int, ...]]

RESOLUTION = 256  # pixels of the pictures of every published first stage
LATENT_SCALE = 0.18215  # of Stable Diffusion 1


class KnownShapes(dict[str, tuple[int, ...]]):
  """Torch name -> shape, without the prefix of this part; a missing name raises a `UserError`."""

  def __init__(self, shapes: Shapes, prefix: str, source: str):
    super().__init__({name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)})
    self._where = source, prefix

  def __missing__(self, name: str) -> tuple[int, ...]:
    source, prefix = self._where
    raise UserError(f'{source} has no tensor {prefix}{name}, which sets a size of the model; check --kind')

  def axis(self, name: str, axis: int) -> int:
    """The length of one axis.

    Raises:
      UserError: the tensor is missing or has no such axis.
    """
    shape = self[name]
    if axis >= len(shape) or not shape[axis]:
      source, prefix = self._where
      raise UserError(f'{source}: tensor {prefix}{name} has the shape {tuple(shape)}, which no such model has')
    return shape[axis]

  def count(self, pattern: str) -> int:
    """How many different integers `pattern` (a regex with one group) meets at the start of a name."""
    return len({match[1] for name in self if (match := re.match(pattern, name))})


def fmri_mae(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of `FmriMAE`, phase 1 or 2."""
  width = shapes.axis('decoder_pos_embed', 2)
  kwargs = _fmri_encoder(shapes, fields, '', (width, shapes.axis('decoder_blocks.0.mlp.fc1.weight', 0)))
  kwargs |= {
    'decoder_width': width,
    'decoder_depth': shapes.count(r'decoder_blocks\.(\d+)\.'),
    'decoder_num_heads': fields.heads(['decoder_num_heads'], 16, 'the number of decoder heads', width),
  }
  if depth := shapes.count(r'cross_blocks\.(\d+)\.'):
    cross = shapes.axis('cross_map_in.weight', 0)
    kwargs |= {
      'cross_depth': depth,
      'cross_width': cross,
      'cross_heads': fields.heads(
        ['num_attention_heads', 'cross_heads'], 12, 'the number of heads of the cross-attention', cross
      ),
      'cross_mlp_dim': shapes.axis('cross_blocks.0.intermediate.dense.weight', 0),
    }
  return kwargs


def _fmri_encoder(shapes: KnownShapes, fields: ConfigFields, prefix: str, *more: tuple[int, int]) -> dict[str, Any]:
  """`more`: (width, hidden width) of other blocks with the same MLP ratio."""
  width, patch_size = (shapes.axis(f'{prefix}patch_embed.proj.weight', axis) for axis in (0, 2))
  hidden = shapes.axis(f'{prefix}blocks.0.mlp.fc1.weight', 0)
  return {
    'num_voxels': (shapes.axis(f'{prefix}pos_embed', 1) - 1) * patch_size,
    'patch_size': patch_size,
    'width': width,
    'depth': shapes.count(rf'{re.escape(prefix)}blocks\.(\d+)\.'),
    'num_heads': fields.heads(['num_heads'], 16, 'the number of heads', width),
    'mlp_ratio': _mlp_ratio([(width, hidden), *more], fields.get_if_clear('mlp_ratio')),
  }


def _mlp_ratio(blocks: Sequence[tuple[int, int]], stated: Any) -> float:
  """The ratio whose product with each width, cut to an integer, is the hidden width; the stated one if it is such."""
  least = max(hidden / width for width, hidden in blocks)
  ratios = [*([float(stated)] if isinstance(stated, int | float) else []), least, math.nextafter(least, math.inf)]
  return next((r for r in ratios if all(int(width * r) == hidden for width, hidden in blocks)), least)


def conditioner(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of `FmriConditioner`."""
  kwargs = _fmri_encoder(shapes, fields, 'mae.')
  kwargs['context_dim'] = shapes.axis('dim_mapper.weight', 0)
  kwargs['global_pool'] = 'channel_mapper.0.weight' not in shapes
  if not kwargs['global_pool']:
    kwargs['context_tokens'] = shapes.axis('channel_mapper.1.weight', 0)
  return kwargs


def image_mae(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of `ImageMAE`; the published decoder where the file has none."""
  width, patch_size = (shapes.axis('vit.embeddings.patch_embeddings.projection.weight', axis) for axis in (0, 2))
  tokens = shapes.axis('vit.embeddings.position_embeddings', 1) - 1
  decoder_width, decoder_depth, decoder_mlp_dim = 512, 8, 2048
  if any(name.startswith('decoder.') for name in shapes):
    decoder_width = shapes.axis('decoder.decoder_embed.weight', 0)
    decoder_depth = shapes.count(r'decoder\.decoder_layers\.(\d+)\.')
    decoder_mlp_dim = shapes.axis('decoder.decoder_layers.0.intermediate.dense.weight', 0)
  heads = {1024: 16, 1280: 16}.get(width, 12)  # large and huge, else base
  kwargs = {
    'image_size': round(tokens**0.5) * patch_size,
    'patch_size': patch_size,
    'width': width,
    'depth': shapes.count(r'vit\.encoder\.layer\.(\d+)\.'),
    'num_heads': fields.heads(['num_attention_heads', 'num_heads'], heads, 'the number of heads', width),
    'mlp_dim': shapes.axis('vit.encoder.layer.0.intermediate.dense.weight', 0),
    'decoder_width': decoder_width,
    'decoder_depth': decoder_depth,
    'decoder_num_heads': fields.heads(
      ['decoder_num_attention_heads', 'decoder_num_heads'], 16, 'the number of decoder heads', decoder_width
    ),
    'decoder_mlp_dim': decoder_mlp_dim,
  }
  if depth := shapes.count(r'vit\.encoder\.layer_cross\.(\d+)\.'):
    kwargs |= {'cross_depth': depth, 'fmri_width': shapes.axis('vit.encoder.cross_map_in.weight', 1)}
  epsilon = fields.get('layer_norm_eps')
  if type(epsilon) is float and epsilon != 1e-12:
    kwargs['norm_epsilon'] = epsilon
  return kwargs


def unet(heads: int) -> Callable[[KnownShapes, ConfigFields], dict[str, Any]]:
  """Arguments of `UNet`, for a release that has `heads` heads in every attention unless its config says otherwise."""

  def read(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
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
    kwargs = {
      'in_channels': shapes.axis('input_blocks.0.0.weight', 1),
      'out_channels': shapes.axis('out.2.weight', 0),
      'model_channels': base,
      'channel_mult': mults,
      'num_res_blocks': blocks[0],
      'attention_resolutions': resolutions[::-1],
      'num_heads': fields.heads(['unet_num_heads'], heads, 'the number of heads of the UNet'),
      'context_dim': shapes.axis(context, 1),
      'transformer_depth': shapes.count(r'middle_block\.1\.transformer_blocks\.(\d+)\.'),
      'global_pool': 'time_embed_condtion.weight' in shapes,
    }
    kwargs['time_cond'] = kwargs['global_pool'] or 'time_embed_condtion.0.weight' in shapes
    for name in ('num_head_channels', 'num_groups'):  # 32 in all releases; other numbers in files that `to_torch` wrote
      if value := fields.count(f'unet_{name}'):
        kwargs[name] = value
    if 'time_embed_condtion.0.weight' in shapes:
      kwargs['context_tokens'] = shapes.axis('time_embed_condtion.0.weight', 1)
    return kwargs

  return read


def autoencoder(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of `VQModel` or `KLModel`.

  Raises:
    UserError: the latents of a VQ autoencoder are scaled.
  """
  ch, levels = shapes.axis('encoder.conv_in.weight', 0), shapes.count(r'encoder\.down\.(\d+)\.')
  resolution = fields.count('first_stage_resolution') or RESOLUTION
  kwargs = {
    'ch': ch,
    'ch_mult': [shapes.axis(f'encoder.down.{i}.block.0.conv1.weight', 0) // ch for i in range(levels)],
    'num_res_blocks': shapes.count(r'encoder\.down\.0\.block\.(\d+)\.'),
    'in_channels': shapes.axis('encoder.conv_in.weight', 1),
    'z_channels': shapes.axis('post_quant_conv.weight', 0),
    'embed_dim': shapes.axis('post_quant_conv.weight', 1),
    'resolution': resolution,
    'attn_resolutions': [resolution // 2**i for i in range(levels) if f'encoder.down.{i}.attn.0.norm.weight' in shapes],
  }
  if groups := fields.count('first_stage_num_groups') or fields.count('num_groups'):
    kwargs['num_groups'] = groups
  scale = fields.get('scale_factor')  # of a latent diffusion model, in its config.yaml or as a buffer
  if 'quantize.embedding.weight' in shapes:
    if scale not in (None, 1):
      raise UserError(f'{fields.source}: scale_factor is {scale}, but no VQ autoencoder here scales its latents')
    return kwargs | {'n_embed': shapes.axis('quantize.embedding.weight', 0)}
  if type(scale) not in (int, float) or not scale > 0:
    scale = LATENT_SCALE
    fields.notes.append(f'the scale of the latents is not in the file; assumed the published {scale}')
  return kwargs | {'latent_scale': float(scale)}


def classifier(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of the ViT classifier (torchvision's names)."""
  width, patch_size = shapes.axis('conv_proj.weight', 0), shapes.axis('conv_proj.weight', 2)
  tokens = shapes.axis('encoder.pos_embedding', 1) - 1
  return {
    'image_size': round(tokens**0.5) * patch_size,
    'patch_size': patch_size,
    'width': width,
    'depth': shapes.count(r'encoder\.layers\.encoder_layer_(\d+)\.'),
    'num_heads': fields.heads(['num_heads'], 16, 'the number of heads', width),
    'mlp_dim': shapes.axis('encoder.layers.encoder_layer_0.mlp.0.weight', 0),
    'num_classes': shapes.axis('heads.head.weight', 0),
  }


def efficientnet_lite(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of `EfficientNet`: sizes of Lite0, which the engine checks; number of classes of the file."""
  return {'num_classes': shapes.axis('_fc.weight', 0)}


def efficientnet_b1(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of `EfficientNet`: sizes of B1, which the engine checks; number of classes of the file."""
  num_classes = shapes.axis('classifier.1.weight', 0)
  return {'num_classes': num_classes, 'image_size': 240, 'depth': B1_DEPTH, 'lite': False}


def resnet(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of `ResNet`; SwAV's release has no classes."""
  return {
    'num_classes': shapes.axis('fc.weight', 0) if 'fc.weight' in shapes else 0,
    'depths': [shapes.count(rf'layer{level}\.(\d+)\.') for level in (1, 2, 3, 4)],
    'width': shapes.axis('conv1.weight', 0),
  }


def inception(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of `InceptionV3`; the network of the Frechet Inception distance has another number of classes."""
  num_classes = shapes.axis('fc.weight', 0)
  return {'num_classes': num_classes, 'fid': num_classes == FID_CLASSES}


def clip(shapes: KnownShapes, fields: ConfigFields) -> dict[str, Any]:
  """Arguments of `ClipVision`."""
  fields = fields.part('vision_config')
  width, patch_size = (shapes.axis('vision_model.embeddings.patch_embedding.weight', axis) for axis in (0, 2))
  tokens = shapes.axis('vision_model.embeddings.position_embedding.weight', 0) - 1
  projected = 'visual_projection.weight' in shapes
  if (activation := fields.get('hidden_act') or fields.get('activation')) is None:
    activation = 'quick_gelu'
    fields.notes.append(f'the activation is not in the file; assumed {activation}, as OpenAI published')
  return {
    'image_size': round(tokens**0.5) * patch_size,
    'patch_size': patch_size,
    'width': width,
    'depth': shapes.count(r'vision_model\.encoder\.layers\.(\d+)\.'),
    'num_heads': fields.heads(['num_attention_heads', 'num_heads'], max(width // 64, 1), 'the number of heads', width),
    'mlp_dim': shapes.axis('vision_model.encoder.layers.0.mlp.fc1.weight', 0),
    'projection_dim': shapes.axis('visual_projection.weight', 0) if projected else 0,
    'activation': str(activation),
  }
