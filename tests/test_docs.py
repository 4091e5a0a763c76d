"""Documents: their links lead somewhere, and the page of config fields is whole."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import yaml
from ml_collections import ConfigDict

from configs import base

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), ROOT / 'data' / 'README.md'])
MADE = {'reference/config.md', 'reference/commands.md'}  # by docs/site_hooks.py


def _anchors(page):
  titles = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
  return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_titles(page):
  for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
    if target.startswith(('http', '#')):
      continue
    name, _, anchor = target.partition('#')
    path = (page.parent / name).resolve()
    if path.is_relative_to(ROOT / 'docs') and path.relative_to(ROOT / 'docs').as_posix() in MADE:
      continue
    assert path.exists(), f'{page.relative_to(ROOT)}: {target}'
    assert not anchor or anchor in _anchors(path), f'{page.relative_to(ROOT)}: {target}'


def _hooks():
  """docs/site_hooks.py, without mkdocs."""
  for name in ('mkdocs', 'mkdocs.structure', 'mkdocs.structure.files'):
    sys.modules.setdefault(name, types.ModuleType(name))
  sys.modules['mkdocs.structure.files'].File = None
  spec = importlib.util.spec_from_file_location('site_hooks', ROOT / 'docs' / 'site_hooks.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_config_page_has_every_field_with_its_value():
  page = _hooks().config_page()
  config = base.get_config()
  for name, value in config.items():
    if not isinstance(value, ConfigDict):
      assert f'| `{name}` | `{value!r}` |' in page
      continue
    section = page.split(f'## config.{name}\n')[-1].split('\n## ')[0]
    training = page.split('## Every training stage\n')[-1]
    for field, default in value.items():
      assert f'| `{field}` |' in section or f'| `{field}` |' in training or name == 'mesh', f'{name}.{field}'
      if f'| `{field}` |' in section and isinstance(default, bool | int | str):
        shown = repr(default).replace('|', '\\|')
        assert any(f'| `{field}` | `{prefix}{shown}` |' in section for prefix in ('', 'r'))


def test_the_site_lists_every_page_and_the_citation_can_be_read():
  nav = (ROOT / 'mkdocs.yml').read_text()
  for page in ROOT.glob('docs/**/*.md'):
    assert page.relative_to(ROOT / 'docs').as_posix() in nav, page
  citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert citation['preferred-citation']['year'] == 2023 and citation['cff-version'] == '1.2.0'
  import brainjax

  assert citation['version'] == brainjax.__version__
