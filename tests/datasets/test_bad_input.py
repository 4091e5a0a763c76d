"""Damaged raw data: each kind ends in one sentence that names the fault, and nothing is written."""

import json
import os
import struct
import zipfile

import numpy as np
import pytest

from brainjax.datasets import god, hcp, pictures, raw
from brainjax.errors import UserError
from tests.datasets import raw_files


def no_trace(out):
  assert not [path for path in out.rglob('*.*') if path.name != '.lock']


def fails_god(folder, match):
  out = folder.parent / 'out'
  with pytest.raises(UserError, match=match) as caught:
    god.prepare(folder, out, ['sbj_1'])
  assert '\n' not in str(caught.value)
  no_trace(out)


@pytest.fixture
def folder(tmp_path):
  return raw_files.write_god(tmp_path / 'raw')


def test_missing_folder_and_files(folder):
  fails_god(folder / 'nowhere', 'no such folder')
  (folder / 'imagenet_testing_label.csv').unlink()
  fails_god(folder, r'imagenet_testing_label.csv: no such file')
  (folder / 'images_256.npz').unlink()
  fails_god(folder, 'neither it nor its subfolder npz holds images_256.npz')


def test_unknown_subject(folder):
  with pytest.raises(UserError, match='no files of subject sbj_4; those that exist: sbj_1, sbj_3'):
    god.prepare(folder, folder.parent / 'out', ['sbj_4'])


@pytest.mark.parametrize('share', [0.0, 0.3, 0.97])
def test_truncated_npz(folder, share):
  path = folder / 'sbj_1.npz'
  data = path.read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  fails_god(folder, 'sbj_1.npz: damaged or not an .npz file')


def test_flipped_bytes(folder):
  path = folder / 'sbj_1.npz'
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(data)
  fails_god(folder, 'damaged')


@pytest.mark.parametrize('name', ['arr_0', 'arr_1', 'arr_2', 'arr_3'])
def test_missing_array(folder, name):
  raw_files.change_subject(folder, **{name: None})
  fails_god(folder, f'{name} missing')


def test_no_mask_and_wrong_masks(folder):
  raw_files.change_subject(folder, VC=np.ones(7, bool))
  fails_god(folder, "ROI mask 'VC' is bool of length 7; expected 78")
  raw_files.change_subject(folder, VC=np.zeros(78, bool))
  fails_god(folder, "'VC' selects no voxel")
  raw_files.change_subject(folder, VC=None, V1=None)
  fails_god(folder, 'no ROI mask')


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_non_finite_fmri(folder, value):
  fmri = raw_files.god_arrays('sbj_1')['arr_0'].copy()
  fmri[5, 7] = fmri[9, 8] = value
  raw_files.change_subject(folder, arr_0=fmri)
  fails_god(folder, "'arr_0' has 2 NaN or infinite values, the first in row 5, voxel 7")


def test_counts_that_disagree(folder):
  arrays = raw_files.god_arrays('sbj_1')
  raw_files.change_subject(folder, arr_2=arrays['arr_2'][:3])
  fails_god(folder, 'arr_2 has 3 rows but images_256.npz holds 4 test pictures')
  raw_files.change_subject(folder, arr_0=arrays['arr_0'][:13])
  fails_god(folder, 'arr_3 names a picture for 14 rows but arr_0 has 13')
  raw_files.change_subject(folder, arr_1=arrays['arr_1'][:-1])
  fails_god(folder, 'arr_1 has 139 rows, not a multiple of the 4')
  raw_files.change_subject(folder, arr_1=arrays['arr_1'][:, :-1])
  fails_god(folder, "'arr_1' has 77 voxels; expected 78")


@pytest.mark.parametrize('bad', [14, -1])
def test_picture_number_out_of_range(folder, bad):
  order = raw_files.god_arrays('sbj_1')['arr_3'].copy()
  order[6] = bad
  raw_files.change_subject(folder, arr_3=order)
  fails_god(folder, rf'arr_3 row 6 is {bad}; expected the number of a training picture, 0 .. 13')


@pytest.mark.parametrize(
  'bad', [np.zeros((14, 78), complex), np.zeros((14, 78, 1), np.float32), np.zeros((0, 78), np.float32)]
)
def test_wrong_kind_or_shape(folder, bad):
  raw_files.change_subject(folder, arr_0=bad)
  fails_god(folder, "'arr_0' is ")


def test_labels(folder):
  path = folder / 'imagenet_training_label.csv'
  good = path.read_text()
  path.write_text(good.replace('1004.000005', '7777.000005'))
  fails_god(folder, r'row 6 names WordNet id n00007777 .*does not hold')
  path.write_text(good + '1004.000014\n')
  fails_god(folder, '15 labels for 14 pictures')
  path.write_text('file,label\n' + good)
  fails_god(folder, "row 1 is 'file,label'")
  path.write_bytes(b'\xff\xfe\x00')
  fails_god(folder, 'not readable as UTF-8')


