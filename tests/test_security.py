"""What SECURITY.md promises and no other test shows: nothing in the package unpickles, evaluates or writes elsewhere."""

import ast
from pathlib import Path

import pytest

from brainjax import pipeline
from brainjax.datasets import bold5000, god, own
from brainjax.errors import UserError
from configs import tiny

PACKAGE = Path(__file__).parent.parent / 'brainjax'
# Modules that run what a file says, or start programs, and the names of them that a file here may use.
DANGEROUS = {'pickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'torch', 'subprocess', 'ctypes'}
ALLOWED = {
  # The one unpickler: it looks nothing up and calls nothing.
  'unpickle.py': {'pickle._Unpickler', *(f'pickle.{opcode}' for opcode in (
    'APPEND', 'APPENDS', 'ADDITEMS', 'BUILD', 'BYTEARRAY8', 'NEWOBJ', 'NEWOBJ_EX', 'REDUCE', 'SETITEM', 'SETITEMS',
    'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'))},
  # Writes PyTorch files, never reads one.
  'torch_convert/writer.py': {'torch.from_numpy', 'torch.save'},
}  # fmt: skip
FORBIDDEN = {
  'eval',
  'exec',
  'compile',
  '__import__',
  'os.system',
  'os.popen',
  'yaml.load',
  'yaml.unsafe_load',
  'yaml.full_load',
}
FILES = {str(file.relative_to(PACKAGE)): ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob('*.py'))}


def _name(node):
  """'a.b.c' of an expression of names, '' of anything else."""
  if isinstance(node, ast.Name):
    return node.id
  return f'{_name(node.value)}.{node.attr}' if isinstance(node, ast.Attribute) else ''


def _used(tree):
  """Dotted names of dangerous modules in a file; an import under another name counts as itself."""
  used = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      used |= {f'import {a.name} as {a.asname}' for a in node.names if a.asname and a.name.split('.')[0] in DANGEROUS}
    elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] in DANGEROUS:
      used.add(f'from {node.module}')
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in DANGEROUS:
      used.add(_name(node))
  return used


def test_no_file_unpickles_evaluates_or_starts_programs():
  found = {file: used for file, tree in FILES.items() if (used := _used(tree))}
  assert found == ALLOWED
  called = {
    (file, _name(node.func)) for file, tree in FILES.items() for node in ast.walk(tree) if isinstance(node, ast.Call)
  }
  assert len(called) > 1000
  assert not [
    (file, name) for file, name in called if name in FORBIDDEN or name.split('.')[-1] in ('extractall', 'extract')
  ]


def test_one_file_alone_opens_connections():
  network = {'huggingface_hub', 'requests', 'httpx', 'urllib', 'urllib3', 'http', 'socket', 'ftplib', 'aiohttp'}
  found = {}
  for file, tree in FILES.items():
    for node in ast.walk(tree):
      names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
      found.setdefault(file, set()).update(name.split('.')[0] for name in names)
  used = {file: names & network for file, names in found.items() if names & network}
  # workdirs.py writes the name of this machine into its lock.
  assert used == {'hub.py': {'huggingface_hub', 'urllib'}, 'workdirs.py': {'socket'}}


def test_numpy_files_are_read_without_pickle():
  calls = [(file, node) for file, tree in FILES.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
  readers = [(file, node) for file, node in calls if _name(node.func) in ('np.load', 'np.lib.format.read_array')]
  assert len(readers) > 4
  for file, node in readers:
    said = [keyword.value.value for keyword in node.keywords if keyword.arg == 'allow_pickle']
    assert said == [False], f'{file}, line {node.lineno}'


def test_every_unpickler_decides_itself_what_a_global_is():
  classes = {
    file: {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    for file, tree in FILES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef) and {'pickle.Unpickler', 'pickle._Unpickler'} & set(map(_name, node.bases))
  }
  assert len(classes) == 1 and all('find_class' in methods for methods in classes.values()), classes


@pytest.mark.parametrize(
  'path', ['{workdir}/..', '{workdir}/../elsewhere', '{workdir}/a/../../b', 'x{workdir}', '{workdir}x']
)
def test_a_path_in_the_workdir_cannot_lead_out_of_it(tmp_path, path):
  config = tiny.get_config()
  config.data.prepared = path
  with pytest.raises(UserError, match='data.prepared.* leads out of the workdir'):
    pipeline.run(config, tmp_path / 'run', ('contrast',), asked=True)
  assert not list(tmp_path.iterdir())


def test_a_link_in_the_workdir_cannot_lead_out_of_it(tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'data').symlink_to(tmp_path / 'elsewhere')
  config = tiny.get_config()
  config.data.prepared = '{workdir}/data/prepared'
  with pytest.raises(UserError, match='data.prepared.* leads out of the workdir'):
    pipeline.run(config, tmp_path / 'run', ('contrast',), asked=True)


@pytest.mark.parametrize('dataset', [god.God, bold5000.Bold5000, own.Own])
@pytest.mark.parametrize('subject', ['..', '../x', 'a/b', '/x', '', 'sbj_1\n'])
def test_a_data_set_is_never_written_outside_its_folder(tmp_path, dataset, subject):
  with pytest.raises(UserError, match='expected a letter, then letters'):
    dataset.of(tmp_path, subject)


@pytest.mark.parametrize('subject', ['../sbj_1', '/etc/passwd', 'a/b', '..', '', 'sbj_1\n'])
@pytest.mark.parametrize('field', ['subjects', 'other_subjects', 'contrast_god_subjects'])
def test_names_of_subjects_are_no_paths(tmp_path, field, subject):
  config = tiny.get_config()
  config.data[field] = (subject,)
  with pytest.raises(UserError, match=f'config.data.{field} is .*; expected'):
    pipeline.run(config, tmp_path / 'run', ('contrast',), asked=True)
  assert not list(tmp_path.iterdir())
