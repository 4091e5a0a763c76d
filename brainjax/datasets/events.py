"""Reads an events table: which picture each trial showed, and whether the picture is for training or for testing."""

import codecs
import contextlib
import csv
import dataclasses
import io
import posixpath
import unicodedata
from pathlib import Path

from brainjax.datasets import raw
from brainjax.errors import UserError, as_user_error

SPLITS = ('train', 'test')
IMAGE_COLUMNS = ('image', 'stim_file')  # the second is the word of BIDS
SESSION_COLUMNS = ('session', 'run')
FALLBACK = 'cp1252'  # Windows-1252, which has the letters of Latin-1
DELIMITERS = {'\t': 'tab', ',': 'comma', ';': 'semicolon'}
_MARKS = {codecs.BOM_UTF8: 'utf-8-sig', codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16'}


@dataclasses.dataclass
class Events:
  """The table: one row per trial, in the order of the betas."""

  images: list[str]  # N
  splits: list[str]  # N, 'train' or 'test'
  categories: dict[str, str]  # picture -> its category, where the table has one
  encoding: str  # of the text
  sessions: list[str] | None = None  # N, where the table has a column session, or run

  def pictures(self, split: str) -> list[str]:
    """The different pictures of a split, sorted."""
    return sorted({name for name, other in zip(self.images, self.splits, strict=True) if other == split})


def read_events(path: Path) -> Events:
  """Reads columns image (or stim_file), split, and category where there is one; other columns are not used.

  The session of a trial is in the column session, or in run where there is no such column.

  Tabs, commas or semicolons separate the columns. Text is UTF-8, UTF-16 with a byte-order mark, or Windows-1252.

  Raises:
    UserError: the table cannot be read in one way only, or a row names no picture or split.
  """
  columns, rows, encoding = _read_table(path)
  image_columns = [name for name in IMAGE_COLUMNS if name in columns]
  place = {name: columns.index(name) for name in columns}
  session_column = next((name for name in SESSION_COLUMNS if name in columns), None)
  images, splits, categories, sessions = [], [], {}, []
  for number, row in rows:
    names = [_plain_path(row[place[column]]) for column in image_columns]
    name, split = names[0], row[place['split']].lower()
    if names[-1] != name:
      raise UserError(f'{path}: row {number} has image {name[:80]!r} but stim_file {names[-1][:80]!r}; keep one column')
    if split not in SPLITS:
      raise UserError(f'{path}: row {number} has split {split[:40]!r}; expected train or test')
    if not name or name.lower() == 'n/a':
      raise UserError(f'{path}: row {number} names no picture; leave trials without one out, in the betas too')
    if session_column:
      sessions.append(row[place[session_column]])
    images.append(name)
    splits.append(split)
    category = row[place['category']] if 'category' in place else ''
    if category and category.lower() != 'n/a' and categories.setdefault(name, category) != category:
      raise UserError(
        f'{path}: row {number} has category {category[:40]!r} for picture {name[:80]!r}, an earlier row '
        f'{categories[name][:40]!r}; a picture has one category'
      )
  split_of = dict(zip(images, splits, strict=True))
  for (number, _), name, split in zip(rows, images, splits, strict=True):
    if split_of[name] != split:
      raise UserError(f'{path}: picture {name[:80]!r} is in both splits (row {number}); it belongs to train or to test')
  if set(splits) != set(SPLITS):
    raise UserError(
      f'{path}: {len(images)} trials, of the splits {sorted(set(splits))}; expected some of train and test'
    )
  return Events(images, splits, categories, encoding, sessions or None)


def _plain_path(name: str) -> str:
  """One spelling of ./a.png, a.png and x//a.png, and of letters with accents."""
  name = unicodedata.normalize('NFC', name)
  return posixpath.normpath(name) if name and '..' not in name else name


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]], str]:
  """Names of the columns in lower case; (number, cells) of each row, without space around cells; encoding."""
  text, encoding = _read_text(path)
  first_line = text.split('\n', 1)[0]
  tables = {}
  for delimiter in DELIMITERS:
    columns = [name.strip().strip('"').strip().lower() for name in first_line.split(delimiter)]
    if 'split' in columns and any(name in columns for name in IMAGE_COLUMNS):
      tables[delimiter] = columns
  if len(tables) != 1:
    first = [name[:40] for name in first_line.split('\t')[:10]]
    raise UserError(
      f'{path}: columns {first}; expected columns image and split, separated by tabs, commas or semicolons, in the first '
      'line'
    )
  delimiter, columns = tables.popitem()
  columns = _strip_empty(columns, 0)
  if doubled := [name for name in (*IMAGE_COLUMNS, 'split', 'category') if columns.count(name) > 1]:
    raise UserError(f'{path}: two columns are called {doubled[0]}; expected one')
  separator = DELIMITERS[delimiter]
  with as_user_error(f'{path}: no table of {separator}-separated columns', 'expected closed quotation marks'):
    table = [
      [cell.strip() for cell in cells] for cells in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    ]
  rows = []
  for number, cells in enumerate(table[1:], 1):
    if not any(cells):  # an empty line, or the separators that a spreadsheet leaves in one
      continue
    cells = _strip_empty(cells, len(columns))
    if len(cells) != len(columns):
      raise UserError(
        f'{path}: row {number} has not {len(columns)} entries, as the first line has, but {len(cells)} '
        f'(separated by {separator}s); quote entries that hold a {separator}'
      )
    if any('\n' in cell for cell in cells):
      raise UserError(
        f'{path}: row {number} has an entry of several lines; close its quotation mark, or write the entry on one line'
      )
    rows.append((number, cells))
  return columns, rows, encoding


def _strip_empty(cells: list[str], least: int) -> list[str]:
  """Without the empty cells at the end that a spreadsheet leaves, down to `least` cells."""
  while len(cells) > least and not cells[-1]:
    cells = cells[:-1]
  return cells


def _read_text(path: Path) -> tuple[str, str]:
  """The file's text with lines that end in a newline, and its encoding."""
  data = raw.read_bytes(path)
  if data.startswith((b'PK\x03\x04', b'\xd0\xcf\x11\xe0')):
    raise UserError(f'{path}: a spreadsheet; save it as tab-separated text')
  marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
  for encoding in (marked,) if marked else ('utf-8', FALLBACK):
    with contextlib.suppress(UnicodeDecodeError):
      text = data.decode(encoding)
      break
  else:
    raise UserError(f'{path}: {"not " + marked if marked else "neither UTF-8 nor Windows-1252"} text; save it as UTF-8')
  if '\0' in text:
    raise UserError(f'{path}: not a table of text; expected UTF-8, or UTF-16 with a byte-order mark')
  return text.replace('\r\n', '\n').replace('\r', '\n'), encoding
