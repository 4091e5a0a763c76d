"""Moves a state dict of PyTorch names to a tree of JAX parameters and back, by a table of rows.

A table is data: rows of (torch pattern, path here, layout). In a torch pattern `{i}` stands for an integer. If the
path has `{i}` too, the integer is copied; if it has not, the tensors are stacked along a new leading axis in the
order of their integers (scanned layers). Layouts are named in `LAYOUTS`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from brainjax.errors import UserError, list_names

MAX_LISTED = 200  # names in one sentence


class Row(NamedTuple):
  """One line of a table: where the torch tensor(s) `torch` live here, and how their axes are laid out."""

  torch: str
  path: str
  layout: str


class Ignored(NamedTuple):
  """Torch tensors that have no counterpart here, and why."""

  torch: str
  reason: str


class Layout(NamedTuple):
  """A pair of inverse array functions."""

  to_jax: Callable[[np.ndarray], np.ndarray]
  to_torch: Callable[[np.ndarray], np.ndarray]


def _axes(*axes: int) -> Layout:
  inverse = tuple(int(i) for i in np.argsort(axes))
  return Layout(lambda x: x.transpose(axes), lambda x: x.transpose(inverse))


LAYOUTS: Mapping[str, Layout] = {
  'same': Layout(lambda x: x, lambda x: x),
  'linear': _axes(1, 0),  # (out, in) -> (in, out)
  'conv1d': _axes(2, 1, 0),  # (out, in, k) -> (k, in, out)
  'conv2d': _axes(2, 3, 1, 0),  # (out, in, kh, kw) -> (kh, kw, in, out)
  'conv1x1_linear': Layout(  # (out, in, 1, 1) -> (in, out); np.squeeze refuses larger kernels
    lambda x: np.squeeze(x, (2, 3)).T, lambda x: x.T[:, :, None, None]
  ),
  'conv1_linear': Layout(lambda x: np.squeeze(x, 2).T, lambda x: x.T[:, :, None]),  # (out, in, 1) -> (in, out)
}


def linear(torch: str, path: str, layout: str = 'linear') -> list[Row]:
  """The rows of a layer with weight and bias: a linear map, or a convolution with another layout."""
  return [Row(f'{torch}.weight', f'{path}/kernel', layout), Row(f'{torch}.bias', f'{path}/bias', 'same')]


def norm(torch: str, path: str) -> list[Row]:
  """The rows of a normalisation with weight and bias."""
  return [Row(f'{torch}.weight', f'{path}/scale', 'same'), Row(f'{torch}.bias', f'{path}/bias', 'same')]


def batch_norm(torch: str, path: str) -> list[Row | Ignored]:
  """The rows of a batch normalisation with the statistics of its training."""
  return [
    *norm(torch, path),
    Row(f'{torch}.running_mean', f'{path}/mean', 'same'),
    Row(f'{torch}.running_var', f'{path}/var', 'same'),
    Ignored(f'{torch}.num_batches_tracked', 'counts training steps'),
  ]


def add_prefixes(table: Iterable[Row | Ignored], torch: str, path: str) -> list[Row | Ignored]:
  """The same table for a model that is a part of another one: prefixes for its torch names and for its paths here."""
  return [
    Row(torch + row.torch, path + row.path, row.layout)
    if isinstance(row, Row)
    else Ignored(torch + row.torch, row.reason)
    for row in table
  ]


def compile_pattern(name: str) -> re.Pattern:
  """A regex for a name or path of a row: each {i} is a group that matches an integer."""
  return re.compile('([0-9]+)'.join(re.escape(part) for part in name.split('{i}')) + r'\Z')


def _numbered(name: str, numbers: Iterable[str | int]) -> str:
  """A name or path with its {i} replaced by integers, from the left, while there are integers."""
  for number in numbers:
    name = name.replace('{i}', str(number), 1)
  return name


def to_jax(
  table: Iterable[Row | Ignored],
  state: Mapping[str, np.ndarray],
  expected: Mapping[str, tuple[int, ...]],
  source: str = 'state dict',
) -> dict[str, np.ndarray]:
  """Converts a torch state dict to a flat mapping of '/'-joined paths.

  Args:
    table: the rows of this family; the first row that matches a name is used.
    state: torch name -> array (anything that numpy can view; read once, in the order of the table).
    expected: path -> shape of every parameter that must come out.
    source: what to call the input in an error.

  Raises:
    UserError: tensors are unknown, missing, doubled or mis-shaped; it lists them all, and nothing is converted.
  """
  rows = [(compile_pattern(row.torch), row) for row in table]
  slots: dict[str, list[tuple[tuple[int, ...], str, Row]]] = {}
  unknown = []
  for name in state:
    for pattern, row in rows:
      if match := pattern.match(name):
        if isinstance(row, Row):
          slots.setdefault(_numbered(row.path, match.groups()), []).append((tuple(map(int, match.groups())), name, row))
        break
    else:
      unknown.append(name)

  doubled, misshaped, missing, result = [], [], [], {}
  for path, members in slots.items():
    members.sort(key=lambda member: member[0])
    stacked = _stacks(members[0][2])
    indices = [member[0][-1] for member in members] if stacked else []
    if (len(members) > 1 and not stacked) or (stacked and len(set(indices)) != len(indices)):
      doubled.extend(name for _, name, _ in members)
      continue
    if stacked and indices != list(range(len(indices))):
      gaps = sorted(set(range(indices[-1])) - set(indices))
      numbers, _, row = members[0]
      missing += [_numbered(row.torch, (*numbers[:-1], gap)) for gap in gaps]
      continue
    if path not in expected:
      unknown.extend(name for _, name, _ in members)
      continue
    arrays = []
    for _, name, row in members:
      try:
        arrays.append(LAYOUTS[row.layout].to_jax(np.asarray(state[name])))
      except (ValueError, IndexError):
        misshaped.append(f'{name} {tuple(np.shape(state[name]))} (does not have the axes of layout {row.layout})')
    if len(arrays) != len(members):
      continue
    if len({array.shape for array in arrays}) != 1:
      usual = tuple(expected[path][1:])
      misshaped += [
        f'{member[1]} (laid out as {array.shape}, expected {usual})'
        for member, array in zip(members, arrays, strict=True)
        if array.shape != usual
      ]
      continue
    array = np.stack(arrays) if stacked else arrays[0]
    if stacked and len(array) != expected[path][0]:
      misshaped.append(f'{members[0][2].torch} ({len(array)} layers, expected {expected[path][0]})')
      continue
    if array.shape != tuple(expected[path]):
      misshaped.append(f'{members[0][1]} (laid out as {array.shape}, expected {tuple(expected[path])})')
      continue
    result[path] = np.ascontiguousarray(array)

  missing += [f'{path} ({_torch_name(rows, path)})' for path in expected if path not in slots]
  faults = {
    'unknown tensors': unknown,
    'missing for': missing,
    'several tensors for one place': doubled,
    'wrong shapes': misshaped,
  }
  if listed := '; '.join(f'{title}: {list_names(names, MAX_LISTED)}' for title, names in faults.items() if names):
    raise UserError(f'{source} does not fit the model: {listed}. Nothing was converted.')
  return result


def find_unknown(table: Iterable[Row | Ignored], state: Iterable[str]) -> list[str]:
  """The names that no row of the table covers."""
  patterns = [compile_pattern(row.torch) for row in table]
  return [name for name in state if not any(pattern.match(name) for pattern in patterns)]


def to_torch(table: Iterable[Row | Ignored], params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Parameters by path -> tensors by PyTorch name, in PyTorch's layouts and shapes.

  Raises:
    UserError: no row covers some paths; it lists them all.
  """
  rows = [row for row in table if isinstance(row, Row)]
  result, uncovered = {}, []
  for path, array in params.items():
    array = np.asarray(array)
    for row in rows:
      if match := compile_pattern(row.path).match(path):
        break
    else:
      uncovered.append(path)
      continue
    layers = array if _stacks(row) else [array]
    for index, layer in enumerate(layers):
      name = _numbered(row.torch, (*match.groups(), index))
      result[name] = np.ascontiguousarray(LAYOUTS[row.layout].to_torch(np.asarray(layer)))
  if uncovered:
    raise UserError(f'no torch name for: {list_names(uncovered, MAX_LISTED)}. Nothing was written.')
  return result


def _torch_name(rows: Iterable[tuple[re.Pattern, Row | Ignored]], path: str) -> str:
  """The torch name of a path; stacked layers keep {i} for their number."""
  for _, row in rows:
    if isinstance(row, Row) and (match := compile_pattern(row.path).match(path)):
      return _numbered(row.torch, match.groups())
  return path


def _stacks(row: Row) -> bool:
  """Whether the last integer of the torch name numbers layers that are stacked here."""
  return row.torch.count('{i}') > row.path.count('{i}')
