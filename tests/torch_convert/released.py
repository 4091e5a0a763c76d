"""Writes files nested as the releases are, with the manifests' names and shapes, full size or scaled down."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import torch

MANIFESTS = Path(__file__).parents[1] / 'manifests'
# Depths kept when scaling down, and (regex of names, {size: scaled size}); the first match is used.
_SHALLOW = re.compile(r'(?:^|\.)(blocks|decoder_blocks|cross_blocks|layer|layer_cross|decoder_layers)\.(\d+)\.')
_DEPTHS = {'blocks': 2, 'decoder_blocks': 3, 'cross_blocks': 2, 'layer': 3, 'layer_cross': 2, 'decoder_layers': 2}
_FMRI = {1024: 32, 3072: 96, 512: 24, 1536: 72, 768: 36, 263: 10, 262: 9, 131: 4, 77: 7, 16: 4}
_CONTEXT = {512: 24, 77: 7, 38: 3}
_SCALES = [
  (
    r'first_stage_model\.|encoder\.(conv|down|mid|norm)|decoder\.(conv|up|mid|norm)',
    {128: 32, 256: 64, 512: 128, 8192: 64},
  ),
  (r'quant', {8192: 64}),
  (r'cond_stage_model\.embedding', {512: 24, 1001: 11}),
  (r'cross_blocks.*(intermediate|output)\.dense', {3072: 40, 768: 36}),
  (r'vit\.embeddings\.patch', {768: 36, 16: 2}),
  (r'decoder\.decoder_pred', {768: 12, 512: 32}),
  (r'vit\.|decoder\.', {768: 36, 3072: 40, 512: 32, 2048: 56, 197: 10, 1024: 24}),
  (r'', _FMRI),
]


# Manifest (or small model) -> the kind that it must be recognised as.
KIND = {
  'phase1': 'phase1',
  'phase2_fmri': 'phase2',
  'ldm_finetune': 'ldm',
  'ldm_label2img_pretrained': 'label2img',
  'vq_f4': 'vq_f4',
  'vit_mae_base': 'vit_mae',
  'phase2_image': 'vit_mae',
}


def manifest(name: str) -> dict[str, tuple[int, ...]]:
  """Torch name -> shape at full size."""
  return {key: tuple(shape) for key, shape in json.loads((MANIFESTS / f'{name}.json').read_text()).items()}


def scaled(name: str) -> dict[str, tuple[int, ...]]:
  """The same names at a small size, with fewer layers."""
  shapes = {}
  for key, shape in manifest(name).items():
    if (match := _SHALLOW.search(key)) and int(match[2]) >= _DEPTHS[match[1]]:
      continue
    scale = next(scale for pattern, scale in _SCALES if re.match(pattern, key))
    if key.startswith('model.diffusion_model.') or shape == (1000,):
      shapes[key] = tuple(_unet_size(size, key) for size in shape)
    else:
      shapes[key] = tuple(scale.get(size, size) for size in shape)
  return shapes


def _unet_size(size: int, key: str) -> int:
  """Channels are multiples of 192, except those of the context (512 is a width of the UNet nowhere)."""
  if size in (77, 38) or (size == 512 and re.search(r'attn2\.to_[kv]|time_embed_condtion', key)):
    return _CONTEXT[size]
  return size * 32 // 192 if size % 192 == 0 else size


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
  """Random values for every tensor; the constants of the noise schedule are the real ones."""
  generator = torch.Generator().manual_seed(seed)
  state = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
  return state | {name: value for name, value in schedule().items() if name in shapes}


def schedule(start: float = 0.0015, end: float = 0.0195) -> dict[str, torch.Tensor]:
  """The buffers as CompVis computes them, written out with PyTorch in float64."""
  betas = torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float64) ** 2
  alphas = 1 - betas
  total = torch.cumprod(alphas, 0)
  before = torch.cat([torch.ones(1, dtype=torch.float64), total[:-1]])
  variance = betas * (1 - before) / (1 - total)
  values = {
    'betas': betas,
    'alphas_cumprod': total,
    'alphas_cumprod_prev': before,
    'sqrt_alphas_cumprod': total.sqrt(),
    'sqrt_one_minus_alphas_cumprod': (1 - total).sqrt(),
    'log_one_minus_alphas_cumprod': (1 - total).log(),
    'sqrt_recip_alphas_cumprod': (1 / total).sqrt(),
    'sqrt_recipm1_alphas_cumprod': (1 / total - 1).sqrt(),
    'posterior_variance': variance,
    'posterior_log_variance_clipped': variance.clamp(min=1e-20).log(),
    'posterior_mean_coef1': betas * before.sqrt() / (1 - total),
    'posterior_mean_coef2': (1 - before) * alphas.sqrt() / (1 - total),
  }
  return {name: value.float() for name, value in values.items()}


def vit_h_14_shapes(mlp: tuple[str, str] = ('linear_1', 'linear_2')) -> dict[str, tuple[int, ...]]:
  """A small torchvision VisionTransformer: 6 pixels, patch 2, width 32, depth 2, MLP 40, 9 classes."""
  shapes = {
    'class_token': (1, 1, 32),
    'conv_proj.weight': (32, 3, 2, 2),
    'conv_proj.bias': (32,),
    'encoder.pos_embedding': (1, 10, 32),
    'encoder.ln.weight': (32,),
    'encoder.ln.bias': (32,),
    'heads.head.weight': (9, 32),
    'heads.head.bias': (9,),
  }
  for i in range(2):
    layer = f'encoder.layers.encoder_layer_{i}'
    shapes |= {f'{layer}.{norm}.{part}': (32,) for norm in ('ln_1', 'ln_2') for part in ('weight', 'bias')}
    shapes |= {f'{layer}.self_attention.in_proj_weight': (96, 32), f'{layer}.self_attention.in_proj_bias': (96,)}
    shapes |= {f'{layer}.self_attention.out_proj.weight': (32, 32), f'{layer}.self_attention.out_proj.bias': (32,)}
    shapes |= {f'{layer}.mlp.{mlp[0]}.weight': (40, 32), f'{layer}.mlp.{mlp[0]}.bias': (40,)}
    shapes |= {f'{layer}.mlp.{mlp[1]}.weight': (32, 40), f'{layer}.mlp.{mlp[1]}.bias': (32,)}
  return shapes


_CONFIG = type('Config_MBM_fMRI_contrast', (), {'__module__': 'config'})


def config_object(**attributes):
  """A config instance of a class in a module `config`; call `forget_config` before the file is read."""
  sys.modules['config'] = types.ModuleType('config')
  sys.modules['config'].Config_MBM_fMRI_contrast = _CONFIG
  value = _CONFIG()
  value.__dict__.update(attributes)
  return value


def forget_config() -> None:
  """Makes the config's module unavailable, as it is to our users."""
  sys.modules.pop('config', None)


