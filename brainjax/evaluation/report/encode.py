"""Pictures as data URLs for the self-contained page, within a budget of bytes."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

SMALL = 64  # pictures up to this side stay lossless if they fit
QUALITIES = (88, 75, 60, 45, 30)


class NoRoom(Exception):
  """The pictures do not fit into the budget even when small and coarse; about `share` of them would."""

  def __init__(self, share: float):
    super().__init__(f'{100 * share:.0f} % of the pictures fit')
    self.share = share


def _address(picture: np.ndarray, quality: int | None, shrink: int) -> str:
  image = Image.fromarray(picture)
  if shrink > 1:
    image = image.resize((max(1, image.width // shrink), max(1, image.height // shrink)), Image.Resampling.LANCZOS)
  buffer = io.BytesIO()
  if quality is None:
    image.save(buffer, 'PNG', optimize=True)
  else:
    image.save(buffer, 'WEBP', quality=quality)
  kind = 'png' if quality is None else 'webp'
  return f'data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def to_data_urls(pictures: Sequence[np.ndarray], budget: int) -> list[str]:
  """Encodes all pictures with one quality, the best that the budget allows.

  Args:
    pictures: H W 3 uint8 each.
    budget: bytes of all URLs together.

  Raises:
    NoRoom: they do not fit even when small and coarse.

  Returns:
    'data:image/...' of each. Small pictures are PNG if they fit; else WebP with falling quality, at last smaller.
  """
  if not pictures:
    return []
  lossless = [(None, 1)] if max(max(p.shape[:2]) for p in pictures) <= SMALL else []
  candidates = [*lossless, *((quality, shrink) for shrink in (1, 2, 4, 8) for quality in QUALITIES)]
  probe = pictures[:: max(1, len(pictures) // 24)]
  needed = 0.0
  for quality, shrink in candidates:
    # A few pictures show what cannot fit, without encoding all of them.
    needed = float(np.mean([len(_address(p, quality, shrink)) for p in probe])) * len(pictures)
    if needed > 1.2 * budget:
      continue
    result = [_address(p, quality, shrink) for p in pictures]
    if sum(map(len, result)) <= budget:
      return result
  raise NoRoom(max(0.0, budget) / needed)
