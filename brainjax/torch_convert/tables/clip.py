"""Torch names of CLIP's image tower (Hugging Face `CLIPModel`, `CLIPVisionModel`, `CLIPVisionModelWithProjection`)."""

from brainjax.torch_convert.engine import Row, linear, norm

_EMBED, _LAYER = 'vision_model.embeddings', 'vision_model.encoder.layers.{i}'

TABLE = [
  Row(f'{_EMBED}.patch_embedding.weight', 'patch_embed/kernel', 'conv2d'),
  Row(f'{_EMBED}.class_embedding', 'class_token', 'same'),
  Row(f'{_EMBED}.position_embedding.weight', 'pos_embed', 'same'),
  *norm('vision_model.pre_layrnorm', 'norm_before'),  # sic
  *norm(f'{_LAYER}.layer_norm1', 'blocks/norm1'),
  *linear(f'{_LAYER}.self_attn.q_proj', 'blocks/attn/query'),
  *linear(f'{_LAYER}.self_attn.k_proj', 'blocks/attn/key'),
  *linear(f'{_LAYER}.self_attn.v_proj', 'blocks/attn/value'),
  *linear(f'{_LAYER}.self_attn.out_proj', 'blocks/attn/proj'),
  *norm(f'{_LAYER}.layer_norm2', 'blocks/norm2'),
  *linear(f'{_LAYER}.mlp.fc1', 'blocks/mlp/fc1'),
  *linear(f'{_LAYER}.mlp.fc2', 'blocks/mlp/fc2'),
  *norm('vision_model.post_layernorm', 'norm'),
  Row('visual_projection.weight', 'project/kernel', 'linear'),
]
