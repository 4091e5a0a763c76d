"""Writes golden files of the UNet, the first stage and the whole diffusion model at any size, with numbers of PyTorch."""

import numpy as np
import torch

from benchmarks.torch_autoencoders import Conditioner
from benchmarks.torch_training import torch_steps
from brainjax.trees import add_prefix
from tests.parity import torch_diffusion
from tests.parity.write_autoencoders import gradients, randomise, save, state

CONDITION = 'time_embed_condtion'


def unet(path, seed=0, batch=2, size=(8, 12), channels=5, base=64, mults=(1, 2, 1), blocks=2, attention=(2, 4), dim=18,
         head_channels=32, tokens=77):  # fmt: skip
  torch.manual_seed(seed)
  sizes = channels, base, mults, blocks, attention, dim
  inputs = {
    'x': torch.randn(batch, channels, *size), 't': torch.tensor([5, 871, 40][:batch]),
    'context': torch.randn(batch, tokens, dim), 'context_pooled': torch.randn(batch, 1, dim),
    'probe': torch.randn(batch, channels, *size),
  }  # fmt: skip
  one, some = (lambda width: 1), (lambda width: width // head_channels)
  full = state(randomise(torch_diffusion.UNet(*sizes, one, tokens)))
  pooled = randomise(torch_diffusion.UNet(*sizes, one, 1))
  condition = getattr(pooled, CONDITION)
  arrays = dict(inputs) | add_prefix('state', full) | add_prefix(f'state_globalpool/{CONDITION}', state(condition))
  variants = {
    'label2img_timecond': (one, tokens), 'label2img_notimecond': (one, None),
    f'headch{head_channels}_timecond': (some, tokens), f'headch{head_channels}_notimecond': (some, None),
    'globalpool_timecond': (one, 1),
  }  # fmt: skip
  for name, (heads, count) in variants.items():
    model = torch_diffusion.UNet(*sizes, heads, count)
    given = {key: value for key, value in full.items() if count == tokens or not key.startswith(CONDITION)}
    given |= {f'{CONDITION}.{key}': value for key, value in state(condition).items()} if count == 1 else {}
    model.load_state_dict(given)
    x = inputs['x'].clone().requires_grad_()
    context = inputs['context_pooled' if count == 1 else 'context'].clone().requires_grad_()
    taps = {}
    out = model(x, inputs['t'], context, taps)
    norms = {key: grad.norm() for key, grad in gradients(model, (out * inputs['probe']).sum()).items()}
    arrays |= add_prefix(name, {'out': out, 'grad_x': x.grad, 'grad_context': context.grad})
    arrays |= add_prefix(f'{name}/grad_norm', norms)
    arrays |= add_prefix(f'{name}/tap', taps) if name.endswith('_timecond') and count == tokens else {}
  t = torch.tensor([0, 1, 500, 999])
  arrays |= add_prefix('timestep_embedding', {'t': t, 'emb': torch_diffusion.time_embedding(t, base)})
  arrays['timestep_embedding/emb_dim320'] = torch_diffusion.time_embedding(t, 320)
  config = {
    'attention_resolutions': attention, 'batch': batch, 'channel_mult': mults, 'context_dim': dim,
    'image_size': size[0], 'model_channels': base, 'num_head_channels': head_channels, 'num_res_blocks': blocks,
    'seed': seed, 't': inputs['t'].tolist(),
  }  # fmt: skip
  return save(path, arrays, config)


def vqvae(path, seed=0, batch=3, pixels=24, ch=32, mults=(1, 1, 2), blocks=2, z=5, embed=4, codes=19, attention=(1,)):
  torch.manual_seed(seed)
  model = randomise(torch_diffusion.VQ(ch, mults, blocks, z, embed, codes, attention))
  image = torch.rand(batch, 3, pixels, pixels) * 2 - 1
  with torch.no_grad():
    latent = model.encode(image)
    other = torch.randn_like(latent)
    indices, codes_of = model.nearest(latent)
    arrays = add_prefix('state', state(model)) | {
      'image': image, 'encode/encoder_features': model.encoder(image), 'encode/latent_prequant': latent,
      'quantize/indices': indices, 'quantize/z_q': codes_of,
      'quantize/loss': 1.25 * (codes_of - latent).square().mean(),
      'quantize/random_latent_indices': model.nearest(other)[0], 'decode/quantized': model.decode(latent),
      'decode/post_quant_conv': model.post_quant_conv(codes_of), 'decode/random_latent_in': other,
      'decode/random_latent_out': model.decode(other), 'decode/force_not_quantize': model.decode(latent, False),
    }  # fmt: skip
  return save(path, arrays, {'seed': seed, 'batch': batch, 'ch': ch, 'ch_mult': mults, 'n_embed': codes})


def tables(count, start, end):
  """The constants of the noise schedule, in float64."""
  betas = np.linspace(start**0.5, end**0.5, count) ** 2
  total = np.cumprod(1 - betas)
  before = np.append(1, total[:-1])
  variance = betas * (1 - before) / (1 - total)
  bound = betas[1:] ** 2 / (2 * variance[1:] * (1 - betas[1:]) * (1 - total[1:]))
  return {
    'betas': betas, 'alphas_cumprod': total, 'alphas_cumprod_prev': before, 'sqrt_alphas_cumprod': total**0.5,
    'sqrt_one_minus_alphas_cumprod': (1 - total) ** 0.5, 'log_one_minus_alphas_cumprod': np.log(1 - total),
    'sqrt_recip_alphas_cumprod': total**-0.5, 'sqrt_recipm1_alphas_cumprod': (1 / total - 1) ** 0.5,
    'posterior_variance': variance, 'posterior_log_variance_clipped': np.log(np.maximum(variance, 1e-20)),
    'posterior_mean_coef1': betas * before**0.5 / (1 - total),
    'posterior_mean_coef2': (1 - before) * (1 - betas) ** 0.5 / (1 - total), 'lvlb_weights': np.append(bound[0], bound),
  }  # fmt: skip


class Sampling:
  """Samplers, step by step."""

  def __init__(self, eps, constants, number, eta=0.0):
    total = constants['alphas_cumprod']
    self.eps, self.steps = eps, np.arange(0, len(total), len(total) // number) + 1
    self.alphas, self.before = total[self.steps], total[np.append(0, self.steps[:-1])]
    self.sigmas = eta * ((1 - self.before) / (1 - self.alphas) * (1 - self.alphas / self.before)) ** 0.5

  def arrays(self):
    return {
      'timesteps': self.steps, 'alphas': self.alphas, 'alphas_prev': self.before,
      'sqrt_one_minus_alphas': (1 - self.alphas) ** 0.5,
    }  # fmt: skip

  def move(self, x, e, i, quantize=None, noise=0.0):
    alpha, before, sigma = (float(table[i]) for table in (self.alphas, self.before, self.sigmas))
    x0 = (x - (1 - alpha) ** 0.5 * e) / alpha**0.5
    x0 = quantize(x0) if quantize else x0
    return before**0.5 * x0 + (1 - before - sigma**2) ** 0.5 * e + sigma * noise, x0

  def ddim(self, x, quantize=None, noise=None):
    seen = [(x, x)]
    for count, i in enumerate(reversed(range(len(self.steps)))):
      x, x0 = self.move(x, self.eps(x, self.steps[i]), i, quantize, 0.0 if noise is None else noise[count])
      seen.append((x, x0))
    return x, seen

  def plms(self, x, quantize=None):
    seen, old = [(x, x)], []
    for i in reversed(range(len(self.steps))):
      e = self.eps(x, self.steps[i])
      if not old:
        ahead = self.move(x, e, i, quantize)[0]
        used = (e + self.eps(ahead, self.steps[max(i - 1, 0)])) / 2
      elif len(old) == 1:
        used = (3 * e - old[-1]) / 2
      elif len(old) == 2:
        used = (23 * e - 16 * old[-1] + 5 * old[-2]) / 12
      else:
        used = (55 * e - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
      old = [*old[-2:], e]
      x, x0 = self.move(x, used, i, quantize)
      seen.append((x, x0))
    return x, seen


def diffusion(path, seed=0, batch=3, pixels=16, base=32, mults=(1, 3), blocks=1, attention=(1, 2), dim=14, ch=32,
              vq_mults=(1, 2, 1), codes=21, patch=9, tokens=15, width=30, depth=1, heads=6, runs=(7, 20), stochastic=8,
              eta=0.7, guidance=1.5, tail=4, steps=2, lr=4e-4, clip=0.3, schedule=(1000, 0.001, 0.015), context=77):  # fmt: skip
  torch.manual_seed(seed)
  unet = torch_diffusion.UNet(3, base, mults, blocks, attention, dim, lambda width: 1, context)
  model = torch.nn.ModuleDict({
    'model': torch.nn.ModuleDict({'diffusion_model': unet}),
    'first_stage_model': torch_diffusion.VQ(ch, vq_mults, 1, 3, 3, codes),
    'cond_stage_model': Conditioner(tokens * patch, patch, width, depth, heads, context, dim),
  })  # fmt: skip
  randomise(model)
  vq, conditioner = model['first_stage_model'], model['cond_stage_model']
  constants = tables(*schedule)
  arrays = add_prefix('state', state(model)) | add_prefix('schedule', constants)
  count = schedule[0]
  for number in (1, *runs, stochastic, 300, count // 2):
    arrays[f'ddim_timesteps/S{number}'] = np.arange(0, count, count // number) + 1
  for number in (6, 40):
    arrays[f'ddim_timesteps_quad/S{number}'] = (np.linspace(0, (count * 0.8) ** 0.5, number) ** 2).astype(int) + 1
  total, latent = constants['alphas_cumprod'], pixels // 2 ** (len(vq_mults) - 1)
  fmri, image = torch.randn(batch, tokens * patch), torch.rand(batch, pixels, pixels, 3) * 2 - 1
  x0, noise, x_T = (torch.randn(batch, 3, latent, latent) for _ in range(3))
  t = torch.tensor([0, 333, count - 1, 5][:batch])

  def noisy(x0, t, eps):
    alpha = torch.tensor(total[t.numpy()], dtype=torch.float32)[:, None, None, None]
    return alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps

  def errors(x0, t, eps, fmri):
    return (unet(noisy(x0, t, eps), t, conditioner(fmri)) - eps).square().mean((1, 2, 3))

  with torch.no_grad():
    cond = conditioner(fmri)
    x_t, per_sample = noisy(x0, t, noise), errors(x0, t, noise, fmri)
    at = lambda name: torch.tensor(constants[name][t.numpy()], dtype=torch.float32)[:, None, None, None]
    arrays |= {
      'x0': x0, 'noise': noise, 't': t, 'fmri': fmri[:, None], 'cond': cond, 'x_T': x_T, 'image_hwc': image,
      'q_sample/x_t': x_t, 'apply_model/eps': unet(x_t, t, cond), 'p_losses/loss': per_sample.mean(),
      'p_losses/loss_simple': per_sample.mean(),
      'p_losses/loss_vlb': (at('lvlb_weights').flatten() * per_sample).mean(),
      'predict_start_from_noise': at('sqrt_recip_alphas_cumprod') * x0 - at('sqrt_recipm1_alphas_cumprod') * noise,
      'q_posterior/mean': at('posterior_mean_coef1') * x0 + at('posterior_mean_coef2') * noise,
      'q_posterior/variance': at('posterior_variance'),
      'q_posterior/log_variance': at('posterior_log_variance_clipped'),
    }  # fmt: skip
    arrays['get_input/latent'] = vq.encode(image.permute(0, 3, 1, 2))
    arrays['decode_first_stage/out'] = vq.decode(arrays['get_input/latent'])
    arrays |= _samples(unet, vq, constants, cond, x_T, runs, stochastic, eta, guidance, tail)

  trained = {}
  for name, parameter in model.named_parameters():
    ours = name.startswith('cond_stage_model.') or any(part in name for part in ('attn2', CONDITION, 'norm2'))
    dead = name.startswith('first_stage_model.') or name.endswith(('cls_token', 'mask_token'))
    trained[name] = ours, ours and not dead
    parameter.requires_grad_(ours and not dead)
  data = {
    'image': torch.rand(steps, batch, pixels, pixels, 3) * 2 - 1, 'fmri': torch.randn(steps, batch, tokens * patch),
    't': torch.randint(count, (steps, batch)), 'noise': torch.randn(steps, batch, 3, latent, latent),
  }  # fmt: skip

  def loss(inputs):
    with torch.no_grad():
      x0 = vq.encode(inputs['image'].permute(0, 3, 1, 2))
    return errors(x0, inputs['t'], inputs['noise'], inputs['fmri']).mean()

  batches = [{name: value[i] for name, value in data.items()} for i in range(steps)]
  results = []
  names = [name for name, (_, live) in trained.items() if live]
  for number, result in enumerate(torch_steps([model], loss, batches, lambda i: lr, (0.9, 0.999), 0.01, clip, True), 1):
    results.append(result)
    parameters = dict(model.named_parameters())
    arrays |= add_prefix(
      f'train_dedup/params_step{number}', {name: parameters[name].detach().clone() for name in names}
    )
  arrays |= add_prefix('train', {
    'image_hwc': data['image'], 'fmri': data['fmri'][:, :, None], 't': data['t'], 'noise': data['noise'],
  })  # fmt: skip
  losses, norms = [value for value, _ in results], [of[0] for _, of in results]
  arrays |= add_prefix('train_dedup', {'loss': losses, 'grad_norm_preclip': norms})
  arrays |= add_prefix('train_as_is', {'loss': losses, 'grad_norm_preclip': norms})
  average, decay = torch.randn(3, 7), 0.2
  arrays |= {'ema/w0': average, 'ema/decay': np.float32(decay)}
  for n in range(1, 4):
    weights, weight = torch.randn(3, 7), min(decay, (1 + n) / (10 + n))
    average = weight * average + (1 - weight) * weights
    arrays |= {f'ema/w{n}': weights, f'ema/shadow_after{n}': average}
  config = {
    'seed': seed, 'batch': batch, 'lr': lr, 'clip': clip, 'sample_steps': runs, 'patch_size': patch, 'patches': tokens,
    'embed_dim': width, 't': t.tolist(), 'use_ema': False,
    'optimizer_param_names': [name for name, (ours, _) in trained.items() if ours],
    'no_grad_in_optimizer': [name for name, (ours, live) in trained.items() if ours and not live],
  }  # fmt: skip
  return save(path, arrays, config)


def _samples(unet, vq, constants, cond, x_T, runs, stochastic, eta, guidance, tail):
  def eps(x, t, c=cond):
    return unet(x, torch.full((len(x),), int(t)), c)

  arrays = {}
  for sampler in ('plms', 'ddim'):
    for number in runs:
      # Over many steps a code that is almost as near as another decides everything: PyTorch in float32 and in float64
      # end at different pictures.
      for quantize in (None, lambda z: vq.nearest(z)[1])[: 2 if number == runs[0] else 1]:
        sampling = Sampling(eps, constants, number)
        final, seen = getattr(sampling, sampler)(x_T, quantize)
        prefix = f'{sampler}/S{number}' + ('_quantx0' if quantize else '')
        arrays |= add_prefix(prefix, {**sampling.arrays(), 'final': final, 'decoded': vq.decode(final)})
        if number == runs[0] and not quantize:
          inter = {'x_inter': torch.stack([x for x, _ in seen]), 'pred_x0': torch.stack([x0 for _, x0 in seen])}
          arrays |= add_prefix(prefix, inter)
  sampling = Sampling(eps, constants, stochastic, eta)
  noise = torch.randn(len(sampling.steps), *x_T.shape)
  arrays |= add_prefix(
    f'ddim_eta{eta}', {'noise': noise, 'sigmas': sampling.sigmas, 'final': sampling.ddim(x_T, noise=noise)[0]}
  )

  def guided(x, t):
    plain = eps(x, t, torch.zeros_like(cond))
    return plain + guidance * (eps(x, t) - plain)

  arrays[f'plms_guidance{guidance}/final'] = Sampling(guided, constants, stochastic).plms(x_T)[0]
  x, draws = x_T, torch.randn(tail, *x_T.shape)
  at = lambda name, t: float(constants[name][t])
  for t, draw in zip(reversed(range(tail)), draws, strict=True):
    x0 = at('sqrt_recip_alphas_cumprod', t) * x - at('sqrt_recipm1_alphas_cumprod', t) * eps(x, t)
    x = at('posterior_mean_coef1', t) * x0 + at('posterior_mean_coef2', t) * x
    x = x + (t > 0) * np.exp(0.5 * at('posterior_log_variance_clipped', t)) * draw
  return arrays | add_prefix(f'ddpm_tail{tail}', {'noise': draws, 'final': x})
