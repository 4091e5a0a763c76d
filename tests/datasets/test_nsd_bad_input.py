"""Damaged and unusual files of NSD and MindEye2: one sentence each, exit status 2, and nothing is left that looks prepared."""

import re
import shutil

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io

from brainjax import prepare
from tests.datasets import nsd_files
from tests.datasets.nsd_files import DESIGN, STIMULI, as_nifti, mind_eye, responses, roi, session

BETAS1, BETAS2, GENERAL = session('subj01', 1), session('subj01', 2), roi('subj01')
IMAGES, INDICES, SHARED = 'coco_images_224_float16.hdf5', 'COCO_73k_subj_indices.hdf5', 'shared1000.npy'


def change_design(path, **arrays):
  design = scipy.io.loadmat(path)
  kept = {name: design[name] for name in ('masterordering', 'subjectim', 'sharedix')} | arrays
  scipy.io.savemat(path, {name: values for name, values in kept.items() if values is not None})


def swap_subjects(path):
  change_design(path, subjectim=scipy.io.loadmat(path)['subjectim'][::-1])


def change_hdf5(path, name, change, **options):
  with h5py.File(path, 'r+') as file:
    values = change(file[name][:])
    del file[name]
    file.create_dataset(name, data=values, **options)


def change_nifti(path, change=lambda values: values, affine=lambda affine: affine):
  image = nibabel.load(path)
  values = np.asarray(image.dataobj)
  path.unlink()
  nibabel.save(nibabel.Nifti1Image(change(values), affine(image.affine)), path)


def truncate(path, share=0.6):
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def damage_chunk(path):
  change_hdf5(path, 'betas', lambda values: values, chunks=(750, 3, 3, 3), compression='gzip')
  with h5py.File(path) as file:
    chunk = file['betas'].id.get_chunk_info(13)
  data = bytearray(path.read_bytes())
  data[chunk.byte_offset + 10 : chunk.byte_offset + chunk.size - 10] = bytes(chunk.size - 20)
  path.write_bytes(data)


def spoil_sum(path):
  data = bytearray(path.read_bytes())
  data[-6] ^= 255  # of the check sum
  path.write_bytes(data)


def put(values, index, value):
  values[index] = value
  return values


def without(copy, *names):
  for name in names:
    (copy / name).unlink()


def empty_trial(copy):
  for number in (1, 2):
    path = as_nifti(copy, number, np.float32, '.nii', 1 / 300)
  image = nibabel.load(path)
  values = np.array(image.dataobj)
  values[..., 17] = np.nan
  nibabel.save(nibabel.Nifti1Image(values, image.affine), path)


def empty_place(copy):
  general = np.argwhere(nsd_files.labels(copy, 'subj01', 'nsdgeneral') == 1)[5]
  for number in (1, 2):
    path = as_nifti(copy, number, np.float32, '.nii', 1 / 300)
  image = nibabel.load(path)
  values = np.array(image.dataobj)
  values[*general, 17] = np.nan
  nibabel.save(nibabel.Nifti1Image(values, image.affine), path)


def rename_versions(copy):
  folder = (copy / BETAS1).parent
  shutil.copytree(folder, folder.with_name('betas_fithrf'))
  folder.rename(folder.with_name('betas_assumehrf'))