@pytest.mark.parametrize('text', ['[1, 2]', '{"a": ["n1", "x"]}', '{"0": []}', '{"0": [3, "x"]}', '{', '{}'])
def test_class_index(folder, text):
  (folder / 'imagenet_class_index.json').write_text(text)
  fails_god(folder, 'imagenet_class_index.json: ')


def test_pictures(folder):
  np.savez(
    folder / 'images_256.npz',
    train_images=np.zeros((14, 8, 9, 3), np.uint8),
    test_images=np.zeros((4, 8, 8, 3), np.uint8),
  )
  fails_god(folder, r'train_images is uint8 of shape \(14, 8, 9, 3\)')
  np.savez(folder / 'images_256.npz', train_images=np.zeros((14, 8, 8, 3), np.uint8))
  fails_god(folder, "'test_images' is missing")


class _Marker:
  """Its pickle would make a file if it were opened."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (open, (str(self.path), 'w'))


def test_pickles_are_never_opened(folder):
  marker = folder / 'executed'
  raw_files.change_subject(folder, arr_0=np.array([_Marker(marker)], dtype=object))
  marker.unlink(missing_ok=True)
  fails_god(folder, 'pickled Python objects, which are never opened')
  assert not marker.exists()


def test_header_that_claims_memory(folder):
  header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000, 78), }"
  header += b' ' * (118 - len(header) - 1) + b'\n'
  lying = b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + b'\x00' * 64
  with zipfile.ZipFile(folder / 'sbj_1.npz', 'w') as archive:
    for name in ('arr_0', 'arr_1', 'arr_2', 'arr_3'):
      archive.writestr(f'{name}.npy', lying)
  fails_god(folder, 'claims shape')


def test_too_large_an_array(tmp_path, monkeypatch):
  np.savez_compressed(tmp_path / 'bomb.npz', a=np.zeros(100_000))
  monkeypatch.setattr(raw, 'MAX_ARRAY_BYTES', 1000)
  with raw.NpzReader(tmp_path / 'bomb.npz') as archive, pytest.raises(UserError, match='GiB; at most'):
    archive.read('a', ndim=1)


def fails_hcp(folder, match):
  out = folder.parent / 'out'
  with pytest.raises(UserError, match=match):
    hcp.prepare(folder, out)
  no_trace(out)


def test_hcp(tmp_path):
  folder = raw_files.write_hcp(tmp_path / 'raw')
  fails_hcp(tmp_path / 'nowhere', 'no such folder')
  path = folder / 'npz' / '100307' / 'HCP_visual_voxel.npz'
  with np.load(path) as archive:
    good = dict(archive)
  np.savez(path, **good | {'V2': good['V2'][:, 1:]})
  fails_hcp(folder, r'100307.*65 voxels .* but subject 100206 has 66 .*all subjects need the same voxels')
  np.savez(path, **good | {'V3': good['V3'][:-1]})
  fails_hcp(folder, r"'V3' has shape \(59, 16\)")
  np.savez(path, **{area: series[:9] for area, series in good.items()})
  fails_hcp(folder, 'fewer than 10 frames')
  np.savez(path, **{area: good[area] for area in ('V1', 'V2', 'V3')})
  fails_hcp(folder, "'V4' is missing")
  nan = good['V4'].copy()
  nan[3, 2] = np.nan
  np.savez(path, **good | {'V4': nan})
  fails_hcp(folder, r"100307.*'V4' has 1 NaN or infinite values, the first in row 3, voxel 2")
  np.savez(path, **{area: np.ones_like(series) for area, series in good.items()})
  fails_hcp(folder, "'V1': all its 1260 values are 1")


def test_hcp_series_that_are_not_z_scored(tmp_path):
  folder = raw_files.write_hcp(tmp_path / 'raw')
  path = folder / 'npz' / '100307' / 'HCP_visual_voxel.npz'
  with np.load(path) as archive:
    np.savez(path.with_name('other.npz'), **{area: 9000 + 80 * series for area, series in archive.items()})
  path.with_name('other.npz').rename(path)
  fails_hcp(
    folder, '100307.*: the mean of a voxel over time is 9.03e.03, its deviation .*expected series that were z-scored'
  )


def test_a_subject_missing_between_others_is_reported(folder, capsys):
  (folder / 'sbj_3.npz').rename(folder / 'sbj_4.npz')
  god.prepare(folder, folder.parent / 'out')
  assert 'missing between the others: sbj_2.npz, sbj_3.npz; only sbj_1, sbj_4 can be used' in capsys.readouterr().out


def test_prepared_data_damaged_later(tmp_path):
  folder, out = raw_files.write_god(tmp_path / 'raw'), tmp_path / 'out'
  god.prepare(folder, out, ['sbj_1'])
  records = next(out.rglob('god-train.array_record*'))
  records.write_bytes(records.read_bytes()[:500])
  with pytest.raises(UserError, match='delete this folder and prepare again'):
    god.load(out, ['sbj_1'])
  metadata = next(out.rglob('metadata.json'))
  metadata.write_text(json.dumps({})[:1])
  with pytest.raises(UserError, match='damaged prepared data'):
    god.load(out, ['sbj_1'])
  assert god.prepare(folder, out, ['sbj_1'])['god/sbj_1'][0] == 'rebuilt'
  assert len(god.load(out, ['sbj_1'])) == 14


def flipped(whole, path, count):
  """The file with each of its first bytes inverted in turn, in one bit or in all."""
  data = whole.read_bytes()
  for place in range(min(count, len(data))):
    for bits in (1, 0xFF):
      path.write_bytes(data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :])
      yield place


def ends_well(read):
  """It succeeds, or raises one sentence; any other exception is let through."""
  try:
    read()
  except UserError as error:
    assert '\n' not in str(error)
    return True
  return False


@pytest.mark.filterwarnings('ignore')
def test_every_damaged_byte_of_a_header_is_a_sentence(tmp_path):
  whole, path = tmp_path / 'whole.npy', tmp_path / 'flipped.npy'
  np.save(whole, np.arange(12, dtype=np.float32).reshape(3, 4))
  refused = [ends_well(lambda: raw.read_npy(path, ndim=(1, 2), kinds='fiu')) for _ in flipped(whole, path, 128)]
  assert sum(refused) > 100


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_every_damaged_byte_of_an_archive_is_a_sentence(tmp_path, save):
  whole, path = tmp_path / 'whole.npz', tmp_path / 'flipped.npz'
  save(whole, a=np.arange(12, dtype=np.float32).reshape(3, 4))

  def read():
    with raw.NpzReader(path) as archive:
      archive.read('a', ndim=2)

  assert sum(ends_well(read) for _ in flipped(whole, path, 256)) > 20
  plain = tmp_path / 'whole.npy'
  np.save(plain, np.arange(12, dtype=np.float32).reshape(3, 4))
  for _ in flipped(plain, tmp_path / 'flipped.npy', 128):  # under a checksum that agrees
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('a.npy', (tmp_path / 'flipped.npy').read_bytes())
    ends_well(read)
  directory = whole.read_bytes().index(b'PK\x01\x02')  # and the directory at the end, which names the packing
  data = whole.read_bytes()
  for place in range(directory, len(data)):
    for value in (1, 12, 14, 99):  # 12 and 14 are bzip2 and LZMA
      path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
      ends_well(read)


def test_arrays_of_a_file_count_together(tmp_path, monkeypatch):
  path = tmp_path / 'HCP_visual_voxel.npz'
  np.savez(path, **{area: np.zeros((20, 5), np.float16) for area in ('V1', 'V2', 'V3', 'V4')})
  monkeypatch.setattr(raw, 'MAX_ARRAY_BYTES', 1500)  # three of them as float32
  with raw.NpzReader(path) as archive:
    for area in ('V1', 'V2', 'V3'):
      archive.read(area, ndim=2)
    archive.read('V1', ndim=2)  # the same again
    with pytest.raises(UserError, match='its arrays would take .* GiB; at most 2 GiB'):
      archive.read('V4', ndim=2)


def test_pictures_of_other_formats_are_not_opened(tmp_path):
  path = tmp_path / 'picture.png'  # PostScript, which Pillow hands to another program
  path.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n')
  with pytest.raises(UserError, match='picture.png cannot be read: it is not a JPEG, PNG, .*; convert it'):
    pictures.read_square(path, 8, str(path))


def test_an_archive_under_the_name_of_an_array(tmp_path):
  np.savez(tmp_path / 'betas.npz', a=np.zeros(3))
  (tmp_path / 'betas.npz').rename(tmp_path / 'betas.npy')
  with pytest.raises(UserError, match='betas.npy: an .npz archive under the name of an .npy file; save the one array'):
    raw.read_npy(tmp_path / 'betas.npy', ndim=1)


def test_links_and_pipes(tmp_path):
  (tmp_path / 'link.npy').symlink_to(tmp_path / 'moved.npy')
  with pytest.raises(UserError, match='link.npy: a link to a file that does not exist; give the file itself'):
    raw.check_file(tmp_path / 'link.npy')
  os.mkfifo(tmp_path / 'pipe.npy')
  with pytest.raises(UserError, match='pipe.npy: not a regular file; copy its content to a file'):
    raw.check_file(tmp_path / 'pipe.npy')
