"""phase1.npz: the double-contrastive autoencoder, its losses, gradients, schedules and three steps of both trainings."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from brainjax import optim
from brainjax.models.fmri_mae import FmriMAE
from brainjax.ops import losses, positions
from brainjax.parity import replay
from brainjax.parity.golden import GRADIENT_FLOOR, Golden
from brainjax.stages import contrast
from brainjax.stages.contrast import Weights, contrast_loss
from brainjax.torch_convert import sizes
from brainjax.torch_convert.tables import fmri_mae
from brainjax.trees import unflatten

# The schedules that the file names: peak rate, warm-up epochs, epochs.
SCHEDULES = {'default': (2.5e-4, 40, 500), 'readme140': (2.5e-4, 40, 140), 'phase2_60': (5.3e-5, 2, 60)}
BETAS = (0.9, 0.95)


def check(golden: Golden) -> None:
  """Replays the file."""
  config, state = golden.config, golden.inputs('state')
  model = FmriMAE(**replay.settings(sizes.fmri_mae, state, config, golden))
  fmri = golden.input('fmri')[:, 0]
  noise = np.concatenate([golden.input('noise/view1'), golden.input('noise/view2')])
  flat = replay.load(model, fmri_mae.TABLE, state, golden, fmri)

  def views_of(params, fmri, noise):
    both = jnp.concatenate([fmri, fmri])
    return model.apply({'params': params}, both, noise, config['mask_ratio'])

  views = replay.jit(views_of)(unflatten(flat), fmri, noise)
  _check_forward(golden, views, fmri)
  _check_totals(golden, views, fmri)

  variants = {'readme_mask': 'grad', 'readme_nomask': 'grad_nomask'}
  for name in golden.groups('total'):
    if f'total/{name}/grad_norm' not in golden:
      continue
    weights, self_info_nce = _variant(golden, name)

    def loss(params, weights=weights, self_info_nce=self_info_nce):
      return contrast_loss(views_of(params, fmri, noise), fmri, weights, self_info_nce=self_info_nce)[0]

    ours = replay.to_torch(fmri_mae.TABLE, replay.jit(jax.grad(loss))(unflatten(flat)))
    trained = {k: v for k, v in ours.items() if not k.endswith('pos_embed')}
    golden.close(f'total/{name}/grad_norm', replay.norm(trained.values()))
    if prefix := variants.get(name):
      expected = [golden.peek(f'{prefix}/{k}') for k in golden.below(prefix)]
      golden.close_all(prefix, trained, floor=GRADIENT_FLOOR * replay.norm(expected))

  replay.check_groups(golden, 'param_groups', fmri_mae.TABLE, flat, contrast.TRAINABLE)
  for run, name in (('train', 'readme_mask'), ('train_nomask', 'readme_nomask')):
    _check_training(golden, run, name, flat, views_of)
  _check_tables(golden)


def _variant(golden: Golden, name: str) -> tuple[Weights, object]:
  """The loss that a variant's name stands for: weights, and the self term if it is another one."""
  outer = re.search(r'_cw([\d.]+)', name)
  weights = Weights(
    mask=0.0 if 'nomask' in name else float(golden.config['mask_loss_weight']),
    self_contrast=0.5 if name.startswith('script') else 1.0,
    cross_contrast=float(golden.config['cross_contrast_loss_weight']),
    outer=float(outer[1]) if outer else 0.5,  # quirk B1
    separate='seploss' in name,
  )
  return weights, losses.info_nce_paired if 'paired' in name else None


def _check_forward(golden: Golden, views, fmri: np.ndarray) -> None:
  batch = len(fmri)
  for view, rows in (('view1', slice(batch)), ('view2', slice(batch, None))):
    for name in ('latent', 'pred', 'mask'):
      golden.close(f'fwd/{view}/{name}', views[name][rows])
    golden.equal(f'fwd/{view}/ids_restore', views['ids_restore'][rows])
  _, terms = replay.jit(partial(contrast_loss, weights=Weights(separate=True)))(views, fmri)
  names = {
    'mask_mse': 'mask_loss',
    'self_infonce': 'self_contrast',
    'cross_infonce': 'cross_contrast',
    'self_infonce_view2': 'self_contrast_view2',
  }
  for theirs, ours in names.items():
    golden.close(f'loss/{theirs}', terms.get(ours, 0.0))
  first, keys = (np.asarray(x, np.float64).reshape(batch, -1) for x in (views['pred'][:batch], fmri))  # B L p -> B V
  first, keys = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, keys))
  golden.close('loss/self_cos_matrix', first @ keys.T)


