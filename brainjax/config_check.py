"""Checks a resolved config before anything is compiled: each impossible value in one sentence that names its field."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from brainjax.errors import UserError
from brainjax.ops import diffusion


class Rule(NamedTuple):
  """What the value of a field must be."""

  holds: Callable[[Any], bool]
  expected: str


POSITIVE = Rule(lambda x: x > 0, 'more than 0')
NOT_NEGATIVE = Rule(lambda x: x >= 0, '0 or more')
SHARE = Rule(lambda x: 0 <= x < 1, 'at least 0 and less than 1')
PART = Rule(lambda x: 0 < x <= 1, 'more than 0 and at most 1')


def one_of(*values: Any) -> Rule:
  """One of some values."""
  return Rule(lambda x: x in values, ' or '.join(map(repr, values)))


def _divides(other: int) -> Rule:
  return Rule(lambda x: x > 0 and other % x == 0, f'a divisor of {other}')


def _sample_steps_fit(steps: int) -> bool:
  try:
    return diffusion.sample_steps(1000, steps) is not None
  except UserError:
    return False


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
  'betas': Rule(lambda x: len(x) == 2 and all(0 <= b < 1 for b in x), 'two numbers, at least 0 and less than 1'),
}


def rules(config: ConfigDict) -> dict[str, Rule]:
  """Field -> rule."""
  mae, image = config.fmri_mae, config.image_mae
  table = {
    'dtype': one_of('auto', 'float32', 'bfloat16'),
    'log_every': POSITIVE,
    'seed': NOT_NEGATIVE,
    'skip_nonfinite': NOT_NEGATIVE,
    'data.dataset': one_of('god', 'bold5000', 'own'),
    'data.subjects': Rule(len, 'at least one subject'),
    'data.num_val_stimuli': NOT_NEGATIVE,
    'data.target_train_proportion': PART,
    'data.sparse_augmentation': SHARE,
    'data.image_size': Rule(
      lambda x: x > 0 and x % 2 ** (len(config.first_stage.ch_mult) - 1) == 0,
      f'a positive multiple of {2 ** (len(config.first_stage.ch_mult) - 1)}, by which first_stage.ch_mult reduces it',
    ),
    'data.hcp_augmentation': Rule(lambda x: x >= 1, '1 or more'),
    'fmri_mae.patch_size': POSITIVE,
    'fmri_mae.width': POSITIVE,
    'fmri_mae.depth': POSITIVE,
    'fmri_mae.num_heads': _divides(mae.width),
    'fmri_mae.decoder_num_heads': _divides(mae.decoder_width),
    'image_mae.patch_size': _divides(image.image_size),
    'image_mae.num_heads': _divides(image.width),
    'image_mae.decoder_num_heads': _divides(image.decoder_width),
    'contrast.mask_ratio': SHARE,
    'contrast.temperature': POSITIVE,
    'contrast.self_weight': NOT_NEGATIVE,
    'contrast.mask_loss': Rule(
      lambda x: x or config.contrast.self_contrast or config.contrast.cross_contrast,
      'True, where self_contrast and cross_contrast are off: there is no loss otherwise',
    ),
    'contrast.cross_weight': NOT_NEGATIVE,
    'contrast.negatives': one_of('global', 'per_device', 'paired'),
    'contrast.decoder_depth': POSITIVE,
    'attend.decoder_depth': POSITIVE,
    'attend.image_decoder_depth': POSITIVE,
    'unet.num_groups': _divides(config.unet.model_channels),
    'first_stage.num_groups': _divides(config.first_stage.ch),
    'conditioner.context_tokens': Rule(lambda x: x > 1, '2 or more'),
    'attend.mask_ratio': SHARE,
    'attend.image_mask_ratio': SHARE,
    'attend.fmri_weight': NOT_NEGATIVE,
    'attend.image_weight': NOT_NEGATIVE,
    'attend.cross_depth': POSITIVE,
    'diffuse.crop_probability': Rule(lambda x: 0 <= x <= 1, 'between 0 and 1'),
    'diffuse.crop_share': SHARE,
    'reconstruct.sampler': one_of('plms', 'ddim'),
    'reconstruct.num_steps': Rule(_sample_steps_fit, 'a number of sampling steps that stays within the 1000 training steps'),
    'reconstruct.eta': Rule(
      lambda x: x >= 0 and not (x and config.reconstruct.sampler == 'plms'), '0 or more, and 0 with the sampler plms'
    ),
    'reconstruct.num_samples': POSITIVE,
    'reconstruct.batch_size': POSITIVE,
    'reconstruct.num_items': NOT_NEGATIVE,
    'evaluate.num_bootstrap': Rule(lambda x: x >= 100, '100 or more'),
    'evaluate.num_shuffles': Rule(lambda x: x >= 20, '20 or more'),
  }
  for stage, fields in config.items():
    if isinstance(fields, ConfigDict) and 'learning_rate' in fields:
      table |= {f'{stage}.{field}': rule for field, rule in TRAINING.items() if field in fields}
  return table


def check(config: ConfigDict, stages: Sequence[str], known_stages: Sequence[str]) -> None:
  """Raises `UserError` for the first field that cannot be, and for a stage that is not known."""
  unknown = [name for name in stages if name not in known_stages]
  if unknown or not stages:
    raise UserError(f'stages: {", ".join(unknown) or "none"} found; expected some of {", ".join(known_stages)}.')
  for field, rule in rules(config).items():
    value = config
    for part in field.split('.'):
      value = value[part]
    if not rule.holds(value):
      raise UserError(f'config.{field} is {value!r}; expected {rule.expected}.')
  for name in stages:
    if name in config and config[name].get('select') == 'best' and not config.data.num_val_stimuli:
      raise UserError(
        f'config.{name}.select is best, but config.data.num_val_stimuli is 0: hold some stimuli out to select by.'
      )
