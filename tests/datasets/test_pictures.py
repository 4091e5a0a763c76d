"""Picture files: what is read equals what was shown; what has no one meaning as RGB is refused with a remedy."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageCms

from brainjax.datasets import bold5000, god_bdata, pictures
from brainjax.errors import UserError
from tests.datasets import picture_files
from tests.property_tests import drawn

# What a viewer does to an array of rows for each EXIF orientation, from the EXIF standard: where row 0, column 0 go.
TURN = {
  1: lambda a: a,
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: a.swapaxes(0, 1),
  6: lambda a: np.rot90(a, -1),
  7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
  8: lambda a: np.rot90(a, 1),
}
SAVE = {'png': {}, 'tiff': {}, 'webp': {'lossless': True, 'exact': True}, 'jpg': {'quality': 100, 'subsampling': 0}}


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('pictures')


def read(path, background=None):
  return pictures.read_picture(path, str(path), background)


def refused(path, match, background=None):
  with pytest.raises(UserError, match=match) as caught:
    read(path, background)
  assert str(caught.value).startswith(str(path)) and '\n' not in str(caught.value)


def noise(seed, *shape, top=256):
  return np.random.default_rng(seed).integers(0, top, shape)


def blocks(seed, height, width):
  """Blocks of 8 pixels of one colour, which JPEG keeps to a few levels."""
  return noise(seed, height, width, 3).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)


@drawn(
  height=st.integers(1, 3),
  width=st.integers(1, 4),
  ending=st.sampled_from(sorted(SAVE)),
  orientation=st.integers(0, 9),
  mode=st.sampled_from(['RGB', 'L', 'I;16', 'RGBA']),
)
def check_orientation(folder, height, width, ending, orientation, mode):
  shown = blocks(height * width, height, width)
  if mode in ('L', 'I;16'):
    shown = shown[..., :1].repeat(3, axis=2)
  if mode == 'I;16' and ending in ('png', 'tiff'):
    shown[0, 0] |= 128  # not nearly black
    image = Image.fromarray(shown[..., 0].astype(np.uint16) * 257)
  else:
    image = Image.fromarray(shown).convert({'I;16': 'L', 'RGBA': 'RGB' if ending == 'jpg' else 'RGBA'}.get(mode, mode))
  exif = Image.Exif()
  exif[0x112] = orientation
  path = folder / f'turned.{ending}'
  image.save(path, exif=exif, **SAVE[ending])
  expected = TURN.get(orientation, TURN[1])(shown)  # 0 and 9 are not defined and mean nothing
  got = read(path)
  assert got.shape == expected.shape and np.abs(got.astype(int) - expected).max() <= (4 if ending == 'jpg' else 0)
  kind, size = pictures.describe(path)
  assert (f'EXIF orientation {orientation}' in kind) == (2 <= orientation <= 8) and size == expected.shape[1::-1]


test_orientation, test_orientation_slow = check_orientation


@drawn(
  kind=st.sampled_from([(picture_files.GREY, b) for b in (1, 2, 4, 8, 16)] + [(picture_files.RGB, b) for b in (8, 16)]),
  height=st.integers(1, 9),
  width=st.integers(1, 9),
)
def check_depth_of_png(folder, kind, height, width):
  color, bits = kind
  values = noise(bits, *((height, width) if color == picture_files.GREY else (height, width, 3)), top=2**bits)
  if bits == 16:
    values[0, 0] |= 1 << 15  # not nearly black
  path = folder / 'depth.png'
  picture_files.write_png(path, values, color, bits)
  expected = values * 255 / (2**bits - 1)
  got = read(path).astype(float)
  # Pillow keeps the upper byte of 16-bit RGB, which is less than one level off.
  tolerance = 1 if (color, bits) == (picture_files.RGB, 16) else 0.501
  assert np.abs(got - (expected if expected.ndim == 3 else expected[..., None])).max() <= tolerance


test_depth_of_png, test_depth_of_png_slow = check_depth_of_png


@drawn(
  bits=st.sampled_from([8, 12, 16]), order=st.sampled_from('<>'), height=st.integers(1, 9), width=st.integers(1, 9)
)
def check_depth_of_tiff(folder, bits, order, height, width):
  values = noise(bits, height, width, top=2**bits)
  values[0, 0] |= 1 << (bits - 1)  # not nearly black
  path = folder / 'depth.tiff'
  picture_files.write_tiff(path, values, bits, order)
  if (bits, order) == (12, '>'):  # Pillow does not know it
    return refused(path, 'cannot be read')
  np.testing.assert_allclose(read(path)[..., 0], values * 255 / (2**bits - 1), atol=0.501)


test_depth_of_tiff, test_depth_of_tiff_slow = check_depth_of_tiff


def test_more_of_users(folder):
  values = noise(0, 9, 13, top=60536) + 5000
  for compression in ('raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits'):
    for order in '<>':
      Image.fromarray(values.astype(f'{order}u2')).save(folder / 'c.tif', compression=compression)
      np.testing.assert_allclose(read(folder / 'c.tif')[..., 0], values * 255 / 65535, atol=0.501)
  alpha = np.full_like(values, 65535)
  picture_files.write_png(folder / 'la.png', np.dstack([values, alpha]), picture_files.GREY_ALPHA, 16)
  np.testing.assert_allclose(read(folder / 'la.png')[..., 0], values * 255 / 65535, atol=1)
  alpha[0, 0] = 300
  picture_files.write_png(folder / 'la.png', np.dstack([values, alpha]), picture_files.GREY_ALPHA, 16)
  refused(folder / 'la.png', 'transparent in 0.9%')
  picture_files.write_png(folder / 'dark.png', noise(0, 5, 5), picture_files.GREY, 16)  # 8-bit values on 16 bits
  refused(
    folder / 'dark.png', '16-bit grey, but its largest value is 2.. of 65535, which is nearly black; save it as 8-bit'
  )
  dark = noise(0, 5, 5, 3)
  picture_files.write_png(folder / 'dark_rgb.png', dark, picture_files.RGB, 16)
  refused(
    folder / 'dark_rgb.png', '16-bit, but its largest value is 0 of 255 on 8 bits, which is nearly black; save it'
  )
  with_alpha = np.dstack([dark[..., 0], np.full((5, 5), 65535)])
  picture_files.write_png(folder / 'dark_la.png', with_alpha, picture_files.GREY_ALPHA, 16)
  refused(folder / 'dark_la.png', 'nearly black')
  picture_files.write_png(folder / 'dark_8.png', dark // 32, picture_files.RGB, 8)  # dark, but 8-bit: as it was shown
  np.testing.assert_array_equal(read(folder / 'dark_8.png'), dark // 32)
  picture_files.write_png(folder / 'black.png', np.zeros((5, 5), int), picture_files.GREY, 16)
  assert not read(folder / 'black.png').any()
  gamma = {b'gAMA': (100_000).to_bytes(4)}
  picture_files.write_png(folder / 'g.png', noise(0, 5, 5, 3), picture_files.RGB, 8, gamma)
  assert pictures.describe(folder / 'g.png')[0] == 'PNG, RGB, gamma 1 not applied'
  data = bytearray((folder / 'g.png').read_bytes())
  data[16:24] = struct.pack('>II', 50_000, 50_000)
  data[29:33] = struct.pack('>I', zlib.crc32(bytes(data[12:29])))
  (folder / 'large.png').write_bytes(data)
  refused(folder / 'large.png', 'has too many pixels .*; reduce it')
  shown = noise(1, 4, 4)
  picture_files.write_tiff(folder / 'w.tif', shown, 8, white_is_zero=True)
  np.testing.assert_array_equal(read(folder / 'w.tif')[..., 0], 255 - shown)


def test_the_examples_of_users(folder):
  ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(8, 32)  # 0 .. 255 on 16 bits
  for path, image in ((folder / 'a.png', Image.fromarray(ramp)), (folder / 'a.tif', Image.fromarray(ramp))):
    image.save(path)
    np.testing.assert_array_equal(read(path)[..., 1], np.arange(256).reshape(8, 32))
  Image.fromarray(ramp / np.float32(65535)).save(folder / 'float.tif')
  refused(folder / 'float.tif', 'mode F .floating-point numbers.*; convert it to 8-bit RGB')
  Image.fromarray(ramp.astype(np.int32)).save(folder / 'i.tif')
  refused(folder / 'i.tif', 'mode I .32-bit .*; convert it')
  picture_files.write_tiff(folder / 'negative.tif', ramp, 16, white_is_zero=True)
  refused(folder / 'negative.tif', '16-bit grey in which 0 is white; save it as 8-bit')


@drawn(
  mode=st.sampled_from(['LA', 'RGBA', 'P']),
  ending=st.sampled_from(['png', 'tiff', 'webp', 'gif']),
  alpha=st.sampled_from(['opaque', 'holes', 'half']),
  background=st.sampled_from([None, 'white', '#203040']),
)
def check_transparency(folder, mode, ending, alpha, background):
  kinds = {'png': ('LA', 'RGBA', 'P'), 'tiff': ('LA', 'RGBA'), 'webp': ('RGBA',), 'gif': ('P',)}
  if mode not in kinds[ending] or (ending == 'gif' and alpha == 'half'):
    return
  color = noise(1, 6, 7, 3).astype(np.uint8) if mode == 'RGBA' else noise(1, 6, 7, 1).astype(np.uint8).repeat(3, axis=2)
  a = np.full((6, 7), 255, np.uint8)
  if alpha != 'opaque':
    a[2:4, 1:5] = 0 if alpha == 'holes' else 100
  path = folder / f'alpha.{ending}'
  if mode == 'P':
    values = noise(3, 6, 7, top=5).astype(np.uint8)
    values[2:4, 1:5], table = 5, noise(4, 6, 3).astype(np.uint8)
    color = table[values]
    image = Image.fromarray(values)
    image = image.convert('P')
    image.putdata(values.ravel().tolist())
    image.putpalette(table.ravel().tolist())
    options = {} if alpha == 'opaque' else {'transparency': 5 if ending == 'gif' else bytes([255] * 5 + [int(a.min())])}
    image.save(path, **options)
  else:
    Image.fromarray(np.dstack([color[..., :1] if mode == 'LA' else color, a]).squeeze()).convert(mode).save(
      path, **SAVE.get(ending, {})
    )
  if alpha != 'opaque' and background is None:
    return refused(path, r'transparent in 19.0% of its pixels.*--background=white')
  behind = {None: 0, 'white': 255, '#203040': np.array([0x20, 0x30, 0x40])}[background]
  share = a[..., None] / 255
  np.testing.assert_allclose(read(path, background), color * share + behind * (1 - share), atol=1)


test_transparency, test_transparency_slow = check_transparency


def test_transparent_colour_of_a_png(folder):
  path = folder / 'trns.png'
  values = np.array([[0, 300, 65535]])
  picture_files.write_png(path, values, picture_files.GREY, 16, {b'tRNS': (300).to_bytes(2)})
  refused(path, 'transparent in 33.3%')
  assert read(path, 'white')[0, :, 0].tolist() == [0, 255, 255]
  picture_files.write_png(path, values, picture_files.GREY, 16, {b'tRNS': (301).to_bytes(2)})
  assert read(path)[0, :, 0].tolist() == [0, 1, 255]  # no pixel has it
  picture_files.write_png(path, noise(0, 2, 2, 3, top=65536), picture_files.RGB, 16, {b'tRNS': b'\x10\0' * 3})
  refused(path, '16-bit RGB with a transparent colour')
  for bits, color in ((1, picture_files.GREY), (8, picture_files.GREY), (8, picture_files.RGB)):
    values = np.ones((2, 2) if color == picture_files.GREY else (2, 2, 3), int)
    trns = b'\0\1' * (values.ndim * 2 - 3)
    picture_files.write_png(path, values, color, bits, {b'tRNS': trns})
    refused(path, 'transparent in 100.0%')
    values[0, 0] = 0
    picture_files.write_png(path, values, color, bits, {b'tRNS': trns})
    assert read(path, '#102030').tolist() == [[[0] * 3, [16, 32, 48]], [[16, 32, 48]] * 2]


def test_modes_without_one_meaning(folder):
  rgb = Image.fromarray(blocks(0, 2, 2))
  for mode, ending in (('CMYK', 'jpg'), ('CMYK', 'tif'), ('LAB', 'tif')):
    path = folder / f'{mode}.{ending}'
    lab = ImageCms.profileToProfile(
      rgb, ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), outputMode='LAB'
    )
    (lab if mode == 'LAB' else rgb.convert(mode)).save(path)
    refused(path, f'mode {mode} .*convert it to 8-bit RGB')
  rgb.convert('YCbCr').save(folder / 'y.tif', compression='raw')
  assert np.abs(read(folder / 'y.tif').astype(int) - np.asarray(rgb)).max() <= 2
  frames = [Image.fromarray(blocks(i, 2, 2)) for i in range(3)]
  for ending in ('gif', 'tif', 'webp', 'png'):
    path = folder / f'frames.{ending}'
    frames[0].save(path, save_all=True, append_images=frames[1:])
    refused(path, 'holds 3 frames; expected one picture')
  frames[0].save(folder / 'phone.jpg', 'MPO', save_all=True, append_images=frames[1:], quality=100)  # with a preview
  assert np.abs(read(folder / 'phone.jpg').astype(int) - np.asarray(frames[0])).max() < 30
  Image.new('1', (3, 2), 1).save(folder / 'bits.png')
  assert (read(folder / 'bits.png') == 255).all()


def test_other_files_and_colours(folder):
  path = folder / 'text.jpg'
  path.write_text('<svg/>')
  refused(path, 'not a JPEG, PNG, TIFF, BMP, GIF or WebP picture; convert it')
  Image.fromarray(blocks(0, 2, 2)).save(path)
  path.write_bytes(path.read_bytes()[:-100])
  refused(path, 'cannot be read .*; save it as 8-bit RGB PNG if a viewer shows it, else copy it again')
  for name in ('whit', '', '#12', '#11223344'):
    with pytest.raises(UserError, match='not a colour; expected a name or #rrggbb'):
      pictures.check_background(name)
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('XYZ')).tobytes()
  for data, words in ((profile, 'ICC profile XYZ'), (b'nothing', 'ICC profile .not readable.')):
    Image.fromarray(blocks(0, 2, 2)).save(folder / 'icc.png', icc_profile=data)
    kind, _ = pictures.describe(folder / 'icc.png')
    assert kind.startswith('PNG, RGB, ICC profile'), (kind, words)


def test_pictures_of_other_data_sets(folder):
  shown = blocks(1, 2, 2)
  exif = Image.Exif()
  exif[0x112] = 3
  path = folder / 'turned.JPEG'
  Image.fromarray(shown).save(path, exif=exif, **SAVE['jpg'])
  read = bold5000.Stimuli([], [], {'a': path}, folder).picture('a')
  god = god_bdata._picture(path)  # 256 256 3
  assert np.abs(read.astype(int) - shown[::-1, ::-1]).max() <= 4
  assert np.abs(god[8::16, 8::16].astype(int) - shown[::-1, ::-1]).max() <= 30
