"""Fields of the configs in and beside checkpoints: values that do not follow from the shapes of tensors, such as attention heads."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from brainjax.errors import UserError

# Names of the fields that converters of models read. Another field about heads is not guessed at.
_READ = frozenset(
  [
    'num_heads',
    'decoder_num_heads',
    'num_attention_heads',
    'decoder_num_attention_heads',
    'cross_heads',
    'unet_num_heads',
  ]
)
_ABOUT_HEADS = re.compile(r'((^|_)n?heads?(_?num|_count)?|head_?(dim|size|channels)|dim_?head|[a-z]Heads?)$')


class Ambiguous(NamedTuple):
  """A field that several parts of a config have, with different values: `('encoder.num_heads=8', ...)`."""

  values: tuple[str, ...]

  def __str__(self) -> str:
    return ', '.join(self.values)


def flatten_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a nested config by their own names.

  An outer field hides inner ones of its name. Inner ones at one depth that differ become `Ambiguous`. Fields of a part that
  is named after a UNet get the prefix `unet_`.
  """
  fields: dict[str, Any] = {}
  level = [('', config)]
  while level:
    here: dict[str, dict[str, Any]] = {}
    for place, part in level:
      for name, value in part.items():
        if not isinstance(value, dict) and value is not None:
          prefix = 'unet_' if 'unet' in place.lower() else ''
          here.setdefault(f'{prefix}{name}', {})[f'{place}{name}'] = value
    for name, values in here.items():
      first, *others = values.values()
      differ = any(value != first for value in others)
      fields.setdefault(name, Ambiguous(tuple(f'{x}={y!r}' for x, y in values.items())) if differ else first)
    level = [
      (f'{place}{name}.', part) for place, parent in level for name, part in parent.items() if isinstance(part, dict)
    ]
  return fields


def heads_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """Those of `flatten_config` that are about heads."""
  return {
    name: value for name, value in flatten_config(config).items() if name in _READ or _is_about_heads(name, value)
  }


def _is_about_heads(name: str, value: Any) -> bool:
  return bool(_ABOUT_HEADS.search(name)) and (isinstance(value, str | Ambiguous) or type(value) is int)


def compvis_fields(parameters: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a CompVis latent diffusion model's parameters (`unet_config` and others); none if it is no such config.

  The UNet's fields get the prefix `unet_`.
  """
  unet = parameters.get('unet_config')
  if not isinstance(unet, dict) or not isinstance(unet.get('params'), dict):
    return {}
  fields = {f'unet_{name}': value for name, value in unet['params'].items()}
  if 'scale_factor' in parameters:
    fields['scale_factor'] = parameters['scale_factor']
  with contextlib.suppress(KeyError, TypeError):
    fields['first_stage_resolution'] = parameters['first_stage_config']['params']['ddconfig']['resolution']
  return fields


class ConfigFields:
  """Reads values that do not follow from shapes from the fields of a config; where it lacks a field, assumes the published value.

  Attributes:
    notes: sentences for the user; one is added for each assumed value.
    source: what to call the file in an error.
  """

  def __init__(self, config: Mapping[str, Any], notes: list[str], source: str = 'the file'):
    self._config, self.source = config, source
    self.notes = notes

  def get(self, name: str) -> Any:
    """The value of a field, or None.

    Raises:
      UserError: parts of the config disagree on it.
    """
    value = self._config.get(name)
    if isinstance(value, Ambiguous):
      raise UserError(
        f'{self.source}: its config has several values of {name} ({value}); put a config.json that says {name} beside the '
        'file'
      )
    return value

  def get_if_clear(self, name: str) -> Any:
    """As `get`, for values that also follow from shapes; None where parts of the config disagree."""
    value = self._config.get(name)
    return None if isinstance(value, Ambiguous) else value

  def count(self, name: str) -> int | None:
    """A whole number above 0 that the config has under a name; None if it has none, or -1 (CompVis: not used).

    Raises:
      UserError: it has something else there.
    """
    value = self.get(name)
    if value is not None and (type(value) is not int or value == 0):
      raise UserError(
        f'{self.source}: {name} in its config is {value!r}; expected a whole number above 0, so correct it'
      )
    return value if value and value > 0 else None

  def part(self, name: str) -> 'ConfigFields':
    """The fields of one part of the config; all, if the config has no such part."""
    part = self._config.get(name)
    return ConfigFields(part, self.notes, self.source) if isinstance(part, dict) else self

  def heads(self, names: Sequence[str], published: int, what: str, width: int | None = None) -> int:
    """A number of attention heads: the first field of `names` that the config has, else the published number.

    Args:
      names: of fields.
      published: assumed if the config has none of them, and noted.
      what: for the note, such as 'the number of heads'.
      width: that the heads must divide.

    Raises:
      UserError: the heads do not divide the width; or the config has a field about heads that is not read here, so that the
        published number would be a guess.
    """
    heads = next((value for name in names if (value := self.count(name))), None)
    if heads is None:
      unread = [name for name, value in self._config.items() if name not in _READ and _is_about_heads(name, value)]
      if unread:
        raise UserError(
          f'{self.source}: its config says {", ".join(f"{name}={self._config[name]}" for name in unread)}, but not '
          f'{names[0]}; put a config.json that says {names[0]} ({what}) beside the file'
        )
      self.notes.append(f'{what} is not in the file; assumed the published {published}')
    if width and width % (heads or published):
      origin = 'in its config' if heads else 'assumed, since its config does not say it,'
      raise UserError(
        f'{self.source}: {what} {origin} is {heads or published}, which does not divide the width {width}; correct its '
        f'config, or put a config.json with {names[0]} beside the file'
      )
    return heads or published
