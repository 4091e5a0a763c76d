"""sdist and wheel, built and installed into an empty environment: what a new user has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# This clone must not be seen: pip would find brainjax installed already.
VARIABLES = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'} | {'JAX_PLATFORMS': 'cpu'}


def build(source: Path, out: Path) -> None:
  """Builds the sdist, and from it the wheel."""
  command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, source]
  subprocess.run(command, check=True, capture_output=True, timeout=600)


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
  """The wheel, made from the sdist."""
  out = tmp_path_factory.mktemp('dist')
  build(ROOT, out)
  return next(out.glob('*.whl'))


@pytest.fixture(scope='session')
def environment(wheel, tmp_path_factory):
  """The bin folder of an environment that has the wheel and what it asks for, and nothing else."""
  venv = tmp_path_factory.mktemp('empty') / 'venv'
  subprocess.run([sys.executable, '-m', 'venv', venv], check=True, timeout=300)
  pip = [venv / 'bin' / 'python', '-m', 'pip', 'install', '--quiet', '--no-compile']
  constraints = ['--constraint', ROOT / 'requirements.txt', '--constraint', ROOT / 'requirements-test.txt']
  subprocess.run([*pip, *constraints, f'{wheel}[neuroimaging]'], check=True, env=VARIABLES, timeout=1800)
  return venv / 'bin'


class User:
  """A user with a shell in an empty folder.

  Args:
    folder: where the commands run.
    commands: folder of `brainjax` and `python`.
  """

  def __init__(self, folder: Path, commands: Path):
    self.folder, self._commands = folder, commands

  def run(self, program: str, *arguments: str, status: int = 0) -> str:
    """Runs a command and gives its output and messages.

    Raises:
      AssertionError: another exit status than `status`, or a traceback.
    """
    command = [self._commands / program, *arguments]
    done = subprocess.run(command, cwd=self.folder, env=VARIABLES, capture_output=True, text=True, timeout=1800)
    said = done.stdout + done.stderr
    assert done.returncode == status and 'Traceback' not in said, said
    return said

  def brainjax(self, *arguments: str, status: int = 0) -> str:
    """`run` of the console command."""
    return self.run('brainjax', *arguments, status=status)


@pytest.fixture
def user(environment, tmp_path):
  folder = tmp_path / 'home'
  folder.mkdir()
  return User(folder, environment)
