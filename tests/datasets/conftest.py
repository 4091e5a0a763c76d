"""Prepared data sets that several test files read."""

import pytest

from brainjax.datasets import god, hcp
from tests.datasets import nsd_files, raw_files


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
  """A folder with the golden GOD subjects and HCP subjects, prepared."""
  root = tmp_path_factory.mktemp('data')
  god.prepare(raw_files.write_god(root / 'god'), root / 'prepared')
  hcp.prepare(raw_files.write_hcp(root / 'hcp'), root / 'prepared')
  return root / 'prepared'


@pytest.fixture(scope='session')
def nsd_folder(tmp_path_factory):
  """A simulated NSD of two subjects in NSD/, and the files of MindEye2 in MindEye2/."""
  pytest.importorskip('h5py')
  return nsd_files.write(tmp_path_factory.mktemp('nsd'))
