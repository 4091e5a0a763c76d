"""The files of deploy/ and .github/workflows fit what will read them: published schemas, parsers and lists of options."""

import argparse
import json
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from brainjax import launch

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / 'deploy'
COMMAND = 'launch.py --config=configs/god_sbj3.py --workdir=/shared/run'
# `sbatch --help` of SLURM 24.05, the long options that our script may need.
SBATCH = """
  account array begin chdir comment constraint cpus-per-gpu cpus-per-task dependency error exclude exclusive export gpus
  gpus-per-node gres job-name kill-on-invalid-dep licenses mail-type mail-user mem mem-per-cpu mem-per-gpu nice no-requeue nodelist
  nodes ntasks ntasks-per-node open-mode output partition priority qos requeue reservation signal switches threads-per-core time
  time-min tmp wait wrap
""".split()  # noqa: SIM905
# sky/utils/schemas.py of SkyPilot 0.14.1: the fields of a task, of its resources, of job_recovery.
TASK = """
  name workdir event_callback num_nodes resources file_mounts service pool setup run envs secrets managed_secrets inputs outputs
  file_mounts_mapping config volumes volume_mounts api_server_access
""".split()  # noqa: SIM905
RESOURCES = """
  cloud region zone infra cpus memory accelerators instance_type use_spot job_recovery volumes disk_size ephemeral_storage disk_tier
  network_tier local_disk max_hourly_cost ports labels accelerator_args image_id autostop priority priority_class any_of ordered
""".split()  # noqa: SIM905
RECOVERY = ['strategy', 'max_restarts_on_errors', 'recover_on_exit_codes']


def words(text: str) -> list[str]:
  """A shell command as words, continued lines joined."""
  return shlex.split(text.replace('\\\n', ' '), comments=True)


def dockerfile() -> list[tuple[str, str]]:
  """(instruction, arguments) of the Dockerfile, continued lines joined."""
  text = re.sub(r'^#.*\n', '', (DEPLOY / 'Dockerfile').read_text(), flags=re.MULTILINE).replace('\\\n', ' ')
  return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def jobset(name: str) -> dict:
  return yaml.safe_load((DEPLOY / name).read_text())


def container(name: str) -> dict:
  job = jobset(name)['spec']['replicatedJobs'][0]['template']['spec']
  return job['template']['spec']['containers'][0]


def test_dockerfile():
  known = {'FROM', 'ARG', 'ENV', 'WORKDIR', 'COPY', 'RUN', 'ENTRYPOINT', 'CMD'}
  instructions = dockerfile()
  assert instructions[0][0] == 'FROM' and {name for name, _ in instructions} <= known
  for name, arguments in instructions:
    if name == 'COPY':
      *sources, _ = arguments.split()
      assert all((ROOT / source).exists() for source in sources), arguments
    if name == 'RUN':
      assert subprocess.run(['sh', '-n', '-c', arguments]).returncode == 0
    if name in ('ENTRYPOINT', 'CMD'):
      assert all(isinstance(word, str) for word in json.loads(arguments))
  assert ('ENTRYPOINT', '["python", "launch.py"]') in instructions
  # What pyproject.toml needs to build the package is there before it is installed.
  copied = ' '.join(arguments for name, arguments in instructions if name == 'COPY')
  assert all(name in copied for name in ('pyproject.toml', 'README.md', 'LICENSE', 'brainjax', 'configs'))
  argument = next(arguments for name, arguments in instructions if name == 'ARG')
  assert argument == 'ACCELERATOR=""'


@pytest.mark.parametrize('name', ['jobset-tpu.yaml', 'jobset-gpu.yaml'])
def test_jobsets_fit_the_published_schema(name):
  schema = json.loads((ROOT / 'tests' / 'jobset_schema.json').read_text())
  jsonschema.validate(jobset(name), schema)
  job = jobset(name)['spec']['replicatedJobs'][0]['template']['spec']
  assert job['parallelism'] == job['completions']
  broken = jobset(name)
  broken['spec']['failurePolicy']['maxRestart'] = 3  # the schema finds a wrong name
  with pytest.raises(jsonschema.ValidationError, match='maxRestart'):
    jsonschema.validate(broken, schema)


def test_a_slice_has_as_many_hosts_as_its_topology_needs():
  job = jobset('jobset-tpu.yaml')['spec']['replicatedJobs'][0]['template']['spec']
  topology = job['template']['spec']['nodeSelector']['cloud.google.com/gke-tpu-topology']
  chips = eval(topology.replace('x', '*'), {})
  assert chips == job['parallelism'] * container('jobset-tpu.yaml')['resources']['limits']['google.com/tpu']


