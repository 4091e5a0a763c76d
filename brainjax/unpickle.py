"""Reads pickles as data: containers, NumPy arrays, tensors and inert stand-ins.

Nothing that a pickle names is looked up or called. Each value is built by a function of ours; an object of any other
class becomes a `StandIn`. A file that names a function of the operating system, of import or of code execution is refused.
"""

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from brainjax.errors import UserError
from brainjax.pickled_values import (
  CONSTRUCTORS,
  Global,
  PendingArray,
  PendingDtype,
  StandIn,
  check_shape,
  check_type,
  settle,
)

# Python 2's names of today's modules.
_RENAMED = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}
# Modules whose functions act on the computer, import or run code. Nothing is ever called, so this list does not keep the
# reader safe: it warns the user of such a file.
_DANGEROUS_MODULES = frozenset(
  """
  _io _posixsubprocess _thread asyncio bdb cloudpickle code codeop commands concurrent cProfile ctypes dill distutils
  faulthandler ftplib glob http idlelib imaplib importlib imp io joblib mailbox marshal mmap multiprocessing nt ntpath
  numpy.distutils numpy.f2py numpy.testing os pandas.io pathlib pdb pickle pip pkgutil platform poplib posix posixpath
  profile pty pydoc runpy setuptools shelve shutil signal site smtplib socket socketserver sqlite3 ssl subprocess sys
  telnetlib tempfile threading timeit torch.hub torch.jit torch.package torch.utils.cpp_extension
  trace types urllib venv webbrowser xmlrpc zipimport
  """.split()  # noqa: SIM905
)
_DANGEROUS_BUILTINS = frozenset(
  """
  __import__ apply breakpoint compile delattr eval exec execfile exit file globals help input locals open print quit
  raw_input reload setattr vars
  """.split()  # noqa: SIM905
)
_DANGEROUS_LOADERS = frozenset(
  [('numpy', 'load'), ('pandas', 'read_pickle'), ('torch', 'load'), ('torch.serialization', 'load')]
)
# Classes of the modules above that only hold data.
_HARMLESS = {
  '_io': {'BytesIO', 'StringIO'},
  'io': {'BytesIO', 'StringIO'},
  'pathlib': {'Path', 'PosixPath', 'WindowsPath', 'PurePath', 'PurePosixPath', 'PureWindowsPath'},
  'types': {'SimpleNamespace', 'MappingProxyType', 'NoneType'},
}
_TORCH_DTYPES = {
  'float64': 'float64', 'double': 'float64', 'float32': 'float32', 'float': 'float32', 'float16': 'float16',
  'half': 'float16', 'bfloat16': 'bfloat16', 'int64': 'int64', 'long': 'int64', 'int32': 'int32', 'int': 'int32',
  'int16': 'int16', 'short': 'int16', 'int8': 'int8', 'uint8': 'uint8', 'bool': 'bool',
}  # fmt: skip
_STORAGES = {
  'DoubleStorage': 'float64', 'FloatStorage': 'float32', 'HalfStorage': 'float16', 'BFloat16Storage': 'bfloat16',
  'LongStorage': 'int64', 'IntStorage': 'int32', 'ShortStorage': 'int16', 'CharStorage': 'int8',
  'ByteStorage': 'uint8', 'BoolStorage': 'bool', 'UntypedStorage': 'uint8',
}  # fmt: skip


class TensorMaker(NamedTuple):
  """How a file format gives tensors: `storage(unpickler, persistent id)`, `tensor(storage, dtype, offset, shape, strides)`."""

  storage: Callable[[Any, tuple], Any]
  tensor: Callable[..., Any]


class _Reader:
  """A file that never returns, or allocates, more bytes than it has."""

  def __init__(self, handle: BinaryIO):
    self._handle = handle
    position = handle.tell()
    self._size = handle.seek(0, io.SEEK_END)
    handle.seek(position)

  def read(self, size: int = -1) -> bytes:
    if size > self._size - self._handle.tell():
      raise EOFError
    return self._handle.read(size)

  def readline(self, size: int = -1) -> bytes:
    return self._handle.readline(min(size, 1 << 20) if size >= 0 else 1 << 20)


