"""The prepare command: done once, done again only when raw files change, never half done."""

import os
import shutil
import subprocess
import sys
import time
from concurrent import futures

import numpy as np
import pytest

from brainjax import files, prepare
from brainjax.datasets import god, hcp, hcp_cifti, store
from brainjax.errors import UserError
from tests.datasets import bdata_files, raw_files


def snapshot(folder):
  return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob('*') if path.is_file()}


def run(*args):
  return prepare.main([str(arg) for arg in args])


@pytest.fixture
def folders(tmp_path):
  return raw_files.write_god(tmp_path / 'Kamitani' / 'npz').parent, tmp_path / 'prepared'


def test_second_run_changes_nothing(folders, capsys):
  raw, out = folders
  arguments = ('god', f'--raw={raw}', f'--out={out}')
  assert run(*arguments) == 0 and 'god/sbj_1: prepared\n' in capsys.readouterr().out
  before = snapshot(out)
  assert run(*arguments) == 0 and 'god/sbj_3: is prepared already' in capsys.readouterr().out
  assert snapshot(out) == before
  os.utime(raw / 'npz' / 'sbj_1.npz')  # touched, same bytes
  assert run(*arguments) == 0
  assert snapshot(out) == before


def test_changed_raw_files_are_noticed(folders, capsys):
  raw, out = folders
  arguments = ('god', f'--raw={raw}', f'--out={out}')
  run(*arguments)
  before = god.load(out, ['sbj_1']).columns['fmri']
  capsys.readouterr()
  raw_files.change_subject(raw / 'npz', arr_0=raw_files.god_arrays('sbj_1')['arr_0'][::-1].copy())
  assert run(*arguments) == 0
  said = capsys.readouterr().out
  assert (
    'god/sbj_1: prepared again, because raw files changed: sbj_1.npz' in said
    and 'god/sbj_3: is prepared already' in said
  )
  np.testing.assert_allclose(god.load(out, ['sbj_1']).columns['fmri'], before[::-1], atol=1e-5)


def test_failure_keeps_the_old_data(folders, capsys):
  raw, out = folders
  arguments = ('god', f'--raw={raw}', f'--out={out}', '--subjects=sbj_1')
  run(*arguments)
  before = snapshot(out)
  fmri = raw_files.god_arrays('sbj_1')['arr_0'].copy()
  fmri[0, 0] = np.nan
  raw_files.change_subject(raw / 'npz', arr_0=fmri)
  assert run(*arguments) == 2
  said = capsys.readouterr().err
  assert said.startswith('error: ') and said.count('\n') == 1 and 'NaN' in said
  assert snapshot(out) == before and not list(out.glob('.staging*'))


def test_staging_of_a_killed_run_is_removed(folders):
  raw, out = folders
  left = out / '.staging-999999999' / 'god'
  left.mkdir(parents=True)
  run('god', f'--raw={raw}', f'--out={out}', '--subjects=sbj_3')
  assert sorted(path.name for path in out.iterdir()) == ['.lock', 'god']
  assert [path.name for path in (out / 'god').iterdir()] == ['sbj_3']


def test_a_raw_file_is_hashed_once(folders, monkeypatch):
  raw, out = folders
  hashed = []
  monkeypatch.setattr(store, 'sha256', lambda path: hashed.append(path.name) or files.sha256(path))
  assert run('god', f'--raw={raw}', f'--out={out}') == 0
  shared = ['images_256.npz', 'imagenet_class_index.json', 'imagenet_testing_label.csv', 'imagenet_training_label.csv']
  assert sorted(hashed) == sorted([*shared, 'sbj_1.npz', 'sbj_3.npz'])


def test_a_refused_command_leaves_no_trace(folders):
  raw, out = folders
  raw_files.change_subject(raw / 'npz', arr_0=np.full((14, 78), np.nan, np.float32))
  assert run('god', f'--raw={raw}', f'--out={out}', '--subjects=sbj_1') == 2
  assert not out.exists()
  out.mkdir()
  assert run('god', f'--raw={raw}', f'--out={out}', '--subjects=sbj_1') == 2
  assert list(out.iterdir()) == []  # a folder of the user's stays
  assert run('god', f'--raw={raw}', f'--out={out}', '--subjects=sbj_3') == 0  # what is prepared keeps its lock
  assert run('god', f'--raw={raw}', f'--out={out}', '--subjects=sbj_1') == 2
  assert sorted(path.name for path in out.iterdir()) == ['.lock', 'god']


def test_a_lock_that_its_holder_removed(tmp_path):
  path = tmp_path / '.lock'
  first = files.lock(path, lambda: None)
  with futures.ThreadPoolExecutor() as pool:
    waiting = pool.submit(files.lock, path, lambda: None)
    time.sleep(0.2)
    path.unlink()
    first.close()
    second = waiting.result()
  busy = []
  with pytest.raises(InterruptedError):  # the second holds the file that is there now

    def stop():
      busy.append(True)
      raise InterruptedError

    files.lock(path, stop)
  assert busy and not second.closed
  second.close()


def test_two_runs_that_need_the_same_data_make_them_once(folders, capsys):
  raw, out = folders
  out.mkdir()
  at_work = files.lock(out / '.lock', lambda: None)
  with futures.ThreadPoolExecutor() as pool:
    done = [pool.submit(god.prepare, raw, out, ['sbj_1']) for _ in range(2)]
    time.sleep(0.5)
    assert not any(job.done() for job in done) and not (out / 'god').exists()
    at_work.close()
    assert sorted(job.result()['god/sbj_1'][0] for job in done) == ['built', 'kept']
  assert f'{out}: another process prepares data there; waiting for it' in capsys.readouterr().out
  assert god.prepare(raw, out, ['sbj_1'])['god/sbj_1'][0] == 'kept'


