"""The values that a pickle may describe, each built by a function of ours: containers, arrays, inert stand-ins."""

import collections
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Global(NamedTuple):
  """A class or function that a pickle names. Only the name: it is never looked up."""

  module: str
  name: str

  def __str__(self) -> str:
    return f'{self.module}.{self.name}'


class StandIn:
  """An object of a class that is not here: its class name, constructor arguments, attributes and items, and no code."""

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
  """A NumPy element type under construction."""

  def __init__(self, code: str):
    self.dtype = np.dtype(code)
    if self.dtype.kind not in 'biufcSUO' or self.dtype.fields:
      raise ValueError(f'unsupported element type {code!r}')

  def set_state(self, state: tuple) -> None:
    """Takes the byte order."""
    if state[2] is not None or state[3] is not None:
      raise ValueError('structured arrays are not supported')
    if state[1] in '<>':
      self.dtype = self.dtype.newbyteorder(state[1])


class PendingArray:
  """A NumPy array under construction: filled by its state, replaced by the array when all is read."""

  def __init__(self):
    self.array: np.ndarray | None = None

  def set_state(self, state: tuple) -> None:
    """Makes the array."""
    _, shape, dtype, fortran, raw = state
    self.array = _array(raw, instance(dtype, PendingDtype).dtype, shape, 'F' if fortran else 'C')


def instance(value: Any, kind: type) -> Any:
  """The value, if it is of this type; else a ValueError."""
  if not isinstance(value, kind):
    raise ValueError(f'expected {kind.__name__}, found {type(value).__name__}')
  return value


def checked_shape(shape: Any) -> tuple[int, ...]:
  """A tuple of sizes that are not negative; else a ValueError."""
  shape = tuple(instance(shape, (tuple, list)))
  if not all(type(size) is int and size >= 0 for size in shape):
    raise ValueError(f'impossible shape {shape!r}')
  return shape


def _array(raw: Any, dtype: np.dtype, shape: Any, order: str = 'C') -> np.ndarray:
  shape = checked_shape(shape)
  if isinstance(raw, str):  # written by Python 2
    raw = raw.encode('latin1')
  count = math.prod(shape)
  if dtype.kind == 'O':
    if len(instance(raw, list)) != count:
      raise ValueError(f'array of shape {shape} with {len(raw)} elements')
    array = np.empty(count, object)
    array[:] = [settle(value) for value in raw] if count != 1 else [None]
    if count == 1:  # assigning a list of one dict-like value would broadcast it
      array[0] = settle(raw[0])
  else:
    raw = instance(raw, (bytes, bytearray))
    if len(raw) != count * dtype.itemsize:
      raise ValueError(f'array of shape {shape} with {len(raw)} bytes')
    array = np.frombuffer(raw, dtype) if count else np.empty(0, dtype)
  return array.reshape(shape, order=order)


def settle(value: Any) -> Any:
  """The array of a finished `PendingArray`; anything else as it is."""
  return value.array if isinstance(value, PendingArray) else value


def _encode(text: str, encoding: str = 'latin1') -> bytes:
  if encoding not in ('latin1', 'latin-1', 'utf-8', 'ascii'):
    raise ValueError(f'unexpected encoding {encoding!r}')
  return instance(text, str).encode(encoding)


def _bytes(*args) -> bytes:
  return _encode(*args) if args else b''


def _empty_dict(*args) -> dict:
  """A defaultdict or OrderedDict, without the default; old files give OrderedDict a list of pairs."""
  pairs = args[0] if args and isinstance(args[0], list) else []
  return collections.OrderedDict((key, value) for key, value in pairs)


def _device(*args) -> str:
  return ':'.join(str(part) for part in args)


# What a pickle may construct, each by a function of ours.
CONSTRUCTORS: dict[tuple[str, str], Callable] = {
  ('collections', 'OrderedDict'): _empty_dict,
  ('collections', 'defaultdict'): _empty_dict,
  ('collections', 'Counter'): lambda *args: dict(instance(args[0], dict)) if args else {},
  ('collections', 'deque'): lambda *args: list(instance(args[0], list)) if args else [],
  ('torch', 'Size'): lambda sizes=(): checked_shape(sizes),
  ('torch', 'device'): _device,
  ('_codecs', 'encode'): _encode,
  ('numpy', 'dtype'): lambda code, *_: PendingDtype(instance(code, str)),
}
for _module in ('builtins', '__builtin__'):
  CONSTRUCTORS |= {
    (_module, 'set'): lambda *args: set(instance(args[0], list)) if args else set(),
    (_module, 'frozenset'): lambda *args: frozenset(instance(args[0], list)) if args else frozenset(),
    (_module, 'bytes'): _bytes,
    (_module, 'bytearray'): lambda *args: bytearray(
      _bytes(*args) if args and isinstance(args[0], str) else b''.join(args)
    ),
    (_module, 'complex'): complex,
    (_module, 'dict'): lambda *args: dict(instance(args[0], dict)) if args else {},
    (_module, 'list'): lambda *args: list(instance(args[0], list)) if args else [],
  }
for _module in ('numpy.core', 'numpy._core'):
  CONSTRUCTORS |= {
    (_module + '.multiarray', '_reconstruct'): lambda *_: PendingArray(),
    (_module + '.multiarray', 'scalar'): lambda dtype, raw: _array(raw, instance(dtype, PendingDtype).dtype, ())[()],
    (_module + '.numeric', '_frombuffer'): lambda raw, dtype, shape, order: _array(
      raw, instance(dtype, PendingDtype).dtype, shape, order if order in 'CF' else 'C'
    ),
  }


def plain(value: Any, depth: int = 6) -> Any:
  """The plain part of a value (numbers, text, lists, dicts; a stand-in's attributes), fit for JSON; None for the rest."""
  budget = iter(range(50_000))  # a few bytes of pickle can describe a structure that is endless when written out

  def visit(value: Any, depth: int) -> Any:
    if next(budget, None) is None:
      return None
    if isinstance(value, bool | int | float | str) or value is None:
      return value
    if isinstance(value, np.generic):
      return value.item() if value.dtype.kind in 'biuf' else None
    if isinstance(value, Global):
      return str(value)
    if isinstance(value, StandIn):
      value = value.items | value.attributes or list(value.args)
    if not depth:
      return None
    if isinstance(value, dict) and len(value) <= 1000:
      return {str(key): visit(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and len(value) <= 1000:
      return [visit(item, depth - 1) for item in value]
    return None

  return visit(value, depth)
