"""interpret.json and interpret.npz: written, extended by further methods, and read again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.errors import UserError
from brainjax.files import atomic_write, put_aside, read_npz, write_json

FORMAT = 'brainjax interpretation 1'
FOLDER, JSON_FILE, ARRAYS_FILE = 'interpret', 'interpret.json', 'interpret.npz'


def read(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
  """What is in the workdir's interpret/: plain values and arrays; None where nothing is.

  Raises:
    UserError: the files are damaged, or not from one interpretation.
  """
  folder = Path(workdir) / FOLDER
  if not (folder / JSON_FILE).is_file():
    return None
  try:
    plain = json.loads((folder / JSON_FILE).read_text())
    arrays = read_npz(folder / ARRAYS_FILE)
  except Exception as error:  # a damaged archive raises one of many kinds
    raise UserError(f'{folder}: {JSON_FILE} or {ARRAYS_FILE} is damaged ({error}); run interpret again.') from error
  if not isinstance(plain, dict) or plain.get('format') != FORMAT:
    raise UserError(f'{folder / JSON_FILE} is not of the format {FORMAT!r}; run interpret again.')
  return plain, arrays


def write(
  workdir: Path, about: Mapping[str, Any], parts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Writes results of some methods; those of others stay if they are about the same model, items and options.

  Otherwise, and where they are damaged, the earlier files are kept under other names.

  Args:
    workdir: of the run.
    about: what all methods share.
    parts: method -> plain values.
    arrays: names begin with their method, or with 'items/'.

  Returns:
    What the files hold now.
  """
  folder = Path(workdir) / FOLDER
  about = json.loads(json.dumps({'format': FORMAT, **about}))
  try:
    before = read(workdir)
  except UserError as error:
    print(f'interpret: {error}')
    before = None
  if before and {name: before[0].get(name) for name in about} == about:
    kept = {name: value for name, value in before[0].items() if name not in about}
    own = {name.split('/')[0] for name in arrays}
    arrays = {name: x for name, x in before[1].items() if name.split('/')[0] not in own} | dict(arrays)
    parts = kept | dict(parts)
  else:
    # The stage's own files, such as its config, stay.
    earlier = [
      path for path in (folder / JSON_FILE, folder / ARRAYS_FILE, *sorted(folder.glob('*.png'))) if path.exists()
    ]
    if aside := [put_aside(path) for path in earlier]:
      print(
        'interpret: the earlier result is of another model or other options, or incomplete. It is kept as '
        f'{aside[0]}{" and its neighbours" if len(aside) > 1 else ""}.'
      )
  folder.mkdir(parents=True, exist_ok=True)
  with atomic_write(folder / ARRAYS_FILE) as path:
    np.savez_compressed(path, **arrays)
  plain = about | dict(parts)
  write_json(folder / JSON_FILE, plain)
  return plain, dict(arrays)
