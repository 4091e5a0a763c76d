"""The house: imports go down only, and the code is clean."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_imports_go_down_only():
  lint = Path(sys.executable).parent / 'lint-imports'
  done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('check', [['check'], ['format', '--check']])
def test_ruff_finds_nothing(check):
  done = subprocess.run([sys.executable, '-m', 'ruff', *check, '.'], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
