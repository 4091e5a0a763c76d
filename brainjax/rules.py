"""Rules for the values of config fields, each with its text for messages."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

NAME = re.compile(r'[A-Za-z][A-Za-z0-9_-]{0,63}')  # of a subject, and so of a folder


class Rule(NamedTuple):
  """A rule for the value of a field."""

  holds: Callable[[Any], bool]
  expected: str


POSITIVE = Rule(lambda x: x > 0, 'more than 0')
NOT_NEGATIVE = Rule(lambda x: x >= 0, '0 or more')
SHARE = Rule(lambda x: 0 <= x < 1, 'at least 0 and less than 1')
INNER_SHARE = Rule(lambda x: 0 < x < 1, 'more than 0 and less than 1')
PART = Rule(lambda x: 0 < x <= 1, 'more than 0 and at most 1')
SEED = Rule(lambda x: 0 <= x < 2**32, 'at least 0 and less than 2**32')
NAMES = Rule(
  lambda x: all(isinstance(name, str) and NAME.fullmatch(name) for name in x) and len(set(x)) == len(x),
  "different names in quotes, each a letter, then letters, digits, _ or -, such as ('sbj_3',)",
)


def one_of(*values: Any) -> Rule:
  """One of some values."""
  return Rule(lambda x: x in values, ' or '.join(map(repr, values)))


def divides(number: int, multiple_of: int = 1) -> Rule:
  """A divisor of a number. `multiple_of`: the number must also be a multiple of this."""
  more = f', which must be a multiple of {multiple_of}' if multiple_of > 1 else ''
  return Rule(lambda x: x > 0 and number % x == 0 and number % multiple_of == 0, f'a divisor of {number}{more}')
