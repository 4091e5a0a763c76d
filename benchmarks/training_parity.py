"""Trains each stage at a tiny size, also with PyTorch, and draws both loss curves.

python -m benchmarks.training_parity --out=docs/images/training_parity.png [--steps=300]

Both sides have the same initial weights (through the conversion tables), data and random draws. The PyTorch side is made
of torch.nn, Hugging Face's ViT-MAE layers and diffusers' UNet; it shares no code with brainjax.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from flax import linen as nn
from ml_collections import ConfigDict

from benchmarks import torch_autoencoders
from benchmarks.rows_torch import trained_in_unet
from benchmarks.torch_autoencoders import info_nce, masked_error, patches_of, vit_config
from benchmarks.torch_training import cosine, fill, torch_steps
from brainjax import optim
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.models.latent_diffusion import predict_noise
from brainjax.models.unet import UNet
from brainjax.ops import diffusion
from brainjax.parity import replay
from brainjax.stages import attend, common, contrast, diffuse
from brainjax.stages.problem import Loss
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
PEAK, WARMUP = 2e-3, 3  # learning rate, epochs
FIRST = 50  # steps over which the curves must agree
BOUND = 1e-3  # largest relative difference


# --- data -------------------------------------------------------------------------------------------------------------


def pool(seed: int, *shape: int) -> np.ndarray:
  """Returns POOL standardised samples of a shape: mixtures of eight directions, and a little noise."""
  rng = np.random.default_rng(seed)
  size = int(np.prod(shape))
  x = rng.standard_normal((POOL, 8)) @ rng.standard_normal((8, size)) + 0.3 * rng.standard_normal((POOL, size))
  return ((x - x.mean()) / x.std()).astype(np.float32).reshape(POOL, *shape)


def draw_rows(rng: np.random.Generator) -> np.ndarray:
  """Draws the rows of a batch."""
  return rng.choice(POOL, BATCH, replace=False)


# --- initial weights --------------------------------------------------------------------------------------------------


def init(model: nn.Module, *inputs: np.ndarray) -> dict[str, np.ndarray]:
  """Initialises a model: path -> array. Kernels of zeros become small random numbers, so that every path has an effect."""
  params = replay.jit(model.init)(jax.random.key(0), *inputs)['params']
  flat = {path: np.array(x) for path, x in flatten(params).items()}
  rng = np.random.default_rng(1)
  for path, x in flat.items():
    if path.endswith('kernel') and not x.any():
      flat[path] = (0.05 * rng.standard_normal(x.shape)).astype(np.float32)
  return flat


def torch_fmri(cross: Any = None) -> torch.nn.Module:
  """Builds the fMRI autoencoder in PyTorch."""
  return torch_autoencoders.Fmri(VOXELS, PATCH, WIDTH, DEPTH, HEADS, tuple(DECODER.values()), cross=cross)


def torch_picture() -> torch.nn.Module:
  """Builds the image autoencoder in PyTorch."""
  large, small = (
    vit_config(IMAGE_WIDTH, HEADS, IMAGE_MLP),
    vit_config(DECODER['decoder_width'], DECODER['decoder_num_heads'], 32),
  )
  return torch_autoencoders.Picture(PIXELS, PIXEL_PATCH, large, DEPTH, small, DECODER['decoder_depth'], WIDTH)


# --- training ---------------------------------------------------------------------------------------------------------


def train_jax(
  stage: ConfigDict,
  options: Mapping[str, Any],
  flat: Mapping[str, np.ndarray],
  trainable: str,
  loss: Loss,
  rate: Callable,
  batches: Iterable[Mapping[str, np.ndarray]],
) -> list[float]:
  """Trains with the optimizer of the stage's config; returns the loss of each step."""
  optimizer = common.optimizer_of(stage, rate, **options)
  return [metrics['loss'] for _, metrics in replay.steps(flat, trainable, loss, optimizer, rate, batches)]


def train_torch(
  stage: ConfigDict,
  modules: list[torch.nn.Module],
  loss: Callable,
  rate: Callable[[int], float],
  batches: Iterable[Mapping[str, np.ndarray]],
  decay_all: bool = False,
) -> list[float]:
  """Trains PyTorch modules, each clipped on its own, with the same optimizer; returns the loss of each step."""
  steps = torch_steps(modules, loss, batches, rate, stage.betas, stage.weight_decay, stage.clip_norm, decay_all)
  return [value for value, _ in steps]


# --- the three stages: each returns both loss curves --------------------------------------------------------------------


