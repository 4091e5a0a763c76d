"""All data sets by name. No other file lists them.

A data set is one file: a TFDS builder, which reads the raw files, and a `DataSet`, which describes it. To add one of fMRI
with pictures, write a module such as this, and import it (`config.plugins` of a run, `--plugins` of prepare):

    from brainjax.datasets import paired, registry

    class Toy(paired.Builder):
      DESCRIPTION, HOMEPAGE, CITATION, LICENSE = 'fMRI of toys.', 'https://toy.org', '@article{toy}', 'CC0'

      @classmethod
      def subjects_in(cls, raw):                 # raw folder -> names of the subjects in it
        return ['s1', 's2']

      def raw_files(self, raw):                  # name -> file, all that this subject's data depend on
        return {'s1.npz': raw / f'{self.subject}.npz'}

      def read(self, raw):                       # -> single trials with the picture of each
        return paired.Trials(fmri, names, rois, train, test, picture, label)

    registry.register(registry.DataSet('toy', 'A toy', Toy, has_raw=lambda raw: (raw / 's1.npz').is_file()))

Then `brainjax prepare --plugins=toy toy --raw=DIR` prepares it, and `config.data.dataset = 'toy'` trains on it. A data set
of the package itself has a `DATA_SET` instead, which the end of this file registers. `raw_field='beans'` lets a run prepare it by
itself, from the folder that `config.data.beans` names; your config adds this field. With the field
`contrast_toy_subjects = ('s1',)` in `config.data`, `contrast` learns from the training rows of these subjects too. Data without
pictures give `contrast` their rows by `DataSet.unpaired`, and name their own check for `prepare check`.
"""

import importlib
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brainjax.datasets import bold5000, god, hcp, mosaic, nsd, own
from brainjax.datasets.data_set import RAW, SUBJECTS, Argument, DataSet
from brainjax.errors import ArgumentParser, UserError, format_error

__all__ = [
  'DATA_SETS',
  'RAW',
  'SUBJECTS',
  'Argument',
  'DataSet',
  'add_plugins_option',
  'get',
  'import_plugins',
  'is_simulated',
  'register',
  'take_plugins',
  'with_pictures',
  'zscore_of',
]

DATA_SETS: dict[str, DataSet] = {}


def register(data_set: DataSet) -> None:
  """Adds a data set under its name.

  Raises:
    UserError: another data set has this name.
  """
  if DATA_SETS.setdefault(data_set.name, data_set) is not data_set:
    raise UserError(f'there is a data set {data_set.name!r} already; give yours another name')


def get(name: str) -> DataSet:
  """The data set of this name.

  Raises:
    UserError: there is none.
  """
  if name not in DATA_SETS:
    raise UserError(
      f'there is no data set {name!r}; known are {", ".join(DATA_SETS)}. If it is your own, name its module in '
      'config.plugins, or in --plugins of brainjax.prepare'
    )
  return DATA_SETS[name]


def zscore_of(name: str, zscore: str) -> str:
  """The z-score of a data set's responses: as asked, or its own way for 'auto'.

  Raises:
    UserError: there is no such data set.
  """
  return get(name).zscore if zscore == 'auto' else zscore


def is_simulated(config: Mapping[str, Any], name: str = '') -> bool:
  """Whether the raw files of a data set are those that `config.simulate` writes.

  Args:
    config: of a run.
    name: of the data set; empty: `config.data.dataset`.
  """
  simulate, data = config['simulate'], config['data']
  data_set = DATA_SETS.get(name or data['dataset'])
  raw = data[data_set.raw_field] if data_set and data_set.raw_field else ''
  return bool(simulate['enabled'] and raw) and Path(raw).is_relative_to(simulate['folder'])


def with_pictures() -> list[str]:
  """Names of the data sets that have pictures: the choices of `config.data.dataset`."""
  return [name for name, data_set in DATA_SETS.items() if data_set.has_pictures]


def import_plugins(modules: Sequence[str]) -> None:
  """Imports Python modules that register data sets (or stages) of their own.

  Raises:
    UserError: one cannot be imported; the sentence names the line of its file that failed.
  """
  for name in modules:
    try:
      importlib.import_module(name)
    except UserError:
      raise
    except Exception as error:  # whatever the code of a plugin raises
      raise UserError(
        f'plugin {name!r} cannot be imported ({type(error).__name__}: {format_error(error)}{_place_of(error)}); expected a '
        'Python module in the current folder or on PYTHONPATH that runs without an error.'
      ) from error


def _place_of(error: Exception) -> str:
  """File and line of an error of an imported module; empty where there is no such module."""
  if isinstance(error, SyntaxError):
    return ''  # its text has them
  frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if 'importlib' not in frame.filename]
  return f', {frames[0].filename}, line {frames[0].lineno}' if frames else ''


def take_plugins(argv: Sequence[str]) -> list[str]:
  """Imports the plugins that `--plugins` names on a command line, whose other options may depend on them; returns the rest.

  Raises:
    UserError: as `import_plugins`.
  """
  parser = ArgumentParser(prog='brainjax', add_help=False)
  add_plugins_option(parser)
  found, rest = parser.parse_known_args(list(argv))
  import_plugins(() if found.plugins is None else found.plugins.split(','))
  return rest


def add_plugins_option(parser: ArgumentParser) -> None:
  """Adds `--plugins`, which `take_plugins` reads."""
  parser.add_argument(
    '--plugins', metavar='MODULE,MODULE', help='Python modules to import first, which register data sets of their own'
  )


for _module in (god, bold5000, mosaic, nsd, own, hcp):
  register(_module.DATA_SET)
