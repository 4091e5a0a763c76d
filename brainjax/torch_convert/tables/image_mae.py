"""Torch names of the image autoencoder: Hugging Face ViT-MAE, with the cross-attention of phase 2, and the official MAE."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from brainjax.torch_convert.engine import Row, linear, norm
from brainjax.torch_convert.tables.fmri_mae import CROSS_ATTENTIONS, vit_layers

TABLE = [
  Row('vit.embeddings.cls_token', 'encoder/cls_token', 'same'),
  Row('vit.embeddings.position_embeddings', 'encoder/pos_embed', 'same'),
  Row('vit.embeddings.patch_embeddings.projection.weight', 'encoder/patch_embed/kernel', 'conv2d'),
  Row('vit.embeddings.patch_embeddings.projection.bias', 'encoder/patch_embed/bias', 'same'),
  *vit_layers('vit.encoder.layer', 'encoder/blocks', {'attention': 'attn'}),
  *linear('vit.encoder.cross_map_in', 'encoder/cross/map_in'),
  *vit_layers('vit.encoder.layer_cross', 'encoder/cross/blocks', CROSS_ATTENTIONS),
  *norm('vit.layernorm', 'encoder/norm'),
  Row('decoder.mask_token', 'decoder/mask_token', 'same'),
  Row('decoder.decoder_pos_embed', 'decoder/pos_embed', 'same'),
  *linear('decoder.decoder_embed', 'decoder/embed'),
  *vit_layers('decoder.decoder_layers', 'decoder/blocks', {'attention': 'attn'}),
  *norm('decoder.decoder_norm', 'decoder/norm'),
  *linear('decoder.decoder_pred', 'decoder/pred'),
]

# The official code (facebookresearch/mae) -> Hugging Face. Its layers are named as in timm and have fused qkv.
_OFFICIAL = (
  (r'^cls_token$', 'vit.embeddings.cls_token'),
  (r'^pos_embed$', 'vit.embeddings.position_embeddings'),
  (r'^patch_embed\.proj\.', 'vit.embeddings.patch_embeddings.projection.'),
  (r'^norm\.', 'vit.layernorm.'),
  (r'^blocks\.', 'vit.encoder.layer.'),
  (r'^decoder_blocks\.', 'decoder.decoder_layers.'),
  (r'^(mask_token|decoder_.*)$', r'decoder.\1'),
  (r'\.attn\.(query|key|value)\.', r'.attention.attention.\1.'),
  (r'\.attn\.proj\.', '.attention.output.dense.'),
  (r'\.norm1\.', '.layernorm_before.'),
  (r'\.norm2\.', '.layernorm_after.'),
  (r'\.mlp\.fc1\.', '.intermediate.dense.'),
  (r'\.mlp\.fc2\.', '.output.dense.'),
)


def is_official(state: Mapping[str, Any]) -> bool:
  """Whether these are the names of the official MAE. The fMRI autoencoder has the same, but a patch kernel of three axes."""
  return 'blocks.0.attn.qkv.weight' in state and np.ndim(state.get('patch_embed.proj.weight')) == 4


def from_official(state: Mapping[str, Any]) -> dict[str, Any]:
  """The official MAE's state dict under Hugging Face's names; each fused qkv is split into three.

  Args:
    state: torch name -> `LazyTensor`.
  """
  result = {}
  for name, tensor in state.items():
    parts = {name: tensor}
    if '.attn.qkv.' in name and tensor.ndim and tensor.shape[0] % 3 == 0:
      parts = {
        name.replace('.qkv.', f'.{part}.'): tensor.part(i, 3) for i, part in enumerate(('query', 'key', 'value'))
      }
    for new, part in parts.items():
      for pattern, replacement in _OFFICIAL:
        new = re.sub(pattern, replacement, new)
      result[new] = part
  return result
