"""Reads the pictures that people saw, as 8-bit RGB. Files whose RGB values are ambiguous are refused, never guessed.

| What the file holds | What happens |
| --- | --- |
| EXIF orientation | the picture is turned by it, as picture viewers do |
| 16-bit (12-bit in TIFF) | scaled by its range: 65535 (4095) becomes 255; refused if that is nearly black |
| 1-bit, grey, palette, YCbCr | converted to RGB |
| transparency | accepted if every pixel is opaque; else drawn on a background that the user names, or refused |
| 32-bit, floating-point, CMYK, LAB | refused |
| several frames (GIF, TIFF, WebP, APNG) | refused |
| ICC profile, gamma of a PNG | not applied, as in common presentation software; `describe` names them |
"""

import collections
import contextlib
import io
import zlib
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from brainjax.datasets import transforms
from brainjax.errors import UserError, as_user_error, format_error

FORMATS = ('JPEG', 'PNG', 'TIFF', 'BMP', 'GIF', 'WEBP')  # of Pillow; others may start other programs
ORIENTATION = 0x112  # EXIF tag
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF tags
GREY_16 = ('I;16', 'I;16B', 'I;16L', 'I;16N')
READABLE = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBX', 'RGBA', 'RGBa', 'YCbCr', *GREY_16)
REFUSED = {'I': '32-bit or signed whole numbers', 'F': 'floating-point numbers', 'CMYK': 'colours for print'}


def check_background(name: str) -> None:
  """Checks the name of a colour, such as white or #808080.

  Raises:
    UserError: it is none.
  """
  try:
    color = ImageColor.getrgb(name)
  except ValueError:
    color = ()
  if len(color) != 3:
    raise UserError(f'--background={name}: not a colour; expected a name or #rrggbb, such as white or #808080')


def read_square(picture: Path | np.ndarray, size: int | None, where: str, background: str | None = None) -> np.ndarray:
  """The middle square of a picture.

  Args:
    picture: a file, or its pixels `H W 3` uint8.
    size: longest side that is returned, pixels; larger pictures are reduced. None: any.
    where: begins the error message.
    background: colour behind transparent pixels.

  Returns:
    `side side 3` uint8.

  Raises:
    UserError: the picture cannot be read, or has no one meaning as RGB.
  """
  pixels = read_picture(picture, where, background) if isinstance(picture, Path) else picture
  if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
    raise UserError(f'{where} is {pixels.dtype} of shape {pixels.shape}; expected uint8 (H, W, 3)')
  side = min(pixels.shape[:2])
  top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
  pixels = np.ascontiguousarray(pixels[top : top + side, left : left + side])
  return pixels if size is None else transforms.resize_image(pixels, min(side, size))


