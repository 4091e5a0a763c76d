"""Torch names of the fMRI autoencoder: phase 1 (`MAEforFMRIContrast`) and phase 2 (`MAEforFMRICross`)."""

from brainjax.torch_convert.engine import Row, linear, norm


def blocks(torch: str, path: str) -> list[Row]:
  """Rows of a stack of pre-norm blocks with fused queries, keys and values."""
  return [
    *norm(f'{torch}.{{i}}.norm1', f'{path}/norm1'),
    *linear(f'{torch}.{{i}}.attn.qkv', f'{path}/attn/qkv'),
    *linear(f'{torch}.{{i}}.attn.proj', f'{path}/attn/proj'),
    *norm(f'{torch}.{{i}}.norm2', f'{path}/norm2'),
    *linear(f'{torch}.{{i}}.mlp.fc1', f'{path}/mlp/fc1'),
    *linear(f'{torch}.{{i}}.mlp.fc2', f'{path}/mlp/fc2'),
  ]


def vit_layers(torch: str, path: str, attentions: dict[str, str]) -> list[Row]:
  """Rows of a stack of Hugging Face ViT layers; `attentions` maps torch names to names here."""
  rows = []
  for old, new in attentions.items():
    for part in ('query', 'key', 'value'):
      rows += linear(f'{torch}.{{i}}.{old}.attention.{part}', f'{path}/{new}/{part}')
    rows += linear(f'{torch}.{{i}}.{old}.output.dense', f'{path}/{new}/proj')
  return [
    *rows,
    *linear(f'{torch}.{{i}}.intermediate.dense', f'{path}/mlp/fc1'),
    *linear(f'{torch}.{{i}}.output.dense', f'{path}/mlp/fc2'),
    *norm(f'{torch}.{{i}}.layernorm_before', f'{path}/norm1'),
    *norm(f'{torch}.{{i}}.layernorm_after', f'{path}/norm2'),
  ]


CROSS_ATTENTIONS = {'attention': 'self_attn', 'cross_attention': 'cross_attn'}

ENCODER = [
  Row('cls_token', 'encoder/cls_token', 'same'),
  Row('pos_embed', 'encoder/pos_embed', 'same'),
  Row('patch_embed.proj.weight', 'encoder/patch_embed/kernel', 'conv1d'),
  Row('patch_embed.proj.bias', 'encoder/patch_embed/bias', 'same'),
  *blocks('blocks', 'encoder/blocks'),
  *norm('norm', 'encoder/norm'),
]

CROSS = [
  *linear('cross_map_in', 'encoder/cross/map_in'),
  *vit_layers('cross_blocks', 'encoder/cross/blocks', CROSS_ATTENTIONS),
  *linear('cross_map_out', 'encoder/cross/map_out'),
]

DECODER = [
  Row('mask_token', 'decoder/mask_token', 'same'),
  Row('decoder_pos_embed', 'decoder/pos_embed', 'same'),
  *linear('decoder_embed', 'decoder/embed'),
  *blocks('decoder_blocks', 'decoder/blocks'),
  *norm('decoder_norm', 'decoder/norm'),
  *linear('decoder_pred', 'decoder/pred'),
]

TABLE = ENCODER + CROSS + DECODER
