"""The PyTorch side of each row: the method made of torch, transformers and diffusers, in three versions."""

import os
from collections.abc import Callable

import numpy as np
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel, VQModel
from diffusers.models.attention_processor import AttnProcessor
from ml_collections import ConfigDict
from torch import nn

from benchmarks import torch_autoencoders
from benchmarks.rows import PLMS_STEPS, Row, config, voxels
from benchmarks.torch_autoencoders import info_nce, masked_error, patches_of, vit_config
from benchmarks.work import FEW, Work, elapsed, extrapolated

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(row: Row, way: str, quick: bool, full: bool = False) -> Work:
  """Builds the computation of a row.

  Args:
    row: see `rows`.
    way: a key of rows.PEERS.
    quick: at tiny sizes.
    full: sample all steps instead of computing their time from a few.
  """
  torch.manual_seed(0)
  torch.set_num_threads(1 if quick else len(os.sched_getaffinity(0)))  # as many as XLA uses
  device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  torch.backends.cudnn.benchmark = way != 'released'
  settings = config(quick)
  with device:
    if row.name == 'matmul':
      a = torch.randn(row.batch, row.batch, dtype=torch.bfloat16 if device.type == 'cuda' else torch.float32)
      return Work(_timed(lambda: a @ a, device))
    if row.name == 'copy':
      a = torch.ones(row.batch * 2**18)
      return Work(_timed(lambda: a.add_(1), device))
    if row.name == 'sample':
      return _sample(row, settings, voxels(row, quick), quick, full, device)
    if row.name in LOSSES:
      return Work(_timed(_training(row, way, settings, voxels(row, quick)), device))
    return Work(_timed(_forward(row, way, settings), device))


def _timed(call: Callable, device: torch.device) -> Callable:
  """Runs the call under autocast and waits for it, on a GPU."""
  if device.type == 'cpu':
    return call

  def on_gpu():
    with device, torch.autocast('cuda', torch.bfloat16):
      call()
    torch.cuda.synchronize()

  return on_gpu


# --- models ---------------------------------------------------------------------------------------------------------------


def fmri_mae(settings: ConfigDict, num_voxels: int, decoder_depth: int, cross_depth: int = 0) -> nn.Module:
  """Builds the fMRI autoencoder."""
  mae, image = settings.fmri_mae, settings.image_mae
  cross = vit_config(image.width, image.num_heads, image.mlp_dim) if cross_depth else None
  decoder = (mae.decoder_width, decoder_depth, mae.decoder_num_heads)
  sizes = (num_voxels, mae.patch_size, mae.width, mae.depth, mae.num_heads, decoder, mae.mlp_ratio)
  return torch_autoencoders.Fmri(*sizes, cross=cross, cross_depth=cross_depth)


def image_mae(settings: ConfigDict, fused_attention: bool) -> nn.Module:
  """Builds the image autoencoder from Hugging Face's layers, with torch's fused attention or with their own."""
  image, stage = settings.image_mae, settings.attend
  large = vit_config(image.width, image.num_heads, image.mlp_dim)
  small = vit_config(image.decoder_width, image.decoder_num_heads, image.decoder_mlp_dim)
  for part in (large, small):
    part._attn_implementation = 'sdpa' if fused_attention else 'eager'
  depths = (image.depth, small, stage.image_decoder_depth)
  return torch_autoencoders.Picture(
    image.image_size, image.patch_size, large, *depths, settings.fmri_mae.width, stage.cross_depth
  )


def conditioner(settings: ConfigDict, num_voxels: int) -> nn.Module:
  """Builds the fMRI encoder, which returns the context and an addition to the time embedding."""
  mae = settings.fmri_mae
  sizes = (num_voxels, mae.patch_size, mae.width, mae.depth, mae.num_heads)
  context = (settings.conditioner.context_tokens, settings.unet.context_dim)
  return torch_autoencoders.TimeConditioner(
    *sizes, *context, mae.mlp_ratio, time_width=4 * settings.unet.model_channels
  )


def unet(settings: ConfigDict) -> nn.Module:
  """Builds diffusers' UNet. Its class embedding is the addition to the time embedding."""
  sizes, channels = settings.unet, settings.first_stage.embed_dim
  attends = [2**level in sizes.attention_resolutions for level in range(len(sizes.channel_mult))]
  return UNet2DConditionModel(
    sample_size=latent_side(settings),
    in_channels=channels,
    out_channels=channels,
    layers_per_block=sizes.num_res_blocks,
    block_out_channels=[mult * sizes.model_channels for mult in sizes.channel_mult],
    down_block_types=['CrossAttnDownBlock2D' if attend else 'DownBlock2D' for attend in attends],
    up_block_types=['CrossAttnUpBlock2D' if attend else 'UpBlock2D' for attend in attends[::-1]],
    cross_attention_dim=sizes.context_dim,
    attention_head_dim=sizes.num_heads,  # diffusers gives the number of heads this name
    class_embed_type='identity',
  )


