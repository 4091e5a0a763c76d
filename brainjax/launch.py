"""Runs the stages of a config: brainjax train --config=NAME_OR_FILE [--workdir=DIR] [--stages=a,b] [--config.field=value ...]"""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from brainjax import locate
from brainjax.errors import UserError, command_line

# Python's messages about text that is not a number -> ours.
NUMBERS = {
  'invalid literal for int() with base 10:': 'expected a whole number, found',
  'could not convert string to float:': 'expected a number, found',
}


def _define_flags(argv: list[str]) -> flags.FlagValues:
  """The flags of a command line, not yet parsed. `argv` begins with the name of the program."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config',
    None,
    'A file, or the name of one of configs/, such as demo; --config.a.b=value changes a field.',
    flag_values=values,
    sys_argv=argv,
  )
  options = {'flag_values': values}
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
  """One sentence for an error of absl or ml_collections about flags, or of Python about a config file."""
  cause = error
  while cause.args and isinstance(cause.args[0], Exception):  # they wrap the first error
    cause = cause.args[0]
  lines = str(cause.args[0] if cause.args else cause).strip().splitlines() or [type(cause).__name__]
  if isinstance(cause, KeyError) and 'since the config is locked' in lines[0]:  # and all other fields
    return f'the config file: {lines[0].split(". Other fields")[0]}; add it inside `with config.unlocked():`.'
  if isinstance(cause, KeyError):
    field = lines[0].strip("'")
    flag = next((given for given in argv if f'.{field}' in given), 'the config file')
    hint = ''.join(f' {line}' for line in lines[1:])  # the nearest existing name
    return f"{flag}: no such field: '{field}'.{hint} The fields are in configs/base.py."
  if isinstance(cause, SyntaxError):
    return f'{cause.filename} is not a valid Python file: {lines[0]}; the configs are in configs/.'
  if 'Traceback' in str(error):  # a config file failed
    lines = [lines[0], lines[-1]]
  sentence = ' '.join(lines)
  for python, ours in NUMBERS.items():
    sentence = sentence.replace(python, ours)
  return f'flags: {sentence}; see README.'


def _with_config_file(argv: list[str]) -> list[str]:
  """The arguments with the path of the config file in place of its name."""
  argv = list(argv)
  for place, arg in enumerate(argv):
    if arg in ('--config', '-config') and place + 1 < len(argv):
      argv[place + 1] = locate.config(argv[place + 1])
    elif arg.startswith(('--config=', '-config=')):
      flag, value = arg.split('=', 1)
      argv[place] = f'{flag}={locate.config(value)}'
  return argv


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
    print(f'{__doc__}\n\nThe fields of a config are described in configs/base.py.\n{_define_flags([]).get_help()}')
    return
  argv = ['brainjax train', *_with_config_file(argv)]
  given = _define_flags(argv)
  try:
    rest = given(argv)[1:]
  except Exception as error:  # whatever the code of a config file raises
    raise UserError(_format_error(error, argv)) from error
  if given.workdir == '':
    raise UserError('flags: --workdir is empty; name a folder, or leave it out for runs/<name of the config>.')
  if rest:
    raise UserError(f'flags: found {rest[0]!r}, which is not a flag; flags begin with two dashes.')
  if given.config is None:
    raise UserError(f'flags: --config is missing; name a file, or one of {", ".join(locate.config_names())}.')
  config, file = given.config, config_flags.get_config_filename(given['config'])
  try:
    config.seed  # noqa: B018 - raises an error if the file could not be loaded
  except (OSError, AttributeError) as error:
    raise UserError(f'{file} cannot be loaded: {str(error).strip().splitlines()[-1]}') from error
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