# As `python -c SCRIPT <raw> <out> <bytes>`: no file may be larger.
FULL_DISK = """
import resource, signal, sys
from brainjax import prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
sys.exit(prepare.main(['god', f'--raw={sys.argv[1]}', f'--out={sys.argv[2]}', '--subjects=sbj_1']))
"""


def test_a_full_disk_is_reported_and_changes_nothing(folders):
  raw, out = folders
  run('god', f'--raw={raw}', f'--out={out}', '--subjects=sbj_1')
  before = snapshot(out)
  raw_files.change_subject(raw / 'npz', arr_0=raw_files.god_arrays('sbj_1')['arr_0'][::-1].copy())
  command = [sys.executable, '-c', FULL_DISK, str(raw), str(out), '2000']
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2 and done.stderr.startswith('error: ') and done.stderr.count('\n') == 1, done.stderr
  assert 'the prepared data cannot be written (File too large)' in done.stderr
  assert snapshot(out) == before and not list(out.glob('.staging*'))


def test_a_run_does_without_raw_files_that_are_prepared(folders, capsys):
  raw, out = folders
  run('god', f'--raw={raw}', f'--out={out}')
  before = snapshot(out)
  shutil.rmtree(raw)
  capsys.readouterr()
  prepare.for_run('god', str(raw), str(out), ['sbj_1', 'sbj_3'])
  assert capsys.readouterr().out == f'god: no raw files in {raw}; the prepared data in {out} are used\n'
  assert snapshot(out) == before
  with pytest.raises(UserError, match='no such folder'):
    prepare.for_run('god', str(raw), str(out), ['sbj_1', 'sbj_2'])


def test_a_run_tells_that_raw_files_changed(folders, capsys):
  raw, out = folders
  for arrays in ({}, {'arr_0': raw_files.god_arrays('sbj_1')['arr_0'][::-1].copy()}):
    raw_files.change_subject(raw / 'npz', **arrays)
    prepare.for_run('god', str(raw), str(out), ['sbj_1'])
  assert capsys.readouterr().out.endswith('god/sbj_1: prepared again, because raw files changed: sbj_1.npz\n')


def test_a_run_takes_original_files(tmp_path, capsys):
  pytest.importorskip('bdpy')
  bdata_files.write(tmp_path / 'god')
  prepare.for_run('god', str(tmp_path / 'god'), str(tmp_path / 'out'), ['sbj_3'])
  assert len(god.load(tmp_path / 'out', ['sbj_3'], image_size=0)) == len(bdata_files.TRAIN)
  # Pictures that `prepare god --images` was told: a run uses what that made.
  (tmp_path / 'god' / 'images').rename(tmp_path / 'pictures')
  before = snapshot(tmp_path / 'out')
  prepare.for_run('god', str(tmp_path / 'god'), str(tmp_path / 'out'), ['sbj_3'])
  assert snapshot(tmp_path / 'out') == before


def test_a_run_converts_cifti_files_but_not_again(tmp_path, monkeypatch):
  raw, out, asked = tmp_path / 'HCP', tmp_path / 'out', []
  cifti = raw / '100307' / 'rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii'
  cifti.parent.mkdir(parents=True)
  cifti.touch()

  def convert(raw, npz, runs, workers):
    asked.append(runs)
    raw_files.write_hcp(npz.parent)
    return hcp_cifti.Summary()

  monkeypatch.setattr(hcp_cifti, 'prepare', convert)
  run('hcp', f'--raw={raw}', f'--out={out}', '--runs=REST1_LR')
  prepare.for_run('hcp', str(raw), str(out))
  assert asked == [['REST1_LR']]
  shutil.rmtree(out)
  prepare.for_run('hcp', str(raw), str(out))
  assert asked[1:] == [hcp_cifti.RUNS] and len(hcp.load(out)) > 0


def test_no_server_is_asked_and_nothing_left_in_tmp(folders, monkeypatch, tmp_path):
  def asked(*_):
    raise AssertionError('TFDS asks for the facts of a data set that it does not know')

  monkeypatch.setattr('tensorflow_datasets.core.utils.gcs_utils.gcs_dataset_info_files', asked)
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
  (tmp_path / 'temporary').mkdir()
  raw, out = folders
  assert run('god', f'--raw={raw}', f'--out={out}', '--subjects=sbj_3') == 0
  god.load(out, ['sbj_3'])
  assert not list((tmp_path / 'temporary').iterdir())


def test_as_a_command(tmp_path):
  raw = raw_files.write_hcp(tmp_path / 'HCP')
  command = [sys.executable, '-m', 'brainjax.prepare', 'hcp', f'--raw={raw}', f'--out={tmp_path / "out"}']
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert (done.returncode, done.stdout) == (0, 'hcp: prepared\n'), done
  done = subprocess.run([*command[:-2], '--raw=/nowhere', '--out=/tmp'], capture_output=True, text=True, timeout=120)
  assert (
    done.returncode == 2
    and done.stderr.startswith('error: /nowhere: no such folder')
    and 'Traceback' not in done.stderr
  )
