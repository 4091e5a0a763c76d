"""Trains each stage at a tiny size beside the same method put together from PyTorch parts, and draws both loss curves.

python -m benchmarks.training_parity --out=docs/images/training_parity.png [--steps=300]

Same initial weights (through the conversion tables), same data, same random draws. The PyTorch side is an assembly of
torch.nn, Hugging Face ViT-MAE layers and diffusers' UNet; it shares no code with brainjax.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from ml_collections import ConfigDict
from torch import nn

from benchmarks import torch_autoencoders
from benchmarks.torch_autoencoders import info_nce, masked_error, patches_of, vit_config
from benchmarks.torch_training import cosine, fill, torch_steps
from brainjax import optim
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.models.unet import UNet
from brainjax.ops import diffusion
from brainjax.parity import replay
from brainjax.stages import attend, contrast, diffuse
from brainjax.torch_convert import engine
from brainjax.torch_convert.tables import conditioner, diffusers, fmri_mae, image_mae
from brainjax.trees import add_prefix, flatten, subtree, unflatten
from configs import base

matplotlib.use('Agg')
import matplotlib.pyplot as plt

BATCH, POOL, STEPS_PER_EPOCH = 8, 64, 10
VOXELS, PATCH, WIDTH, DEPTH, HEADS = 112, 8, 24, 2, 3
DECODER = dict(decoder_width=16, decoder_depth=2, decoder_num_heads=2)
PIXELS, PIXEL_PATCH, IMAGE_WIDTH, IMAGE_MLP = 24, 8, 36, 48
CONTEXT, CONTEXT_TOKENS, LATENT = 16, 7, 8
MASK, IMAGE_MASK = 0.75, 0.5
FIRST = 50  # steps over which the curves must agree
BOUND = 1e-3


# --- data -------------------------------------------------------------------------------------------------------------


def pool(seed: int, *shape: int) -> np.ndarray:
  """Samples that something can be learnt from: eight directions and a little noise, standardised: POOL *shape."""
  rng = np.random.default_rng(seed)
  size = int(np.prod(shape))
  x = rng.standard_normal((POOL, 8)) @ rng.standard_normal((8, size)) + 0.3 * rng.standard_normal((POOL, size))
  return ((x - x.mean()) / x.std()).astype(np.float32).reshape(POOL, *shape)


def rows(rng: np.random.Generator) -> np.ndarray:
  """The rows of a batch."""
  return rng.choice(POOL, BATCH, replace=False)


# --- initial weights --------------------------------------------------------------------------------------------------


def initial(model, *inputs) -> dict[str, np.ndarray]:
  """Path -> array of a fresh model; zero-initialised layers get small numbers, so that every path has an effect."""
  init = replay.jit(model.init)
  flat = {path: np.array(x) for path, x in flatten(init(jax.random.key(0), *inputs)['params']).items()}
  rng = np.random.default_rng(1)
  for path, x in flat.items():
    if path.endswith('kernel') and not x.any():
      flat[path] = (0.05 * rng.standard_normal(x.shape)).astype(np.float32)
  return flat


def torch_fmri(cross=None) -> nn.Module:
  """The autoencoder of fMRI in PyTorch."""
  return torch_autoencoders.Fmri(VOXELS, PATCH, WIDTH, DEPTH, HEADS, tuple(DECODER.values()), cross=cross)


def torch_picture() -> nn.Module:
  """The autoencoder of pictures in PyTorch."""
  large, small = (
    vit_config(IMAGE_WIDTH, HEADS, IMAGE_MLP),
    vit_config(DECODER['decoder_width'], DECODER['decoder_num_heads'], 32),
  )
  return torch_autoencoders.Picture(PIXELS, PIXEL_PATCH, large, DEPTH, small, DECODER['decoder_depth'], WIDTH)


# --- the three stages: each gives both loss curves -----------------------------------------------------------------------


def run_contrast(num_steps: int) -> tuple[list[float], list[float]]:
  """Phase 1."""
  settings = base.get_config().contrast
  fmri = pool(0, VOXELS)
  rng = np.random.default_rng(10)
  batches = [
    {'fmri': fmri[rows(rng)], 'noise': rng.random((2, BATCH, VOXELS // PATCH), np.float32)} for _ in range(num_steps)
  ]
  model = FmriMAE(VOXELS, PATCH, WIDTH, DEPTH, HEADS, **DECODER)
  flat = initial(model, fmri[:1])
  epochs, peak = num_steps / STEPS_PER_EPOCH, 2e-3

  def loss(params, batch, key):
    del key
    noise = batch['noise'].reshape(-1, batch['noise'].shape[-1])  # views B L -> (views B) L
    views = model.apply({'params': params}, jnp.concatenate([batch['fmri']] * 2), noise, MASK)
    return contrast.contrast_loss(views, batch['fmri'], contrast.Weights())

  rate = optim.warmup_cosine(peak, 3, epochs, STEPS_PER_EPOCH)
  options = dict(betas=settings.betas, weight_decay=settings.weight_decay, clip_norm=settings.clip_norm)
  optimizer = optim.make('adamw', rate, decay_all=False, **options)
  steps = replay.steps('contrast', flat, contrast.TRAINABLE, loss, optimizer, rate, batches)
  ours = [metrics['loss'] for _, metrics in steps]

  oracle = fill(torch_fmri(), engine.to_torch(fmri_mae.TABLE, flat))

  def torch_loss(batch):
    x = batch['fmri']
    (pred, mask), (other, _) = (oracle(x, noise, MASK) for noise in batch['noise'])
    pred_voxels, other_voxels = pred.flatten(1), other.flatten(1)
    error = masked_error(pred, x.unflatten(1, (-1, PATCH)), mask)
    return error + info_nce(pred_voxels, x) + 0.5 * info_nce(pred_voxels, other_voxels)

  theirs = torch_steps(
    [oracle], torch_loss, batches, cosine(STEPS_PER_EPOCH, peak, 3, epochs), settings.betas, settings.weight_decay,
    settings.clip_norm, False,
  )  # fmt: skip
  return ours, [value for value, _ in theirs]


def run_attend(num_steps: int) -> tuple[list[float], list[float]]:
  """Phase 2."""
  settings = base.get_config().attend
  fmri, images = pool(0, VOXELS), pool(2, PIXELS, PIXELS, 3)
  rng = np.random.default_rng(11)
  batches = []
  for _ in range(num_steps):
    chosen = rows(rng)
    noise = [rng.random((BATCH, n), np.float32) for n in (VOXELS // PATCH, (PIXELS // PIXEL_PATCH) ** 2)]
    batches.append({'fmri': fmri[chosen], 'image': images[chosen], 'fmri_noise': noise[0], 'image_noise': noise[1]})
  cross = dict(cross_depth=1, cross_width=IMAGE_WIDTH, cross_heads=HEADS, cross_mlp_dim=IMAGE_MLP)
  fmri_model = FmriMAE(VOXELS, PATCH, WIDTH, DEPTH, HEADS, **DECODER, **cross)
  image_model = ImageMAE(
    PIXELS, PIXEL_PATCH, IMAGE_WIDTH, DEPTH, HEADS, IMAGE_MLP, **DECODER, decoder_mlp_dim=32, cross_depth=1,
    fmri_width=WIDTH,
  )  # fmt: skip
  flat = add_prefix('fmri', initial(fmri_model, fmri[:1])) | add_prefix('image', initial(image_model, images[:1]))
  ones = np.ones((BATCH, 1), np.float32)
  weights = settings.fmri_weight, settings.image_weight
  epochs, peak = num_steps / STEPS_PER_EPOCH, 2e-3

  def loss(params, batch, key):
    del key
    inputs = [batch[name] for name in ('fmri', 'image', 'fmri_noise', 'image_noise')]
    out = attend.forward(fmri_model, image_model, params, *inputs, MASK, IMAGE_MASK)
    return attend.attend_loss(*out, batch['fmri'], batch['image'], ones, weights)

  rate = optim.warmup_cosine(peak, 3, epochs, STEPS_PER_EPOCH)
  options = dict(betas=settings.betas, weight_decay=settings.weight_decay, clip_norm=settings.clip_norm)
  optimizer = optim.make('adamw', rate, decay_all=False, clip_groups=('fmri/', 'image/'), **options)
  steps = replay.steps('attend', flat, attend.TRAINABLE, loss, optimizer, rate, batches)
  ours = [metrics['loss'] for _, metrics in steps]

  fmri_oracle = fill(
    torch_fmri(vit_config(IMAGE_WIDTH, HEADS, IMAGE_MLP)), engine.to_torch(fmri_mae.TABLE, subtree(flat, 'fmri'))
  )
  image_oracle = fill(torch_picture(), engine.to_torch(image_mae.TABLE, subtree(flat, 'image')))

  def torch_loss(batch):
    x, pictures = batch['fmri'], batch['image'].permute(0, 3, 1, 2)
    with torch.no_grad():
      support = image_oracle.encode(pictures)[0]
    pred, mask = fmri_oracle(x, batch['fmri_noise'], MASK, support)
    total = weights[0] * masked_error(pred, x.unflatten(1, (-1, PATCH)), mask)
    pred, mask = image_oracle(pictures, batch['image_noise'], IMAGE_MASK, fmri_oracle.encode(x)[0])
    return total + weights[1] * masked_error(pred, patches_of(pictures, PIXEL_PATCH), mask)

  theirs = torch_steps(
    [fmri_oracle, image_oracle], torch_loss, batches, cosine(STEPS_PER_EPOCH, peak, 3, epochs), settings.betas,
    settings.weight_decay, settings.clip_norm, False,
  )  # fmt: skip
  return ours, [value for value, _ in theirs]


def run_diffuse(num_steps: int) -> tuple[list[float], list[float]]:
  """Phase 3, on latents."""
  config = base.get_config()
  settings = config.diffuse
  fmri, latents = pool(0, VOXELS), pool(3, LATENT, LATENT, 3)
  rng = np.random.default_rng(12)
  batches = []
  for _ in range(num_steps):
    chosen = rows(rng)
    t, eps = rng.integers(1000, size=BATCH, dtype=np.int32), rng.standard_normal((BATCH, LATENT, LATENT, 3), np.float32)
    batches.append({'fmri': fmri[chosen], 'latent': latents[chosen], 't': t, 'eps': eps})
  sizes = dict(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(2, 1), context_dim=CONTEXT
  )
  unet = UNet(**sizes, context_tokens=CONTEXT_TOKENS)
  cond = FmriConditioner(VOXELS, PATCH, WIDTH, DEPTH, HEADS, context_tokens=CONTEXT_TOKENS, context_dim=CONTEXT)
  context = np.zeros((1, CONTEXT_TOKENS, CONTEXT), np.float32)
  flat = add_prefix('conditioner', initial(cond, fmri[:1]))
  flat |= add_prefix('unet', initial(unet, latents[:1], np.zeros(1, np.int32), context))
  schedule, peak = diffusion.make_schedule(), 1e-3

  def loss(params, batch, key):
    del key
    context = cond.apply({'params': params['conditioner']}, batch['fmri'])
    args = batch['latent'], context, batch['t'], batch['eps']
    return diffusion.eps_loss(diffuse.predict_noise(unet, params['unet'], schedule, *args), batch['eps']).mean(), {}

  trainable = diffuse.trainable(
    ConfigDict({'released': config.released.to_dict(), 'diffuse': {'train_unet': settings.train_unet}})
  )
  options = dict(betas=settings.betas, weight_decay=settings.weight_decay, clip_norm=settings.clip_norm)
  optimizer = optim.make('adamw', peak, decay_all=True, **options)
  steps = replay.steps('diffuse', flat, trainable, loss, optimizer, lambda step: peak, batches)
  ours = [metrics['loss'] for _, metrics in steps]

  oracle = UNet2DConditionModel(
    sample_size=LATENT, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64),
    down_block_types=('CrossAttnDownBlock2D',) * 2, up_block_types=('CrossAttnUpBlock2D',) * 2,
    cross_attention_dim=CONTEXT, attention_head_dim=1, class_embed_type='identity',
  )  # fmt: skip
  condition = torch_autoencoders.TimeConditioner(
    VOXELS, PATCH, WIDTH, DEPTH, HEADS, CONTEXT_TOKENS, CONTEXT, time_width=4 * sizes['model_channels']
  )
  inner = {path: x for path, x in subtree(flat, 'unet').items() if not path.startswith('time_embed_condition')}
  fill(oracle, engine.to_torch(diffusers.unet_table(sizes), inner))
  state = engine.to_torch(conditioner.TABLE, subtree(flat, 'conditioner'))
  time = unflatten(subtree(flat, 'unet'))['time_embed_condition']
  for number, name in enumerate(('tokens_0', 'tokens_1', 'dense')):
    kernel = time[name]['kernel'].T
    state[f'time.{number}.weight'] = kernel if name == 'dense' else kernel[:, :, None]
    state[f'time.{number}.bias'] = time[name]['bias']
  fill(condition, state)
  for name, parameter in oracle.named_parameters():
    parameter.requires_grad_('attn2' in name or ('norm2' in name and 'transformer_blocks' in name))
  cumprod = torch.from_numpy(schedule.alphas_cumprod)

  class Both(nn.Module):
    """The two are clipped together."""

    def __init__(self):
      super().__init__()
      self.oracle, self.condition = oracle, condition

  def torch_loss(batch):
    alpha = cumprod[batch['t'].long()][:, None, None, None]
    x0, eps = (batch[name].permute(0, 3, 1, 2) for name in ('latent', 'eps'))
    tokens, addition = condition(batch['fmri'])
    noisy = alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps
    pred = oracle(noisy, batch['t'].long(), tokens, class_labels=addition).sample
    return (pred - eps).square().mean()

  theirs = torch_steps(
    [Both()], torch_loss, batches, lambda step: peak, settings.betas, settings.weight_decay, settings.clip_norm, True
  )
  return ours, [value for value, _ in theirs]


STAGES = {
  'contrast': ('Contrast (phase 1)', run_contrast),
  'attend': ('Attend (phase 2)', run_attend),
  'diffuse': ('Diffuse (phase 3)', run_diffuse),
}


def draw(curves: dict[str, tuple[list[float], list[float]]], path: Path) -> None:
  """Both curves of each stage, and below them how far they are apart."""
  figure, axes = plt.subplots(
    2, len(curves), figsize=(4.2 * len(curves), 4.8), sharex=True, height_ratios=(3, 1.3), squeeze=False,
    layout='constrained',
  )  # fmt: skip
  for column, (name, (ours, theirs)) in enumerate(curves.items()):
    top, bottom = axes[:, column]
    top.plot(theirs, color='#e69f00', linewidth=3.5, label='PyTorch parts')
    top.plot(ours, color='#0b3c6f', linewidth=1.1, label='brainjax')
    top.set_title(STAGES[name][0], fontsize=11)
    bottom.semilogy(np.maximum(difference(ours, theirs), 1e-9), color='#444444', linewidth=0.9)
    bottom.axvline(FIRST, color='#aaaaaa', linewidth=0.8, linestyle='--')
    bottom.set_xlabel('training step')
    bottom.set_ylim(1e-9, 1e-1)
    for axis in (top, bottom):
      axis.spines[['top', 'right']].set_visible(False)
  axes[0, 0].set_ylabel('loss')
  axes[1, 0].set_ylabel('relative\ndifference')
  axes[0, 0].legend(frameon=False)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=130)


def difference(ours, theirs) -> np.ndarray:
  """Relative difference at each step."""
  return np.abs(np.array(ours) - np.array(theirs)) / np.abs(theirs)


def main() -> int:
  """Trains, draws, and says whether the curves agree."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=Path, default=Path('docs/images/training_parity.png'))
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--stages', default=','.join(STAGES))
  args = parser.parse_args()
  torch.manual_seed(0)
  torch.set_num_threads(1)  # the layers are far too small to share
  curves = {}
  with jax.default_matmul_precision('highest'):
    for name in args.stages.split(','):
      curves[name] = STAGES[name][1](args.steps)
      apart = difference(*curves[name])
      print(f'{name}: loss {curves[name][0][0]:.4f} -> {np.mean(curves[name][0][-20:]):.4f}', end='; ')
      print(
        f'largest relative difference {apart[:FIRST].max():.1e} in {FIRST} steps, {apart.max():.1e} in all', flush=True
      )
  draw(curves, args.out)
  return int(any(difference(*pair)[:FIRST].max() > BOUND for pair in curves.values()))


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  raise SystemExit(main())