# name -> files that are copied, what is done to the copy, further options, what the message says.
RAW = {
  'no pictures': ((STIMULI,), lambda c: without(c, STIMULI), '', r'no nsd_stimuli.hdf5 or coco_images_224'),
  'no design': ((DESIGN,), lambda c: without(c, DESIGN), '', r'no nsd_expdesign.mat there, nor COCO_73k'),
  'no mask': ((GENERAL,), lambda c: without(c, GENERAL), '', r'no nsdgeneral.nii.gz there, which nsdgeneral needs'),
  'a session is missing': ((BETAS1,), lambda c: without(c, BETAS1), '', r'session 1 of subj01 is missing, but there are 1 up to'),
  'truncated betas': ((BETAS2,), lambda c: truncate(c / BETAS2), '', r'session02.hdf5: damaged or not an HDF5 file'),
  'not HDF5': ((BETAS2,), lambda c: (c / BETAS2).write_bytes(b'no'), '', r'session02.hdf5: not an HDF5 file'),
  'damaged chunk': ((BETAS2,), lambda c: damage_chunk(c / BETAS2), '', r'session02.hdf5: damaged or not an HDF5 file'),
  'fewer trials': (
    (BETAS2,), lambda c: change_hdf5(c / BETAS2, 'betas', lambda x: x[:749]), '', r'session02.hdf5: 749 trials; expected 750'),
  'other grid': (
    (BETAS2,), lambda c: change_hdf5(c / BETAS2, 'betas', lambda x: x[:, 1:]), '', r'session02.hdf5: volumes of shape .* masks have'),
  'three axes': (
    (BETAS2,), lambda c: change_hdf5(c / BETAS2, 'betas', lambda x: x[:, 0]), '', r'session02.hdf5: betas has shape .*expected 4 axes'),
  'float betas': (
    (BETAS2,), lambda c: change_hdf5(c / BETAS2, 'betas', lambda x: x / np.float32(300)), '',
    r'session02.hdf5: float32; the betas of NSD are whole numbers, 300 for a per cent'),
  'scaled by the header': ((), lambda c: as_nifti(c, 2, slope=1 / 300), '', r'session02.nii.gz: scaled by its header; .*--scale=1'),
  'truncated gz': ((), lambda c: truncate(as_nifti(c, 2)), '', r'session02.nii.gz: damaged or not a NIfTI file'),
  'check sum of gz': ((), lambda c: spoil_sum(as_nifti(c, 2)), '', r'session02.nii.gz: damaged or not a NIfTI file \(CRC'),
  'other place': ((), lambda c: as_nifti(c, 2, affine=np.diag([2, 2, 2, 1])), '', r'session02.nii.gz: another affine than'),
  'a trial of NaN': ((), empty_trial, '--scale=1', r'session 2: 1 trials hold no response .*the first is trial 18 of 750'),
  'one NaN': ((), empty_place, '--scale=1', r'session 2 has 1 NaN or infinite values, the first in row 17, voxel 5'),
  'a trial of 0': (
    (BETAS1,), lambda c: change_hdf5(c / BETAS1, 'betas', lambda x: put(x, 3, 0)), '', r'1 trials hold no response .*trial 4 of 750'),
  'design of another subject': ((DESIGN,), lambda c: swap_subjects(c / DESIGN), '', r'responses.tsv: \d+ of 1500 trials of subj01 show'),
  'responses of another subject': (
    (responses('subj01'),), lambda c: (c / responses('subj01')).write_text('SUBJECT\t73KID\n2\t5\n'), '', r'holds trials of subject 2;'),
  'no responses': ((responses('subj01'),), lambda c: (c / responses('subj01')).write_text('A\tB\n1\t5\n'), '', r'not a table of resp'),
  'fewer subjects': (
    (DESIGN,), lambda c: change_design(c / DESIGN, subjectim=np.ones((0, 3))), '', r'subjectim is float64 of shape \(0, 3\)'),
  'short design': (
    (DESIGN,), lambda c: change_design(c / DESIGN, masterordering=np.ones((1, 1400))), '', r'masterordering has 1400 values'),
  'large numbers': (
    (DESIGN,), lambda c: change_design(c / DESIGN, masterordering=np.full((1, 1500), 61)), '', r'1500 values from 61 to 61; .*1 to 60'),
  'other shared pictures': (
    (DESIGN,), lambda c: change_design(c / DESIGN, sharedix=np.array([[9999]])), '', r'0 of the 1 shared pictures .*not the design'),
  'no shared pictures': ((DESIGN,), lambda c: change_design(c / DESIGN, sharedix=None), '', r'holds no sharedix; expected nsd_exp'),
  'not MATLAB': ((DESIGN,), lambda c: truncate(c / DESIGN), '', r'nsd_expdesign.mat: damaged or not a MATLAB file'),
  'text as numbers': ((DESIGN,), lambda c: change_design(c / DESIGN, sharedix='abc'), '', r'sharedix is <U3 of shape'),
  'mask of another shape': (
    (roi('subj01', 'streams'),), lambda c: change_nifti(c / roi('subj01', 'streams'), lambda x: x[1:]), '',
    r'streams.nii.gz: shape .*resample'),
  'mask in another place': (
    (roi('subj01', 'streams'),),
    lambda c: change_nifti(c / roi('subj01', 'streams'), affine=lambda affine: affine + np.diag([1, 0, 0, 0])),
    '', r'streams.nii.gz: .*another affine'),
  'mask that is not whole': (
    (GENERAL,), lambda c: change_nifti(c / GENERAL, lambda x: x * np.float32(0.5)), '', r'nsdgeneral.nii.gz: an atlas of values'),
  'mask without voxels': (
    (GENERAL,), lambda c: change_nifti(c / GENERAL, lambda x: x * 0), '', r'nsdgeneral.nii.gz: no voxel has label 1; the labels there'),
  'damaged mask': ((GENERAL,), lambda c: truncate(c / GENERAL), '', r'nsdgeneral.nii.gz: damaged or not a NIfTI file'),
  'label that does not occur': ((), None, '--rois=aTL-faces', r'floc-faces.nii.gz: no voxel has label 5; the labels there are -1, 0, 2, 3'),
  'label of a file': ((), None, '--rois=streams:9', r'streams.nii.gz: no voxel has label 9'),
  'unknown ROI': ((), None, '--rois=V1+V9', r'subj01: no ROI named V9; known are areas V1v, .*files floc-faces'),
  'ROI without file': ((), None, '--rois=EBA', r'no floc-bodies.nii.gz there, which EBA needs'),
  'no version': ((), None, '--betas=betas_fithrf', r'the betas of subj01 are betas_fithrf_GLMdenoise_RR; expected betas_fithrf,'),
  'two versions': ((BETAS1, BETAS2), rename_versions, '', r'the betas of subj01 are betas_assumehrf, betas_fithrf; expected'),
  'negative scale': ((), None, '--scale=-1', r'--scale=-1; expected a positive number'),
  'unknown subject': ((), None, '--subjects=subj07', r'no files of subject subj07; those that exist: subj01'),
  'two designs': (
    (), lambda c: shutil.copy(c / DESIGN, c / 'nsd_expdesign.mat'), '', r'nsd_expdesign.mat: .* has the same meaning; keep one'),
  'fewer pictures': (
    (STIMULI,), lambda c: change_hdf5(c / STIMULI, 'imgBrick', lambda x: x[:50]), '', r'nsd_stimuli.hdf5: 50 pictures, but picture \d+'),
  'empty pictures': (
    (STIMULI,), lambda c: change_hdf5(c / STIMULI, 'imgBrick', lambda x: 0 * x), '', r'nsd_stimuli.hdf5: picture \d+ .*is empty, but'),
  'pictures of another type': (
    (STIMULI,), lambda c: change_hdf5(c / STIMULI, 'imgBrick', lambda x: x[..., 0]), '', r'imgBrick is uint8 of shape .*expected uint8'),
  'truncated pictures': ((STIMULI,), lambda c: truncate(c / STIMULI), '', r'nsd_stimuli.hdf5: damaged or not an HDF5 file'),
}  # fmt: skip
MIND_EYE = {
  'not whole sessions': (
    (mind_eye('subj01'),), lambda c: change_hdf5(c / mind_eye('subj01'), 'betas', lambda x: x[:-1]), '', r'shape \(1499, 80\); .* 750 a'),
  'a trial of NaN': (
    (mind_eye('subj01'),), lambda c: change_hdf5(c / mind_eye('subj01'), 'betas', lambda x: put(x, 760, np.nan)), '',
    r'session 2: 1 trials hold no response .*trial 11 of 750'),
  'truncated betas': ((mind_eye('subj01'),), lambda c: truncate(c / mind_eye('subj01')), '', r'renorm.hdf5: damaged or not an HDF5'),
  'no subject': ((INDICES,), lambda c: change_hdf5(c / INDICES, 'subj01', lambda x: x[:800]), '', r'subj01 has 800 trials, but there are'),
  'no flags': ((SHARED,), lambda c: without(c, SHARED), '', r'nor COCO_73k_subj_indices.hdf5 with shared1000.npy'),
  'few flags': ((SHARED,), lambda c: np.save(c / SHARED, np.ones(10, bool)), '', r'shared1000.npy: 10 values from True to True'),
  'no test pictures': ((SHARED,), lambda c: np.save(c / SHARED, np.zeros(999, bool)), '', r'0 of the 1500 trials of subj01 show a shared'),
  'pictures of 255': (
    (IMAGES,), lambda c: change_hdf5(c / IMAGES, 'images', lambda x: x * np.float16(255)), '', r'values from \S+ to 2\d\d.*; expected 0'),
  'ROI without masks': ((), None, '--rois=V1', r'subj01: no nsdgeneral.nii.gz there'),
}  # fmt: skip


