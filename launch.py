"""Runs brainjax: python launch.py --config=configs/X.py [--workdir=DIR] [--stages=a,b] [--config.field=value ...]"""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from brainjax.errors import UserError, command_line

CONFIG = config_flags.DEFINE_config_file('config', None, 'A file of configs/; --config.a.b=value changes a field.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; default runs/<name of the config>.')
STAGES = flags.DEFINE_list('stages', None, 'Stages to run, in this order; default config.stages.')
ACCEPT = flags.DEFINE_list(
  'accept_changes', [], 'Fields that may differ from earlier runs in this workdir, such as contrast.batch_size,seed.'
)
# For hosts that JAX does not find itself (it finds those of TPU pods, SLURM, Kubernetes and Open MPI); see docs/scale.md.
COORDINATOR = flags.DEFINE_string('coordinator_address', None, 'HOST:PORT of the first of several hosts.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Number of processes on all hosts.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.')

# Python's words about something that is not a number -> ours.
NUMBERS = {
  'invalid literal for int() with base 10:': 'expected a whole number, found',
  'could not convert string to float:': 'expected a number, found',
}


def _format_error(error: BaseException, argv: list[str]) -> str:
  """One sentence for an error of absl or ml_collections about flags, or of Python about a config file."""
  cause = error
  while cause.args and isinstance(cause.args[0], Exception):  # they wrap the first error
    cause = cause.args[0]
  lines = str(cause.args[0] if cause.args else cause).strip().splitlines() or [type(cause).__name__]
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


@command_line
def main(argv: list[str]) -> None:
  """Parses flags and runs the pipeline."""
  if {'--help', '-h'} & set(argv):
    print(f'{__doc__}\n\nThe fields of a config are described in configs/base.py.\n{flags.FLAGS.main_module_help()}')
    return
  try:
    rest = flags.FLAGS(argv)[1:]
  except Exception as error:  # whatever the code of a config file raises
    raise UserError(_format_error(error, argv)) from error
  if WORKDIR.value == '':
    raise UserError('flags: --workdir is empty; name a folder, or leave it out for runs/<name of the config>.')
  if rest:
    raise UserError(f'flags: found {rest[0]!r}, which is not a flag; flags begin with two dashes.')
  if CONFIG.value is None:
    raise UserError('flags: --config is missing; for example --config=configs/demo.py.')
  file = config_flags.get_config_filename(flags.FLAGS['config'])
  if not Path(file).is_file():
    raise UserError(f'flags: --config={file} does not exist; the configs are in configs/.')
  config = CONFIG.value
  try:
    config.seed  # noqa: B018 - raises an error if the file could not be loaded
  except (OSError, AttributeError) as error:
    raise UserError(f'{file} cannot be loaded: {str(error).strip().splitlines()[-1]}') from error
  import jax  # slow, so after the flags: a mistyped flag is reported at once

  jax.config.update('jax_compilation_cache_dir', os.path.expanduser(config.compilation_cache) or None)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  from brainjax import hosts

  hosts.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
  from brainjax import pipeline

  workdir = Path(WORKDIR.value or Path('runs', Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem))
  with hosts.ending_together():
    pipeline.run(
      config,
      workdir,
      tuple(config.stages if STAGES.value is None else STAGES.value),
      STAGES.value is not None,
      ACCEPT.value,
    )


if __name__ == '__main__':
  sys.exit(main(sys.argv))