def _check_totals(golden: Golden, views, fmri: np.ndarray) -> None:
  variants = {name: _variant(golden, name) for name in golden.groups('total')}

  def losses_of(views):
    result = {}
    for name, (weights, self_info_nce) in variants.items():
      total, terms = contrast_loss(views, fmri, weights, self_info_nce=self_info_nce)
      # The model's contrast_loss holds the inner weights, not the outer one.
      inner = weights._replace(mask=0.0, outer=1.0)
      bracket, _ = contrast_loss(views, fmri, inner, self_info_nce=self_info_nce)
      result[name] = {'loss': total, 'mask_loss': terms.get('mask_loss', 0.0), 'contrast_loss': bracket}
    return result

  for name, values in replay.jit(losses_of)(views).items():
    for term, value in values.items():
      golden.close(f'total/{name}/{term}', value)


def _check_training(golden: Golden, run: str, variant: str, flat, views_of) -> None:
  settings = golden.config['train']
  fmri, noise = golden.input('train/fmri')[:, :, 0], golden.input(f'{run}/noise')
  weights, _ = _variant(golden, variant)
  rate = epoch_rate(settings, len(fmri))
  optimizer = optim.make(
    'adamw', rate, betas=BETAS, weight_decay=settings['weight_decay'], decay_all=False, clip_norm=settings['clip_grad']
  )

  def loss(params, batch, key):
    del key
    noise = batch['noise'].reshape(-1, batch['noise'].shape[-1])  # views B L -> (views B) L
    return contrast_loss(views_of(params, batch['fmri'], noise), batch['fmri'], weights)

  batches = ({'fmri': f, 'noise': n} for f, n in zip(fmri, noise, strict=True))
  metrics, doubt = [], replay.Doubt(BETAS)
  for number, (params, after) in enumerate(
    replay.steps('contrast', flat, contrast.TRAINABLE, loss, optimizer, rate, batches, doubt), 1
  ):
    metrics.append(after)
    if golden.below(f'{run}/params_step{number}'):
      ours = (replay.to_torch(fmri_mae.TABLE, tree) for tree in (params, doubt.total))
      replay.check_parameters(golden, f'{run}/params_step{number}', *ours)
  golden.close(f'{run}/lr', [m['learning_rate'] for m in metrics])
  golden.close(f'{run}/loss', [m['loss'] for m in metrics])
  golden.close(f'{run}/grad_norm_preclip', [m['gradient_norm'] for m in metrics])
  golden.close(f'{run}/mean_cor', np.mean([m['correlation'] for m in metrics]), floor=0.1)


def epoch_rate(settings, steps_per_epoch: int):
  """The per-iteration schedule of a recorded epoch: step 0 is its first iteration."""
  rate = optim.warmup_cosine(
    settings['lr'], settings['warmup_epochs'], settings['num_epoch'], steps_per_epoch, settings['min_lr']
  )
  return lambda step: rate(step + settings['epoch'] * steps_per_epoch)


def _check_tables(golden: Golden) -> None:
  for name in golden.groups('lr_schedule'):
    if name in SCHEDULES:
      rate = optim.warmup_cosine(*SCHEDULES[name], steps_per_epoch=1)
      golden.close(f'lr_schedule/{name}/lr', rate(golden.input(f'lr_schedule/{name}/epoch')))
  rows = golden.input('sincos1d/rows')
  for name in golden.below('sincos1d'):
    if match := re.fullmatch(r'dim(\d+)_len(\d+)', name):
      golden.close(f'sincos1d/{name}', positions.sincos_1d(int(match[2]), int(match[1]))[rows])
