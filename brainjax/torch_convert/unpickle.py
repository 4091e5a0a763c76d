"""Reads a pickle as data: builds containers, tensors and arrays by hand, and calls nothing that the file names."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from brainjax.errors import UserError
from brainjax.torch_convert.pickled_values import (
  CONSTRUCTORS,
  Global,
  PendingArray,
  PendingDtype,
  StandIn,
  checked_shape,
  instance,
  settle,
)

# Modules whose functions act on the machine or look other functions up. Nothing outside `CONSTRUCTORS` is ever
# called, so this list is not what keeps the reader safe: it refuses such a file at once, with a clear sentence.
_DANGEROUS = frozenset(
  [
    '_io',
    '_posixsubprocess',
    'asyncio',
    'bdb',
    'builtins',
    'code',
    'codeop',
    'commands',
    'concurrent',
    'cProfile',
    'ctypes',
    'distutils',
    'faulthandler',
    'ftplib',
    'gc',
    'glob',
    'http',
    'idlelib',
    'imaplib',
    'importlib',
    'inspect',
    'io',
    'linecache',
    'mailbox',
    'marshal',
    'mmap',
    'multiprocessing',
    'nt',
    'operator',
    'os',
    'pdb',
    'pickle',
    'pickletools',
    'pip',
    'pkgutil',
    'platform',
    'poplib',
    'posix',
    'posixpath',
    'profile',
    'pty',
    'pydoc',
    'runpy',
    'setuptools',
    'shelve',
    'shutil',
    'signal',
    'site',
    'smtplib',
    'socket',
    'socketserver',
    'sqlite3',
    'ssl',
    'subprocess',
    'sys',
    'telnetlib',
    'tempfile',
    'threading',
    'timeit',
    'trace',
    'urllib',
    'venv',
    'webbrowser',
    'xmlrpc',
    'zipimport',
    '_thread',
    '__builtin__',
  ]
)

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
# Names that may appear without being called (types as attribute values, bases of old-style construction).
_NAMED_ONLY = frozenset(
  [
    'object',
    'dict',
    'list',
    'tuple',
    'str',
    'unicode',
    'int',
    'long',
    'float',
    'bool',
    'type',
    'set',
    'frozenset',
    'bytes',
    'slice',
    'range',
    'complex',
  ]
)


class TensorMaker(NamedTuple):
  """How a file format gives tensors: `storage(persistent id) -> s`, `tensor(s, dtype, offset, shape, strides) -> t`."""

  storage: Callable[[tuple], Any]
  tensor: Callable[..., Any]


class _Reader:
  """A file that never gives, nor makes room for, more bytes than it has."""

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
  """Reads one pickle; every opcode that would call or look up something is replaced."""

  dispatch = dict(pickle._Unpickler.dispatch)

  def __init__(self, handle: BinaryIO, path: Path, tensors: TensorMaker | None = None):
    super().__init__(_Reader(handle), encoding='latin1')
    self._path = path
    self._tensors = tensors

  def _refuse(self, name: Any, what: str) -> UserError:
    return UserError(
      f'{self._path} {what} {name}, which a file of weights has no reason to do: it may be malicious; nothing of it was run, '
      'and it should not be opened with torch.load or pickle either'
    )

  def find_class(self, module: str, name: str) -> Global:
    found = Global(module, name)
    root = module.split('.')[0]
    known = (module, name) in CONSTRUCTORS or (root in ('builtins', '__builtin__') and name in _NAMED_ONLY)
    if not known and (root in _DANGEROUS or module in ('torch.hub', 'torch.serialization', 'numpy.testing')):
      raise self._refuse(found, 'names')
    return found

  def _construct(self, kind: Any, args: Any, is_class: bool = False) -> Any:
    """What stands for `kind(*args)`. `is_class`: the opcode itself says that `kind` is a class."""
    kind, args = instance(kind, Global), tuple(settle(value) for value in instance(args, tuple))
    if maker := CONSTRUCTORS.get(kind):
      return maker(*args)
    if kind.module == 'torch._utils' or kind == ('torch._tensor', '_rebuild_from_type_v2'):
      return self._tensor(kind, args)
    if kind.module in ('copyreg', 'copy_reg'):
      if kind.name == '_reconstructor':  # (class, base, state of base)
        made = self._construct(args[0], (), is_class=True)
        if isinstance(made, dict | list) and type(args[2]) in (dict, list):
          made = type(args[2])(args[2])
        elif isinstance(made, StandIn) and args[2] is not None:
          made.set_state(args[2])
        return made
      if kind.name == '__newobj__':
        return self._construct(args[0], args[1:], is_class=True)
      if kind.name == '__newobj_ex__':
        return self._construct(args[0], args[1], is_class=True)
    named_like_class = kind.name.rpartition('.')[2].lstrip('_')[:1].isupper()
    if is_class or named_like_class:
      return StandIn(kind, args)
    raise self._refuse(kind, 'asks to call')

  def _tensor(self, kind: Global, args: tuple) -> Any:
    if self._tensors is None:
      raise self._refuse(kind, 'asks to call')
    if kind.name in ('_rebuild_tensor', '_rebuild_tensor_v2'):
      storage, offset, shape, strides = args[:4]
      return self._tensors.tensor(storage, None, offset, checked_shape(shape), checked_shape(strides))
    if kind.name == '_rebuild_tensor_v3':
      storage, offset, shape, strides, _, _, dtype = args[:7]
      return self._tensors.tensor(storage, self.dtype_name(dtype), offset, checked_shape(shape), checked_shape(strides))
    if kind.name in ('_rebuild_parameter', '_rebuild_parameter_with_state'):
      return args[0]
    if kind.name == '_rebuild_from_type_v2':
      return self._construct(args[0], args[2])
    raise UserError(
      f'{self._path} holds a kind of tensor that is not read here ({kind}); save dense, unquantised tensors'
    )

  def dtype_name(self, named: Any) -> str:
    """NumPy's name of a torch storage class or element type."""
    named = instance(named, Global)
    name = _STORAGES.get(named.name) if named.name.endswith('Storage') else _TORCH_DTYPES.get(named.name)
    if named.module.split('.')[0] != 'torch' or name is None:
      raise UserError(
        f'{self._path} holds tensors of type {named}, which is not read here; expected float16, bfloat16, float32, float64 '
        'or integers'
      )
    return name

  def persistent_load(self, pid: Any) -> Any:
    if self._tensors is None:
      raise UserError(f'{self._path} refers to data outside its pickle ({str(pid)[:80]}), which only PyTorch files do')
    return self._tensors.storage(self, instance(pid, tuple))

  def get_extension(self, code: int) -> None:
    raise self._refuse(f'copyreg extension {code}', 'asks for')

  # The opcodes that act.

  def load_reduce(self) -> None:
    args = self.stack.pop()
    self.stack[-1] = self._construct(self.stack[-1], args)

  def load_bytearray8(self) -> None:
    self.append(bytearray(self.read(int.from_bytes(self.read(8), 'little'))))

  def load_newobj(self) -> None:
    args = self.stack.pop()
    self.stack[-1] = self._construct(self.stack[-1], args, is_class=True)

  def load_newobj_ex(self) -> None:
    keywords = self.stack.pop()
    args = self.stack.pop()
    made = self._construct(self.stack[-1], args, is_class=True)
    if isinstance(made, StandIn):
      made.set_state(instance(keywords, dict))
    self.stack[-1] = made

  def _instantiate(self, klass: Any, args: list) -> None:  # INST and OBJ
    self.append(self._construct(klass, tuple(args), is_class=True))

  def load_build(self) -> None:
    state = self.stack.pop()
    target = self.stack[-1]
    if isinstance(target, StandIn | PendingDtype | PendingArray):
      target.set_state(state)
    elif not isinstance(target, dict):  # an OrderedDict's own attributes (a state dict's _metadata) are of no use here
      raise ValueError(f'attributes for {type(target).__name__}')

  def _add(self, target: Any, values: list) -> None:
    values = [settle(value) for value in values]
    if isinstance(target, StandIn):
      target.entries.extend(values)
    elif isinstance(target, set):
      target.update(values)
    else:
      instance(target, list).extend(values)

  def load_append(self) -> None:
    value = self.stack.pop()
    self._add(self.stack[-1], [value])

  def load_appends(self) -> None:
    values = self.pop_mark()
    self._add(self.stack[-1], values)

  def _set(self, values: list) -> None:
    target = self.stack[-1]
    target = target.items if isinstance(target, StandIn) else instance(target, dict)
    for i in range(0, len(values), 2):
      target[settle(values[i])] = settle(values[i + 1])

  def load_setitem(self) -> None:
    value = self.stack.pop()
    key = self.stack.pop()
    self._set([key, value])

  def load_setitems(self) -> None:
    self._set(self.pop_mark())

  dispatch |= {
    pickle.REDUCE[0]: load_reduce,
    pickle.BYTEARRAY8[0]: load_bytearray8,
    pickle.NEWOBJ[0]: load_newobj,
    pickle.NEWOBJ_EX[0]: load_newobj_ex,
    pickle.BUILD[0]: load_build,
    pickle.APPEND[0]: load_append,
    pickle.APPENDS[0]: load_appends,
    pickle.ADDITEMS[0]: load_appends,
    pickle.SETITEM[0]: load_setitem,
    pickle.SETITEMS[0]: load_setitems,
  }

  def load(self) -> Any:
    """The pickle's object.

    Raises:
      UserError: the pickle is damaged, or asks for anything but data.
    """
    try:
      return settle(super().load())
    except UserError:
      raise
    except EOFError:
      raise UserError(f'{self._path} ends early (a download that broke off?); download it again') from None
    except Exception as error:  # every other failure is the file's: its bytes decide what is done here
      message = str(error).split('\n')[0][:200] or type(error).__name__
      raise UserError(
        f'{self._path} holds a pickle that cannot be read as data ({message}); download it again'
      ) from None
