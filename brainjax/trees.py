"""Trees of parameters as flat mappings ('/'-joined path -> array), and constructor arguments read from JSON."""

import re
from collections.abc import Mapping
from typing import Any

from flax import traverse_util


def flatten(tree: Any, sep: str = '/') -> dict[str, Any]:
  """Nested tree -> '/'-joined path -> leaf."""
  return traverse_util.flatten_dict(tree, sep=sep)


def unflatten(flat: Mapping[str, Any]) -> Any:
  """The inverse of `flatten`."""
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def split(flat: Mapping[str, Any], pattern: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """(entries whose path matches `pattern` somewhere, all others)."""
  regex = re.compile(pattern)
  inside = {path: x for path, x in flat.items() if regex.search(path)}
  return inside, {path: x for path, x in flat.items() if path not in inside}


def subtree(flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """The entries below `prefix/`, without the prefix."""
  return {path[len(prefix) + 1 :]: x for path, x in flat.items() if path.startswith(prefix + '/')}


def add_prefix(prefix: str, flat: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `subtree`."""
  return {f'{prefix}/{path}': x for path, x in flat.items()}


def lists_to_tuples(kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """Turns the lists of JSON into tuples: models need hashable constructor arguments."""
  return {name: tuple(value) if isinstance(value, list) else value for name, value in kwargs.items()}
