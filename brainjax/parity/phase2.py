"""phase2.npz: the two cross-attending autoencoders, their variants and gradients, training steps, and an evaluation."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax import trees
from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.ops import losses, patches, positions
from brainjax.parity import published, replay
from brainjax.parity.golden import Golden
from brainjax.stages import attend
from brainjax.torch_convert import sizes
from brainjax.torch_convert.tables import fmri_mae, image_mae
from brainjax.trees import flatten, unflatten

# Fields of config_json -> of the config.
HYPERPARAMETERS = {
  'mask_ratio': 'attend.mask_ratio',
  'img_mask_ratio': 'attend.image_mask_ratio',
  'fmri_recon_weight': 'attend.fmri_weight',
  'img_recon_weight': 'attend.image_weight',
  'train.clip_grad': 'attend.clip_norm',
  'train.weight_decay': 'attend.weight_decay',
}
TABLES = {'fmri': fmri_mae.TABLE, 'image': image_mae.TABLE}
# Correlations near zero lose all relative precision; they are bounded by 1.
CORRELATION_FLOOR = 0.1
MASKED = ('fmri_masked', 'img_masked')  # draws of the masked passes; the other two draws only shuffle


def check(golden: Golden) -> None:
  """Replays the file.

  Raises:
    UserError: the file lacks an array.
  """
  config, recorded = published.config(), golden.config
  replay.check_hyperparameters(golden, config, HYPERPARAMETERS)
  state = {'fmri': golden.inputs('state_fmri'), 'image': golden.inputs('state_image')}
  fmri_fields = {'num_attention_heads': recorded['image']['num_attention_heads'], **recorded['fmri']}
  fmri_model = FmriMAE(**replay.kwargs(sizes.fmri_mae, state['fmri'], fmri_fields, golden))
  image_model = ImageMAE(**replay.kwargs(sizes.image_mae, state['image'], recorded['image'], golden))
  fmri, image = golden.input('fmri')[:, 0], replay.nhwc(golden.input('pixel_values'))
  flat = {
    **trees.add_prefix('fmri', replay.load(fmri_model, fmri_mae.TABLE, state['fmri'], golden, fmri)),
    **trees.add_prefix('image', replay.load(image_model, image_mae.TABLE, state['image'], golden, image)),
  }
  noise = {name: golden.input(f'noise/{name}') for name in golden.names_in('noise')}
  stage = config.attend

  def run(models, params, fmri, image, fmri_noise, image_noise):
    ratios = stage.mask_ratio, stage.image_mask_ratio
    return attend.forward(*models, params, fmri, image, fmri_noise, image_noise, *ratios)

  both = fmri_model, image_model
  forward = replay.jit(partial(run, both))
  draws = tuple(noise[name] for name in MASKED)
  out = forward(unflatten(flat), fmri, image, *draws)
  weights = stage.fmri_weight, stage.image_weight
  _check_supports(golden, both, flat, fmri, image, noise)
  _check_forward(golden, out, fmri, image, attend.attend_loss(*out, fmri, image, _ones(fmri), weights))
  _check_variants(golden, both, flat, run, (fmri, image, *draws), out)

  # Quirk B15, where the file has it.
  released = any(name.endswith('decoder_pos_embed') for name in recorded['trainable_image'])
  trainable = attend.TRAINABLE_B15 if released else attend.TRAINABLE
  for part in TABLES:
    inner = trees.subtree(flat, part)
    mine = trees.subtree(trees.split(flat, trainable)[0], part)
    exact = '^(' + '|'.join(map(re.escape, mine)) + ')$'
    replay.check_groups(golden, f'param_groups_{part}', TABLES[part], inner, exact)

  def loss(params, batch, key):
    del key
    out = run(both, params, batch['fmri'], batch['image'], batch['fmri_noise'], batch['image_noise'])
    return attend.attend_loss(*out, batch['fmri'], batch['image'], _ones(batch['fmri']), weights)

  def objective(trained, frozen, batch):
    return loss(unflatten({**frozen, **trained}), batch, None)[0]

  gradient = replay.jit(jax.grad(objective))
  trained, frozen = trees.split(flat, trainable)
  gradients = gradient(trained, frozen, _batch(fmri, image, *draws))
  for part, table in TABLES.items():
    replay.check_gradients(golden, f'grad_{part}', replay.to_torch(table, trees.subtree(gradients, part)))
  after = _check_training(golden, stage, flat, trainable, loss, gradient, forward)
  _check_evaluation(golden, {**flat, **after}, forward)
  _check_tables(golden)


def _ones(fmri) -> np.ndarray:
  """Every row counts."""
  return np.ones((len(fmri), 1), np.float32)


def _batch(fmri, image, fmri_noise, image_noise) -> dict[str, np.ndarray]:
  return {'fmri': fmri, 'image': image, 'fmri_noise': fmri_noise, 'image_noise': image_noise}


def _check_supports(golden: Golden, models, flat, fmri, image, noise) -> None:
  """Compares the unmasked passes, with tokens in the order of the recorded draws."""
  parts = (('fmri', models[0], fmri, 'fmri'), ('image', models[1], image, 'img'))
  for part, model, data, theirs in parts:
    encode = replay.jit(lambda variables, x, noise, model=model: model.apply(variables, x, noise, 0.0, method='encode'))
    tokens = encode(replay.variables(trees.subtree(flat, part)), data, noise[f'{theirs}_full'])
    golden.close(f'fwd/{theirs}_support', tokens)


def _check_forward(golden: Golden, out, fmri, image, loss) -> None:
  for part, result, prediction in (('fmri', out[0], 'pred'), ('image', out[1], 'logits')):
    golden.close(f'fwd/{part}/latent', result['latent'])
    golden.close(f'fwd/{part}/mask', result['mask'])
    golden.equal(f'fwd/{part}/ids_restore', result['ids_restore'])
    golden.close(f'fwd/{part}/{prediction}', result['pred'])
  pred = out[1]['pred']
  patch_size = round((pred.shape[-1] / image.shape[-1]) ** 0.5)
  golden.close('fwd/image/target_patches', patches.patchify_2d(image, patch_size))
  total, terms = loss
  golden.close('loss/total', total)
  golden.close('loss/fmri', terms['fmri_loss'])
  golden.close('loss/image', terms['image_loss'])
  golden.close('corr/fmri', terms['fmri_correlation'], floor=CORRELATION_FLOOR)
  golden.close('corr/image_intended_flat', terms['image_correlation'], floor=CORRELATION_FLOOR)
  golden.close('corr/image_as_coded', correlation_as_coded(pred), floor=CORRELATION_FLOOR)


def correlation_as_coded(pred) -> jax.Array:
  """Correlates the first two predicted patches of `pred: B L p` with each other, as the published code does (quirk B4)."""
  return losses.correlation(pred[:, 0], pred[:, 1]).mean()


def _check_variants(golden: Golden, models, flat, run, inputs, plain) -> None:
  fmri_model, image_model = models
  fmri, image = inputs[:2]
  uncrossed = {path: x for path, x in flat.items() if '/cross/' not in path}
  variants = {
    'no_cross_residual': ((fmri_model.clone(cross_residual=False), image_model), flat),
    'no_cross_attention': ((fmri_model.clone(cross_depth=0), image_model.clone(cross_depth=0)), uncrossed),
    'norm_pix_loss': None,
  }
  for name in golden.groups('variant'):
    if name not in variants:
      continue
    out = plain
    if variants[name]:
      chosen, weights = variants[name]
      out = replay.jit(partial(run, chosen))(unflatten(weights), *inputs)
    _, terms = attend.attend_loss(*out, fmri, image, _ones(fmri), (1.0, 1.0), name == 'norm_pix_loss')
    golden.close(f'variant/{name}/loss_fmri', terms['fmri_loss'])
    golden.close(f'variant/{name}/loss_image', terms['image_loss'])
    golden.close(f'variant/{name}/pred_fmri', out[0]['pred'])
    golden.close(f'variant/{name}/logits', out[1]['pred'])


def _check_training(
  golden: Golden, stage: ConfigDict, flat: replay.Flat, trainable: str, loss, gradient, forward
) -> replay.Flat:
  """Returns the trained parameters after the last step."""
  fmri, image = golden.input('train/fmri')[:, :, 0], replay.nhwc(golden.input('train/pixel_values'))
  noise = {name: golden.input(f'train/noise/{name}') for name in golden.names_in('train/noise')}
  batches = [_batch(*arrays) for arrays in zip(fmri, image, *(noise[name] for name in MASKED), strict=True)]
  rate = replay.epoch_rate(stage, golden.config['train'], len(batches))
  parts = {f'train/params_{part}': (part, table) for part, table in TABLES.items()}
  after, metrics = replay.check_training(golden, parts, stage, attend.OPTIMIZER, flat, trainable, loss, rate, batches)
  trained, frozen = trees.split(flat, trainable)
  norms, coded = [], []
  for before, batch in zip([trained, *after[:-1]], batches, strict=True):
    gradients = flatten(gradient(before, frozen, batch))
    norms.append([replay.norm(trees.subtree(gradients, part).values()) for part in TABLES])
    coded.append(correlation_as_coded(forward(unflatten({**frozen, **before}), *batch.values())[1]['pred']))
  golden.close('train/lr', metrics['learning_rate'])
  golden.close('train/loss_total', metrics['loss'])
  golden.close('train/loss_fmri', metrics['fmri_loss'])
  golden.close('train/loss_image', metrics['image_loss'])
  golden.close('train/grad_norm_preclip_fmri_image', norms)
  golden.close('train/mean_image_corr_as_coded', np.mean(coded), floor=CORRELATION_FLOOR)
  return after[-1]


def _check_evaluation(golden: Golden, flat, forward) -> None:
  """Compares an evaluation of the first batch after the last step."""
  noise = {name: golden.input(f'eval/noise/{name}') for name in golden.names_in('eval/noise')}
  fmri, image = golden.peek('train/fmri')[0, :, 0], replay.nhwc(golden.peek('train/pixel_values')[0])
  _, out = forward(unflatten(flat), fmri, image, *(noise[name] for name in MASKED))
  golden.close('eval/image_corr_as_coded', correlation_as_coded(jnp.asarray(out['pred'])), floor=CORRELATION_FLOOR)


def _check_tables(golden: Golden) -> None:
  rows = golden.input('sincos2d/rows')
  for name in golden.names_in('sincos2d'):
    if match := re.fullmatch(r'dim(\d+)_grid(\d+)', name):
      golden.close(f'sincos2d/{name}', positions.sincos_2d((int(match[2]),) * 2, int(match[1]))[rows])
