"""Torch names of the UNet (CompVis `UNetModel`, with the time conditioning whose torch name is misspelt)."""

from brainjax.torch_convert.engine import Row, linear, norm


def _res(torch: str, path: str) -> list[Row]:
  return [
    *norm(f'{torch}.in_layers.0', f'{path}/in_norm'),
    *linear(f'{torch}.in_layers.2', f'{path}/in_conv', 'conv2d'),
    *linear(f'{torch}.emb_layers.1', f'{path}/emb'),
    *norm(f'{torch}.out_layers.0', f'{path}/out_norm'),
    *linear(f'{torch}.out_layers.3', f'{path}/out_conv', 'conv2d'),
    *linear(f'{torch}.skip_connection', f'{path}/skip', 'conv1x1_linear'),
  ]


def _attention(torch: str, path: str) -> list[Row]:
  return [
    Row(f'{torch}.to_q.weight', f'{path}/to_q/kernel', 'linear'),
    Row(f'{torch}.to_k.weight', f'{path}/to_k/kernel', 'linear'),
    Row(f'{torch}.to_v.weight', f'{path}/to_v/kernel', 'linear'),
    *linear(f'{torch}.to_out.0', f'{path}/to_out'),
  ]


def transformer(torch: str, path: str) -> list[Row]:
  """Rows of the transformer after a residual block; diffusers has the same names below another prefix."""
  torch_block, block = f'{torch}.transformer_blocks.{{i}}', f'{path}/block_{{i}}'
  return [
    *norm(f'{torch}.norm', f'{path}/norm'),
    *linear(f'{torch}.proj_in', f'{path}/proj_in', 'conv1x1_linear'),
    *_attention(f'{torch_block}.attn1', f'{block}/attn1'),
    *_attention(f'{torch_block}.attn2', f'{block}/attn2'),
    *norm(f'{torch_block}.norm1', f'{block}/norm1'),
    *norm(f'{torch_block}.norm2', f'{block}/norm2'),
    *norm(f'{torch_block}.norm3', f'{block}/norm3'),
    *linear(f'{torch_block}.ff.net.0.proj', f'{block}/ff_in'),
    *linear(f'{torch_block}.ff.net.2', f'{block}/ff_out'),
    *linear(f'{torch}.proj_out', f'{path}/proj_out', 'conv1x1_linear'),
  ]


TABLE = [
  *linear('time_embed.0', 'time_embed_0'),
  *linear('time_embed.2', 'time_embed_2'),
  *linear('time_embed_condtion.0', 'time_embed_condition/tokens_0', 'conv1_linear'),
  *linear('time_embed_condtion.1', 'time_embed_condition/tokens_1', 'conv1_linear'),
  *linear('time_embed_condtion.2', 'time_embed_condition/dense'),
  *linear('time_embed_condtion', 'time_embed_condition/pooled'),
  *linear('input_blocks.0.0', 'input_0', 'conv2d'),
  *linear('input_blocks.{i}.0.op', 'input_{i}', 'conv2d'),
  *_res('input_blocks.{i}.0', 'input_{i}/res'),
  *transformer('input_blocks.{i}.1', 'input_{i}/transformer'),
  *_res('middle_block.0', 'middle_res_0'),
  *transformer('middle_block.1', 'middle_transformer'),
  *_res('middle_block.2', 'middle_res_2'),
  *_res('output_blocks.{i}.0', 'output_{i}/res'),
  *transformer('output_blocks.{i}.1', 'output_{i}/transformer'),
  *linear('output_blocks.{i}.{i}.conv', 'output_{i}/upsample_{i}', 'conv2d'),
  *norm('out.0', 'out_norm'),
  *linear('out.2', 'out_conv', 'conv2d'),
]
