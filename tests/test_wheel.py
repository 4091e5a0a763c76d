"""sdist and wheel: built, installed into an empty environment, and run from an empty folder."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel, made from the sdist."""
  out = tmp_path_factory.mktemp('dist')
  subprocess.run([sys.executable, '-m', 'build', '--outdir', out, ROOT], check=True, capture_output=True, timeout=600)
  return next(out.glob('*.whl'))


@pytest.mark.slow
def test_the_archives_hold_what_a_user_needs(wheel):
  held = set(zipfile.ZipFile(wheel).namelist())
  for name in ('demo.py', 'base.py', 'demo_prior.safetensors', 'demo_classifier.safetensors'):
    assert f'configs/{name}' in held
  assert 'brainjax/evaluation/report/page.html' in held
  assert not [name for name in held if name.startswith(('tests', 'benchmarks', 'build'))]
  with tarfile.open(next(wheel.parent.glob('*.tar.gz'))) as archive:
    files = {name.partition('/')[2] for name in archive.getnames()}
  assert {'README.md', 'LICENSE', 'launch.py', 'Makefile', 'requirements.txt', 'configs/demo.py'} <= files


@pytest.mark.slow
def test_an_empty_environment(wheel, tmp_path):
  subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True, timeout=300)
  pip = [tmp_path / 'venv/bin/python', '-m', 'pip', 'install', '--quiet', '--no-compile']
  constraints = ROOT / 'requirements.txt'
  subprocess.run([*pip, '--constraint', constraints, f'{wheel}[neuroimaging]'], check=True, timeout=1800)
  environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'} | {'JAX_PLATFORMS': 'cpu'}

  def brainjax(*arguments):
    command = [tmp_path / 'venv/bin/brainjax', *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  folder = tmp_path / 'empty'
  folder.mkdir()
  assert 'reconstruct' in brainjax('--help')
  (folder / 'mine.py').write_text('from configs import demo_quick\n\nget_config = demo_quick.get_config\n')
  steps = [f'--config.{stage}.num_steps=2' for stage in ('contrast', 'attend', 'diffuse')]
  out = brainjax('train', '--config=mine.py', *steps, '--config.reconstruct.num_items=3')
  assert out.startswith('brainjax ') and 'on 1 device (cpu), float32' in out.splitlines()[0]
  assert (folder / 'runs' / 'mine' / 'report.html').is_file() and (folder / 'runs' / 'mine' / 'pictures.png').is_file()