class Unpickler(pickle._Unpickler):  # the Python one: its memo is a dict, so that no opcode can claim memory
  """Reads one pickle. Every opcode that would call or look up something is replaced.

  Attributes:
    stand_ins: the names of classes and functions that the pickle uses and that are not built.
  """

  dispatch = dict(pickle._Unpickler.dispatch)

  def __init__(self, handle: BinaryIO, path: Path, tensors: TensorMaker | None = None):
    super().__init__(_Reader(handle), encoding='latin1')
    self._path = path
    self._tensors = tensors
    self.stand_ins: set[str] = set()

  def find_class(self, module: str, name: str) -> Global:
    """The name of a class or function; nothing is imported.

    Raises:
      UserError: it could run code.
    """
    module = _RENAMED.get(module, module)
    named = Global(module, 'range' if (module, name) == ('builtins', 'xrange') else name)
    parents = [module[:end] for end in (*(dot.start() for dot in re.finditer(r'\.', module)), len(module))]
    dangerous = (
      (module == 'builtins' and name in _DANGEROUS_BUILTINS)
      or (module, name) in _DANGEROUS_LOADERS
      or not _DANGEROUS_MODULES.isdisjoint(parents)
    )
    if dangerous and name not in _HARMLESS.get(parents[0], ()):
      raise UserError(
        f'{self._path} names {named}, a function of the operating system, of import or of code execution. Data need no such '
        'function, so the file may be malicious. Nothing in it was run; do not open it with torch.load, np.load or pickle '
        'either'
      )
    return named

  def _stand_in(self, kind: Global, args: tuple) -> StandIn:
    self.stand_ins.add(str(kind))
    return StandIn(kind, args)

  def _construct(self, kind: Any, args: Any) -> Any:
    """The value that represents `kind(*args)`; nothing is called."""
    kind, args = check_type(kind, Global, StandIn), tuple(settle(value) for value in check_type(args, tuple))
    if isinstance(kind, StandIn):  # the result of a call that was not made is called
      return self._stand_in(kind.kind, args)
    if maker := CONSTRUCTORS.get(kind):
      return maker(*args)
    if kind.module == 'torch._utils' or kind == ('torch._tensor', '_rebuild_from_type_v2'):
      return self._tensor(kind, args)
    if kind == ('copyreg', '_reconstructor'):  # (class, base, state of base)
      value = self._construct(args[0], ())
      if isinstance(value, dict | list) and type(args[2]) in (dict, list):
        return type(args[2])(args[2])
      if isinstance(value, StandIn) and args[2] is not None:
        value.set_state(args[2])
      return value
    if kind.module == 'copyreg' and kind.name in ('__newobj__', '__newobj_ex__'):
      return self._construct(args[0], args[1:] if kind.name == '__newobj__' else args[1])
    if kind == ('builtins', 'getattr'):
      owner = args[0].kind if isinstance(args[0], StandIn) else check_type(args[0], Global)
      return self.find_class(owner.module, f'{owner.name}.{check_type(args[1], str)}')
    return self._stand_in(kind, args)

  def _tensor(self, kind: Global, args: tuple) -> Any:
    if self._tensors is None:
      return self._stand_in(kind, args)
    if kind.name in ('_rebuild_tensor', '_rebuild_tensor_v2'):
      storage, offset, shape, strides = args[:4]
      return self._tensors.tensor(storage, None, offset, check_shape(shape), check_shape(strides))
    if kind.name == '_rebuild_tensor_v3':
      storage, offset, shape, strides, _, _, dtype = args[:7]
      return self._tensors.tensor(storage, self.dtype_name(dtype), offset, check_shape(shape), check_shape(strides))
    if kind.name in ('_rebuild_parameter', '_rebuild_parameter_with_state'):
      return args[0]
    if kind.name == '_rebuild_from_type_v2':
      return self._construct(args[0], args[2])
    return self._stand_in(kind, args)

  def dtype_name(self, named: Any) -> str:
    """NumPy's name of a torch storage class or element type.

    Raises:
      UserError: the type is not read here.
    """
    named = check_type(named, Global)
    name = _STORAGES.get(named.name) if named.name.endswith('Storage') else _TORCH_DTYPES.get(named.name)
    if named.module.split('.')[0] != 'torch' or name is None:
      raise UserError(
        f'{self._path} holds tensors of type {named}, which is not read here; expected float16, bfloat16, float32, float64 '
        'or integers'
      )
    return name

  def persistent_load(self, pid: Any) -> Any:
    """A tensor storage of a PyTorch file.

    Raises:
      UserError: the file is not of PyTorch.
    """
    if self._tensors is None:
      raise UserError(f'{self._path} refers to data outside its pickle ({str(pid)[:80]}), as only PyTorch files do')
    return self._tensors.storage(self, check_type(pid, tuple))

  def get_extension(self, code: int) -> None:
    raise ValueError(f'copyreg extension {code}')

  # The opcodes that act.

  def load_reduce(self) -> None:
    args = self.stack.pop()
    self.stack[-1] = self._construct(self.stack[-1], args)

  def load_newobj_ex(self) -> None:
    keywords = self.stack.pop()
    self.load_reduce()
    if isinstance(self.stack[-1], StandIn):
      self.stack[-1].set_state(check_type(keywords, dict))

  def _instantiate(self, klass: Any, args: list) -> None:  # INST and OBJ
    self.append(self._construct(klass, tuple(args)))

  def load_build(self) -> None:
    state = self.stack.pop()
    target = self.stack[-1]
    if isinstance(target, StandIn | PendingDtype | PendingArray):
      target.set_state(state)
      if isinstance(settle(target), StandIn):
        self.stand_ins.add(str(settle(target).kind))
    elif not isinstance(target, dict):  # an OrderedDict's own attributes (a state dict's _metadata) are not needed
      raise ValueError(f'attributes for {type(target).__name__}')

  def _add(self, values: list) -> None:
    target, values = self.stack[-1], [settle(value) for value in values]
    if isinstance(target, StandIn):
      target.entries.extend(values)
    elif isinstance(target, set):
      target.update(values)
    else:
      check_type(target, list).extend(values)

  def _set(self, values: list) -> None:
    target = self.stack[-1]
    target = target.items if isinstance(target, StandIn) else check_type(target, dict)
    for i in range(0, len(values), 2):
      target[settle(values[i])] = settle(values[i + 1])

  def _tuple(self, values: list) -> None:
    self.append(tuple(settle(value) for value in values))

  dispatch |= {
    pickle.REDUCE[0]: load_reduce,
    pickle.BYTEARRAY8[0]: lambda self: self.append(bytearray(self.read(int.from_bytes(self.read(8), 'little')))),
    pickle.NEWOBJ[0]: load_reduce,
    pickle.NEWOBJ_EX[0]: load_newobj_ex,
    pickle.BUILD[0]: load_build,
    pickle.APPEND[0]: lambda self: self._add([self.stack.pop()]),
    pickle.APPENDS[0]: lambda self: self._add(self.pop_mark()),
    pickle.ADDITEMS[0]: lambda self: self._add(self.pop_mark()),
    pickle.SETITEM[0]: lambda self: self._set([self.stack.pop(-2), self.stack.pop()]),
    pickle.SETITEMS[0]: lambda self: self._set(self.pop_mark()),
    pickle.TUPLE[0]: lambda self: self._tuple(self.pop_mark()),
    pickle.TUPLE1[0]: lambda self: self._tuple([self.stack.pop()]),
    pickle.TUPLE2[0]: lambda self: self._tuple([self.stack.pop(-2), self.stack.pop()]),
    pickle.TUPLE3[0]: lambda self: self._tuple([self.stack.pop(-3), self.stack.pop(-2), self.stack.pop()]),
  }

  def load(self) -> Any:
    """The pickle's object.

    Raises:
      UserError: the pickle is damaged, or names a function of the operating system, of import or of code execution.
    """
    try:
      return settle(super().load())
    except UserError:
      raise
    except EOFError:
      raise UserError(f'{self._path} ends early (did a download break off?); download it again') from None
    except Exception as error:  # any other exception is a fault of the file: its bytes decide what runs here
      message = str(error).split('\n')[0][:200] or type(error).__name__
      raise UserError(
        f'{self._path} holds a pickle that cannot be read as data ({message}); download it again'
      ) from None


