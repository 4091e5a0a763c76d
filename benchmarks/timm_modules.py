"""Imports timm's modules where torchvision, which timm imports, has no build."""

import importlib
import importlib.machinery
import importlib.util
import sys
import types

PARTS = ('', '.ops', '.ops.misc', '.transforms', '.transforms.functional', '.models', '.models.feature_extraction')


class _AnyName(type):
  def __getattr__(cls, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return name


class _Anything(metaclass=_AnyName):
  """Stands for the names that timm imports from torchvision. Its networks use none of them."""


def _give(name):
  if name.startswith('__'):
    raise AttributeError(name)
  return _Anything


def _stand_ins() -> dict[str, types.ModuleType]:
  modules = {}
  for part in (*PARTS, '.datasets', '.datasets.folder', '.utils'):
    module = modules['torchvision' + part] = types.ModuleType('torchvision' + part)
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    module.__path__, module.__version__ = [], '0'
    if part:  # the package itself has submodules instead
      module.__getattr__ = _give
  return modules


def load(name: str) -> types.ModuleType:
  """Imports a module of timm, such as 'timm.models.inception_v3'.

  Raises:
    ImportError: timm is not installed.
  """
  if name in sys.modules or importlib.util.find_spec('torchvision') is not None:
    return importlib.import_module(name)
  stand_ins = _stand_ins()
  sys.modules.update(stand_ins)
  try:
    return importlib.import_module(name)
  finally:  # other code must see that torchvision is missing
    for stand_in in stand_ins:
      del sys.modules[stand_in]
