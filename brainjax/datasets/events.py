"""Reads an events table: which picture each trial showed, and whether the picture is for training or for testing."""

import codecs
import csv
import dataclasses
import io
import posixpath
import unicodedata
from pathlib import Path

from brainjax.datasets import raw
from brainjax.errors import UserError, format_error

SPLITS = ('train', 'test')
IMAGE_COLUMNS = ('image', 'stim_file')  # the second is the word of BIDS
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

  def pictures(self, split: str) -> list[str]:
    """The different pictures of a split, sorted."""
    return sorted({name for name, other in zip(self.images, self.splits, strict=True) if other == split})


def read_events(path: Path) -> Events:
  """Reads columns image (or stim_file), split, and category where there is one; other columns are not used.

  Tabs, commas or semicolons separate the columns. Text is UTF-8, UTF-16 with a byte-order mark, or Windows-1252.

  Raises:
    UserError: the table cannot be read in one way only, or a row names no picture or split.
  """
  columns, rows, encoding = _read_table(path)
  image_columns = [name for name in IMAGE_COLUMNS if name in columns]
  place = {name: columns.index(name) for name in columns}
  images, splits, categories = [], [], {}
  for number, row in rows:
    names = [_plain_path(row[place[column]]) for column in image_columns]
    name, split = names[0], row[place['split']].lower()
    if names[-1] != name:
      raise UserError(f'{path}: row {number} has image {name[:80]!r} but stim_file {names[-1][:80]!r}; keep one column')
    if split not in SPLITS:
      raise UserError(f'{path}: row {number} has split {split[:40]!r}; expected train or test')
    if not name or name.lower() == 'n/a':
      raise UserError(f'{path}: row {number} names no picture; leave trials without one out, in the betas too')
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
      raise UserError(
        f'{path}: picture {name[:80]!r} is in both splits (row {number}); a picture belongs to train or to test'
      )
  if set(splits) != set(SPLITS):
    raise UserError(
      f'{path}: {len(images)} trials, of the splits {sorted(set(splits))}; expected some of train and test'
    )
  return Events(images, splits, categories, encoding)


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
  while columns and not columns[-1]:
    columns.pop()
  needed = [name for name in (*IMAGE_COLUMNS, 'split', 'category') if columns.count(name) > 1]
  if needed:
    raise UserError(f'{path}: two columns are called {needed[0]}; expected one')
  rows = []
  for number, cells in enumerate(_split(path, text, delimiter)[1:], 1):
    if not any(cells):  # an empty line, or the separators that a spreadsheet leaves in one
      continue
    while len(cells) > len(columns) and not cells[-1]:
      cells.pop()
    if len(cells) != len(columns):
      raise UserError(
        f'{path}: row {number} has not {len(columns)} entries, as the first line has, but {len(cells)} '
        f'(separated by {DELIMITERS[delimiter]}s); quote entries that hold a {DELIMITERS[delimiter]}'
      )
    if any('\n' in cell for cell in cells):
      raise UserError(
        f'{path}: row {number} has an entry of several lines; close its quotation mark, or write the entry on one line'
      )
    rows.append((number, cells))
  return columns, rows, encoding


def _split(path: Path, text: str, delimiter: str) -> list[list[str]]:
  try:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    return [[cell.strip() for cell in cells] for cells in reader]
  except csv.Error as error:
    raise UserError(
      f'{path}: no table of {DELIMITERS[delimiter]}-separated columns ({format_error(error)}); expected image and split, and '
      'closed quotation marks'
    ) from None


def _read_text(path: Path) -> tuple[str, str]:
  """The file's text with lines that end in a newline, and its encoding."""
  data = raw.read_bytes(path)
  if data[:4] == b'PK\x03\x04' or data[:4] == b'\xd0\xcf\x11\xe0':
    raise UserError(f'{path}: a spreadsheet; save it as tab-separated text')
  encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), 'utf-8')
  try:
    text = data.decode(encoding)
  except UnicodeDecodeError as error:
    if encoding != 'utf-8':
      raise UserError(f'{path}: not readable as {encoding} text ({format_error(error)}); save it as UTF-8') from None
    try:
      encoding = FALLBACK
      text = data.decode(FALLBACK)
    except UnicodeDecodeError:
      raise UserError(
        f'{path}: neither UTF-8 nor Windows-1252 text ({format_error(error)}); save it as UTF-8'
      ) from None
  if '\0' in text:
    raise UserError(f'{path}: not a table of text; expected UTF-8, or UTF-16 with a byte-order mark')
  return text.replace('\r\n', '\n').replace('\r', '\n'), encoding
