"""A stage and a data set of the user's, defined outside the package, run through launch.py and prepare."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from brainjax.checkpoints import load_weights
from brainjax.datasets.input_transform import InputTransform
from brainjax.metric_writer import read_metrics

ROOT = Path(__file__).parent.parent
REPORT = """
import dataclasses, pathlib, sys
import tests.toys
from brainjax.evaluation import report
from tests.evaluation.report.pages import make_page
folder = pathlib.Path(sys.argv[1])
page = dataclasses.replace(make_page(folder), curves=report.read_curves(folder / 'run'))
report.write_page(page, folder / 'report.html')
"""


def _run(*command):
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  return subprocess.run(
    [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment
  )


def test_a_stage_and_a_data_set_from_outside_the_package(tmp_path):
  raw = np.random.default_rng(0).normal(500, 10, (12, 7)).astype(np.float32)
  (tmp_path / 'toy').mkdir()
  np.save(tmp_path / 'toy' / 's1.npy', raw)
  flags = ['--config=tests/toy_config.py', f'--workdir={tmp_path}/run', f'--config.data.toy={tmp_path}/toy']
  flags += [f'--config.data.prepared={tmp_path}/prepared']
  done = _run('launch.py', *flags)
  assert done.returncode == 0, done.stderr
  flat, info = load_weights(tmp_path / 'run' / 'linear' / 'weights')
  assert flat['w'].shape == (6,) and info['kind'] == 'linear'
  assert [line['split'] for line in read_metrics(tmp_path / 'run' / 'linear' / 'metrics.jsonl')][-1] == 'validation'
  # The input transform: the statistics of the seven training rows that validation leaves, voxel by voxel.
  transform = InputTransform.from_json(info['input'][0])
  assert (transform.data_set, transform.subject, transform.num_voxels) == ('toy', 's1', 6)
  z = transform(transform.select(raw[:9]))
  kept = [np.allclose(z[rows].mean(axis=0), 0, atol=1e-4) for rows in _sevens()]
  assert sum(kept) == 1
  # Contrast has learned from the same rows, and carries the same transform.
  _, of_contrast = load_weights(tmp_path / 'run' / 'contrast' / 'weights')
  assert of_contrast['input'] == info['input'] and of_contrast['settings']['num_voxels'] == 6
  assert list(of_contrast['inputs'])[:1] == ['raw files of toy/s1']
  # The report draws its curve, with the meaning that its spec gives.
  done = _run('-c', REPORT, str(tmp_path))
  assert done.returncode == 0, done.stderr
  assert (
    '<figcaption>grey_error: distance of predicted and real grey</figcaption>' in (tmp_path / 'report.html').read_text()
  )
  wrong = _run('launch.py', *flags, '--config.linear.gain=-1.0')
  assert wrong.returncode == 2 and 'config.linear.gain is -1.0; expected more than 0' in wrong.stderr
  done = _run(
    '-m', 'brainjax.prepare', '--plugins=tests.toys', 'toy', f'--raw={tmp_path}/toy', f'--out={tmp_path}/again'
  )
  assert done.returncode == 0 and 'toy/s1: prepared' in done.stdout, done.stderr
  done = _run('-m', 'brainjax.prepare', '--plugins=tests.toys', 'check', f'{tmp_path}/again')
  assert done.returncode == 0 and 's1: rows: train 9, test 3' in done.stdout, done.stderr
  assert 's1: toys are grey' in done.stdout and (tmp_path / 'again' / 'check_toy.png').is_file()


def _sevens():
  """Every way to leave two of nine rows out."""
  for i in range(9):
    for j in range(i):
      yield [row for row in range(9) if row not in (i, j)]


def test_a_plugin_that_cannot_be_imported(tmp_path):
  done = _run(
    'launch.py', '--config=tests/toy_config.py', f'--workdir={tmp_path}/run', "--config.plugins=('tests.no_toys',)"
  )
  assert done.returncode == 2 and "plugin 'tests.no_toys' cannot be imported" in done.stderr
