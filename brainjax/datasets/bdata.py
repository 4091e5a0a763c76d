"""BData files of the Kamitani lab (.h5): a table of rows x columns, flags of the columns, and names of values.

bdpy reads such a file as a whole, in float64; those of whole brains take 6 GB. Here only the columns asked for are read.
"""

import contextlib
from pathlib import Path
from typing import Any, Self

import numpy as np

from brainjax.datasets import neuroimaging, raw
from brainjax.errors import UserError, as_user_error

MAX_BYTES = 1 << 30  # of what is read; of a published SubjectN.h5 0.07 GB
_BLOCK_BYTES = 64 << 20


class BDataFile:
  """A BData file, opened for reading. Use in a `with` statement.

  Attributes:
    flags: name -> value for each column, `columns`; 1 where a column belongs to the name, NaN or 0 elsewhere.
    num_rows: of the table.
    value_names: column name -> value -> the text it stands for (`vmap` of bdpy).

  Raises:
    UserError: not such a file, data that lie in other files, or too much data.
  """

  def __init__(self, path: Path):
    h5py = neuroimaging.need('h5py')
    self.path = raw.check_file(path)
    with contextlib.ExitStack() as stack, self._faults():
      file = stack.enter_context(h5py.File(path, 'r'))
      self._used_bytes = 0
      self._check(h5py, file)
      if missing := [names[0] for names in (_TABLE, _METADATA) if not any(name in file for name in names)]:
        raise UserError(f'{path}: no {" and no ".join(missing)} in it; expected a BData file, such as Subject1.h5')
      self._table = next(file[name] for name in _TABLE if name in file)
      metadata = next(file[name] for name in _METADATA if name in file)
      values = np.asarray(metadata['value'], np.float64)
      keys = [_text(key) for key in metadata['key'][()]]
      if self._table.ndim != 2 or values.shape != (len(keys), self._table.shape[1]):
        raise UserError(
          f'{path}: the table has shape {self._table.shape} but its metadata {values.shape} for {len(keys)} names; {raw.AGAIN}'
        )
      self.flags = dict(zip(keys, values, strict=True))
      self.num_rows = self._table.shape[0]
      names = file.get('vmap', {})
      self.value_names = {key: {float(v): _text(text[()]) for v, text in names[key].items()} for key in names}
      self._stack = stack.pop_all()

  def _faults(self) -> contextlib.AbstractContextManager[None]:
    return as_user_error(f'{self.path}: damaged or not a BData file (HDF5)')

  def _check(self, h5py: Any, file: Any) -> None:
    """Refuses links to other files, and metadata larger than `MAX_BYTES`. Of the table, only one column is counted here."""
    for name in (*_TABLE, *_METADATA, 'vmap'):
      if name in file and not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise UserError(f'{self.path}: {name} lies in another file, which is not followed; {raw.AGAIN}')
    items: list[Any] = []
    file.visititems(lambda _, item: items.append(item) if isinstance(item, h5py.Dataset) else None)  # by hard links
    for item in items:
      if item.external or item.is_virtual:
        raise UserError(f'{self.path}: {item.name} lies in another file, which is not followed; {raw.AGAIN}')
      if item.size is None:
        raise UserError(f'{self.path}: {item.name} is empty; {raw.AGAIN}')
      is_table = item.name.lstrip('/') in _TABLE and item.ndim
      self._count((item.shape[0] if is_table else item.size) * max(item.dtype.itemsize, 8), item)

  def _count(self, num_bytes: int, item: Any) -> None:
    self._used_bytes += num_bytes
    if self._used_bytes > MAX_BYTES:
      raise UserError(
        f'{self.path}: up to {item.name} of shape {item.shape} its tables would take {self._used_bytes / 2**30:.1f} GiB; '
        'at most 1 GiB is accepted'
      )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: Any) -> None:
    self._stack.close()

  def is_flagged(self, name: str) -> np.ndarray:
    """Whether each column has the flag: `columns` bool; False if the file has no such flag."""
    return self.flags.get(name, np.zeros(self._table.shape[1])) == 1

  def column(self, name: str) -> np.ndarray:
    """The one column of this name: `rows` float64.

    Raises:
      UserError: there is none, or more than one.
    """
    place = np.flatnonzero(self.is_flagged(name))
    if len(place) != 1:
      raise UserError(f'{self.path}: {len(place)} columns are flagged {name}; expected one')
    with self._faults():
      return self._table[:, place[0]].astype(np.float64)

  def read(self, rows: np.ndarray, is_column: np.ndarray) -> np.ndarray:
    """Some rows (numbers, ascending) of some columns (bool): `len(rows) columns` float32.

    Raises:
      UserError: they would take more than 1 GiB.
    """
    self._count(len(rows) * int(is_column.sum()) * 4, self._table)
    out = np.empty((len(rows), int(is_column.sum())), np.float32)
    step = max(1, _BLOCK_BYTES // (self._table.shape[1] * 8))
    with self._faults(), np.errstate(over='ignore'):  # values that overflow become infinite and are refused later
      for start in range(0, len(rows), step):
        out[start : start + step] = self._table[rows[start : start + step]][:, is_column]
    return out


_TABLE, _METADATA = ('dataset', 'dataSet'), ('metadata', 'metaData')  # the second names are older


def _text(value: bytes | str) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)
