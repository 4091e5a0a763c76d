"""A golden file: its arrays, each of which is used, compared or excluded, and the errors of the comparisons."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainjax import files
from brainjax.errors import UserError

FORWARD = 1e-4  # largest relative error of forward values, losses and gradients
TRAJECTORY = 1e-3  # of sampler trajectories
PARAMETERS = 3e-5  # largest absolute error of parameters after optimizer steps
# Some true gradients are zero, so an error relative to the gradient itself means nothing. The scale of a gradient is at
# least a tenth of the global norm: every gradient may be off by 1e-5 of that norm.
GRADIENT_FLOOR = 0.1


class Result(NamedTuple):
  """One comparison."""

  name: str  # of the array, or of the fact
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
  """The arrays of a file by name, and what was done with each: used as an input, compared, or excluded."""

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

  def names_in(self, prefix: str) -> list[str]:
    """Names of the arrays `prefix/...`, without the prefix."""
    return [name[len(prefix) + 1 :] for name in self._arrays if name.startswith(prefix + '/')]

  def groups(self, prefix: str = '') -> list[str]:
    """The distinct first parts of the names, or of the names in `prefix`."""
    names = self.names_in(prefix) if prefix else self.names
    return list(dict.fromkeys(name.split('/')[0] for name in names if '/' in name))

  def peek(self, name: str) -> np.ndarray:
    """Returns an array, without counting it as an input.

    Raises:
      UserError: the file has no such array.
    """
    if name not in self._arrays:
      raise UserError(
        f'{self.path}: array {name!r} is missing; every golden file of this kind has it. Make or copy the file again.'
      )
    return self._arrays[name]

  def input(self, name: str) -> np.ndarray:
    """Returns an array as an input of the computation."""
    array = self.peek(name)
    self.inputs_used.add(name)
    return array

  def inputs(self, prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays `prefix/...` as inputs, by their names without the prefix.

    Raises:
      UserError: the file has none.
    """
    arrays = {name: self.input(f'{prefix}/{name}') for name in self.names_in(prefix)}
    if not arrays:
      raise UserError(
        f'{self.path}: arrays {prefix}/... are missing; every golden file of this kind has them. Make or copy the file again.'
      )
    return arrays

  def exclude(self, name: str, reason: str) -> None:
    """Excludes an array, for a documented reason."""
    self.peek(name)
    self.excluded[name] = reason

  def skipped(self) -> dict[str, str]:
    """Name -> reason of every array that is an input or excluded, config_json among them."""
    inputs = {name: _purpose(name) for name in self._arrays if name in self.inputs_used - self.compared()}
    return {'config_json': 'input: sizes, seeds, names'} | inputs | self.excluded

  def close(
    self, name: str, actual: Any, bound: float = FORWARD, *, floor: float = 0.0, steps: bool = False, quantity: str = ''
  ) -> None:
    """Compares an array, relative to its largest entry.

    Args:
      name: of the array.
      actual: ours.
      bound: largest relative error.
      floor: the error is relative to at least this.
      steps: compare each entry of axis 0 relative to its own largest entry.
      quantity: line of the table.
    """
    expected, actual = np.asarray(self.peek(name), np.float64), np.asarray(actual, np.float64)
    self._add(name, quantity, relative_error(actual, expected, floor, steps), bound, 'relative')

  def close_all(self, prefix: str, actual: Mapping[str, Any], floor: float = 0.0) -> None:
    """Calls `close` for every array `prefix/...`. Where `actual` lacks one, the error is infinite.

    Raises:
      UserError: the file lacks an array of `actual` that is not zero.
    """
    for name in (name for name, value in actual.items() if f'{prefix}/{name}' not in self and np.any(value)):
      self.peek(f'{prefix}/{name}')
    names = self.names_in(prefix)
    for name in names:
      quantity = f'{prefix}/* ({len(names)} arrays)'
      self.close(f'{prefix}/{name}', actual.get(name, np.nan), floor=floor, quantity=quantity)

  def absolute(
    self, name: str, actual: Any, keep: Any = slice(None), quantity: str = '', tolerance: np.ndarray | float = 0.0
  ) -> int:
    """Compares parameters after optimizer steps by their largest absolute difference.

    Args:
      name: of the array.
      actual: ours.
      keep: index of the entries to compare.
      quantity: line of the table.
      tolerance: of each entry. An entry that differs by more than the bound, but not by more than this, is ignored.

    Returns:
      The number of ignored entries.
    """
    expected, actual = self.peek(name), np.asarray(actual)
    error, ignored = np.inf, np.zeros(0, bool)
    if actual.shape == expected.shape:
      difference = np.abs(actual - expected)
      ignored = ((difference > PARAMETERS) & (difference <= tolerance))[keep]
      error = _largest(np.where(ignored, 0.0, difference[keep]))  # an entry that is not finite is never ignored
    self._add(name, quantity, error, PARAMETERS, 'absolute')
    return int(ignored.sum())

  def equal(self, name: str, actual: Any, quantity: str = '') -> None:
    """Compares integers or copies: no entry may differ. The error is the share of entries that do."""
    expected, actual = self.peek(name), np.asarray(actual)
    error = np.inf if actual.shape != expected.shape else float(np.mean(actual != expected)) if expected.size else 0.0
    self._add(name, quantity, error, 0.0, 'unequal')

  def fact(self, name: str, error: float, bound: float = 0.0, quantity: str = '') -> None:
    """Adds a result that is not about one array: `error` may be at most `bound`."""
    measure = 'relative' if bound else 'unequal'
    self.results.append(Result(name, quantity or name, float(error), bound, measure, is_array=False))

  def unaccounted(self) -> list[str]:
    """Names of the arrays that are neither inputs nor compared nor excluded."""
    return [name for name in self._arrays if name not in self.compared() | self.inputs_used | self.excluded.keys()]

  def compared(self) -> set[str]:
    """Names of the arrays that were compared."""
    return {result.name for result in self.results if result.is_array}

  def _add(self, name: str, quantity: str, error: float, bound: float, measure: str) -> None:
    error = np.inf if np.isnan(error) else float(error)
    self.results.append(Result(name, quantity or name, error, bound, measure))


def _purpose(name: str) -> str:
  """Says what an input is for, by its name."""
  if re.search(r'(^|/)(state(_\w+)?|ckpt)/', name):
    return 'input: weights of a model'
  if re.search(r'noise|picks|pairs|x_T$', name):
    return 'input: recorded random draws'
  return 'input: what the computation starts from'


def _largest(x: np.ndarray) -> float:
  return float(np.max(np.abs(x))) if x.size else 0.0


def relative_error(actual: np.ndarray, expected: np.ndarray, floor: float = 0.0, steps: bool = False) -> float:
  """Divides the largest difference by the largest expected entry, or by `floor` if that is larger.

  The error is infinite where the shapes differ. With `steps`, it is the largest error of the entries of axis 0.
  """
  if actual.shape != expected.shape:
    return np.inf
  if steps:
    return max((relative_error(a, e, floor) for a, e in zip(actual, expected, strict=True)), default=0.0)
  difference, scale = _largest(actual - expected), max(_largest(expected), floor)
  return difference / scale if scale else 0.0 if difference == 0 else np.inf


def read(path: Path) -> Golden:
  """Reads a golden file: an .npz of plain arrays, one of which is the text `config_json`.

  Raises:
    UserError: it cannot be read as such a file.
  """
  if not path.is_file():
    raise UserError(f'{path}: no such file; expected a golden .npz file')
  try:
    arrays = files.read_npz(path)
  except Exception as error:  # NumPy raises many types; pickled arrays are never loaded
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
