"""Masks: 0/1 files and labels of an atlas, in any type, shape and orientation of axes; anything else is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from brainjax.datasets import masks, own, own_betas
from brainjax.datasets.masks import Mask
from brainjax.errors import UserError
from tests.datasets import own_files
from tests.property_tests import drawn

nibabel = pytest.importorskip('nibabel')
SHAPE, TRIALS = (3, 4, 5), 7
AFFINE = np.array([[-2.0, 0.1, 0, 80], [0.05, 2.1, -0.2, -110], [0, 0.2, 1.9, -70], [0, 0, 0, 1]])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('masks')
  betas = np.random.default_rng(0).standard_normal((*SHAPE, TRIALS)).astype(np.float32)
  nibabel.save(nibabel.Nifti1Image(betas, AFFINE), folder / 'betas.nii.gz')
  np.save(folder / 'betas.npy', betas)
  return folder


def read(folder, *chosen, betas='betas.nii.gz'):
  return own_betas.read_betas(folder / betas, chosen, TRIALS, folder / 'events.tsv')[:2]


def refused(match, folder, *chosen, **options):
  with pytest.raises(UserError, match=match) as caught:
    read(folder, *chosen, **options)
  assert '\n' not in str(caught.value)


def save(path, values, affine=AFFINE):
  nibabel.save(nibabel.Nifti1Image(values, affine), path)
  return path


def nsd():
  """The coding of the files of the Natural Scenes Dataset: -1 outside the cortex, 0 in no ROI, 1 and on an ROI."""
  values = np.full(SHAPE, -1, np.int16)
  values[1], values[1, :2] = 0, 1
  return values


def test_labels_of_an_atlas(folder):
  path = save(folder / 'V.nii.gz', nsd())
  refused(
    r'V.nii.gz: a mask of values -1, 0, 1; expected 0 and 1. If these are labels, .*--mask=V.nii.gz:1=NAME',
    folder,
    Mask(path),
  )
  rows, rois = read(folder, *masks.parse_masks(f'{path}:1=V1'))
  assert rows.shape == (TRIALS, 10) and rois['V1'].all()
  np.testing.assert_array_equal(rows, np.load(folder / 'betas.npy')[1, :2].reshape(10, TRIALS).T)
  refused(r'no voxel has label 2, 7; the labels there are -1, 0, 1', folder, *masks.parse_masks(f'{path}:1,2,7=V1'))
  for value in (1e-45, 0.25, np.nan):
    values = (nsd() == 1).astype(np.float32)
    values[2, 2, 2] = value
    path = save(folder / 'p.nii.gz', values)
    refused('p.nii.gz: a mask of values .*threshold it.*nearest-neighbour', folder, Mask(path))
    refused('p.nii.gz: an atlas of values .*expected whole numbers', folder, Mask(path, (1,)))
  refused('the mask holds no voxel', folder, Mask(save(folder / '0.nii', np.zeros(SHAPE, np.uint8))))
  refused(
    r'values 0, 255; expected 0 and 1.*:255=NAME', folder, Mask(save(folder / '2.nii', np.uint8(nsd() == 1) * 255))
  )


@pytest.mark.parametrize('betas', ['betas.nii.gz', 'betas.npy'])
def test_where_the_voxels_are_is_kept(folder, betas):
  path = save(folder / 'V.nii.gz', (nsd() == 1).astype(np.uint8))
  *_, where = own_betas.read_betas(folder / betas, [Mask(path)], TRIALS, folder / 'events.tsv')
  np.testing.assert_allclose(where['affine'], AFFINE, rtol=1e-6)
  assert where['grid'] == list(SHAPE) and where['places'] == np.flatnonzero(nsd() == 1).tolist()
  np.save(folder / 'V.npy', nsd() == 1)
  *_, where = own_betas.read_betas(folder / 'betas.npy', [Mask(folder / 'V.npy')], TRIALS, folder / 'events.tsv')
  assert 'affine' not in where and len(where['places']) == 10


TYPES = [np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64]


@drawn(
  dtype=st.sampled_from(TYPES),
  labels=st.lists(st.integers(-1, 6), min_size=1, max_size=3, unique=True),
  is_atlas=st.booleans(),
  extra_axes=st.integers(0, 2),
  axes=st.permutations(range(3)),
  flips=st.tuples(*[st.booleans()] * 3),
  seed=st.integers(0, 99),
  suffix=st.sampled_from(['.nii', '.nii.gz', '.NII', '.NII.GZ']),
)
def check_what_is_chosen(folder, dtype, labels, is_atlas, extra_axes, axes, flips, seed, suffix):
  rng = np.random.default_rng(seed)
  low = 0 if np.dtype(dtype).kind == 'u' else -1
  values = rng.integers(low, 7, SHAPE) if is_atlas else rng.integers(0, 2, SHAPE)
  # The same grid, stored with other axes: stored[index] = values[voxel], voxel = matrix @ index.
  index = np.meshgrid(*[np.arange(SHAPE[axis]) for axis in axes], indexing='ij')
  matrix = np.eye(4)
  matrix[:3] = 0
  voxel = [None] * 3
  for place, axis in enumerate(axes):
    length = SHAPE[axis] - 1
    voxel[axis] = length - index[place] if flips[place] else index[place]
    matrix[axis, place], matrix[axis, 3] = (-1, length) if flips[place] else (1, 0)
  stored = values[tuple(voxel)].astype(dtype).reshape(*index[0].shape, *[1] * extra_axes)
  path = save(folder / f'drawn{suffix}', stored, AFFINE @ matrix)
  expected = np.isin(values, labels) if is_atlas else values == 1
  mask = Mask(path, tuple(labels) if is_atlas else ())
  if not np.isin(labels if is_atlas else 1, values).all():
    return refused('no voxel', folder, mask)
  rows, rois = read(folder, mask)
  np.testing.assert_array_equal(rows, np.load(folder / 'betas.npy')[expected].T)
  assert rois['drawn'].all()


test_what_is_chosen, test_what_is_chosen_slow = check_what_is_chosen


def test_masks_as_programs_write_them(folder):
  for header in (nibabel.Nifti1Image, nibabel.Nifti2Image):
    for order in '<>':
      image = header(np.uint8(nsd() == 1) * 255, AFFINE, header.header_class(endianness=order))
      image.header.set_slope_inter(1 / 255, 0)
      image.header.set_data_dtype(np.uint8)
      nibabel.save(image, folder / 'scaled.nii')
      assert read(folder, Mask(folder / 'scaled.nii'))[0].shape == (TRIALS, 10)
  path = save(folder / 'named.nii.gz', np.uint8(nsd() == 1))
  (folder / 'named.nii').write_bytes(path.read_bytes())
  refused('named.nii: compressed, unlike its name; rename it to .nii.gz', folder, Mask(folder / 'named.nii'))
  path.write_bytes(save(folder / 'plain.nii', np.uint8(nsd() == 1)).read_bytes())
  refused('named.nii.gz: not compressed, unlike its name; rename it to .nii', folder, Mask(path))
  refused('complex64; expected floating-point', folder, Mask(save(folder / 'c.nii', np.complex64(nsd()))))
  atlas = np.float32(nsd())
  rows, rois = read(folder, Mask(save(folder / 'f.nii', atlas), (1,), 'V1'), Mask(folder / 'f.nii', (1, 0), 'both'))
  assert rows.shape == (TRIALS, 20) and rois['V1'].sum() == 10 and rois['both'].all()
  large = np.where(nsd() == 1, 16777217.0, 16777216.0)  # one number in float32
  assert read(folder, Mask(save(folder / 'large.nii', large), (16777217,), 'V1'))[0].shape == (TRIALS, 10)


def test_grids_that_differ(folder):
  values = np.uint8(nsd() == 1)
  refused(
    r'shape \(2, 4, 5\), but betas.nii.gz has volumes of shape \(3, 4, 5\)',
    folder,
    Mask(save(folder / 'a.nii', values[1:])),
  )
  moved = AFFINE.copy()
  moved[0, 3] += 1
  refused(
    r'shape \(3, 4, 5\) as betas.nii.gz, but another affine: .*; resample',
    folder,
    Mask(save(folder / 'b.nii', values, moved)),
  )
  path = save(folder / 'c.nii', values, None)
  refused(r'c.nii does not say how it is oriented .its sform and qform codes are 0.', folder, Mask(path))
  data = bytearray(save(folder / 's.nii', values).read_bytes())
  for number in (0.0, np.nan):  # rows of the affine
    data[280:328] = np.full(12, number, '<f4').tobytes()
    path.write_bytes(data)
    refused('c.nii: its affine .* is singular; write the right one into the header', folder, Mask(path))
  path = save(folder / 'd.nii', np.stack([values, values], axis=3))
  refused(r'shape \(3, 4, 5, 2\); expected one volume of 3 axes', folder, Mask(path))


def test_masks_of_arrays(folder, capsys):
  np.save(folder / 'm.npy', nsd() == 1)
  assert read(folder, Mask(folder / 'm.npy', (1,)), betas='betas.npy')[0].shape == (TRIALS, 10)
  capsys.readouterr()
  for shape in (SHAPE, (*SHAPE, 1), (1, *SHAPE)):
    for dtype in (bool, np.uint8, np.float32):
      np.save(folder / 'm.npy', (nsd() == 1).astype(dtype).reshape(shape))
      rows, _ = read(folder, Mask(folder / 'm.npy'), betas='betas.npy')
      np.testing.assert_array_equal(rows, np.load(folder / 'betas.npy')[1, :2].reshape(10, TRIALS).T)
  assert 'the last of its axes (3, 4, 5, 7) is read as trials, because the events name 7' in capsys.readouterr().out
  save(folder / 'm.nii.gz', np.uint8(nsd() == 1))
  np.testing.assert_array_equal(read(folder, Mask(folder / 'm.nii.gz'), betas='betas.npy')[0], rows)
  assert 'betas.npy holds no orientation, so the mask is used voxel by voxel' in capsys.readouterr().out
  refused('volumes of shape .* need one or more masks', folder, betas='betas.npy')
  np.save(folder / 'm.npy', np.ones((5, 4, 3), bool))
  refused(
    r'shape \(5, 4, 3\); expected \(3, 4, 5\), one value for each voxel',
    folder,
    Mask(folder / 'm.npy'),
    betas='betas.npy',
  )


def test_betas_on_five_axes(folder):  # as AFNI writes them
  path = save(folder / 'afni.nii', np.load(folder / 'betas.npy')[:, :, :, None])
  mask = Mask(save(folder / 'm.nii', np.uint8(nsd() == 1)))
  np.testing.assert_array_equal(read(folder, mask, betas=path.name)[0], read(folder, mask)[0])


def test_names():
  def names(text):
    return [(str(mask.path), mask.labels, mask.name) for mask in masks.parse_masks(text)]

  assert names('a/V1.nii.gz,V2.NII') == [('a/V1.nii.gz', (), 'V1'), ('V2.NII', (), 'V2')]
  assert names('R.nii:1,2=V1,3,-4=V2,x.npy=hV4') == [
    ('R.nii', (1, 2), 'V1'),
    ('R.nii', (3, -4), 'V2'),
    ('x.npy', (), 'hV4'),
  ]
  assert names('R.nii.gz:1,2') == [('R.nii.gz', (1, 2), 'R')]
  for text in ('V1.mgz', 'R.nii:', 'R.nii:V1', 'R.nii:1=', 'R.nii:=V1', '1,2'):
    with pytest.raises(UserError, match='--mask: cannot read'):
      masks.parse_masks(text)
  for text in ('V1.nii,x/V1.npy', 'R.nii:1=VC', 'R.nii:1=a b'):
    with pytest.raises(UserError, match='expected different names'):
      own.Source(Path(), Path(), Path(), masks.parse_masks(text))


@pytest.mark.parametrize(('dtype', 'scale'), [(np.float32, None), (np.float16, None), (np.int16, 300), (np.uint8, 0.5)])
def test_layout_and_scale(tmp_path, dtype, scale, capsys):
  study = own_files.write(tmp_path / 'raw')
  num_trials = len(study.fmri)
  values = (study.fmri * 20).astype(dtype)
  expected = values.astype(np.float64) / (scale or 1)

  def load(array, num_trials=num_trials, scale=scale):
    np.save(study.betas, array)
    return own_betas.read_betas(study.betas, (Mask(study.masks['V2']),), num_trials, study.events, scale)[0]

  np.testing.assert_allclose(load(values), expected[:, [6, 7, 8, 10]], rtol=1e-6)
  assert capsys.readouterr().out == ''
  np.testing.assert_allclose(load(values.T), expected[:, [6, 7, 8, 10]], rtol=1e-6)
  assert f'the last of its axes (12, {num_trials}) is read as trials' in capsys.readouterr().out
  with pytest.raises(UserError, match=r'shape \(12, 12\), and the events name 12 trials, so either axis could be'):
    load(values[:12], 12)
  with pytest.raises(UserError, match='18 trials, but .*events.tsv has 19 rows'):
    load(values[1:])
  if np.dtype(dtype).kind in 'iu':
    with pytest.raises(UserError, match=f'whole numbers .{np.dtype(dtype)}.*--scale=300'):
      load(values, scale=None)
  for bad in (0, -1, np.nan, np.inf):
    with pytest.raises(UserError, match='--scale=.*expected a positive number'):
      study.source(scale=bad)


def glmsingle(values):
  """Results as GLMsingle saves them: a pickled dictionary."""
  return {'betasmd': values, 'HRFindex': np.zeros(SHAPE), 'rrbadness': None, 'pcnum': 3, 'xvaltrend': [0.1, 0.2]}


def test_glmsingle(folder, tmp_path, capsys):
  values = np.load(folder / 'betas.npy')
  chosen = nsd() == 1
  np.save(tmp_path / 'mask.npy', chosen)
  mask, expected = Mask(tmp_path / 'mask.npy'), values[chosen].T
  path = tmp_path / 'TYPED_FITHRF_GLMDENOISE_RR.npy'
  np.save(path, glmsingle(values), allow_pickle=True)
  np.testing.assert_array_equal(read(tmp_path, mask, betas=path.name)[0], expected)
  np.save(path, glmsingle(values.reshape(60, 1, 1, TRIALS)), allow_pickle=True)  # voxels without a grid
  np.testing.assert_array_equal(read(tmp_path, betas=path.name)[0], values.reshape(60, TRIALS).T)
  refused('volumes of shape .* need one or more masks', folder, betas='betas.npy')
  np.save(path, {'R2': values}, allow_pickle=True)
  refused('a dictionary of R2; expected .* results of GLMsingle with betasmd', tmp_path, betas=path.name)
  np.save(path, {'betasmd': np.zeros((3, 4, 5, TRIALS), object)}, allow_pickle=True)
  refused('betasmd is object of shape .3, 4, 5, .*expected numbers', tmp_path, betas=path.name)
  np.save(path, np.array([1, 'a', None], object), allow_pickle=True)
  refused('Python objects; expected an array of numbers', tmp_path, betas=path.name)
  np.save(path, glmsingle(values[..., :1]), allow_pickle=True)  # TYPEA_ONOFF
  refused('1 trials, but .*events.tsv has 7 rows', tmp_path, mask, betas=path.name)


def test_hdf5(folder, tmp_path, capsys):
  h5py = pytest.importorskip('h5py')
  values = np.load(folder / 'betas.npy')
  mask = Mask(save(tmp_path / 'mask.nii.gz', np.uint8(nsd() == 1)))
  expected = values[1, :2].reshape(10, TRIALS).T

  def write(name='r.hdf5', **arrays):
    with h5py.File(tmp_path / name, 'w') as file:
      for key, array in arrays.items():
        file[key] = array
    return name

  for name in (
    write(betasmd=values, R2=values[..., 0]),
    write('r.mat', modelmd=values.T),
    write('n.h5', betas=values.T),
  ):
    np.testing.assert_array_equal(read(tmp_path, mask, betas=name)[0], expected)
  assert 'n.h5: betas is read as X Y Z, trials = (3, 4, 5, 7)' in capsys.readouterr().out
  whole = np.int16(np.round(values * 300))
  write('n.h5', betas=whole.T)
  refused('whole numbers .int16.*--scale=300 for the Natural Scenes Dataset', tmp_path, mask, betas='n.h5')
  rows, _, _ = own_betas.read_betas(tmp_path / 'n.h5', (mask,), TRIALS, tmp_path / 'events.tsv', 300)
  np.testing.assert_allclose(rows, expected, atol=0.5 / 300 + 1e-6)
  flat = values.reshape(60, TRIALS)
  for array in (flat, flat.T):
    np.testing.assert_array_equal(read(tmp_path, betas=write('flat.h5', betas=array))[0], flat.T)
  write('cube.h5', betas=np.zeros((TRIALS, 3, 4, 3)))
  refused(r'betas has shape \(7, 3, 4, 3\), in which X and Z cannot be distinguished', tmp_path, mask, betas='cube.h5')
  refused('holds R2; expected one of betasmd, modelmd, betas', tmp_path, mask, betas=write(R2=values))
  refused('holds betas, betasmd; expected one of', tmp_path, mask, betas=write(betas=values, betasmd=values))
  refused('betasmd is .* expected numbers', tmp_path, mask, betas=write(betasmd=np.array([b'a'])))
  (tmp_path / 'old.mat').write_bytes(b'MATLAB 5.0 MAT-file')
  refused('old.mat: not an HDF5 file; MATLAB writes one with', tmp_path, mask, betas='old.mat')
  with h5py.File(tmp_path / 'r.hdf5', 'w') as file:
    file['betasmd'] = h5py.ExternalLink('n.h5', 'betas')
  refused('betasmd is not an array in this file', tmp_path, mask, betas='r.hdf5')


def test_whole_numbers_of_nifti_need_a_scale_unless_the_header_has_one(folder):
  whole = np.round(300 * np.load(folder / 'betas.npy')).astype(np.int16)
  path, mask = save(folder / 'whole.nii.gz', whole), Mask(save(folder / 'all.nii.gz', np.ones(SHAPE, np.uint8)))
  refused(r'whole.nii.gz: whole numbers \(int16\).*--scale=300', folder, mask, betas=path.name)
  expected = whole.reshape(-1, TRIALS).T / 300
  rows, *_ = own_betas.read_betas(path, [mask], TRIALS, folder / 'events.tsv', 300)
  np.testing.assert_allclose(rows, expected, rtol=1e-6)
  image = nibabel.Nifti1Image(whole, AFFINE)
  image.header.set_slope_inter(1 / 300, 0)
  nibabel.save(image, folder / 'scaled.nii.gz')
  rows, _ = read(folder, mask, betas='scaled.nii.gz')
  np.testing.assert_allclose(rows, expected, rtol=1e-6)


def test_a_mask_of_another_shape_is_not_called_turned(folder, capsys):
  mask = Mask(save(folder / 'other.nii.gz', np.ones((3, 4, 9), np.uint8), np.diag([2.0, 2, 2, 1])))
  refused(r'other.nii.gz: shape \(3, 4, 9\), but betas.nii.gz has volumes of shape \(3, 4, 5\)', folder, mask)
  assert 'turned to' not in capsys.readouterr().out