def read_picture(path: Path, where: str, background: str | None = None) -> np.ndarray:
  """A picture file as `H W 3` uint8, turned and converted as the table at the top says.

  Args:
    path: of the picture.
    where: begins the error message.
    background: colour behind transparent pixels.

  Raises:
    UserError: the file cannot be read, or has no one meaning as RGB.
  """
  with _open(path, where) as image:
    _check_meaning(image, where)
    bits = _bits(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode in GREY_16:
      upright = _reduce_depth(upright, bits, where)
    elif bits == 16 and (largest := np.asarray(upright.convert('RGB')).max()) < 16:
      raise UserError(
        f'{where} is 16-bit, but its largest value is {largest} of 255 on 8 bits, which is nearly black; save it as '
        '8-bit, as it was shown'
      )
    return np.asarray(_flatten(upright, where, background))


@contextlib.contextmanager
def _open(path: Path, where: str) -> Iterator[Image.Image]:
  with as_user_error(f'{where} cannot be read', 'save it as 8-bit RGB PNG if a viewer shows it, else copy it again'):
    try:
      # A file object, not a path: Pillow maps uncompressed TIFF files of a path and then turns them wrongly.
      with open(path, 'rb') as file, Image.open(file, formats=FORMATS) as image:
        yield image
    except UnidentifiedImageError:
      raise UserError(
        f'{where} cannot be read: it is not a JPEG, PNG, TIFF, BMP, GIF or WebP picture; convert it to one of these'
      ) from None
    except Image.DecompressionBombError as error:
      raise UserError(f'{where} has too many pixels ({format_error(error)}); reduce it') from None


def _check_meaning(image: Image.Image, where: str) -> None:
  """Refuses pictures whose RGB values are ambiguous."""
  if image.mode not in READABLE:
    raise UserError(
      f'{where} has mode {image.mode} ({REFUSED.get(image.mode, "not RGB or grey")}), which does not say how it looks '
      'on a screen; convert it to 8-bit RGB as it was shown'
    )
  # An MPO file is a JPEG of a camera; what follows the first frame is a preview or a depth map.
  if image.format != 'MPO' and (frames := getattr(image, 'n_frames', 1)) > 1:
    raise UserError(f'{where} holds {frames} frames; expected one picture, so save the frame that was shown')
  if image.mode in GREY_16 and _tiff_tag(image, PHOTOMETRIC, 1) == 0:
    raise UserError(f'{where} is 16-bit grey in which 0 is white; save it as 8-bit RGB, as it was shown')
  transparent = image.info.get('transparency')
  if image.mode == 'RGB' and transparent and max(transparent) > 255:
    raise UserError(f'{where} is 16-bit RGB with a transparent colour; save it as 8-bit RGB, as it was shown')


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
  value = image.tag_v2.get(tag, default) if image.format == 'TIFF' else default
  return value[0] if isinstance(value, tuple) else value


def _bits(image: Image.Image) -> int:
  """Bits of each value in the file, before the pixels are read; Pillow reduces 16-bit colour to 8 bits."""
  is_16_bit = image.mode in GREY_16 or any(';16' in str(tile.args) for tile in image.tile)
  return _tiff_tag(image, BITS_PER_SAMPLE, 16 if is_16_bit else 8)


def _reduce_depth(image: Image.Image, bits: int, where: str) -> Image.Image:
  """Grey of 9 to 16 bits -> 8 bits, with an alpha channel if the file names a transparent value."""
  values = np.asarray(image).astype(np.uint32)
  top = 2**bits - 1
  if 0 < values.max() < top / 16:
    raise UserError(
      f'{where} is {bits}-bit grey, but its largest value is {values.max()} of {top}, which is nearly black; save it as '
      '8-bit, as it was shown'
    )
  grey = Image.fromarray(((values * 255 + top // 2) // top).astype(np.uint8))
  transparent = image.info.get('transparency')
  if transparent is not None:
    grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
  return grey


def _flatten(image: Image.Image, where: str, background: str | None) -> Image.Image:
  """RGB without transparency."""
  if not image.has_transparency_data:
    return image.convert('RGB')
  image = image.convert('RGBA')
  if image.getextrema()[3] == (255, 255):
    return image.convert('RGB')
  if background is None:
    share = float((np.asarray(image)[..., 3] < 255).mean())
    raise UserError(
      f'{where} is transparent in {share:.1%} of its pixels, so how it looked depends on what was behind it; '
      'name that colour with --background=white, or save it without transparency'
    )
  behind = Image.new('RGBA', image.size, ImageColor.getrgb(background))
  return Image.alpha_composite(behind, image).convert('RGB')


def describe(path: Path) -> tuple[str, tuple[int, int]]:
  """What kind of picture a file holds, in words, and its width and height as shown, in pixels.

  Raises:
    UserError: it cannot be read.
  """
  with _open(path, str(path)) as image:
    orientation = image.getexif().get(ORIENTATION, 1)
    kind = [image.format, image.mode]
    if image.has_transparency_data:
      kind.append('with transparency')
    if orientation in range(2, 9):
      kind.append(f'turned by EXIF orientation {orientation}')
    gamma = image.info.get('gamma', 1 / 2.2)
    if abs(gamma - 1 / 2.2) > 0.02:
      kind.append(f'gamma {gamma:g} not applied')
    if profile := _profile_name(image):
      kind.append(f'ICC profile {profile} not applied')
    is_on_its_side = orientation in range(5, 9) and image.format != 'TIFF'  # of TIFF, Pillow gives the size as shown
    return ', '.join(kind), image.size[::-1] if is_on_its_side else image.size


def _profile_name(image: Image.Image) -> str:
  """Name of an ICC profile other than sRGB; empty if there is none."""
  data = image.info.get('icc_profile')
  if not data:
    return ''
  try:
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(data))).strip()
  except (ImageCms.PyCMSError, OSError):
    name = '(not readable)'
  return '' if 'srgb' in name.lower() else name[:40]


def survey(pictures: Sequence[Path | np.ndarray]) -> dict[str, dict]:
  """The kinds and sizes of picture files, for the metadata of a data set; the most frequent first.

  Args:
    pictures: the picture of each stimulus, in their order; those that are not files are skipped.

  Returns:
    `picture_kinds`: description -> [number of files, number of the first stimulus]; `picture_sizes`: 'W x H' -> number
    of files. Nothing if there are no files.
  """
  files = {number: picture for number, picture in enumerate(pictures) if isinstance(picture, Path)}
  if not files:
    return {}
  with futures.ThreadPoolExecutor() as pool:
    described = list(pool.map(describe, files.values()))
  firsts = {kind: number for number, (kind, _) in reversed(list(zip(files, described, strict=True)))}
  kinds = collections.Counter(kind for kind, _ in described)
  sizes = collections.Counter(f'{width} x {height}' for _, (width, height) in described)
  return {
    'picture_kinds': {kind: [count, firsts[kind]] for kind, count in kinds.most_common()},
    'picture_sizes': dict(sizes.most_common()),
  }


def find_doubts(kinds: dict[str, list]) -> list[str]:
  """What users should compare with their experiment, one sentence each. `kinds`: the `picture_kinds` of `survey`."""
  advice = {
    'EXIF': 'an EXIF orientation: {}. They are turned by it, as viewers do; if your experiment did not, remove it',
    'transparency': 'transparency: {}. Does the background on the page agree with that of your experiment?',
    'not applied': 'a colour profile or gamma that is not applied: {}. If your experiment applied it, convert them to sRGB',
  }
  counts = {words: sum(count for kind, (count, _) in kinds.items() if words in kind) for words in advice}
  return [f'picture files with {advice[words].format(count)}' for words, count in counts.items() if count]


def encode_png(pixels: np.ndarray) -> bytes:
  """`H W 3` uint8 as the bytes of a PNG file."""
  buffer = io.BytesIO()
  # Level 1 with run lengths: several times faster than the default and about as small.
  Image.fromarray(pixels).save(buffer, format='PNG', compress_level=1, compress_type=zlib.Z_RLE)
  return buffer.getvalue()