def write(
  name: str, path: Path, state: dict[str, torch.Tensor] | None = None, legacy: bool = False
) -> dict[str, torch.Tensor]:
  """Writes a release, nested as the original scripts do it, and returns its state dict.

  Args:
    name: a manifest, or 'vit_h_14'.
    path: the file.
    state: what to write; random small weights when left out.
    legacy: in the format of PyTorch before 1.6.
  """
  if state is None:
    state = random_state(vit_h_14_shapes() if name == 'vit_h_14' else scaled(name))
  config = config_object(
    num_heads=8, decoder_num_heads=4, patch_size=4, seed=2022, root_path='../', dropped=np.float64(0.5)
  )
  layer = torch.nn.Linear(7, 8)
  optimizer = torch.optim.AdamW(layer.parameters())
  layer(torch.ones(7)).sum().backward()
  optimizer.step()
  training = {'optimizer': optimizer.state_dict(), 'epoch': 12, 'scaler': {'scale': 65536.0}, 'config': config}
  merged = {'num_epoch': 60, 'vit_config': config_object(num_attention_heads=6), 'img_recon_weight': 1.5}
  nested = {
    'phase1': {'model': state, **training},
    'phase2_fmri': {'model': state, **training, 'config_merge': merged},
    'ldm_finetune': {'model_state_dict': state, 'config': config, 'state': torch.get_rng_state()},
    'ldm_label2img_pretrained': {
      'state_dict': state,
      'epoch': 3,
      'global_step': 7,
      'callbacks': {type(config): {'best': 1}},
    },
    'vq_f4': {'state_dict': state, 'epoch': 4},
  }
  torch.save(nested.get(name, state), path, _use_new_zipfile_serialization=not legacy)
  forget_config()
  return state