def refuse(folder, tmp_path, capsys, copied, change, option, said):
  copy = nsd_files.copy(folder, tmp_path / 'raw', *copied)
  if change:
    change(copy)
  out = tmp_path / 'out'
  assert prepare.main(['nsd', f'--raw={copy}', f'--out={out}', *([option] if option else [])]) == 2
  message = capsys.readouterr().err
  assert message.startswith('error: ') and message.count('\n') == 1
  assert re.search(said, message), message
  assert not list(out.rglob('*record*')) and not list(out.rglob('.staging*'))


@pytest.mark.parametrize('name', RAW)
def test_raw(nsd_folder, tmp_path, capsys, name):
  refuse(nsd_folder / 'NSD', tmp_path, capsys, *RAW[name])


@pytest.mark.parametrize('name', MIND_EYE)
def test_mind_eye(nsd_folder, tmp_path, capsys, name):
  refuse(nsd_folder / 'MindEye2', tmp_path, capsys, *MIND_EYE[name])


def test_files_that_do_not_belong_together(nsd_folder, tmp_path, capsys):
  both = nsd_files.copy(nsd_folder / 'MindEye2', tmp_path / 'raw', INDICES)
  (both / 'subj01').mkdir()
  shutil.copy(nsd_folder / 'NSD' / GENERAL, both / 'subj01' / 'nsdgeneral.nii.gz')
  change_nifti(
    both / 'subj01' / 'nsdgeneral.nii.gz',
    lambda values: put(values, np.unravel_index(values.argmax(), values.shape), 0),
  )
  assert prepare.main(['nsd', f'--raw={both}', f'--out={tmp_path / "out"}']) == 2
  assert '80 voxels, but nsdgeneral has 79; expected as many' in capsys.readouterr().err
  shutil.copy(nsd_folder / 'NSD' / DESIGN, both / 'nsd_expdesign.mat')
  (both / 'subj01' / 'nsdgeneral.nii.gz').unlink()
  change_hdf5(both / INDICES, 'subj01', lambda values: put(values, 3, values[4]))
  assert prepare.main(['nsd', f'--raw={both}', f'--out={tmp_path / "out"}']) == 2
  assert 'indices.hdf5: 1 of 1500 trials of subj01 show another picture than in' in capsys.readouterr().err


def test_no_files(tmp_path, capsys):
  for folder, said in ((tmp_path / 'none', 'no such folder'), (tmp_path, 'no betas there; expected subj01/func1pt8mm')):
    assert prepare.main(['nsd', f'--raw={folder}', f'--out={tmp_path / "out"}']) == 2
    assert said in capsys.readouterr().err
