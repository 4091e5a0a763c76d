"""Writes a PyTorch state dict to a .pth file (with PyTorch) or to a .safetensors file (without)."""

import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from brainjax.errors import UserError, as_user_error
from brainjax.files import atomic_write

METADATA = 'brainjax'  # entry of a safetensors header: as JSON, the values that a .pth file stores next to its weights
SUFFIXES = ('.pth', '.pt', '.ckpt', '.bin', '.safetensors')


def check_absent(path: str | os.PathLike) -> Path:
  """Returns the path if nothing exists there.

  Raises:
    UserError: a file or folder is there.
  """
  path = Path(path)
  if path.exists():
    what = 'folder' if path.is_dir() else 'file'
    raise UserError(f'{path} exists already; a {what} is never overwritten. Choose another --out or remove it first')
  return path


def check_target(path: str | os.PathLike) -> Path:
  """Returns the path if a file of weights can be written there.

  Raises:
    UserError: it exists, its suffix is unknown, or PyTorch is needed and not installed.
  """
  path = check_absent(path)
  if path.suffix not in SUFFIXES:
    raise UserError(f'--out={path} has the suffix {path.suffix or "(none)"}; expected one of {", ".join(SUFFIXES)}')
  if path.suffix != '.safetensors':
    _torch(path)
  return path


def writing(path: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
  """Turns errors of writing a file or folder into a `UserError`."""
  kinds = (OSError, RuntimeError, safetensors.SafetensorError)  # PyTorch reports a full disk as a RuntimeError
  return as_user_error(f'{path} cannot be written', 'nothing was left there; make room or choose another --out', kinds)


def _torch(path: Path) -> Any:
  try:
    import torch
  except ImportError:
    raise UserError(
      f'{path.suffix} files are written with PyTorch, which is not installed; run: pip install torch, or write .safetensors, '
      'which needs no PyTorch'
    ) from None
  return torch


def write_state(
  path: str | os.PathLike, state: Mapping[str, np.ndarray], key: str = '', beside: Mapping[str, Any] | None = None
) -> None:
  """Writes a state dict; the file appears only when it is complete.

  Args:
    path: .safetensors, or a suffix of PyTorch (zip format).
    state: torch name -> array.
    key: the key of the file under which the original code looks for it; '' for a bare state dict.
    beside: plain values to store with it (epoch, config): in the header of safetensors, in PyTorch files only with a key.

  Raises:
    UserError: as `check_target`, or the file cannot be written.
  """
  path = check_target(path)
  if path.suffix == '.safetensors':
    metadata = {'format': 'pt'} | ({METADATA: json.dumps(beside)} if beside else {})
    with writing(path), atomic_write(path) as temporary:
      safetensors.numpy.save_file(dict(state), temporary, metadata=metadata)
    return
  torch = _torch(path)
  tensors = OrderedDict((name, torch.from_numpy(np.require(array, requirements='W'))) for name, array in state.items())
  with writing(path), atomic_write(path) as temporary:
    torch.save({key: tensors, **(beside or {})} if key else tensors, temporary)