def run_contrast(num_steps: int) -> tuple[list[float], list[float]]:
  """Phase 1."""
  config = base.get_config()
  stage = config.contrast
  fmri = pool(0, VOXELS)
  rng = np.random.default_rng(10)
  batches = [
    {'fmri': fmri[draw_rows(rng)], 'noise': rng.random((2, BATCH, VOXELS // PATCH), np.float32)}
    for _ in range(num_steps)
  ]
  model = FmriMAE(VOXELS, PATCH, WIDTH, DEPTH, HEADS, **DECODER)
  flat, epochs, weights = init(model, fmri[:1]), num_steps / STEPS_PER_EPOCH, contrast.loss_weights(config)

  def loss(params, batch, key):
    del key
    noise = batch['noise'].reshape(-1, batch['noise'].shape[-1])  # views B L -> (views B) L
    views = model.apply({'params': params}, jnp.concatenate([batch['fmri']] * 2), noise, stage.mask_ratio)
    return contrast.contrast_loss(views, batch['fmri'], weights)

  rate = optim.warmup_cosine(PEAK, WARMUP, epochs, STEPS_PER_EPOCH)
  ours = train_jax(stage, {}, flat, common.ALL_BUT_POSITIONS, loss, rate, batches)

  oracle = fill(torch_fmri(), engine.to_torch(fmri_mae.TABLE, flat))

  def torch_loss(batch):
    x = batch['fmri']
    (pred, mask), (other, _) = (oracle(x, noise, stage.mask_ratio) for noise in batch['noise'])
    pred_voxels, other_voxels = pred.flatten(1), other.flatten(1)
    error = masked_error(pred, x.unflatten(1, (-1, PATCH)), mask)
    self_term, cross_term = info_nce(pred_voxels, x), info_nce(pred_voxels, other_voxels)
    return error + stage.self_weight * self_term + stage.cross_weight * cross_term

  return ours, train_torch(stage, [oracle], torch_loss, cosine(STEPS_PER_EPOCH, PEAK, WARMUP, epochs), batches)


def run_attend(num_steps: int) -> tuple[list[float], list[float]]:
  """Phase 2."""
  stage = base.get_config().attend
  fmri, images = pool(0, VOXELS), pool(2, PIXELS, PIXELS, 3)
  rng = np.random.default_rng(11)
  batches = []
  for _ in range(num_steps):
    rows = draw_rows(rng)
    noise = [rng.random((BATCH, n), np.float32) for n in (VOXELS // PATCH, (PIXELS // PIXEL_PATCH) ** 2)]
    batches.append({'fmri': fmri[rows], 'image': images[rows], 'fmri_noise': noise[0], 'image_noise': noise[1]})
  cross = dict(cross_depth=1, cross_width=IMAGE_WIDTH, cross_heads=HEADS, cross_mlp_dim=IMAGE_MLP)
  fmri_model = FmriMAE(VOXELS, PATCH, WIDTH, DEPTH, HEADS, **DECODER, **cross)
  image_model = ImageMAE(
    PIXELS, PIXEL_PATCH, IMAGE_WIDTH, DEPTH, HEADS, IMAGE_MLP, **DECODER, decoder_mlp_dim=32, cross_depth=1,
    fmri_width=WIDTH,
  )  # fmt: skip
  flat = add_prefix('fmri', init(fmri_model, fmri[:1])) | add_prefix('image', init(image_model, images[:1]))
  ones = np.ones((BATCH, 1), np.float32)
  weights, epochs = (stage.fmri_weight, stage.image_weight), num_steps / STEPS_PER_EPOCH

  def loss(params, batch, key):
    del key
    inputs = [batch[name] for name in ('fmri', 'image', 'fmri_noise', 'image_noise')]
    out = attend.forward(fmri_model, image_model, params, *inputs, stage.mask_ratio, stage.image_mask_ratio)
    return attend.attend_loss(*out, batch['fmri'], batch['image'], ones, weights)

  rate = optim.warmup_cosine(PEAK, WARMUP, epochs, STEPS_PER_EPOCH)
  ours = train_jax(stage, attend.OPTIMIZER, flat, attend.TRAINABLE, loss, rate, batches)

  fmri_oracle = fill(
    torch_fmri(vit_config(IMAGE_WIDTH, HEADS, IMAGE_MLP)), engine.to_torch(fmri_mae.TABLE, subtree(flat, 'fmri'))
  )
  image_oracle = fill(torch_picture(), engine.to_torch(image_mae.TABLE, subtree(flat, 'image')))

  def torch_loss(batch):
    x, pictures = batch['fmri'], batch['image'].permute(0, 3, 1, 2)
    with torch.no_grad():
      support = image_oracle.encode(pictures)[0]
    pred, mask = fmri_oracle(x, batch['fmri_noise'], stage.mask_ratio, support)
    total = weights[0] * masked_error(pred, x.unflatten(1, (-1, PATCH)), mask)
    pred, mask = image_oracle(pictures, batch['image_noise'], stage.image_mask_ratio, fmri_oracle.encode(x)[0])
    return total + weights[1] * masked_error(pred, patches_of(pictures, PIXEL_PATCH), mask)

  torch_rate = cosine(STEPS_PER_EPOCH, PEAK, WARMUP, epochs)
  return ours, train_torch(stage, [fmri_oracle, image_oracle], torch_loss, torch_rate, batches)


def run_diffuse(num_steps: int) -> tuple[list[float], list[float]]:
  """Phase 3, on latents."""
  config = base.get_config()
  stage = config.diffuse
  fmri, latents = pool(0, VOXELS), pool(3, LATENT, LATENT, 3)
  rng = np.random.default_rng(12)
  batches = []
  for _ in range(num_steps):
    rows = draw_rows(rng)
    t, eps = rng.integers(1000, size=BATCH, dtype=np.int32), rng.standard_normal((BATCH, LATENT, LATENT, 3), np.float32)
    batches.append({'fmri': fmri[rows], 'latent': latents[rows], 't': t, 'eps': eps})
  sizes = dict(
    model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(2, 1), context_dim=CONTEXT
  )
  unet = UNet(**sizes, context_tokens=CONTEXT_TOKENS)
  cond = FmriConditioner(VOXELS, PATCH, WIDTH, DEPTH, HEADS, context_tokens=CONTEXT_TOKENS, context_dim=CONTEXT)
  context = np.zeros((1, CONTEXT_TOKENS, CONTEXT), np.float32)
  flat = add_prefix('conditioner', init(cond, fmri[:1]))
  flat |= add_prefix('unet', init(unet, latents[:1], np.zeros(1, np.int32), context))
  schedule, rate = diffusion.make_schedule(**config.noise_schedule), lambda step: 1e-3

  def loss(params, batch, key):
    del key
    context = cond.apply({'params': params['conditioner']}, batch['fmri'])
    args = batch['latent'], context, batch['t'], batch['eps']
    return diffusion.eps_loss(predict_noise(unet, params['unet'], schedule, *args), batch['eps']).mean(), {}

  ours = train_jax(stage, diffuse.OPTIMIZER, flat, diffuse.trainable(config), loss, rate, batches)

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
    parameter.requires_grad_(trained_in_unet(name))
  cumprod = torch.from_numpy(schedule.alphas_cumprod)

  def torch_loss(batch):
    alpha = cumprod[batch['t'].long()][:, None, None, None]
    x0, eps = (batch[name].permute(0, 3, 1, 2) for name in ('latent', 'eps'))
    tokens, addition = condition(batch['fmri'])
    noisy = alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps
    pred = oracle(noisy, batch['t'].long(), tokens, class_labels=addition).sample
    return (pred - eps).square().mean()

  both = torch.nn.ModuleList([oracle, condition])  # their gradients are clipped together
  return ours, train_torch(stage, [both], torch_loss, rate, batches, decay_all=True)


STAGES = {
  'contrast': ('Contrast (phase 1)', run_contrast),
  'attend': ('Attend (phase 2)', run_attend),
  'diffuse': ('Diffuse (phase 3)', run_diffuse),
}


def draw(curves: dict[str, tuple[list[float], list[float]]], path: Path) -> None:
  """Draws both curves of each stage, and their relative difference."""
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
  """Trains and draws; returns 1 if the curves differ."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=Path, default=Path('docs/images/training_parity.png'))
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--stages', default=','.join(STAGES))
  args = parser.parse_args()
  torch.manual_seed(0)
  torch.set_num_threads(1)  # the layers are too small for threads
  curves = {}
  with jax.default_matmul_precision('highest'):
    for name in args.stages.split(','):
      curves[name] = STAGES[name][1](args.steps)
      errors = difference(*curves[name])
      print(f'{name}: loss {curves[name][0][0]:.4f} -> {np.mean(curves[name][0][-20:]):.4f}', end='; ')
      print(
        f'largest relative difference {errors[:FIRST].max():.1e} in {FIRST} steps, {errors.max():.1e} in all',
        flush=True,
      )
  draw(curves, args.out)
  return int(any(difference(*pair)[:FIRST].max() > BOUND for pair in curves.values()))


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  raise SystemExit(main())