def first_stage(settings: ConfigDict) -> nn.Module:
  """Builds diffusers' VQ autoencoder."""
  sizes = settings.first_stage
  count = len(sizes.ch_mult)
  return VQModel(
    block_out_channels=[mult * sizes.ch for mult in sizes.ch_mult],
    layers_per_block=sizes.num_res_blocks,
    down_block_types=['DownEncoderBlock2D'] * count,
    up_block_types=['UpDecoderBlock2D'] * count,
    latent_channels=sizes.z_channels,
    vq_embed_dim=sizes.embed_dim,
    num_vq_embeddings=sizes.n_embed,
    sample_size=settings.data.image_size,
  )


def latent_side(settings: ConfigDict) -> int:
  """Height and width of a latent."""
  return settings.data.image_size // 2 ** (len(settings.first_stage.ch_mult) - 1)


# --- losses: each returns (modules that are clipped one by one, trained parameters, loss) ---------------------------------


def _contrast(row: Row, way: str, settings: ConfigDict, num_voxels: int):
  stage = settings.contrast
  model = fmri_mae(settings, num_voxels, stage.decoder_depth)
  tokens = num_voxels // settings.fmri_mae.patch_size
  fmri = torch.randn(row.batch, num_voxels)

  def loss():
    if way == 'released':  # one view after the other
      pred, mask = model(fmri, torch.rand(row.batch, tokens), stage.mask_ratio)
      other, _ = model(fmri, torch.rand(row.batch, tokens), stage.mask_ratio)
    else:
      both, masks = model(torch.cat([fmri, fmri]), torch.rand(2 * row.batch, tokens), stage.mask_ratio)
      (pred, other), mask = both.chunk(2), masks[: row.batch]
    first, second = pred.flatten(1), other.flatten(1)
    error = masked_error(pred, fmri.unflatten(1, (tokens, -1)), mask)
    return error + stage.self_weight * info_nce(first, fmri) + stage.cross_weight * info_nce(first, second)

  return [model], [p for p in model.parameters() if p.requires_grad], loss


def _attend(row: Row, way: str, settings: ConfigDict, num_voxels: int):
  stage = settings.attend
  model = fmri_mae(settings, num_voxels, stage.decoder_depth, stage.cross_depth)
  picture = image_mae(settings, fused_attention=way != 'released')
  patch, size = settings.image_mae.patch_size, settings.image_mae.image_size
  tokens, image_tokens = num_voxels // settings.fmri_mae.patch_size, (size // patch) ** 2
  fmri, image = torch.randn(row.batch, num_voxels), torch.rand(row.batch, 3, size, size) * 2 - 1
  mean, deviation = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))

  def loss():
    normal = ((image + 1) / 2 - mean) / deviation
    with torch.no_grad():
      support = picture.encode(normal)[0]
    pred, mask = model(fmri, torch.rand(row.batch, tokens), stage.mask_ratio, support)
    error = masked_error(pred, fmri.unflatten(1, (tokens, -1)), mask)
    noise = torch.rand(row.batch, image_tokens)
    pred, mask = picture(normal, noise, stage.image_mask_ratio, model.encode(fmri)[0])
    return stage.fmri_weight * error + stage.image_weight * masked_error(pred, patches_of(normal, patch), mask)

  parts = [model, picture]
  return parts, [p for part in parts for p in part.parameters() if p.requires_grad], loss


def trained_in_unet(name: str) -> bool:
  """Whether a parameter of diffusers' UNet trains in diffuse."""
  return 'attn2' in name or ('norm2' in name and 'transformer_blocks' in name)


def _diffuse(row: Row, way: str, settings: ConfigDict, num_voxels: int):
  denoiser, condition, vq = unet(settings), conditioner(settings, num_voxels), first_stage(settings)
  vq.requires_grad_(False)
  trained = [p for p in condition.parameters() if p.requires_grad]
  for name, parameter in denoiser.named_parameters():
    if trained_in_unet(name):
      trained.append(parameter)
    elif way != 'released':  # the published code computes these gradients too and does not use them
      parameter.requires_grad_(False)
  size = settings.data.image_size
  fmri, image = torch.randn(row.batch, num_voxels), torch.rand(row.batch, 3, size, size) * 2 - 1
  cached = None
  if row.name == 'cached' and way != 'released':
    cached = torch.randn(row.batch, settings.first_stage.embed_dim, latent_side(settings), latent_side(settings))
  cumprod = PNDMScheduler(**NOISE).alphas_cumprod.to(fmri.device)

  def loss():
    x0 = cached
    if x0 is None:
      with torch.no_grad():
        x0 = vq.encode(image).latents
    t, eps = torch.randint(1000, (row.batch,)), torch.randn_like(x0)
    alpha = cumprod[t][:, None, None, None]
    context, addition = condition(fmri)
    pred = denoiser(alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps, t, context, class_labels=addition).sample
    return (pred - eps).square().mean()

  return [nn.ModuleList([denoiser, condition])], trained, loss


