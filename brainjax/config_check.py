"""Checks a resolved config before anything is compiled: one sentence for an impossible value, which names its field."""

import difflib
import math
from collections.abc import Collection, Sequence
from typing import Any

from ml_collections import ConfigDict

from brainjax.datasets import registry
from brainjax.datasets.input_transform import TEST_SCALES, ZSCORES
from brainjax.errors import UserError
from brainjax.models import recompute
from brainjax.ops import attention
from brainjax.rules import (
  INNER_SHARE,
  NAMES,
  NOT_NEGATIVE,
  PART,
  POSITIVE,
  SEED,
  SHARE,
  Rule,
  divides,
  one_of,
)
from brainjax.stages.registry import STAGES
from configs import base

DEVICES = Rule(lambda x: x == -1 or x > 0, '-1 (the rest) or more than 0')
SIZES = Rule(lambda x: len(x) > 0 and all(isinstance(n, int) and n > 0 for n in x), 'one or more whole numbers above 0')
MODELS = ('fmri_mae', 'image_mae', 'first_stage', 'unet', 'conditioner')
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
    'attention': one_of(*attention.CHOICES),
    'log_every': POSITIVE,
    'seed': SEED,
    'stage_minutes': Rule(
      lambda x: all(isinstance(n, int | float) and n > 0 for n in x), 'a number above 0 for each of config.stages'
    ),
    'mesh.data': DEVICES,
    'mesh.fsdp': DEVICES,
    'skip_nonfinite': NOT_NEGATIVE,
    'noise_schedule.num_steps': POSITIVE,
    'noise_schedule.start': INNER_SHARE,
    'noise_schedule.end': INNER_SHARE,
  }
  for name in MODELS:
    for field, value in config[name].items():
      if field == 'attn_resolutions':  # may be empty; only weights set it
        continue
      if isinstance(value, tuple):
        table[f'{name}.{field}'] = SIZES
      elif not isinstance(value, bool | str | None):  # None: weights do not set it
        table[f'{name}.{field}'] = POSITIVE
  table |= _data_rules(config) | _model_rules(config)
  for name, spec in STAGES.items():
    if name in config:
      table |= spec.rules(config)
  for stage, fields in config.items():
    if isinstance(fields, ConfigDict) and 'learning_rate' in fields:
      table |= {f'{stage}.{field}': rule for field, rule in TRAINING.items() if field in fields}
  return table


def _data_rules(config: ConfigDict) -> dict[str, Rule]:
  data = config.data
  own = {field: rule for data_set in registry.DATA_SETS.values() for field, rule in data_set.fields.items()}
  return {f'data.{field}': rule for field, rule in own.items() if field in data} | {
    'data.dataset': one_of(*registry.with_pictures()),
    'data.subjects': Rule(lambda x: len(x) > 0 and NAMES.holds(x), f'at least one subject: {NAMES.expected}'),
    'data.other_subjects': Rule(
      lambda x: NAMES.holds((*data.subjects, *x)), f'{NAMES.expected}, and none of data.subjects'
    ),
    'data.roi': Rule(lambda x: all(x.split('+')), "the name of an ROI, or several such as 'V1+V2'"),
    'data.num_val_stimuli': NOT_NEGATIVE,
    'data.train_sessions': NOT_NEGATIVE,
    'data.zscore': one_of('auto', *ZSCORES),
    'data.test_scale': Rule(
      lambda x: x in TEST_SCALES and (x == 'train' or not config.released.god_test_raw_scale),
      f'one of {", ".join(TEST_SCALES)}; train where released.god_test_raw_scale is on',
    ),
    'data.target_train_proportion': PART,
    'data.leave_out_subjects': Rule(lambda x: not x or data.other_subjects, 'False where data.other_subjects is empty'),
    'data.balance': Rule(lambda x: 0 <= x <= 1, 'between 0 and 1'),
    'data.sparse_augmentation': SHARE,
  }


def _model_rules(config: ConfigDict) -> dict[str, Rule]:
  mae, image, vq, unet = config.fmri_mae, config.image_mae, config.first_stage, config.unet
  shrink = 2 ** (len(vq.ch_mult) - 1), 2 ** (len(unet.channel_mult) - 1)
  transformers = list(unet.channel_mult[-1:])  # the middle block always has one
  transformers += [m for level, m in enumerate(unet.channel_mult) if 2**level in unet.attention_resolutions]
  return {
    'data.image_size': Rule(
      lambda x: x > 0 and x % math.prod(shrink) == 0,
      f'a positive multiple of {math.prod(shrink)}: first_stage.ch_mult reduces it {shrink[0]} times, '
      f'unet.channel_mult {shrink[1]} times',
    ),
    'fmri_mae.num_heads': divides(mae.width, multiple_of=2),
    'fmri_mae.decoder_num_heads': divides(mae.decoder_width, multiple_of=2),
    'image_mae.patch_size': divides(image.image_size),
    'image_mae.num_heads': divides(image.width, multiple_of=4),
    'image_mae.decoder_num_heads': divides(image.decoder_width, multiple_of=4),
    'first_stage.num_groups': divides(vq.ch),
    'unet.num_groups': divides(unet.model_channels, multiple_of=2),
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


def refuse_unknown_fields(config: ConfigDict) -> None:
  """Refuses fields that configs/base.py and the data sets do not have: nothing would read them. Sections may be a plugin's.

  Raises:
    UserError: an unknown field; the sentence names the nearest known one.
  """
  known = base.get_config()
  of_data_sets = {field for each in registry.DATA_SETS.values() for field in (each.raw_field, *each.fields)}
  of_data_sets |= {f'contrast_{name}_subjects' for name in registry.DATA_SETS}
  for name, value in config.items():
    if not isinstance(value, ConfigDict):
      _refuse_unknown(name, {**known}, '')
    elif name in known:
      for field in value:
        _refuse_unknown(field, {*known[name], *(of_data_sets if name == 'data' else ())}, f'{name}.')


def _refuse_unknown(field: str, known: Collection[str], section: str) -> None:
  if field not in known:
    near = difflib.get_close_matches(field, list(known), 1)
    hint = f'did you mean {near[0]}?' if near else 'the fields are in configs/base.py.'
    raise UserError(f'config.{section}{field} is no field of the config; {hint}')


def check(config: ConfigDict, stages: Sequence[str]) -> None:
  """Raises a `UserError` for the first field whose value is impossible, or for values that exclude each other."""
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
  for name in stages:
    spec = STAGES[name]
    validates = spec.make and spec.sources(config)  # stages without data sets render their own validation batches
    if validates and config[name].select == 'best' and not (held_out := spec.held_out(config)).is_some:
      raise UserError(f'config.{name}.select is best, but {held_out.reason}.')
    for source in spec.sources(config):
      data_set = registry.get(source.data_set)
      for field in filter(None, (data_set.raw_field, *data_set.fields)):
        if field not in config.data:
          raise UserError(
            f'the data set {source.data_set} reads config.data.{field}, but the config has no such field; add it in the config '
            'file, inside `with config.unlocked():`.'
          )
    spec.check(config, tuple(stages))


def _value(config: ConfigDict, field: str) -> Any:
  for part in field.split('.'):
    config = config[part]
  return config


def _check_finite(config: ConfigDict) -> None:
  for name, section in config.items():
    for field, value in section.items() if isinstance(section, ConfigDict) else ():
      if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f'config.{name}.{field} is {value}; expected a finite number.')
