"""Imports timm's modules where torchvision, on which timm insists, has no build."""

import importlib
import importlib.machinery
import sys
import types

import pytest

PARTS = ('', '.ops', '.ops.misc', '.transforms', '.transforms.functional', '.models', '.models.feature_extraction')


class _AnyName(type):
  def __getattr__(cls, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return name


class _Anything(metaclass=_AnyName):
  """Stands for whatever timm takes from torchvision while it is imported; its networks use none of it."""


def _give(name):
  if name.startswith('__'):
    raise AttributeError(name)
  return _Anything


def load(monkeypatch, name: str) -> types.ModuleType:
  """A module of timm, such as 'timm.models.inception_v3'; skips the test without torch or timm."""
  pytest.importorskip('torch')
  if importlib.util.find_spec('timm') is None:
    pytest.skip('timm is not installed')
  if importlib.util.find_spec('torchvision') is None:
    for part in (*PARTS, '.datasets', '.datasets.folder', '.utils'):
      module = types.ModuleType('torchvision' + part)
      module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
      module.__path__, module.__version__ = [], '0'
      if part:  # the package itself gives its submodules
        module.__getattr__ = _give
      monkeypatch.setitem(sys.modules, module.__name__, module)
  return importlib.import_module(name)
