"""The picture in docs/architecture.md, and that it fits the code."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_picture_shows_the_rooms_and_imports_of_the_code():
  command = [sys.executable, 'docs/draw_architecture.py', '--check']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_of_rooms_has_every_room():
  layers = configparser.ConfigParser()
  layers.read(ROOT / '.importlinter')
  rooms = re.findall(r'\w+', layers['importlinter:contract:floors']['layers'])
  rows = re.findall(r'^\| (`.*?) \|', (ROOT / 'docs' / 'architecture.md').read_text(), re.MULTILINE)
  assert sorted(rooms) == sorted(re.findall(r'`(\w+)/?`', ' '.join(rows)))
