"""Checks a resolved config before anything is compiled: each impossible value in one sentence that names its field."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from brainjax.errors import UserError
from brainjax.models import recompute
from brainjax.ops import diffusion, masking
from brainjax.stages import diffuse
from brainjax.trees import flatten


class Rule(NamedTuple):
  """What the value of a field must be."""

  holds: Callable[[Any], bool]
  expected: str


POSITIVE = Rule(lambda x: x > 0, 'more than 0')
NOT_NEGATIVE = Rule(lambda x: x >= 0, '0 or more')
SHARE = Rule(lambda x: 0 <= x < 1, 'at least 0 and less than 1')
INNER_SHARE = Rule(lambda x: 0 < x < 1, 'more than 0 and less than 1')
PART = Rule(lambda x: 0 < x <= 1, 'more than 0 and at most 1')
SEED = Rule(lambda x: 0 <= x < 2**32, 'at least 0 and less than 2**32')
DEVICES = Rule(lambda x: x == -1 or x > 0, '-1 (the rest) or more than 0')
TEXTS = Rule(
  # Files and folders have these names, so they must not be paths.
  lambda x: (
    all(isinstance(name, str) and re.fullmatch(r'[A-Za-z0-9][\w-]*', name) for name in x) and len(set(x)) == len(x)
  ),
  "different names of letters, digits, _ and - in quotes, such as ('sbj_3',)",
)
SIZES = Rule(lambda x: len(x) > 0 and all(isinstance(n, int) and n > 0 for n in x), 'one or more whole numbers above 0')
MODELS = ('fmri_mae', 'image_mae', 'first_stage', 'unet', 'conditioner')
HCP_AREAS = ('V1', 'V2', 'V3', 'V4')


def one_of(*values: Any) -> Rule:
  """One of some values."""
  return Rule(lambda x: x in values, ' or '.join(map(repr, values)))


def _divides(other: int, multiple: int = 1) -> Rule:
  """`multiple`: of what `other` must be one besides."""
  more = f', which must be a multiple of {multiple}' if multiple > 1 else ''
  return Rule(lambda x: x > 0 and other % x == 0 and other % multiple == 0, f'a divisor of {other}{more}')


def _sample_steps(steps: int) -> Rule:
  try:
    diffusion.sample_steps(1000, steps)
    fault = ''
  except UserError as error:
    fault = str(error)  # names the nearest that fit
  return Rule(lambda _: not fault, f'a number that fits the 1000 training steps: {fault}')


TRAINING = {
  'num_epochs': POSITIVE,
  'num_steps': NOT_NEGATIVE,
  'batch_size': POSITIVE,
  'learning_rate': POSITIVE,
  'warmup_epochs': NOT_NEGATIVE,
  'clip_norm': POSITIVE,
  'weight_decay': NOT_NEGATIVE,
  'eval_every': POSITIVE,
  'checkpoint_every': POSITIVE,
  'select': one_of('last', 'best'),
  'optimizer': one_of('adamw', 'muon'),
  'betas': Rule(
    lambda x: len(x) == 2 and all(isinstance(b, float | int) and 0 <= b < 1 for b in x),
    'two numbers, at least 0 and less than 1',
  ),
}


def rules(config: ConfigDict) -> dict[str, Rule]:
  """Field -> rule, in the order in which they are checked."""
  table = {
    'dtype': one_of('auto', 'float32', 'bfloat16'),
    'remat': one_of(*recompute.CHOICES),
    'log_every': POSITIVE,
    'seed': SEED,
    'mesh.data': DEVICES,
    'mesh.fsdp': DEVICES,
    'skip_nonfinite': NOT_NEGATIVE,
  }
  for name in MODELS:
    for field, value in config[name].items():
      if isinstance(value, tuple):
        table[f'{name}.{field}'] = SIZES
      elif not isinstance(value, bool | str):
        table[f'{name}.{field}'] = POSITIVE
  table |= _data_rules(config) | _model_rules(config) | _stage_rules(config)
  for stage, fields in config.items():
    if isinstance(fields, ConfigDict) and 'learning_rate' in fields:
      table |= {f'{stage}.{field}': rule for field, rule in TRAINING.items() if field in fields}
  return table


def _data_rules(config: ConfigDict) -> dict[str, Rule]:
  data = config.data
  return {
    'data.dataset': one_of('god', 'bold5000', 'own'),
    'data.subjects': Rule(lambda x: len(x) > 0 and TEXTS.holds(x), f'at least one subject: {TEXTS.expected}'),
    'data.other_subjects': Rule(
      lambda x: TEXTS.holds((*data.subjects, *x)), f'{TEXTS.expected}, and none of data.subjects'
    ),
    'data.contrast_god_subjects': TEXTS,
    'data.roi': Rule(lambda x: all(x.split('+')), "the name of an ROI, or several such as 'V1+V2'"),
    'data.hcp_rois': Rule(
      lambda x: len(x) > 0 and TEXTS.holds(x) and set(x) <= set(HCP_AREAS), f'some of {", ".join(HCP_AREAS)}'
    ),
    'data.hcp_subject_limit': NOT_NEGATIVE,
    'data.hcp_augmentation': Rule(lambda x: 1 <= x <= 100, 'between 1 and 100'),
    'data.num_val_stimuli': NOT_NEGATIVE,
    'data.target_train_proportion': PART,
    'data.sparse_augmentation': SHARE,
  }


def _model_rules(config: ConfigDict) -> dict[str, Rule]:
  mae, image, vq, unet = config.fmri_mae, config.image_mae, config.first_stage, config.unet
  shrink = 2 ** (len(vq.ch_mult) - 1), 2 ** (len(unet.channel_mult) - 1)
  transformers = list(unet.channel_mult[-1:])  # in the middle there always is one
  transformers += [m for level, m in enumerate(unet.channel_mult) if 2**level in unet.attention_resolutions]
  return {
    'data.image_size': Rule(
      lambda x: x > 0 and x % math.prod(shrink) == 0,
      f'a positive multiple of {math.prod(shrink)}: first_stage.ch_mult reduces it {shrink[0]} times, '
      f'unet.channel_mult {shrink[1]} times',
    ),
    'fmri_mae.num_heads': _divides(mae.width, multiple=2),
    'fmri_mae.decoder_num_heads': _divides(mae.decoder_width, multiple=2),
    'image_mae.patch_size': _divides(image.image_size),
    'image_mae.num_heads': _divides(image.width, multiple=4),
    'image_mae.decoder_num_heads': _divides(image.decoder_width, multiple=4),
    'first_stage.num_groups': _divides(vq.ch),
    'unet.num_groups': _divides(unet.model_channels, multiple=2),
    'unet.num_heads': Rule(
      lambda x: x > 0 and all(unet.model_channels * m % x == 0 for m in transformers),
      'a divisor of the width of every level that unet.attention_resolutions names, and of the last',
    ),
    'unet.attention_resolutions': Rule(
      lambda x: set(x) <= {2**level for level in range(len(unet.channel_mult))},
      f'some of the downsampling factors {[2**level for level in range(len(unet.channel_mult))]} of unet.channel_mult',
    ),
    'conditioner.context_tokens': Rule(lambda x: x > 1, '2 or more'),
  }


def _stage_rules(config: ConfigDict) -> dict[str, Rule]:
  contrast, attend, sampling = config.contrast, config.attend, config.reconstruct
  patches = (config.image_mae.image_size // config.image_mae.patch_size) ** 2 if config.image_mae.patch_size > 0 else 0
  masked = contrast.mask_loss and not config.released.no_mask_loss
  contrasted = contrast.self_contrast and contrast.self_weight or contrast.cross_contrast and contrast.cross_weight
  return {
    'contrast.mask_ratio': INNER_SHARE if masked else SHARE,
    'contrast.temperature': POSITIVE,
    'contrast.self_weight': NOT_NEGATIVE,
    'contrast.cross_weight': NOT_NEGATIVE,
    'contrast.mask_loss': Rule(
      lambda _: masked or contrasted,
      'True, where no contrastive loss is on with a weight: nothing is learned otherwise',
    ),
    'contrast.negatives': one_of('global', 'per_device', 'paired'),
    'contrast.decoder_depth': POSITIVE,
    'attend.decoder_depth': POSITIVE,
    'attend.image_decoder_depth': POSITIVE,
    'attend.cross_depth': POSITIVE,
    'attend.mask_ratio': INNER_SHARE,
    'attend.image_mask_ratio': Rule(
      lambda x: INNER_SHARE.holds(x) and masking.num_kept(patches, x) > 0,
      f'{INNER_SHARE.expected}, so that at least one of the {patches} patches of image_mae is left',
    ),
    'attend.fmri_weight': Rule(
      lambda x: x >= 0 and x + attend.image_weight > 0, '0 or more, and not 0 together with attend.image_weight'
    ),
    'attend.image_weight': NOT_NEGATIVE,
    'diffuse.crop_probability': Rule(lambda x: 0 <= x <= 1, 'between 0 and 1'),
    'diffuse.crop_share': SHARE,
    'diffuse.cached_crops': Rule(
      lambda x: x >= 0 and (not x or config.diffuse.prior_init_from) and (x < 2 or config.diffuse.crop_probability),
      '0 or more; 0, where diffuse.prior_init_from names no first stage to encode with; 0 or 1, where '
      'diffuse.crop_probability is 0 and all crops would be the same',
    ),
    'reconstruct.sampler': one_of('plms', 'dpm', 'ddim'),
    'reconstruct.num_steps': _sample_steps(sampling.num_steps),
    'reconstruct.eta': Rule(
      lambda x: x >= 0 and not (x and sampling.sampler != 'ddim'), '0 or more, and 0 with any sampler but ddim'
    ),
    'reconstruct.guidance': NOT_NEGATIVE,
    'reconstruct.num_samples': POSITIVE,
    'reconstruct.batch_size': POSITIVE,
    'reconstruct.num_items': NOT_NEGATIVE,
    'reconstruct.seed': SEED,
    'evaluate.num_bootstrap': Rule(lambda x: x >= 100, '100 or more'),
    'evaluate.num_shuffles': Rule(lambda x: x >= 20, '20 or more'),
    'evaluate.single_trials': NOT_NEGATIVE,
  }


def check(config: ConfigDict, stages: Sequence[str], known_stages: Sequence[str]) -> None:
  """Raises `UserError` for the first field that cannot be, and for a stage that is not known."""
  unknown = [name for name in stages if name not in known_stages]
  if unknown or not stages:
    raise UserError(f'stages: {", ".join(unknown) or "none"} found; expected some of {", ".join(known_stages)}.')
  in_order = [name for name in known_stages if name in stages]
  if list(stages) != in_order:
    raise UserError(f'stages: {", ".join(stages)} found; expected each once, in this order: {", ".join(in_order)}.')
  _check_finite(config)
  try:
    table = [(field, rule, _value(config, field)) for field, rule in rules(config).items()]
  except (KeyError, AttributeError) as error:
    raise UserError(
      f'the config lacks a field of configs/base.py: {error.args[0]}; begin with base.get_config().'
    ) from error
  for field, rule, value in table:
    if not rule.holds(value):
      raise UserError(f'config.{field} is {value!r}; expected {rule.expected}.')
  for name in ('contrast', 'attend', 'diffuse'):  # those of the prior bring their own
    if name not in stages or config[name].select != 'best':
      continue
    if not config.data.num_val_stimuli or name == 'contrast' and not config.data.contrast_god_subjects:
      raise UserError(
        f'config.{name}.select is best, but config.data.num_val_stimuli is 0 or leaves {name} nothing to select by: '
        'hold some stimuli out.'
      )
  depth = config.attend.decoder_depth
  if (
    'attend' in stages
    and not (config.attend.init_from or config.contrast.init_from)
    and depth > config.contrast.decoder_depth
  ):
    raise UserError(
      f'config.attend.decoder_depth is {depth}; expected at most config.contrast.decoder_depth, '
      f'{config.contrast.decoder_depth}: the decoder goes on from that of contrast.'
    )
  if 'diffuse' in stages:
    _check_trainable(config)


def _value(config: ConfigDict, field: str) -> Any:
  for part in field.split('.'):
    config = config[part]
  return config


def _check_finite(config: ConfigDict) -> None:
  for name, section in config.items():
    for field, value in section.items() if isinstance(section, ConfigDict) else ():
      if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f'config.{name}.{field} is {value}; expected a finite number.')


def _check_trainable(config: ConfigDict) -> None:
  """The expression of what trains is checked here, because where it fits nothing the rest would train for days."""
  expression = config.diffuse.train_unet
  try:
    re.compile(expression)
  except re.error as error:
    raise UserError(f'config.diffuse.train_unet is {expression!r}, no regular expression: {error}.') from error
  parts = diffuse.models(config, 64 * config.fmri_mae.patch_size)  # the UNet's paths do not depend on the voxels
  shapes = jax.eval_shape(lambda key: diffuse.init(parts, key)['unet'], jax.random.key(0))
  paths = [f'unet/{path}' for path in flatten(shapes)]
  if not any(re.search(diffuse.trainable(config), path) for path in paths):
    raise UserError(
      f'config.diffuse.train_unet is {expression!r}, which fits no path of the UNet; they are such as {paths[0]}.'
    )
