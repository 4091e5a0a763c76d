"""The prepare command: done once, done again only when raw files change, never half done."""

import os
import subprocess
import sys

import numpy as np
import pytest

from brainjax import prepare
from brainjax.datasets import god
from tests.datasets import raw_files


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
  assert sorted(path.name for path in out.iterdir()) == ['god'] and [path.name for path in (out / 'god').iterdir()] == [
    'sbj_3'
  ]


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
