"""Runs the stages of a config: brainjax train --config=NAME_OR_FILE [--workdir=DIR] [--stages=a,b] [--config.field=value ...]"""

import difflib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from brainjax import locate
from brainjax.errors import UserError, command_line, format_error

# Python's messages about text that is not a number -> ours.
NUMBERS = {
  'invalid literal for int() with base 10:': 'expected a whole number, found',
  'could not convert string to float:': 'expected a number, found',
}
TYPES = {
  bool: 'True or False',
  int: 'a whole number',
  float: 'a number',
  str: 'a text',
  tuple: 'a tuple',
  ConfigDict: 'a section',
}


def _define_flags(argv: list[str], config: ConfigDict | None) -> flags.FlagValues:
  """The flags of a command line, not yet parsed. `argv` begins with the name of the program. `config`: whose fields are flags."""
  values = flags.FlagValues()
  options = {'flag_values': values}
  about = 'A file, or the name of one of configs/, such as demo; --config.a.b=value changes a field.'
  if config is None:
    flags.DEFINE_string('config', None, about, **options)
  else:
    config_flags.DEFINE_config_dict('config', config, about, sys_argv=argv, **options)
  flags.DEFINE_string('workdir', None, 'Folder of the run; default runs/<name of the config>.', **options)
  flags.DEFINE_bool(
    'leave_one_out', False, 'A run for each of config.data.subjects that learns from the others.', **options
  )
  flags.DEFINE_list('stages', None, 'Stages to run, in this order; default config.stages.', **options)
  flags.DEFINE_list(
    'accept_changes',
    [],
    'Fields that may differ from earlier runs in this workdir, such as contrast.batch_size,seed.',
    **options,
  )
  # For hosts that JAX does not find itself (it finds those of TPU pods, SLURM, Kubernetes and Open MPI); see docs/scale.md.
  flags.DEFINE_string('coordinator_address', None, 'HOST:PORT of the first of several hosts.', **options)
  flags.DEFINE_integer('num_processes', None, 'Number of processes on all hosts.', **options)
  flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.', **options)
  return values


def _format_error(error: BaseException, argv: list[str]) -> str:
  """One sentence for an error of absl or ml_collections about flags."""
  cause = error
  while cause.args and isinstance(cause.args[0], Exception):  # they wrap the first error
    cause = cause.args[0]
  lines = str(cause.args[0] if cause.args else cause).strip().splitlines() or [type(cause).__name__]
  if isinstance(cause, KeyError):
    field = lines[0].strip("'")
    flag = next((given for given in argv if f'.{field}' in given), 'flags')
    hint = ''.join(f' {line}' for line in lines[1:])  # the nearest existing name
    return f"{flag}: no such field: '{field}'.{hint} The fields are in configs/base.py."
  sentence = ' '.join(lines)
  for python, ours in NUMBERS.items():
    sentence = sentence.replace(python, ours)
  return f'flags: {sentence.rstrip(".")}; brainjax train --help lists the flags.'


def _take_config_file(argv: list[str]) -> tuple[str, list[str]]:
  """The path of the config file, empty if none is named, and the other arguments."""
  file, rest, argv = '', [], list(argv)
  while argv:
    arg = argv.pop(0)
    if arg in ('--config', '-config') and argv:
      file = locate.config(argv.pop(0))
    elif arg.startswith(('--config=', '-config=')):
      file = locate.config(arg.split('=', 1)[1])
    else:
      rest.append(arg)
  return file, rest


def _load_config(file: str) -> ConfigDict:
  """What `get_config` of a file returns.

  Raises:
    UserError: the file has none, or fails.
  """
  loader = importlib.machinery.SourceFileLoader('config_file', file)
  module = importlib.util.module_from_spec(importlib.util.spec_from_loader('config_file', loader))
  try:
    loader.exec_module(module)
    config = module.get_config()
    config.seed  # noqa: B018 - raises an error if it is no config
  except UserError:
    raise
  except SyntaxError as error:
    raise UserError(f'{error.filename} is not a valid Python file: {error}; the configs are in configs/.') from error
  except Exception as error:  # whatever the code of a config file raises
    raise UserError(f'{file}: {_describe_fault(error, file)}') from error
  return config


def _describe_fault(error: Exception, file: str) -> str:
  """What the code of a config file did wrong: a field that does not exist, a value of another type, or anything else."""
  frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
  cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error  # ConfigDict wraps a KeyError
  for frame in reversed(frames):
    section, name = frame.f_locals.get('self'), frame.f_locals.get('key', frame.f_locals.get('attribute'))
    if not isinstance(section, ConfigDict) or not isinstance(name, str):
      continue
    roots = (value for each in frames for value in each.f_locals.values() if isinstance(value, ConfigDict))
    path = next((f'{key}.' for root in roots for key, value in root.items() if value is section), '')
    if name in section and isinstance(error, TypeError):
      expected = TYPES.get(type(section[name]), type(section[name]).__name__)
      return f'{path}{name}: expected {expected}, found {frame.f_locals.get("value")!r}.'
    if name not in section and isinstance(cause, KeyError | AttributeError):
      near = difflib.get_close_matches(name, list(section), 1)
      return f'{path}{name} is no field of the config; ' + (
        f'did you mean {near[0]}?' if near else 'the fields are in configs/base.py.'
      )
  lines = [line.lineno for line in traceback.extract_tb(error.__traceback__) if line.filename == file]
  where = f'line {lines[-1]}: ' if lines else ''
  return f'cannot be loaded: {where}{type(error).__name__}: {format_error(error)}.'


@command_line
def main(argv: list[str] | None = None) -> None:
  """Parses flags and runs the pipeline.

  Args:
    argv: without the name of the program; by default those of the command line.

  Raises:
    UserError: a flag or the config is wrong, or the run cannot go on.
  """
  argv = sys.argv[1:] if argv is None else argv
  if {'--help', '-h'} & set(argv):
    print(
      f'{__doc__}\n\nThe fields of a config are described in configs/base.py.\n{_define_flags([], None).get_help()}'
    )
    return
  file, rest = _take_config_file(argv)
  argv, config = ['brainjax train', *rest], _load_config(file) if file else None
  try:
    given = _define_flags(argv, config)
    rest = given(argv)[1:]
  except Exception as error:  # of absl and ml_collections: any kind
    raise UserError(_format_error(error, argv)) from error
  if given.workdir == '':
    raise UserError('flags: --workdir is empty; name a folder, or leave it out for runs/<name of the config>.')
  if rest:
    raise UserError(f'flags: found {rest[0]!r}, which is not a flag; flags begin with two dashes.')
  if config is None:
    raise UserError(f'flags: --config is missing; name a file, or one of {", ".join(locate.config_names())}.')
  config = given.config
  import jax  # slow, so after the flags: a mistyped flag is reported at once

  jax.config.update('jax_compilation_cache_dir', os.path.expanduser(config.compilation_cache) or None)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  from brainjax import hosts

  hosts.join(given.coordinator_address, given.num_processes, given.process_id)
  from brainjax import leave_one_out, pipeline

  with hosts.ending_together():
    (leave_one_out if given.leave_one_out else pipeline).run(
      config,
      Path(given.workdir or Path('runs', Path(file).stem)),
      tuple(config.stages if given.stages is None else given.stages),
      given.stages is not None,
      given.accept_changes,
    )


if __name__ == '__main__':
  sys.exit(main())
