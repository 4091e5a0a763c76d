"""Torch names of the Vision Transformer classifier (torchvision `VisionTransformer`)."""

from brainjax.torch_convert.engine import Row, linear, norm

_LAYER = 'encoder.layers.encoder_layer_{i}'

TABLE = [
  *linear('conv_proj', 'patch_embed', 'conv2d'),
  Row('class_token', 'class_token', 'same'),
  Row('encoder.pos_embedding', 'pos_embed', 'same'),
  *norm(f'{_LAYER}.ln_1', 'blocks/norm1'),
  Row(f'{_LAYER}.self_attention.in_proj_weight', 'blocks/attn/qkv/kernel', 'linear'),
  Row(f'{_LAYER}.self_attention.in_proj_bias', 'blocks/attn/qkv/bias', 'same'),
  *linear(f'{_LAYER}.self_attention.out_proj', 'blocks/attn/proj'),
  *norm(f'{_LAYER}.ln_2', 'blocks/norm2'),
  *linear(f'{_LAYER}.mlp.0', 'blocks/mlp/fc1'),
  *linear(f'{_LAYER}.mlp.3', 'blocks/mlp/fc2'),
  *norm('encoder.ln', 'norm'),
  *linear('heads.head', 'head'),
]