NOISE = dict(
  num_train_timesteps=1000, beta_start=0.0015, beta_end=0.0195, beta_schedule='scaled_linear', skip_prk_steps=True,
  set_alpha_to_one=False, steps_offset=1,
)  # fmt: skip
LOSSES = {'contrast': _contrast, 'attend': _attend, 'diffuse': _diffuse, 'cached': _diffuse}


def keep_scores(modules: list[nn.Module]) -> None:
  """Makes timm's and diffusers' layers compute attention as the published code does: a softmax of all scores."""
  for part in (part for module in modules for part in module.modules()):
    if hasattr(part, 'fused_attn'):
      part.fused_attn = False
    if isinstance(part, UNet2DConditionModel):
      part.set_attn_processor(AttnProcessor())


def _training(row: Row, way: str, settings: ConfigDict, num_voxels: int) -> Callable:
  """Builds a training step: loss, gradients, clipping of each module by its own norm, AdamW."""
  modules, trained, loss = LOSSES[row.name](row, way, settings, num_voxels)
  if way == 'released':
    keep_scores(modules)
  stage = settings[row.stage]
  options = dict(lr=1e-6, betas=tuple(stage.betas), weight_decay=stage.weight_decay)
  chosen = {id(p) for p in trained}
  optimizer = torch.optim.AdamW(trained, **options, **({} if way == 'released' else {'fused': True}))
  groups = [[p for p in module.parameters() if id(p) in chosen] for module in modules]
  if way == 'compile':
    loss = torch.compile(loss)

  def call():
    optimizer.zero_grad()
    value = loss()
    value.backward()
    for group in groups:
      nn.utils.clip_grad_norm_(group, stage.clip_norm)
    optimizer.step()
    return value.item()

  return call


def _forward(row: Row, way: str, settings: ConfigDict) -> Callable:
  size, latent = settings.data.image_size, latent_side(settings)
  x = torch.randn(row.batch, settings.first_stage.embed_dim, latent, latent)
  if row.name == 'unet':
    model = unet(settings)
    context = torch.randn(row.batch, settings.conditioner.context_tokens, settings.unet.context_dim)
    inputs = (x, torch.full((row.batch,), 500), context, torch.randn(row.batch, 4 * settings.unet.model_channels))
    apply = lambda x, t, context, addition: model(x, t, context, class_labels=addition).sample
  elif row.name == 'encode':
    model, inputs = first_stage(settings), (torch.rand(row.batch, 3, size, size),)
    apply = lambda x: model.encode(x).latents
  else:
    model, inputs = first_stage(settings), (x,)
    apply = lambda x: model.decode(x).sample
  model.eval().requires_grad_(False)
  compiled = torch.compile(apply) if way == 'compile' else apply

  def call():
    with torch.inference_mode():
      return compiled(*inputs)

  return call


def _sample(row: Row, settings: ConfigDict, num_voxels: int, quick: bool, full: bool, device: torch.device) -> Work:
  denoiser, condition, vq = unet(settings), conditioner(settings, num_voxels), first_stage(settings)
  for part in (denoiser, condition, vq):
    part.eval().requires_grad_(False)
  part_size = min(row.batch, settings.reconstruct.batch_size)
  fmri = torch.randn(part_size, num_voxels)
  latent = latent_side(settings)
  shape = (part_size, settings.first_stage.embed_dim, latent, latent)
  scheduler = PNDMScheduler(**NOISE)

  def sampled(num_steps: int) -> torch.Tensor:
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda'):
      context, addition = condition(fmri)
      x = torch.randn(shape, device=device)
      scheduler.set_timesteps(num_steps)
      for t in scheduler.timesteps:
        pred = denoiser(x, t.expand(part_size).to(device), context, class_labels=addition).sample
        x = scheduler.step(pred, t, x).prev_sample
      x.sum().item()  # waits
      return x

  def decoded(x: torch.Tensor) -> np.ndarray:
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda'):
      return ((vq.decode(x).sample.clip(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()

  parts_of_batch = -(-row.batch // part_size)
  if full:
    return Work(lambda: [decoded(sampled(PLMS_STEPS)) for _ in range(parts_of_batch)])

  def seconds() -> float:
    sampling = extrapolated(lambda number: elapsed(lambda: sampled(number)), FEW[quick])
    x = torch.zeros(shape, device=device)
    return parts_of_batch * (sampling + elapsed(lambda: decoded(x)))

  return Work(timed=seconds, warm=lambda: decoded(sampled(1)))
