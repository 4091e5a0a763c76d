"""Tests of the simulated files of NSD and MindEye2: the published form, and responses to the pictures that were shown."""

import h5py
import nibabel
import numpy as np
import scipy.io

from brainjax.simulator import cortex, nsd


def test_files_have_the_published_form_and_hold_responses_to_the_pictures(tmp_path):
  shown = nsd.make_experiment(subjects=2, sessions=1, seed=5, image_size=64, repetitions=25)
  config = cortex.CortexConfig(num_voxels=97, median_explainable_variance=0.6)
  nsd.write_shared(tmp_path / 'NSD', tmp_path / 'MindEye2', shown)
  nsd.write_subject(tmp_path / 'NSD', tmp_path / 'MindEye2', 2, config, 5, shown)
  design = scipy.io.loadmat(tmp_path / 'NSD/nsddata/experiments/nsd/nsd_expdesign.mat')
  order, images, shared = (design[name] for name in ('masterordering', 'subjectim', 'sharedix'))
  assert order.shape == (1, 750) and images.shape == (2, 30) and shared.shape == (1, 3)
  assert set(images[0]) & set(images[1]) == set(shared[0]) and images.min() == 1
  with h5py.File(tmp_path / 'NSD/nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5') as file:
    assert file['imgBrick'].shape == (57, 64, 64, 3) and file['imgBrick'].dtype == np.uint8
  folder = tmp_path / 'NSD/nsddata/ppdata/subj02/func1pt8mm/roi'
  general = np.asarray(nibabel.load(folder / 'nsdgeneral.nii.gz').dataobj)
  prf = np.asarray(nibabel.load(folder / 'prf-visualrois.nii.gz').dataobj)
  assert (
    (general == 1).sum() == 97 and set(np.unique(general)) == {-1, 0, 1} and set(np.unique(prf)) == set(range(-1, 8))
  )
  assert len(set(general.shape)) == 3 and general[prf > 0].all()
  name = 'NSD/nsddata_betas/ppdata/subj02/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session01.hdf5'
  with h5py.File(tmp_path / name) as file:
    assert file['betas'].dtype == np.int16
    volumes = file['betas'][:].T  # X Y Z trials
  assert volumes.shape == (*general.shape, 750) and not volumes[general != 1].any()
  # The mean response to each picture follows the signal of the same cortex, area by area.
  subject = cortex.Subject(config, 5, group=2, number=2)
  signal = subject.signal(shown.features)
  pictures = images[1][order[0] - 1] - 1
  for labels, roi in (((1, 2), 'V1'), ((7,), 'V4')):
    responses = volumes[np.isin(prf, labels)].T / 300  # trials V, in the order of the mask
    means = np.array([responses[pictures == number].mean(0) for number in images[1] - 1])
    expected = signal[images[1] - 1][:, subject.slices[roi]]
    # Patterns over the area's voxels in any order: distances between pictures do not depend on it.
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(30, 1)] for x in (means, expected)]
    assert np.corrcoef(*distances)[0, 1] > 0.8
