"""Hooks of mkdocs: pages that are made from the code, and files outside docs/ as pages of the site."""

import contextlib
import importlib
import io
import re
import sys
import tokenize
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
OUTSIDE = ('SECURITY.md', 'CHANGELOG.md', 'data/README.md')
NOT_IN_THE_SITE = re.compile(r'\[([^\]]*)\]\((?:\.\./)+(?!SECURITY|CHANGELOG|data/README)[^)]*\)')
FIELD = re.compile(r'  (?:config|stage)((?:\.\w+)+) = (.*?)\s*(?:#\s*(.*))?$')


def on_files(files, config):
  """Adds the pages that are not files of docs/."""
  pages = {name: (ROOT / name).read_text() for name in OUTSIDE}
  pages['CHANGELOG.md'] = pages['CHANGELOG.md'].replace('](docs/', '](')
  pages['SECURITY.md'] = pages['SECURITY.md'].replace('](docs/', '](')
  pages |= {'reference/config.md': config_page(), 'reference/commands.md': commands_page()}
  for name, text in pages.items():
    files.append(File.generated(config, name, content=text))
  return files


def on_page_markdown(markdown, page, **kwargs):
  """Links to files outside docs/: to their pages, or plain text where they have none."""
  markdown = NOT_IN_THE_SITE.sub(r'\1', markdown)
  return re.sub(r'\]\((?:\.\./)+(SECURITY\.md|CHANGELOG\.md|data/README\.md)', r'](\1', markdown)


def config_page() -> str:
  """Every field of configs/base.py with its value and meaning, by section."""
  text = (ROOT / 'configs' / 'base.py').read_text()
  rows: dict[str, list[str]] = {}
  above: list[str] = []
  section = ''
  for line in _joined(text):
    if 'def training(' in line:
      section = 'Every training stage'
    if line.startswith('  #'):
      above.append(line.strip().lstrip('# ').rstrip('- '))
      continue
    match = FIELD.match(line)
    value = match and (match[2][1:-1] if re.fullmatch(r'\([^,]*\)', match[2]) and match[2] != '()' else match[2])
    if match and not value.startswith(('ConfigDict()', 'training(')):
      path, beside = match[1][1:], match[3] or ''
      parts = path.split('.')
      name = section or (f'config.{parts[0]}' if len(parts) > 1 else 'config')
      value, meaning = (part.replace('|', '\\|') for part in (value, ' '.join([*above, beside])))
      rows.setdefault(name, []).append(f'| `{parts[-1]}` | `{value}` | {meaning} |')
    above = []
  head = (
    '# Config\n\nMade from `configs/base.py`, which sets the values of the paper. A config changes what it needs; '
    '`--config.a.b=value` changes a field on the command line.\n'
  )
  table = '| Field | Value | Meaning |\n|---|---|---|\n'
  return head + ''.join(f'\n## {name}\n\n{table}' + '\n'.join(lines) + '\n' for name, lines in rows.items())


def _joined(text: str) -> list[str]:
  """Lines of code, with an expression in parentheses on one line and its comments at the end."""
  lines, depth, comments = [''], 0, []
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.OP:
      depth += (token.string in '([{') - (token.string in ')]}')
    if token.type == tokenize.NEWLINE or token.type == tokenize.NL and not depth:
      lines[-1] += ''.join(f'  {comment}' for comment in comments)
      lines, comments = [*lines, ''], []
    elif token.type == tokenize.COMMENT and depth:
      comments.append(token.string)
    elif token.type not in (tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.ENDMARKER):
      gap = token.start[1] - len(lines[-1]) if not depth or not lines[-1] else int(lines[-1][-1] in ',=:')
      gap = 0 if token.string in ')]}' else gap
      lines[-1] += ' ' * gap + token.string
  return lines


def commands_page() -> str:
  """The help of every command."""
  from brainjax import __main__ as console

  parts = ['# Commands\n\n`brainjax COMMAND`, or `python -m brainjax COMMAND`, from any folder.\n']
  for name, (module, _, what) in console.COMMANDS.items():
    if name == 'demo':
      parts.append(f'\n## brainjax demo\n\n{what[0].upper()}{what[1:]}. It is `brainjax train --config=demo`.\n')
      continue
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
      importlib.import_module(f'brainjax.{module}').main(['--help'])
    parts.append(f'\n## brainjax {name}\n\n```text\n{out.getvalue().strip()}\n```\n')
  return ''.join(parts)