def read_pickle(path: str | os.PathLike) -> Any:
  """The object in a pickle file: containers, arrays, stand-ins.

  Raises:
    UserError: as `Unpickler.load`.
  """
  with open(path, 'rb') as handle:
    return Unpickler(handle, Path(path)).load()


def is_pickled_npy(path: str | os.PathLike) -> bool:
  """Whether a file is a `.npy` file of Python objects (which `np.save` writes for a dictionary)."""
  with open(path, 'rb') as handle:
    try:
      return read_npy_header(handle)[1].hasobject
    except ValueError:
      return False


def read_pickled_npy(path: str | os.PathLike) -> Any:
  """What `np.save` pickled into a `.npy` file: an array of objects, or the one object, such as a dictionary.

  Raises:
    UserError: the file is no `.npy` file, holds numbers (use `np.load`), or as `Unpickler.load`.
  """
  path = Path(path)
  with open(path, 'rb') as handle:
    try:
      shape, dtype = read_npy_header(handle)
    except ValueError as error:
      head = os.pread(handle.fileno(), 64, 0)
      kind = 'a Git LFS pointer' if head.startswith(b'version https://git-lfs') else 'not a NumPy file'
      raise UserError(f'{path} is {kind} ({str(error)[:120]}); download it again') from None
    if not dtype.hasobject:
      raise UserError(f'{path} holds an array {shape} of {dtype}; expected a pickled object, such as a dictionary')
    value = Unpickler(handle, path).load()
  return value[()] if isinstance(value, np.ndarray) and value.shape == () else value


def read_npy_header(handle: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
  """Shape and element type in the head of a `.npy` file; the handle then stands at the values.

  Raises:
    ValueError: it is no such head.
  """
  version = np.lib.format.read_magic(handle)
  read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
  shape, _, dtype = read(handle)
  return shape, dtype
