"""Reads the golden files: numbers of the original PyTorch code with tiny random weights."""

import functools
import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / 'golden'


@functools.cache
def load(name: str) -> tuple[dict[str, np.ndarray], dict]:
  """Returns (arrays by name, config) of tests/golden/<name>.npz."""
  with np.load(FOLDER / f'{name}.npz', allow_pickle=False) as archive:
    arrays = dict(archive)
  config = json.loads(str(arrays.pop('config_json')))
  return arrays, config


def group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  """The arrays below `prefix/`, without the prefix."""
  return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + '/')}
