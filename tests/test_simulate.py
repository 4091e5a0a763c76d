"""Tests of the simulation command: what it writes, what it leaves alone, what it refuses."""

import dataclasses
import json

import numpy as np
import pytest

from brainjax import simulate
from brainjax.errors import UserError
from brainjax.files import sha256
from brainjax.simulator import cortex
from configs import base

OPTIONS = ['--voxels=97', '--subjects=2', '--hcp_subjects=2', '--image_size=64', '--workers=2']


def _state(folder):
  return {str(p.relative_to(folder)): (sha256(p), p.stat().st_mtime_ns) for p in folder.rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('out') / 'simulated'
  assert simulate.main([f'--out={folder}', *OPTIONS]) == 0
  return folder


def test_writes_both_trees_and_the_note(written):
  assert set(_state(written)) == {
    'simulation.json', 'HCP/npz/900001/HCP_visual_voxel.npz', 'HCP/npz/900002/HCP_visual_voxel.npz',
    'Kamitani/npz/sbj_1.npz', 'Kamitani/npz/sbj_2.npz', 'Kamitani/npz/images_256.npz',
    'Kamitani/npz/imagenet_class_index.json', 'Kamitani/npz/imagenet_training_label.csv',
    'Kamitani/npz/imagenet_testing_label.csv'}  # fmt: skip
  note = json.loads((written / 'simulation.json').read_text())
  noise = note['settings']['cortex']
  assert noise['median_explainable_variance'] == 0.15 and noise['pure_noise_fraction'] == 0.1
  assert noise['shared_noise_fraction'] == 0.5 and noise['num_shared_components'] == 6
  assert note['settings']['god_voxels'] == [97, 97] and len(note['categories']) == 200
  subjects = [np.load(written / f'Kamitani/npz/sbj_{k}.npz') for k in (1, 2)]
  assert not np.array_equal(subjects[0]['arr_0'], subjects[1]['arr_0'])
  assert not np.array_equal(subjects[0]['arr_3'], subjects[1]['arr_3'])


def test_complete_files_stay_and_missing_ones_are_simulated_again(written, capsys):
  before = _state(written)
  assert simulate.main([f'--out={written}', *OPTIONS]) == 0
  assert 'nothing to do' in capsys.readouterr().out
  assert _state(written) == before
  lost = ('Kamitani/npz/sbj_2.npz', 'HCP/npz/900001/HCP_visual_voxel.npz')
  for name in lost:
    (written / name).unlink()
  assert simulate.main([f'--out={written}', *OPTIONS, '--workers=1']) == 0
  after = _state(written)
  for name, (checksum, changed) in before.items():
    assert after[name][0] == checksum
    assert (after[name][1] != changed) == (name in lost)


@pytest.mark.parametrize(
  'option,field', [('--voxels=98', 'god_voxels'), ('--seed=1', 'seed'), ('--hcp_subjects=3', 'hcp_subjects')]
)
def test_refuses_the_folder_of_another_simulation(written, capsys, option, field):
  before = _state(written)
  assert simulate.main([f'--out={written}', *OPTIONS, option]) == 2
  message = capsys.readouterr().err
  assert message.startswith('error: ') and field in message and message.count('\n') == 1
  assert _state(written) == before


def test_noise_of_the_config(tmp_path, written):
  default = base.get_config().simulate
  noise = {name: default[name] for name in simulate.NOISE}
  fields = dataclasses.asdict(cortex.CortexConfig())
  assert noise == {name: fields[name] for name in noise}
  sizes = {'voxels': 97, 'subjects': 1, 'hcp_subjects': 1, 'image_size': 64}
  for name, options in {'default': noise, 'quiet': noise | {'median_explainable_variance': 0.6}}.items():
    simulate.simulate(tmp_path / name, **sizes, **options)
  place = 'Kamitani/npz/sbj_1.npz'
  assert sha256(tmp_path / 'default' / place) == sha256(written / place)

  def reliability(folder):  # of the mean test response, over repetitions
    trials = np.load(folder / place)['arr_1'].reshape(50, 35, 97).swapaxes(0, 1)
    return np.mean(trials.mean(0).var(0) / trials.var(axis=(0, 1)))

  assert reliability(tmp_path / 'quiet') > 1.5 * reliability(tmp_path / 'default')
  with pytest.raises(UserError, match='pure_noise_fraction: found 0.5, expected at least 0.0 and less than 0.5'):
    simulate.simulate(tmp_path / 'new', pure_noise_fraction=0.5)


def test_shared_vertices_need_equal_numbers_of_voxels(tmp_path):
  with pytest.raises(UserError, match='subject_jitter: found 0.5 without voxels'):
    simulate.simulate(tmp_path / 'new', subject_jitter=0.5)
  with pytest.raises(UserError, match='subject_jitter: found 1.5, expected 0 to 1'):
    simulate.simulate(tmp_path / 'new', voxels=97, subject_jitter=1.5)


def test_refuses_real_data(tmp_path, capsys):
  real = tmp_path / 'Kamitani' / 'npz' / 'sbj_1.npz'
  real.parent.mkdir(parents=True)
  real.write_bytes(b'real')
  assert simulate.main([f'--out={tmp_path}', *OPTIONS]) == 2
  assert 'without simulation.json, so it is not simulated' in capsys.readouterr().err
  assert list(_state(tmp_path)) == ['Kamitani/npz/sbj_1.npz'] and real.read_bytes() == b'real'


@pytest.mark.parametrize('text', ['{"truncat', '[]', '{}', '{"settings": 3}'])
def test_refuses_a_broken_note(tmp_path, capsys, text):
  (tmp_path / 'simulation.json').write_text(text)
  assert simulate.main([f'--out={tmp_path}', *OPTIONS]) == 2
  assert 'simulation' in capsys.readouterr().err
  assert (tmp_path / 'simulation.json').read_text() == text


@pytest.mark.parametrize('option', ['--voxels=7', '--voxels=0', '--subjects=0', '--subjects=6', '--hcp_subjects=-1',
                                    '--image_size=100', '--image_size=0', '--seed=-1', '--workers=0'])  # fmt: skip
def test_refuses_impossible_numbers(tmp_path, capsys, option):
  assert simulate.main([f'--out={tmp_path / "new"}', *OPTIONS, option]) == 2
  assert option.split('=')[0][2:] in capsys.readouterr().err
  assert not (tmp_path / 'new').exists()


def test_refuses_a_file(tmp_path, capsys):
  path = tmp_path / 'file'
  path.write_text('mine')
  assert simulate.main([f'--out={path}', *OPTIONS]) == 2
  assert 'is a file' in capsys.readouterr().err and path.read_text() == 'mine'


def test_says_what_it_could_not_write(tmp_path, capsys):
  (tmp_path / 'file').write_text('mine')
  assert simulate.main([f'--out={tmp_path / "file" / "below"}', *OPTIONS]) == 2
  message = capsys.readouterr().err
  assert message.startswith('error: ') and 'file' in message and message.count('\n') == 1


def test_nsd_is_written_once_where_it_is_asked_for(tmp_path, capsys):
  options = [f'--out={tmp_path / "a"}', '--voxels=97', '--subjects=1', '--hcp_subjects=0', '--image_size=64']
  assert simulate.main([*options, '--nsd_subjects=1', '--nsd_sessions=1']) == 0
  note = json.loads((tmp_path / 'a' / 'simulation.json').read_text())['settings']
  assert (note['nsd_subjects'], note['nsd_sessions'], note['nsd_voxels']) == (1, 1, 97)
  before = _state(tmp_path / 'a')
  assert (
    'MindEye2/betas_all_subj01_fp32_renorm.hdf5' in before and 'NSD/nsddata/experiments/nsd/nsd_expdesign.mat' in before
  )
  capsys.readouterr()
  assert simulate.main([*options, '--nsd_subjects=1', '--nsd_sessions=1']) == 0
  assert 'nothing to do' in capsys.readouterr().out and _state(tmp_path / 'a') == before
  (tmp_path / 'a' / 'MindEye2' / 'betas_all_subj01_fp32_renorm.hdf5').unlink()
  assert simulate.main([*options, '--nsd_subjects=1', '--nsd_sessions=1']) == 0
  again = _state(tmp_path / 'a')
  name = 'NSD/nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session01.hdf5'
  assert again.keys() == before.keys() and again[name][0] == before[name][0]
  for option in ('--nsd_subjects=9', '--nsd_subjects=-1', '--nsd_sessions=0', '--nsd_sessions=41'):
    assert simulate.main([f'--out={tmp_path / "new"}', option]) == 2
    assert option[2:].split('=')[0] in capsys.readouterr().err
