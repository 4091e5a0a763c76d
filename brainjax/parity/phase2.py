"""phase2.npz: both cross-attending autoencoders, their variants, gradients, three training steps and an evaluation."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from brainjax import optim, trees
from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.ops import losses, patches, positions
from brainjax.parity import replay
from brainjax.parity.golden import GRADIENT_FLOOR, Golden
from brainjax.parity.phase1 import BETAS, epoch_rate
from brainjax.stages import attend
from brainjax.torch_convert import sizes
from brainjax.torch_convert.tables import fmri_mae, image_mae
from brainjax.trees import flatten, unflatten

TABLES = {'fmri': fmri_mae.TABLE, 'image': image_mae.TABLE}
# Correlations near zero lose all relative precision; they are bounded by 1.
CORRELATION_FLOOR = 0.1
MASKED = ('fmri_masked', 'img_masked')  # draws of the masked passes; the other two only shuffle


def check(golden: Golden) -> None:
  """Replays the file."""
  config = golden.config
  state = {'fmri': golden.inputs('state_fmri'), 'image': golden.inputs('state_image')}
  hints = {'num_attention_heads': config['image']['num_attention_heads'], **config['fmri']}
  fmri_model = FmriMAE(**replay.settings(sizes.fmri_mae, state['fmri'], hints, golden))
  image_model = ImageMAE(**replay.settings(sizes.image_mae, state['image'], config['image'], golden))
  fmri, image = golden.input('fmri')[:, 0], replay.nhwc(golden.input('pixel_values'))
  flat = {
    **trees.add_prefix('fmri', replay.load(fmri_model, fmri_mae.TABLE, state['fmri'], golden, fmri)),
    **trees.add_prefix('image', replay.load(image_model, image_mae.TABLE, state['image'], golden, image)),
  }
  noise = {name: golden.input(f'noise/{name}') for name in golden.below('noise')}

  def run(models, params, fmri, image, fmri_noise, image_noise):
    return attend.forward(
      *models, params, fmri, image, fmri_noise, image_noise, config['mask_ratio'], config['img_mask_ratio']
    )

  both = fmri_model, image_model
  forward = replay.jit(partial(run, both))
  draws = tuple(noise[name] for name in MASKED)
  out = forward(unflatten(flat), fmri, image, *draws)
  weights = config['fmri_recon_weight'], config['img_recon_weight']
  _check_supports(golden, both, flat, fmri, image, noise)
  _check_forward(golden, out, fmri, image, attend.attend_loss(*out, fmri, image, _ones(fmri), weights))
  _check_variants(golden, both, flat, run, (fmri, image, *draws), out)

  # Quirk B15, where the file has it.
  released = any(name.endswith('decoder_pos_embed') for name in config['trainable_image'])
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
    expected = [golden.peek(f'grad_{part}/{name}') for name in golden.below(f'grad_{part}')]
    ours = replay.to_torch(table, trees.subtree(gradients, part))
    golden.close_all(f'grad_{part}', ours, floor=GRADIENT_FLOOR * replay.norm(expected))
  after = _check_training(golden, flat, trainable, loss, gradient, forward)
  _check_evaluation(golden, {**flat, **after}, forward)
  _check_tables(golden)


def _ones(fmri) -> np.ndarray:
  """Every row counts."""
  return np.ones((len(fmri), 1), np.float32)


def _batch(fmri, image, fmri_noise, image_noise) -> dict[str, np.ndarray]:
  return {'fmri': fmri, 'image': image, 'fmri_noise': fmri_noise, 'image_noise': image_noise}


def _check_supports(golden: Golden, models, flat, fmri, image, noise) -> None:
  """The unmasked passes, shuffled by their draws as the file has them."""
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
  target = patches.patchify_2d(image, _patch_size(pred, image))
  golden.close('fwd/image/target_patches', target)
  total, terms = loss
  golden.close('loss/total', total)
  golden.close('loss/fmri', terms['fmri_loss'])
  golden.close('loss/image', terms['image_loss'])
  golden.close('corr/fmri', terms['fmri_correlation'], floor=CORRELATION_FLOOR)
  golden.close('corr/image_intended_flat', terms['image_correlation'], floor=CORRELATION_FLOOR)
  golden.close('corr/image_as_coded', correlation_as_coded(pred), floor=CORRELATION_FLOOR)


def _patch_size(pred, image) -> int:
  return round((pred.shape[-1] / image.shape[-1]) ** 0.5)


def correlation_as_coded(pred) -> jax.Array:
  """Quirk B4, computed here only: the first two predicted patches (of pred B L p) against each other."""
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


def _check_training(golden: Golden, flat, trainable: str, loss, gradient, forward) -> replay.Flat:
  settings = golden.config['train']
  fmri, image = golden.input('train/fmri')[:, :, 0], replay.nhwc(golden.input('train/pixel_values'))
  noise = {name: golden.input(f'train/noise/{name}') for name in golden.below('train/noise')}
  batches = [_batch(*arrays) for arrays in zip(fmri, image, *(noise[name] for name in MASKED), strict=True)]
  rate = epoch_rate(settings, len(batches))
  optimizer = optim.make(
    'adamw',
    rate, betas=BETAS, weight_decay=settings['weight_decay'], decay_all=False, clip_norm=settings['clip_grad'],
    clip_groups=('fmri/', 'image/'),
  )  # fmt: skip
  trained, frozen = trees.split(flat, trainable)
  metrics, separate, coded = [], [], []
  doubt = replay.Doubt(BETAS)
  runs = replay.steps('attend', flat, trainable, loss, optimizer, rate, batches, doubt)
  for number, (params, after) in enumerate(runs, 1):
    before, batch = trained, batches[number - 1]
    gradients = flatten(gradient(before, frozen, batch))
    separate.append([replay.norm(trees.subtree(gradients, part).values()) for part in TABLES])
    coded.append(correlation_as_coded(forward(unflatten({**frozen, **before}), *batch.values())[1]['pred']))
    metrics.append(after)
    trained = params
    for part, table in TABLES.items():
      prefix = f'train/params_{part}_step{number}'
      if golden.below(prefix):
        ours = (replay.to_torch(table, trees.subtree(tree, part)) for tree in (params, doubt.total))
        replay.check_parameters(golden, prefix, *ours)
  golden.close('train/lr', [m['learning_rate'] for m in metrics])
  golden.close('train/loss_total', [m['loss'] for m in metrics])
  golden.close('train/loss_fmri', [m['fmri_loss'] for m in metrics])
  golden.close('train/loss_image', [m['image_loss'] for m in metrics])
  golden.close('train/grad_norm_preclip_fmri_image', separate)
  golden.close('train/mean_image_corr_as_coded', np.mean(coded), floor=CORRELATION_FLOOR)
  return trained


def _check_evaluation(golden: Golden, flat, forward) -> None:
  """After the last step, on the first batch."""
  noise = {name: golden.input(f'eval/noise/{name}') for name in golden.below('eval/noise')}
  fmri, image = golden.peek('train/fmri')[0, :, 0], replay.nhwc(golden.peek('train/pixel_values')[0])
  _, out = forward(unflatten(flat), fmri, image, *(noise[name] for name in MASKED))
  golden.close('eval/image_corr_as_coded', correlation_as_coded(jnp.asarray(out['pred'])), floor=CORRELATION_FLOOR)


def _check_tables(golden: Golden) -> None:
  rows = golden.input('sincos2d/rows')
  for name in golden.below('sincos2d'):
    if match := re.fullmatch(r'dim(\d+)_grid(\d+)', name):
      golden.close(f'sincos2d/{name}', positions.sincos_2d((int(match[2]),) * 2, int(match[1]))[rows])
