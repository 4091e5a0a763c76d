"""The values that a pickle may describe, each built by a function of this file: containers, arrays, inert stand-ins."""

import collections
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Global(NamedTuple):
  """The name of a class or function. It is never looked up."""

  module: str
  name: str

  def __str__(self) -> str:
    return f'{self.module}.{self.name}'


class StandIn:
  """Stands for an object that is not built: its class name, constructor arguments, attributes and items, and no code."""

  def __init__(self, kind: Global, args: tuple):
    self.kind = kind
    self.args = args
    self.attributes: dict[str, Any] = {}
    self.items: dict[Any, Any] = {}
    self.entries: list[Any] = []

  def __repr__(self) -> str:
    return f'<{self.kind}>'

  def set_state(self, state: Any) -> None:
    """Keeps what the class would have been given by `__setstate__`."""
    for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
      if isinstance(part, dict):
        self.attributes.update({key: value for key, value in part.items() if isinstance(key, str)})
      elif part is not None:
        self.attributes['state'] = part


class PendingDtype:
  """A NumPy element type whose state may follow; a `StandIn` for times, structures and types of other packages."""

  def __init__(self, code: Any, *_):
    if isinstance(code, str) and re.fullmatch(r'[<>|=]?([biufcSUO]\d*|\?)', code):
      self.value = np.dtype(code)
    else:
      self.value = StandIn(Global('numpy', 'dtype'), (code,))

  def set_state(self, state: tuple) -> None:
    """Sets the byte order."""
    if state[2] is not None or state[3] is not None:
      self.value = StandIn(Global('numpy', 'dtype'), ())
    if isinstance(self.value, np.dtype) and state[1] in '<>':
      self.value = self.value.newbyteorder(state[1])


class PendingArray:
  """A NumPy array whose shape and values follow as its state."""

  value: np.ndarray | StandIn | None = None

  def set_state(self, state: tuple) -> None:
    """Builds the array."""
    _, shape, dtype, fortran, raw = state
    self.value = _array(raw, dtype, shape, 'F' if fortran else 'C')


def settle(value: Any) -> Any:
  """The finished value of an array or element type; anything else as it is."""
  return value.value if isinstance(value, PendingArray | PendingDtype) else value


def check_type(value: Any, *kinds: type) -> Any:
  """Returns a value of one of these types.

  Raises:
    ValueError: it is of another.
  """
  if not isinstance(value, kinds):
    raise ValueError(f'expected {kinds[0].__name__}, found {type(value).__name__}')
  return value


def check_shape(shape: Any) -> tuple[int, ...]:
  """A tuple of sizes that are not negative.

  Raises:
    ValueError: it is something else.
  """
  shape = tuple(check_type(shape, tuple, list))
  if not all(type(size) is int and size >= 0 for size in shape):
    raise ValueError(f'impossible shape {shape!r}')
  return shape


def _array(raw: Any, dtype: np.dtype | StandIn, shape: Any, order: str = 'C') -> np.ndarray | StandIn:
  shape = check_shape(shape)
  if isinstance(dtype, StandIn):
    return StandIn(Global('numpy', 'ndarray'), (dtype, shape))
  if isinstance(raw, str):  # written by Python 2
    raw = raw.encode('latin1')
  count = math.prod(shape)
  if check_type(dtype, np.dtype).kind == 'O':
    if len(check_type(raw, list)) != count:
      raise ValueError(f'array of shape {shape} with {len(raw)} elements')
    array = np.empty(count, object)
    for place, value in enumerate(raw):
      array[place] = settle(value)
  else:
    raw = check_type(raw, (bytes, bytearray))
    if len(raw) != count * dtype.itemsize:
      raise ValueError(f'array of shape {shape} with {len(raw)} bytes')
    array = np.frombuffer(raw, dtype) if count else np.empty(0, dtype)
  return array.reshape(shape, order=order)


def _scalar(dtype: np.dtype | StandIn, raw: Any) -> Any:
  array = _array(raw, dtype, ())
  return array[()] if isinstance(array, np.ndarray) else array


def _encode(text: str, encoding: str = 'latin1') -> bytes:
  if encoding not in ('latin1', 'latin-1', 'utf-8', 'ascii'):
    raise ValueError(f'unexpected encoding {encoding!r}')
  return check_type(text, str).encode(encoding)


def _bytes(*args) -> bytes:
  return _encode(*args) if args and isinstance(args[0], str) else b''.join(args)


def _list(values: Any = (), *_) -> list:
  return list(check_type(values, list, tuple))


def _dict(values: Any = None, *_) -> dict:
  return dict(check_type({} if values is None else values, dict))


def _ordered_dict(*args) -> collections.OrderedDict:
  """An OrderedDict, or a defaultdict without its default. Old files give an OrderedDict a list of pairs."""
  pairs = args[0] if args and isinstance(args[0], list) else []
  return collections.OrderedDict((key, value) for key, value in pairs)


# What a pickle may construct, each by a function of this file.
CONSTRUCTORS: dict[tuple[str, str], Callable] = {
  ('collections', 'OrderedDict'): _ordered_dict,
  ('collections', 'defaultdict'): _ordered_dict,
  ('collections', 'Counter'): _dict,
  ('collections', 'deque'): _list,  # a second argument is its greatest length
  ('torch', 'Size'): lambda sizes=(): check_shape(sizes),
  ('torch', 'device'): lambda *args: ':'.join(str(part) for part in args),
  ('_codecs', 'encode'): _encode,
  ('numpy', 'dtype'): PendingDtype,
  ('builtins', 'set'): lambda *args: set(_list(*args)),
  ('builtins', 'frozenset'): lambda *args: frozenset(_list(*args)),
  ('builtins', 'bytes'): _bytes,
  ('builtins', 'bytearray'): lambda *args: bytearray(_bytes(*args)),
  ('builtins', 'complex'): complex,
  ('builtins', 'dict'): _dict,
  ('builtins', 'list'): _list,
}
for _module in ('numpy.core', 'numpy._core'):
  CONSTRUCTORS |= {
    (_module + '.multiarray', '_reconstruct'): lambda *_: PendingArray(),
    (_module + '.multiarray', 'scalar'): _scalar,
    (_module + '.numeric', '_frombuffer'): lambda raw, dtype, shape, order: _array(raw, dtype, shape, order),
  }


def to_plain(value: Any, depth: int = 12) -> Any:
  """The plain part of a value (numbers, text, lists, dicts; a stand-in's attributes), fit for JSON; None for the rest."""
  budget = iter(range(50_000))  # a few bytes of pickle can describe a structure that is endless when written out

  def visit(value: Any, depth: int) -> Any:
    if next(budget, None) is None:
      return None
    if isinstance(value, bool | int | float | str) or value is None:
      return value
    if isinstance(value, np.generic):
      return value.item() if value.dtype.kind in 'biuf' else None
    if isinstance(value, Global | np.dtype):
      return str(value)
    if not depth:
      return None
    if isinstance(value, StandIn):
      return visit(_fields(value), depth - 1)
    if isinstance(value, dict) and len(value) <= 1000:
      return {str(key): visit(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and len(value) <= 1000:
      return [visit(item, depth - 1) for item in value]
    return None

  return visit(value, depth)


def _fields(value: StandIn) -> Any:
  """The content of a stand-in: of an OmegaConf node its content or value, of any other object its items and attributes."""
  if value.kind.module.split('.')[0] == 'omegaconf':
    fields = value.attributes
    return fields['_content'] if '_content' in fields else fields.get('_val')
  return value.items | value.attributes or list(value.args)
