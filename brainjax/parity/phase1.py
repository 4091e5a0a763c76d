"""phase1.npz: the double-contrastive autoencoder, its losses, gradients, schedules, and steps of two training runs."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax import sharding
from brainjax.models.fmri_mae import FmriMAE
from brainjax.ops import positions
from brainjax.parity import published, replay
from brainjax.parity.golden import Golden
from brainjax.stages import common, contrast
from brainjax.stages.contrast import Weights, contrast_loss
from brainjax.torch_convert import sizes
from brainjax.torch_convert.tables import fmri_mae
from brainjax.trees import unflatten

# Fields of config_json -> of the config.
HYPERPARAMETERS = {
  'mask_ratio': 'contrast.mask_ratio',
  'mask_loss_weight': 'contrast.mask_loss',  # 1 or 0
  'cross_contrast_loss_weight': 'contrast.cross_weight',
  'train.clip_grad': 'contrast.clip_norm',
  'train.weight_decay': 'contrast.weight_decay',
}


def check(golden: Golden) -> None:
  """Replays the file.

  Raises:
    UserError: the file lacks an array.
  """
  config, state = published.config(), golden.inputs('state')
  replay.check_hyperparameters(golden, config, HYPERPARAMETERS)
  model = FmriMAE(**replay.kwargs(sizes.fmri_mae, state, golden.config, golden))
  fmri = golden.input('fmri')[:, 0]
  noise = np.concatenate([golden.input('noise/view1'), golden.input('noise/view2')])
  flat = replay.load(model, fmri_mae.TABLE, state, golden, fmri)

  def views_of(params, fmri, noise):
    both = jnp.concatenate([fmri, fmri])
    return model.apply({'params': params}, both, noise, config.contrast.mask_ratio)

  views = replay.jit(views_of)(unflatten(flat), fmri, noise)
  _check_forward(golden, config, views, fmri)
  _check_totals(golden, config, views, fmri)

  variants = {'readme_mask': 'grad', 'readme_nomask': 'grad_nomask'}
  for name in golden.groups('total'):
    if f'total/{name}/grad_norm' not in golden:
      continue
    loss_args = _loss_args(config, name)

    def loss(params, loss_args=loss_args):
      return contrast_loss(views_of(params, fmri, noise), fmri, *loss_args)[0]

    ours = replay.to_torch(fmri_mae.TABLE, replay.jit(jax.grad(loss))(unflatten(flat)))
    trained = {k: v for k, v in ours.items() if not k.endswith('pos_embed')}
    golden.close(f'total/{name}/grad_norm', replay.norm(trained.values()))
    if prefix := variants.get(name):
      replay.check_gradients(golden, prefix, trained)

  replay.check_groups(golden, 'param_groups', fmri_mae.TABLE, flat, common.ALL_BUT_POSITIONS)
  for run, name in (('train', 'readme_mask'), ('train_nomask', 'readme_nomask')):
    _check_training(golden, config, run, name, flat, views_of)
  _check_tables(golden, config)


def _loss_args(config: ConfigDict, variant: str) -> tuple[Weights, Callable, Callable | None]:
  """The last arguments of `contrast_loss` for a variant of the loss, such as readme_mask or script_nomask."""
  config = config.copy_and_resolve_references()
  config.released.no_mask_loss = 'nomask' in variant
  config.released.self_weight_half = variant.startswith('script')
  config.contrast.separate_loss = 'seploss' in variant
  weights = contrast.loss_weights(config)
  if outer := re.search(r'_cw([\d.]+)', variant):
    weights = weights._replace(outer=float(outer[1]))
  negatives = 'paired' if 'paired' in variant else 'global'
  return weights, *contrast.make_contrasts(negatives, config.contrast.temperature, sharding.make_mesh())


def _check_forward(golden: Golden, config: ConfigDict, views: Any, fmri: np.ndarray) -> None:
  batch = len(fmri)
  for view, rows in (('view1', slice(batch)), ('view2', slice(batch, None))):
    for name in ('latent', 'pred', 'mask'):
      golden.close(f'fwd/{view}/{name}', views[name][rows])
    golden.equal(f'fwd/{view}/ids_restore', views['ids_restore'][rows])
  loss_args = _loss_args(config, 'readme_mask_seploss')
  _, terms = replay.jit(lambda views: contrast_loss(views, fmri, *loss_args))(views)
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


def _check_totals(golden: Golden, config: ConfigDict, views: Any, fmri: np.ndarray) -> None:
  variants = {name: _loss_args(config, name) for name in golden.groups('total')}

  def losses_of(views):
    result = {}
    for name, (weights, *info_nce) in variants.items():
      total, terms = contrast_loss(views, fmri, weights, *info_nce)
      # The published model returns the contrastive terms without the outer weight.
      inner = weights._replace(mask=0.0, outer=1.0)
      contrastive, _ = contrast_loss(views, fmri, inner, *info_nce)
      result[name] = {'loss': total, 'mask_loss': terms.get('mask_loss', 0.0), 'contrast_loss': contrastive}
    return result

  for name, values in replay.jit(losses_of)(views).items():
    for term, value in values.items():
      golden.close(f'total/{name}/{term}', value)


def _check_training(golden: Golden, config: ConfigDict, run: str, variant: str, flat: replay.Flat, views_of) -> None:
  fmri, noise = golden.input('train/fmri')[:, :, 0], golden.input(f'{run}/noise')
  loss_args = _loss_args(config, variant)

  def loss(params, batch, key):
    del key
    noise = batch['noise'].reshape(-1, batch['noise'].shape[-1])  # views B L -> (views B) L
    return contrast_loss(views_of(params, batch['fmri'], noise), batch['fmri'], *loss_args)

  batches = [{'fmri': f, 'noise': n} for f, n in zip(fmri, noise, strict=True)]
  rate = replay.epoch_rate(config.contrast, golden.config['train'], len(batches))
  parts = {f'{run}/params': ('', fmri_mae.TABLE)}
  stage, trainable = config.contrast, common.ALL_BUT_POSITIONS
  _, metrics = replay.check_training(golden, parts, stage, {}, flat, trainable, loss, rate, batches)
  golden.close(f'{run}/lr', metrics['learning_rate'])
  golden.close(f'{run}/loss', metrics['loss'])
  golden.close(f'{run}/grad_norm_preclip', metrics['gradient_norm'])
  golden.close(f'{run}/mean_cor', np.mean(metrics['correlation']), floor=0.1)


def _check_tables(golden: Golden, config: ConfigDict) -> None:
  default = config.contrast.copy_and_resolve_references()
  default.num_epochs = 500  # of the published class; the published command has 140
  schedules = {'default': default, 'readme140': config.contrast, 'phase2_60': config.attend}
  for name in golden.groups('lr_schedule'):
    if name in schedules:
      rate = common.schedule(schedules[name], steps_per_epoch=1)
      golden.close(f'lr_schedule/{name}/lr', rate(golden.input(f'lr_schedule/{name}/epoch')))
  rows = golden.input('sincos1d/rows')
  for name in golden.names_in('sincos1d'):
    if match := re.fullmatch(r'dim(\d+)_len(\d+)', name):
      golden.close(f'sincos1d/{name}', positions.sincos_1d(int(match[2]), int(match[1]))[rows])
