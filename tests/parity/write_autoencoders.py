"""Writes golden files of phase 1, phase 2 and the conditioner at any size, with numbers of PyTorch models."""

import json

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.torch_autoencoders import (
  Conditioner,
  Fmri,
  Picture,
  info_nce,
  masked_error,
  patches_of,
  vit_config,
)
from benchmarks.torch_training import cosine, torch_steps
from brainjax.trees import add_prefix

TRAIN = {
  'clip_grad': 0.7,
  'epoch': 3,
  'lr': 0.002,
  'min_lr': 0.0,
  'num_epoch': 9,
  'warmup_epochs': 2,
  'weight_decay': 0.07,
}
BETAS = (0.9, 0.95)


def save(path, arrays, config):
  """Writes the file; tensors become arrays, 64 bits become 32."""
  arrays = {
    name: value.detach().numpy() if torch.is_tensor(value) else np.asarray(value) for name, value in arrays.items()
  }
  narrow = {'f': np.float32, 'i': np.int32}
  arrays = {name: x.astype(narrow.get(x.dtype.kind, x.dtype)) for name, x in arrays.items()}
  np.savez(path, config_json=json.dumps(config), **arrays)
  return path


def randomise(module, scale=1.0):
  """Random weights in every layer; normalisations away from 1 and 0."""
  for name, parameter in module.named_parameters():
    with torch.no_grad():
      if parameter.ndim == 1:
        parameter.copy_(
          torch.randn_like(parameter) * 0.1 + (1.0 if 'norm' in name and name.endswith('weight') else 0.0)
        )
      elif name.endswith(('pos_embed', 'position_embeddings')):
        parameter.copy_(torch.randn_like(parameter) * 0.5)
      else:
        parameter.copy_(torch.randn_like(parameter) * scale * parameter[0].numel() ** -0.5)
  return module


def state(module):
  return {name: value.detach().clone() for name, value in module.state_dict().items()}


def trainable(module):
  return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def gradients(module, value, retain=False):
  module.zero_grad()
  value.backward(retain_graph=retain)
  return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def norm(tensors):
  return torch.stack([x.norm() for x in tensors]).norm()


def groups(module):
  kind = lambda p: 'frozen' if not p.requires_grad else 'decay' if p.ndim > 1 else 'no_decay'
  return {name: kind(p) for name, p in module.named_parameters()}


