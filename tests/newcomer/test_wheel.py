"""What sdist and wheel hold, and that they run in an empty environment and an empty folder."""

import tarfile
import zipfile

import pytest

from brainjax.files import sha256
from tests.newcomer.conftest import build


@pytest.mark.slow
def test_the_archives_hold_what_a_user_needs(wheel):
  held = set(zipfile.ZipFile(wheel).namelist())
  for name in ('demo.py', 'base.py', 'demo_prior.safetensors', 'demo_classifier.safetensors'):
    assert f'configs/{name}' in held
  assert 'brainjax/evaluation/report/page.html' in held
  assert not [name for name in held if name.startswith(('tests', 'benchmarks', 'build'))]
  with tarfile.open(next(wheel.parent.glob('*.tar.gz'))) as archive:
    files = {name.partition('/')[2] for name in archive.getnames()}
  assert {'README.md', 'LICENSE', 'launch.py', 'Makefile', 'locks/requirements.txt', 'configs/demo.py'} <= files
  assert not [name for name in files if name.startswith(('tests', 'benchmarks', 'runs', 'data'))]


@pytest.mark.slow
def test_two_builds_give_the_same_archives(wheel, tmp_path):
  with tarfile.open(next(wheel.parent.glob('*.tar.gz'))) as archive:
    archive.extractall(tmp_path, filter='data')
  source = next(tmp_path.iterdir())
  for path in source.rglob('*'):
    path.touch()  # other times than in the first build
  build(source, tmp_path / 'again')
  first, second = (
    {path.name: sha256(path) for path in folder.iterdir()} for folder in (wheel.parent, tmp_path / 'again')
  )
  assert len(first) == 2 and first == second


@pytest.mark.nightly
def test_the_demo_in_an_empty_environment(user):
  assert 'reconstruct' in user.brainjax('--help')
  (user.folder / 'mine.py').write_text('from configs import demo_quick\n\nget_config = demo_quick.get_config\n')
  steps = [f'--config.{stage}.num_steps=2' for stage in ('contrast', 'attend', 'diffuse')]
  out = user.brainjax('train', '--config=mine.py', *steps, '--config.reconstruct.num_items=3')
  assert out.startswith('brainjax ') and 'on 1 device (cpu), float32' in out.splitlines()[0]
  workdir = user.folder / 'runs' / 'mine'
  assert (workdir / 'report.html').is_file() and (workdir / 'pictures.png').is_file()
