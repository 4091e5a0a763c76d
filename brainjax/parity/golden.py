"""One golden file: its arrays, each accounted for exactly once, and the errors of what was compared with them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainjax.errors import UserError

# Bounds: forward values, losses and gradients; sampler trajectories; parameters after optimizer steps (absolute).
FORWARD = 1e-4
TRAJECTORY = 1e-3
PARAMETERS = 3e-5
# Some true gradients are zero. A gradient may be off by 1e-5 of the global norm whatever its own size: its scale is at
# least a tenth of that norm.
GRADIENT_FLOOR = 0.1


class Result(NamedTuple):
  """One comparison."""

  name: str  # of the array, or of a fact that is not an array
  quantity: str  # line of the table; several arrays can share one
  error: float
  bound: float
  measure: str  # 'relative', 'absolute' (parameters) or 'unequal' (share of entries)
  is_array: bool = True

  @property
  def ok(self) -> bool:
    """Whether the error is a number within the bound."""
    return bool(self.error <= self.bound)


class Golden:
  """Arrays of one file by name. Reading one as an input, comparing with it or skipping it accounts for it."""

  def __init__(self, path: Path, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]):
    self.path, self.config = path, config
    self._arrays = dict(arrays)
    self.results: list[Result] = []
    self.inputs_used: set[str] = set()
    self.excluded: dict[str, str] = {}  # name -> reason
    self.partly: dict[str, str] = {}  # name -> which entries were not compared, and why

  def __contains__(self, name: str) -> bool:
    return name in self._arrays

  @property
  def names(self) -> list[str]:
    """Names of all arrays."""
    return list(self._arrays)

  def below(self, prefix: str) -> list[str]:
    """Names of the arrays below `prefix/`, without it."""
    return [name[len(prefix) + 1 :] for name in self._arrays if name.startswith(prefix + '/')]

  def groups(self, prefix: str = '') -> list[str]:
    """The different first parts of the names below `prefix/`."""
    names = self.below(prefix) if prefix else self.names
    return list(dict.fromkeys(name.split('/')[0] for name in names if '/' in name))

  def peek(self, name: str) -> np.ndarray:
    """An array, without accounting for it.

    Raises:
      UserError: it is not there.
    """
    if name not in self._arrays:
      raise UserError(
        f'{self.path}: array {name!r} is missing, which a golden file of this kind has; make or copy it again'
      )
    return self._arrays[name]

  def input(self, name: str) -> np.ndarray:
    """An array that the computation starts from."""
    array = self.peek(name)
    self.inputs_used.add(name)
    return array

  def inputs(self, prefix: str) -> dict[str, np.ndarray]:
    """The arrays below `prefix/` as inputs, by the rest of their names."""
    found = {name: self.input(f'{prefix}/{name}') for name in self.below(prefix)}
    if not found:
      raise UserError(f'{self.path}: there are no arrays {prefix}/..., which a golden file of this kind has')
    return found

  def exclude(self, name: str, reason: str) -> None:
    """Leaves an array out, for a documented reason."""
    self.peek(name)
    self.excluded[name] = reason

  def skipped(self) -> dict[str, str]:
    """Why each array was not compared that something accounts for, config_json among them."""
    inputs = {name: _purpose(name) for name in self._arrays if name in self.inputs_used - self.compared()}
    return {'config_json': 'input: sizes, seeds, names'} | inputs | self.excluded

  def close(
    self, name: str, actual: Any, bound: float = FORWARD, *, floor: float = 0.0, steps: bool = False, quantity: str = ''
  ) -> None:
    """Compares relative to the largest expected entry (of each step, entry of axis 0, if `steps`), at least `floor`."""
    expected, actual = np.asarray(self.peek(name), np.float64), np.asarray(actual, np.float64)
    self._add(name, quantity, relative_error(actual, expected, floor, steps), bound, 'relative')

  def close_all(self, prefix: str, actual: Mapping[str, Any], bound: float = FORWARD, *, floor: float = 0.0) -> None:
    """`close` for every array below `prefix/`; one that `actual` lacks is an infinite error.

    Raises:
      UserError: there is none for an array of `actual` that is not zero.
    """
    for name in (name for name, value in actual.items() if f'{prefix}/{name}' not in self and np.any(value)):
      self.peek(f'{prefix}/{name}')
    for name in self.below(prefix):
      value = actual.get(name, np.nan)
      self.close(
        f'{prefix}/{name}', value, bound, floor=floor, quantity=f'{prefix}/* ({len(self.below(prefix))} arrays)'
      )

  def absolute(
    self, name: str, actual: Any, keep: Any = slice(None), quantity: str = '', granted: np.ndarray | float = 0.0
  ) -> int:
    """Compares parameters after optimizer steps, entries `keep` of them: the largest absolute difference.

    Args:
      name: of the array.
      actual: ours.
      keep: index of the entries.
      quantity: line of the table.
      granted: how far each entry may be apart without being judged.

    Returns:
      How many entries were out of bounds, but no further than granted. They are not in the error.
    """
    expected, actual = self.peek(name), np.asarray(actual)
    error, excused = np.inf, np.zeros(0, bool)
    if actual.shape == expected.shape:
      difference = np.abs(actual - expected)
      excused = ((difference > PARAMETERS) & (difference <= granted))[keep]
      error = _largest(np.where(excused, 0.0, difference[keep]))  # what is not finite is not excused
    self._add(name, quantity, error, PARAMETERS, 'absolute')
    return int(excused.sum())

  def equal(self, name: str, actual: Any, quantity: str = '') -> None:
    """Compares integers or copies: the share of unequal entries, which must be 0."""
    expected, actual = self.peek(name), np.asarray(actual)
    error = np.inf if actual.shape != expected.shape else float(np.mean(actual != expected)) if expected.size else 0.0
    self._add(name, quantity, error, 0.0, 'unequal')

  def fact(self, name: str, error: float, bound: float = 0.0) -> None:
    """Something that must hold and is not one array: listed and judged, not counted as an array."""
    measure = 'relative' if bound else 'unequal'
    self.results.append(Result(name, name, float(error), bound, measure, is_array=False))

  def unaccounted(self) -> list[str]:
    """Arrays that nothing has read, compared or skipped."""
    return [name for name in self._arrays if name not in self.compared() | self.inputs_used | self.excluded.keys()]

  def compared(self) -> set[str]:
    """Names of the arrays that were compared."""
    return {result.name for result in self.results if result.is_array}

  def _add(self, name: str, quantity: str, error: float, bound: float, measure: str) -> None:
    error = np.inf if np.isnan(error) else float(error)
    self.results.append(Result(name, quantity or name, error, bound, measure))


def _purpose(name: str) -> str:
  """What an input is for, by its name."""
  if re.search(r'(^|/)(state(_\w+)?|ckpt)/', name):
    return 'input: weights of a model'
  if re.search(r'noise|picks|pairs|x_T$', name):
    return 'input: recorded random draws'
  return 'input: what the computation starts from'


def _largest(x: np.ndarray) -> float:
  return float(np.max(np.abs(x))) if x.size else 0.0


def relative_error(actual: np.ndarray, expected: np.ndarray, floor: float = 0.0, steps: bool = False) -> float:
  """Largest difference over the largest expected entry (at least `floor`); infinite where the shapes differ."""
  if actual.shape != expected.shape:
    return np.inf
  if steps:
    return max((relative_error(a, e, floor) for a, e in zip(actual, expected, strict=True)), default=0.0)
  difference, scale = _largest(actual - expected), max(_largest(expected), floor)
  return difference / scale if scale else 0.0 if difference == 0 else np.inf


def read(path: Path) -> Golden:
  """Opens a golden file: an .npz of plain arrays, among them the text `config_json`.

  Raises:
    UserError: it is no such file, or is damaged.
  """
  if not path.is_file():
    raise UserError(f'{path}: no such file; expected a golden .npz file')
  try:
    with np.load(path, allow_pickle=False) as archive:
      arrays = {name: archive[name] for name in archive.files}
  except Exception as error:  # damaged archives fail in any way; nothing pickled is ever loaded
    reason = str(error).split('\n')[0] or type(error).__name__
    raise UserError(f'{path}: not a whole .npz file of plain arrays ({reason}); make or copy it again') from None
  if 'config_json' not in arrays:
    raise UserError(f'{path}: no array config_json, so it is not a golden file ({len(arrays)} arrays)')
  try:
    config = json.loads(str(arrays.pop('config_json')))
  except json.JSONDecodeError as error:
    raise UserError(f'{path}: config_json is not JSON ({error}); make or copy the file again') from None
  if not isinstance(config, dict):
    raise UserError(f'{path}: config_json is not a table of names and values; make or copy the file again')
  for name, array in arrays.items():
    if array.dtype.kind not in 'fiub':
      raise UserError(f'{path}: array {name!r} is of type {array.dtype}, expected numbers; make or copy the file again')
    if bad := int(np.size(array) - np.isfinite(array).sum()):
      raise UserError(f'{path}: array {name!r} has {bad} values that are not finite; make or copy the file again')
  return Golden(path, arrays, config)