def pearson(a, b):
  """Rows of a against rows of b."""
  a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
  return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def paired(queries, keys):
  """InfoNCE whose negatives are the other queries."""
  q, k = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
  others = (q @ q.T)[~torch.eye(len(q), dtype=torch.bool)].view(len(q), -1)
  logits = torch.cat([(q * k).sum(-1, keepdim=True), others], 1) / 0.1
  return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def sincos(positions, width):
  rates = 10000.0 ** (-np.arange(width // 2) / (width / 2))
  angles = np.outer(positions, rates)
  return np.concatenate([np.sin(angles), np.cos(angles)], 1)


def phase1(path, seed=0, batch=5, patch=7, tokens=13, width=24, depth=2, heads=3, decoder=(20, 1, 5), ratio=0.6,
           mlp_ratio=1.7, steps=4, cross_weight=0.3):  # fmt: skip
  torch.manual_seed(seed)
  model = randomise(Fmri(tokens * patch, patch, width, depth, heads, decoder, mlp_ratio))
  x, noise = torch.randn(batch, tokens * patch), torch.rand(2, batch, tokens)
  arrays = add_prefix('state', state(model)) | {'fmri': x[:, None], 'noise/view1': noise[0], 'noise/view2': noise[1]}
  preds, masks = [], []
  for number in range(2):
    latent, restore, mask = model.encode(x, noise[number], ratio)
    preds.append(model.decode(latent, restore))
    masks.append(mask)
    values = {'latent': latent, 'mask': mask, 'ids_restore': restore, 'pred': preds[-1]}
    arrays |= add_prefix(f'fwd/view{number + 1}', values)

  def terms(x, preds, mask):
    one, two = (pred.flatten(1) for pred in preds)
    return {
      'mask_mse': masked_error(preds[0], x.unflatten(1, (-1, patch)), mask),
      'self_infonce': info_nce(one, x),
      'self_infonce_view2': info_nce(two, x),
      'cross_infonce': info_nce(one, two),
    }

  def total(values, masked, self_weight, outer=0.5, extra=0.0, self_term=None):
    self_term = values['self_infonce'] if self_term is None else self_term
    contrast = self_weight * self_term + cross_weight * values['cross_infonce'] + extra * values['self_infonce_view2']
    return masked * values['mask_mse'] + outer * contrast, contrast

  values = terms(x, preds, masks[0])
  one = preds[0].flatten(1)
  arrays |= add_prefix('loss', values) | {'loss/self_cos_matrix': F.normalize(one, dim=-1) @ F.normalize(x, dim=-1).T}
  variants = {
    'script_nomask': total(values, 0.0, 0.5), 'script_mask': total(values, 1.0, 0.5),
    'readme_nomask': total(values, 0.0, 1.0), 'readme_mask': total(values, 1.0, 1.0),
    'readme_mask_seploss': total(values, 1.0, 1.0, extra=1.0), 'readme_mask_cw2.5': total(values, 1.0, 1.0, outer=2.5),
    'readme_mask_paired': total(values, 1.0, 1.0, self_term=paired(one, x)),
  }  # fmt: skip
  for name, (loss, contrast) in variants.items():
    mask_loss = torch.zeros(()) if 'nomask' in name else values['mask_mse']
    arrays |= add_prefix(f'total/{name}', {'loss': loss, 'mask_loss': mask_loss, 'contrast_loss': contrast})
  for name, prefix in (('script_nomask', ''), ('readme_mask', 'grad'), ('readme_nomask', 'grad_nomask')):
    grads = gradients(model, variants[name][0], retain=True)
    arrays[f'total/{name}/grad_norm'] = norm(grads.values())
    arrays |= add_prefix(prefix, grads) if prefix else {}

  config = {
    'batch': batch, 'cross_contrast_loss_weight': cross_weight, 'decoder_depth': decoder[1],
    'decoder_embed_dim': decoder[0], 'decoder_num_heads': decoder[2], 'depth': depth, 'embed_dim': width,
    'mask_loss_weight': 1.0, 'mask_ratio': ratio, 'mlp_ratio': mlp_ratio, 'num_heads': heads, 'num_patches': tokens,
    'param_groups': groups(model), 'patch_size': patch, 'seed': seed, 'train': TRAIN,
  }  # fmt: skip
  start, data = state(model), torch.randn(steps, batch, tokens * patch)
  arrays['train/fmri'] = data[:, :, None]
  rate = cosine(steps, TRAIN['lr'], TRAIN['warmup_epochs'], TRAIN['num_epoch'], TRAIN['epoch'])
  for run, masked in (('train', 1.0), ('train_nomask', 0.0)):
    model.load_state_dict(start)
    draws, seen = torch.rand(steps, 2, batch, tokens), []

    def loss(inputs, masked=masked, seen=seen):
      (first, mask), (second, _) = (model(inputs['x'], inputs['noise'][view], ratio) for view in range(2))
      seen.append(pearson(first.flatten(1), inputs['x']).mean().item())
      return total(terms(inputs['x'], (first, second), mask), masked, 1.0)[0]

    results = []
    batches = ({'x': x, 'noise': n} for x, n in zip(data, draws, strict=True))
    for number, result in enumerate(
      torch_steps([model], loss, batches, rate, BETAS, TRAIN['weight_decay'], TRAIN['clip_grad'], False), 1
    ):
      results.append(result)
      arrays |= add_prefix(f'{run}/params_step{number}', trainable(model))
    arrays |= add_prefix(run, {
      'noise': draws, 'lr': [rate(i) for i in range(steps)], 'loss': [value for value, _ in results],
      'grad_norm_preclip': [norms[0] for _, norms in results], 'mean_cor': np.mean(seen),
    })  # fmt: skip
  for name, settings in {'default': (2.5e-4, 40, 500), 'phase2_60': (5.3e-5, 2, 60)}.items():
    epochs = np.linspace(0, settings[2], 13, dtype=np.float32)
    arrays |= add_prefix(
      f'lr_schedule/{name}', {'epoch': epochs, 'lr': [cosine(1, *settings)(float(e)) for e in epochs]}
    )
  arrays |= {'sincos1d/rows': [0, 1, 9], 'sincos1d/dim30_len11': np.stack([np.zeros(30), *sincos([0, 8], 30)])}
  return save(path, arrays, config)


def phase2(path, seed=0, batch=3, patch=5, tokens=11, width=30, depth=1, heads=5, decoder=(18, 2, 3), ratio=0.5,
           pixels=21, image_patch=7, large=(32, 2, 44), layers=2, small=(24, 3, 28), image_decoder_depth=1,
           image_ratio=0.3, cross_depth=3, steps=2, weights=(0.4, 1.1)):  # fmt: skip
  torch.manual_seed(seed)
  big, little = vit_config(*large), vit_config(*small)
  shape = tokens * patch, patch, width, depth, heads, decoder
  fmri = randomise(Fmri(*shape, cross=big, cross_depth=cross_depth))
  image = randomise(Picture(pixels, image_patch, big, layers, little, image_decoder_depth, width, cross_depth))
  image.decoder.decoder_pos_embed.requires_grad_(True)  # quirk B15
  grid = (pixels // image_patch) ** 2

  def noises(*first):
    names = {'img_full': grid, 'fmri_masked': tokens, 'fmri_full': tokens, 'img_masked': grid}
    return {name: torch.rand(*first, batch, count) for name, count in names.items()}

  def forward(x, pictures, noise, models=(fmri, image), normed=False, cross=True):
    one, two = models
    with torch.no_grad():
      seen = two.encode(pictures, noise['img_full'])[0] if cross else None
    latent, restore, mask = one.encode(x, noise['fmri_masked'], ratio, seen)
    out = {'fmri': {'latent': latent, 'mask': mask, 'ids_restore': restore, 'pred': one.decode(latent, restore)}}
    felt = one.encode(x, noise['fmri_full'])[0] if cross else None
    latent, restore, mask = two.encode(pictures, noise['img_masked'], image_ratio, felt)
    target = patches_of(pictures, image_patch)
    out['image'] = {'latent': latent, 'mask': mask, 'ids_restore': restore, 'logits': two.decode(latent, restore)}
    out['image']['target_patches'] = target
    if normed:
      target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    parts = (
      masked_error(out['fmri']['pred'], x.unflatten(1, (-1, patch)), out['fmri']['mask']),
      masked_error(out['image']['logits'], target, mask),
    )
    return out, parts, (seen, felt)

  x, pictures, noise = torch.randn(batch, tokens * patch), torch.randn(batch, 3, pixels, pixels), noises()
  out, (fmri_loss, image_loss), (seen, felt) = forward(x, pictures, noise)
  loss = weights[0] * fmri_loss + weights[1] * image_loss
  coded = lambda logits: pearson(logits[:, 0], logits[:, 1]).mean()
  logits, target = out['image']['logits'], out['image']['target_patches']
  arrays = add_prefix('state_fmri', state(fmri)) | add_prefix('state_image', state(image)) | add_prefix('noise', noise)
  arrays |= add_prefix('fwd/fmri', out['fmri']) | add_prefix('fwd/image', out['image']) | {
    'fmri': x[:, None], 'pixel_values': pictures, 'fwd/img_support': seen, 'fwd/fmri_support': felt,
    'loss/fmri': fmri_loss, 'loss/image': image_loss, 'loss/total': loss,
    'corr/fmri': pearson(out['fmri']['pred'].flatten(1), x).mean(), 'corr/image_as_coded': coded(logits),
    'corr/image_intended_flat': pearson(logits.flatten(1), target.flatten(1)).mean(),
  }  # fmt: skip
  both = torch.nn.ModuleDict({'fmri': fmri, 'image': image})
  for name, grad in gradients(both, loss).items():
    part, name = name.split('.', 1)
    arrays[f'grad_{part}/{name}'] = grad

  plain = Fmri(*shape), Picture(pixels, image_patch, big, layers, little, image_decoder_depth, width, 0)
  for model, full in zip(plain, (fmri, image), strict=True):
    model.load_state_dict({name: value for name, value in state(full).items() if 'cross' not in name})
  direct = Fmri(*shape, cross=big, cross_depth=cross_depth, cross_residual=False)
  direct.load_state_dict(state(fmri))
  for name, models in {
    'no_cross_residual': (direct, image),
    'no_cross_attention': plain,
    'norm_pix_loss': (fmri, image),
  }.items():
    got, parts, _ = forward(x, pictures, noise, models, name == 'norm_pix_loss', name != 'no_cross_attention')
    arrays |= add_prefix(f'variant/{name}', {
      'loss_fmri': parts[0], 'loss_image': parts[1], 'pred_fmri': got['fmri']['pred'], 'logits': got['image']['logits'],
    })  # fmt: skip

  config = {
    'batch': batch, 'seed': seed, 'mask_ratio': ratio, 'img_mask_ratio': image_ratio, 'fmri_recon_weight': weights[0],
    'img_recon_weight': weights[1], 'num_cross_encoder_layers': cross_depth, 'train': TRAIN,
    'fmri': {'num_heads': heads, 'decoder_num_heads': decoder[2]},
    'image': {'num_attention_heads': large[1], 'decoder_num_attention_heads': small[1]},
    'param_groups_fmri': groups(fmri), 'param_groups_image': groups(image),
    'frozen_image': [name for name, p in image.named_parameters() if not p.requires_grad],
    'trainable_image': [name for name, p in image.named_parameters() if p.requires_grad],
  }  # fmt: skip
  data = {'x': torch.randn(steps, batch, tokens * patch), 'pictures': torch.randn(steps, batch, 3, pixels, pixels)}
  draws, corrs, parts_seen = noises(steps), [], []

  def step_loss(inputs):
    out, parts, _ = forward(inputs.pop('x'), inputs.pop('pictures'), inputs)
    corrs.append(coded(out['image']['logits']).item())
    parts_seen.append([part.item() for part in parts])
    return weights[0] * parts[0] + weights[1] * parts[1]

  rate = cosine(steps, TRAIN['lr'], TRAIN['warmup_epochs'], TRAIN['num_epoch'], TRAIN['epoch'])
  batches = [{name: value[i] for name, value in (data | draws).items()} for i in range(steps)]
  settings = BETAS, TRAIN['weight_decay'], TRAIN['clip_grad'], False
  norms, totals = [], []
  for number, (value, of_parts) in enumerate(torch_steps([fmri, image], step_loss, batches, rate, *settings), 1):
    totals.append(value)
    norms.append(of_parts)
    for part, model in (('fmri', fmri), ('image', image)):
      arrays |= add_prefix(f'train/params_{part}_step{number}', trainable(model))
  arrays |= add_prefix('train/noise', draws) | add_prefix('train', {
    'fmri': data['x'][:, :, None], 'pixel_values': data['pictures'], 'lr': [rate(i) for i in range(steps)],
    'loss_total': totals, 'loss_fmri': [p[0] for p in parts_seen], 'loss_image': [p[1] for p in parts_seen],
    'grad_norm_preclip_fmri_image': norms, 'mean_image_corr_as_coded': np.mean(corrs),
  })  # fmt: skip
  noise = noises()
  out, _, _ = forward(data['x'][0], data['pictures'][0], noise)
  arrays |= add_prefix('eval/noise', noise) | {'eval/image_corr_as_coded': coded(out['image']['logits'])}
  rows, columns = np.divmod(np.arange(25), 5)
  table = np.concatenate([sincos(columns, 10), sincos(rows, 10)], 1)
  arrays |= {'sincos2d/rows': [0, 3, 25], 'sincos2d/dim20_grid5': np.stack([np.zeros(20), table[2], table[24]])}
  return save(path, arrays, config)


def cond(path, seed=0, batch=2, patch=6, tokens=11, width=28, depth=1, heads=7, decoder=(18, 1, 3), dim=10, context=77,
         mlp_ratio=0.8, targets=(('same', 11), ('fewer', 5), ('more', 24))):  # fmt: skip
  torch.manual_seed(seed)
  checkpoint = state(randomise(Fmri(tokens * patch, patch, width, depth, heads, decoder, mlp_ratio)))
  arrays, loaded, lost = add_prefix('ckpt', checkpoint), {}, {}
  for target, count in targets:
    x = torch.randn(batch, count * patch)
    arrays[f'{target}/fmri'] = x[:, None]
    for kind, pooled in (('nopool', False), ('pool', True)):
      model = randomise(
        Conditioner(count * patch, patch, width, depth, heads, None if pooled else context, dim, mlp_ratio)
      )
      initial = state(model)
      table = checkpoint['pos_embed']
      resized = F.interpolate(table[:, 1:].transpose(1, 2), size=count, mode='nearest').transpose(1, 2)
      given = {name: value for name, value in checkpoint.items() if f'mae.{name}' in initial and name != 'mask_token'}
      given = {name: value for name, value in given.items() if not (pooled and 'norm' in name)}
      given['pos_embed'] = torch.cat([table[:, :1], resized], 1)
      model.load_state_dict(initial | {f'mae.{name}': value for name, value in given.items()})
      encoded = model.encode(x)
      out = model(x)
      probe = torch.randn_like(out)
      prefix = f'{target}/{kind}'
      arrays |= add_prefix(f'{prefix}/state', state(model))
      arrays |= add_prefix(prefix, {'encoder_out': encoded, 'cond': out, 'probe': probe})
      norms = {name: grad.norm() for name, grad in gradients(model, (out * probe).sum()).items()}
      arrays |= add_prefix(f'{prefix}/grad_norm', norms)
      loaded[prefix] = [name for name in given if name != 'pos_embed' or count == tokens]
      lost[prefix] = [name.removeprefix('mae.') for name in initial if name.removeprefix('mae.') not in loaded[prefix]]
  config = {
    'batch': batch, 'ckpt_patches': tokens, 'cond_dim': dim, 'decoder_embed_dim': decoder[0], 'depth': depth,
    'embed_dim': width, 'loaded_unchanged': loaded, 'mlp_ratio': mlp_ratio, 'not_loaded': lost, 'num_heads': heads,
    'patch_size': patch, 'seed': seed, 'targets': dict(targets),
  }  # fmt: skip
  return save(path, arrays, config)