def test_sbatch_script():
  text = (DEPLOY / 'slurm.sh').read_text()
  assert subprocess.run(['bash', '-n', DEPLOY / 'slurm.sh']).returncode == 0
  lines = text.splitlines()
  directives = [line for line in lines if line.startswith('#SBATCH')]
  assert len(directives) > 5 and lines[0] == '#!/bin/bash'
  # sbatch stops reading options at the first command.
  first = next(place for place, line in enumerate(lines) if line and not line.startswith('#'))
  assert all(lines.index(line) < first for line in directives)
  for line in directives:
    option, _, value = line.removeprefix('#SBATCH --').partition('=')
    assert option in SBATCH and (value or option == 'requeue'), line
  assert re.search(r'--time=\d+:\d\d:\d\d\n', text) and re.search(r'--signal=(B:)?[A-Z]+@\d+\n', text)


def test_skypilot_task():
  task = yaml.safe_load((DEPLOY / 'skypilot.yaml').read_text())
  assert set(task) <= set(TASK) and set(task['resources']) <= set(RESOURCES)
  assert set(task['resources']['job_recovery']) <= set(RECOVERY)
  assert isinstance(task['num_nodes'], int) and isinstance(task['volumes'], dict)
  for part in ('setup', 'run'):
    assert subprocess.run(['bash', '-n', '-c', task[part]]).returncode == 0


def test_xpk_line():
  assert subprocess.run(['bash', '-n', DEPLOY / 'xpk.sh']).returncode == 0
  parser = argparse.ArgumentParser(exit_on_error=False)  # as `xpk workload create` of xpk 1.16.0 declares them
  for name in ('--command', '--tpu-type', '--workload', '--cluster'):
    parser.add_argument(name, required=True)
  for name in ('--project', '--zone', '--docker-image', '--docker-name', '--priority'):
    parser.add_argument(name)
  parser.add_argument('--storage', action='append')
  for name in ('--num-slices', '--max-restarts', '--termination-grace-period-seconds'):
    parser.add_argument(name, type=int)
  line = words((DEPLOY / 'xpk.sh').read_text())
  assert line[:3] == ['xpk', 'workload', 'create']
  given = parser.parse_args(line[3:])
  assert given.command == f'python {COMMAND}' and given.max_restarts == 20


def commands() -> dict[str, list[str]]:
  """The flags that each file gives to launch.py."""
  found = {name: container(name)['args'] for name in ('jobset-tpu.yaml', 'jobset-gpu.yaml')}
  texts = {
    'slurm.sh': (DEPLOY / 'slurm.sh').read_text(),
    'skypilot.yaml': yaml.safe_load((DEPLOY / 'skypilot.yaml').read_text())['run'],
    'xpk.sh': words((DEPLOY / 'xpk.sh').read_text())[-1].removeprefix('--command='),
  }
  for name, text in texts.items():
    text = text[text.index('launch.py') :].replace('\\\n', ' ').splitlines()[0]
    found[name] = words(re.sub(r'"\$\(.*?\):8476"', 'HOST:8476', text))[1:]
  return found


@pytest.mark.parametrize('name', ['jobset-tpu.yaml', 'jobset-gpu.yaml', 'slurm.sh', 'skypilot.yaml', 'xpk.sh'])
def test_every_file_gives_the_same_command_with_flags_that_exist(name):
  flags = commands()[name]
  assert flags[:2] == COMMAND.split()[1:]
  flags = [re.sub(r'=\$.*', '=1', flag) for flag in flags]
  file, rest = launch._take_config_file(flags)
  argv = ['brainjax train', *rest]
  assert launch._define_flags(argv, launch._load_config(file))(argv)[1:] == []


@pytest.mark.parametrize('path', sorted((ROOT / '.github' / 'workflows').glob('*.yml')), ids=lambda path: path.name)
def test_workflows_call_make_targets_that_exist(path):
  workflow = yaml.safe_load(path.read_text())
  targets = re.search(r'^\.PHONY: (.*)$', (ROOT / 'Makefile').read_text(), re.MULTILINE)[1].split()
  assert workflow[True] and workflow['permissions'] == {'contents': 'read'}  # YAML reads the key `on` as True
  called = []
  for job in workflow['jobs'].values():
    assert {'runs-on', 'steps', 'timeout-minutes'} <= set(job)
    for step in job['steps']:
      assert ('run' in step) != ('uses' in step)
      called += re.findall(r'^make ([\w-]+)$', step.get('run', ''), re.MULTILINE)
  assert called and set(called) <= set(targets)


def test_the_tiers_of_ci_are_those_of_the_makefile():
  texts = {path.stem: path.read_text() for path in (ROOT / '.github' / 'workflows').glob('*.yml')}
  assert (
    'make test\n' in texts['quick']
    and 'make test-slow\n' in texts['slow']
    and 'make test-nightly\n' in texts['nightly']
  )
