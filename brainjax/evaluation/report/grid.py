"""The sample grid: a PNG of stimuli with their samples beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from brainjax.files import atomic_write

INK, FAINT, PAPER = (28, 30, 36), (110, 115, 125), (255, 255, 255)
STIMULUS_FRAME = (214, 69, 65)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
  # matplotlib ships this font, so labels look the same on every machine.
  properties = font_manager.FontProperties(family='DejaVu Sans', weight='bold' if bold else 'normal')
  return ImageFont.truetype(font_manager.findfont(properties), size)


def _fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
  """Shortens text with an ellipsis until it fits."""
  if draw.textlength(text, font=font) <= width:
    return text
  while text and draw.textlength(text + '…', font=font) > width:
    text = text[:-1]
  return text + '…'


def draw_grid(
  stimuli: np.ndarray,
  samples: np.ndarray,
  path: Path,
  *,
  captions: Sequence[str] | None = None,
  title: str = '',
  num_columns: int | None = None,
  cell: int | None = None,
  labels: Sequence[str] = (),
) -> None:
  """Writes a PNG: a row per item: the framed stimulus, then its samples. Many items are arranged in columns.

  Args:
    stimuli: N H W 3 uint8.
    samples: N S H W 3 uint8.
    path: the PNG.
    captions: N texts below the items.
    title: above the whole.
    num_columns: columns of items; by default about as wide as high.
    cell: side of a picture in pixels; by default the images' own size, at least 64 and at most 128. Images that fit
      a whole number of times are enlarged without smoothing.
    labels: above each of the S pictures; none: one word for all.

  Raises:
    ValueError: stimuli, samples and captions are not of the same items and size.
  """
  n, s, height, width = samples.shape[:4]
  if stimuli.shape != (n, height, width, 3):
    raise ValueError(f'stimuli {stimuli.shape} do not match samples {samples.shape}')
  if captions is not None and len(captions) != n:
    raise ValueError(f'{len(captions)} captions for {n} items')
  scale = (cell or min(128, max(64, height))) / height
  cell_h, cell_w = round(height * scale), round(width * scale)
  gutter, gap, margin = 3, 10, 24  # between samples, after the stimulus, around
  block_w = cell_w + gap + s * cell_w + (s - 1) * gutter
  font, small, large = _font(13), _font(12), _font(20, bold=True)
  caption_h = 20 if captions is not None else 0
  block_h = cell_h + caption_h + 8
  columns = num_columns or max(1, min(n, round(np.sqrt(n * block_h / block_w * 1.3))))
  rows = -(-n // columns)
  title_h, header_h, column_gap = (40 if title else 0), 22, 28
  sheet_w = 2 * margin + columns * block_w + (columns - 1) * column_gap
  size = (sheet_w, 2 * margin + title_h + header_h + rows * block_h - 8)
  sheet = Image.new('RGB', size, PAPER)
  draw = ImageDraw.Draw(sheet)
  if title:
    draw.text((margin, margin), _fit(draw, title, large, size[0] - 2 * margin), INK, font=large)
  kind = Image.Resampling.NEAREST if scale >= 1 and float(scale).is_integer() else Image.Resampling.LANCZOS

  def paste(picture: np.ndarray, x: int, y: int) -> None:
    sheet.paste(Image.fromarray(picture).resize((cell_w, cell_h), kind), (x, y))

  top = margin + title_h
  for column in range(columns):
    x = margin + column * (block_w + column_gap)
    draw.text((x, top), _fit(draw, 'stimulus', font, cell_w), STIMULUS_FRAME, font=font)
    if labels:
      for k, label in enumerate(labels):
        place = x + cell_w + gap + k * (cell_w + gutter)
        draw.text((place, top), _fit(draw, label, font, cell_w), FAINT, font=font)
    else:
      label = 'sample' if s == 1 else f'{s} samples'
      draw.text((x + cell_w + gap, top), _fit(draw, label, font, block_w - cell_w - gap), FAINT, font=font)
  for item in range(n):
    # Down the first column, then the next: neighbours in the list stay neighbours on the sheet.
    column, row = divmod(item, rows)
    x, y = margin + column * (block_w + column_gap), top + header_h + row * block_h
    paste(stimuli[item], x, y)
    draw.rectangle((x - 2, y - 2, x + cell_w + 1, y + cell_h + 1), outline=STIMULUS_FRAME, width=2)
    for k in range(s):
      paste(samples[item, k], x + cell_w + gap + k * (cell_w + gutter), y)
    if captions is not None:
      draw.text((x, y + cell_h + 3), _fit(draw, str(captions[item]), small, block_w), FAINT, font=small)
  with atomic_write(path) as temporary:
    sheet.save(temporary, optimize=True)
