"""Finds files by what a user writes: a path, a file of the package's configs/, or a repository `hf://org/name`."""

import os
from pathlib import Path

import configs
from brainjax import hub
from brainjax.errors import UserError

PACKED = 'model.safetensors'  # weights of a packed folder
CONFIGS = Path(configs.__file__).parent  # beside brainjax/, in a clone and in an installed package


def config_names() -> list[str]:
  """Names of the configs that the package brings."""
  return sorted(path.stem for path in CONFIGS.glob('*.py') if path.stem not in ('__init__', 'base'))


def config(name: str) -> str:
  """The path of a config file: an existing file, or one of the package by its name (`demo`, `configs/demo.py`).

  Raises:
    UserError: there is none.
  """
  if Path(name).is_file():
    return name
  packaged = packaged_file(name if name.startswith('configs/') else f'configs/{name}.py')
  if not packaged:
    raise UserError(
      f'flags: --config={name} does not exist; name a file, or one of the package: {", ".join(config_names())}.'
    )
  return str(packaged)


def weights(source: str | os.PathLike) -> Path:
  """The absolute path of weights, whether they exist or not; a folder that `brainjax pack` wrote gives the file in it.

  Raises:
    UserError: `source` is hf://..., and cannot be fetched, see `hub.weights`.
  """
  if hub.is_hub(source):
    path = hub.weights(str(source))
  else:
    path = Path(source)
    if not path.exists():
      path = packaged_file(str(source)) or path
  packed = path / PACKED
  return (packed if packed.is_file() else path).absolute()


def packaged_file(name: str) -> Path | None:
  """The package's own file of the name `configs/...`; None if there is none."""
  folder, _, file = name.partition('/')
  found = CONFIGS / file
  return found if folder == 'configs' and file and '/' not in file and found.is_file() else None
