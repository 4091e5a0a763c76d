"""Two real processes over loopback: the same run as one process, and an orderly end when one of them dies."""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from brainjax import hosts
from brainjax.checkpoints import load_weights
from brainjax.metric_writer import read_metrics
from tests.mesh_runs import ROOT, environment

# What two processes do with no model: run as `python -c SCRIPT <port> <process> <how it ends>`.
SCRIPT = """
import os, signal, sys, time
import jax, numpy as np
from brainjax import hosts, sharding
from brainjax.checkpoints import load_weights, save_weights
from brainjax.errors import UserError
port, this, end, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
hosts.join(f'127.0.0.1:{port}', 2, this)
assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)

def fail():
  raise UserError('the raw data are missing')

with hosts.ending_together():
  mesh = sharding.make_mesh(2, 2)
  kernel = np.arange(56, dtype=np.float32).reshape(7, 8)
  split = sharding.put_param('a/kernel', kernel, mesh)
  assert {shard.data.shape for shard in split.addressable_shards} == {(7, 4)}
  np.testing.assert_array_equal(sharding.to_host({'a': split})['a'], kernel)
  # Each process brings its half of the batch; together they are rows 0 to 7.
  rows = np.arange(8.0)[hosts.share(8)]
  batch = sharding.put_batch({'x': rows}, mesh)['x']
  np.testing.assert_array_equal(sharding.to_host(batch), np.arange(8.0))
  np.testing.assert_array_equal(sharding.to_host(sharding.put_rows({'x': np.arange(8.0)}, mesh)['x']), np.arange(8.0))
  assert hosts.from_first(this + 5) == 5
  assert hosts.all_equal('alike') and not hosts.all_equal(str(this))
  hosts.on_first(save_weights, f'{folder}/w', {'a': kernel}, {'kind': 'test'})
  np.testing.assert_array_equal(load_weights(f'{folder}/w')[0]['a'], kernel)
  hosts.on_first(lambda: load_weights(f'{folder}/w'))  # alone, while the other waits
  print('all is well', flush=True)
  if end == 'fail':
    hosts.on_first(fail)
  if end == 'sigterm' and this:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
  if end == 'sigterm':
    hosts.all_equal('the other is gone')
  if end == str(this):
    os.kill(os.getpid(), signal.SIGKILL)
  if end in ('0', '1'):
    hosts.all_equal('the other is gone')
"""


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def start_two(command):
  """Both processes of `command(port, process)`, each with two devices."""
  port = free_port()
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True, 'cwd': ROOT, 'env': environment(2)}
  return [subprocess.Popen(command(port, process), **pipes) for process in range(2)]


def end_of(processes, timeout=1500):
  """[(exit status, output)]"""
  try:
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def two_scripts(end, folder):
  return end_of(start_two(lambda port, this: [sys.executable, '-c', SCRIPT, str(port), str(this), end, str(folder)]))


def test_arrays_rows_and_weights_of_two_hosts(tmp_path):
  for status, output in two_scripts('well', tmp_path):
    assert status == 0 and 'all is well' in output, output


def test_what_fails_on_the_first_host_ends_both(tmp_path):
  (first, first_output), (second, second_output) = two_scripts('fail', tmp_path)
  assert first == 2 and 'error: host 0 of 2: the raw data are missing' in first_output
  assert second != 0 and ('the first host stopped' in second_output or 'distributed service' in second_output)


@pytest.mark.parametrize('gone', ['0', '1'])
def test_a_killed_host_ends_the_other(tmp_path, gone):
  ends = two_scripts(gone, tmp_path)
  assert ends[int(gone)][0] == -signal.SIGKILL
  status, output = ends[1 - int(gone)]
  assert status not in (0, -signal.SIGKILL), output
  assert (
    'To resume from the last checkpoint, run the same command on every host' in output
    or 'distributed service detected fatal errors' in output
  )


def test_sigterm_ends_a_host_that_does_not_train_and_the_other_with_it(tmp_path):
  (first, first_output), (second, second_output) = two_scripts('sigterm', tmp_path)
  assert second == 143 and 'stopped by SIGTERM; to resume, run the same command' in second_output
  assert first not in (0, -signal.SIGKILL), first_output


# Process 1 of a container gets no signal that it does not listen for.
ALONE = """
import os, signal, time
from brainjax import hosts
with hosts.ending_together():
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(60)
"""


def test_sigterm_ends_a_single_host_that_does_not_train():
  done = subprocess.run([sys.executable, '-c', ALONE], cwd=ROOT, capture_output=True, text=True, timeout=60)
  assert done.returncode == 143 and done.stderr.count('\n') == 1 and 'stopped by SIGTERM' in done.stderr, done.stderr


def test_a_host_reports_a_path_that_it_cannot_use(monkeypatch, capsys):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(os, '_exit', sys.exit)  # which a test can catch
  monkeypatch.setattr(hosts, 'at_sigterm', lambda work: contextlib.nullcontext())
  with pytest.raises(SystemExit) as left, hosts.ending_together():
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), '/shared/run')
  assert left.value.code == 2
  assert capsys.readouterr().err.startswith('error: host 0 of 2: /shared/run: Permission denied;')


def test_half_of_the_flags_are_refused():
  # In a process of its own: JAX refuses to join others once it has computed.
  done = subprocess.run(
    [sys.executable, 'launch.py', '--config=configs/tiny.py', '--coordinator_address=127.0.0.1:1'],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 2 and '--num_processes and --process_id' in done.stderr and 'Traceback' not in done.stderr


def test_one_host_brings_every_row():
  assert hosts.share(8) == slice(0, 8)


# Through launch.py -----------------------------------------------------------------------------------------------------

# Smaller still than the tiny config: compiling is what takes the time.
SMALL = (
  '--config.unet.channel_mult=(1,)',
  '--config.unet.attention_resolutions=(1,)',
  '--config.first_stage.ch_mult=(1,)',
)


def launch(workdir, *flags):
  return [sys.executable, 'launch.py', '--config=configs/tiny.py', f'--workdir={workdir}', *SMALL, *flags]


def on_two(workdir, *flags):
  return start_two(
    lambda port, this: launch(
      workdir, f'--coordinator_address=127.0.0.1:{port}', '--num_processes=2', f'--process_id={this}', *flags
    )
  )


def losses_of(workdir, stage):
  return [line['loss'] for line in read_metrics(workdir / stage / 'metrics.jsonl')]


@pytest.mark.slow
def test_two_processes_are_the_same_run_as_one(tmp_path):
  mesh = ('--config.mesh.data=2', '--config.mesh.fsdp=2', '--config.log_every=1')
  two, one = tmp_path / 'two', tmp_path / 'one'
  for status, output in end_of(on_two(two, *mesh)):
    assert status == 0, output
  one.mkdir()
  for folder in ('simulated', 'prepared'):
    shutil.copytree(two / folder, one / folder)
  done = subprocess.run(launch(one, *mesh), cwd=ROOT, capture_output=True, text=True, env=environment(4))
  assert done.returncode == 0, done.stderr
  for stage in ('contrast', 'attend', 'diffuse'):
    np.testing.assert_allclose(losses_of(two, stage), losses_of(one, stage), rtol=1e-5)
    ours, _ = load_weights(two / stage / 'weights')
    theirs, _ = load_weights(one / stage / 'weights')
    assert ours.keys() == theirs.keys()
    for path, x in ours.items():
      # Adam's first steps are as long for a gradient that is rounding noise (a key's bias) as for any other.
      np.testing.assert_allclose(x, theirs[path], rtol=1e-4, atol=1e-3 if path.endswith('bias') else 1e-5, err_msg=path)
  pictures = [np.load(run / 'reconstruct' / 'images.npz')['samples'].astype(int) for run in (two, one)]
  assert np.abs(pictures[0] - pictures[1]).max() <= 2
  assert json.loads((two / 'scores.json').read_text())['num_items'] == 9


@pytest.mark.slow
@pytest.mark.parametrize('gone', [0, 1])
def test_a_killed_host_ends_the_job_and_the_same_command_goes_on(tmp_path, gone):
  flags = ('--stages=contrast', '--config.contrast.num_steps=60', '--config.contrast.checkpoint_every=5')
  workdir = tmp_path / 'run'
  processes = on_two(workdir, *flags, '--config.contrast.eval_every=60')
  checkpoints = workdir / 'contrast' / 'checkpoints'
  deadline = time.monotonic() + 900
  while not any((checkpoints / str(step)).is_dir() for step in range(5, 60, 5)):
    assert time.monotonic() < deadline and processes[gone].poll() is None
    time.sleep(0.02)
  os.kill(processes[gone].pid, signal.SIGKILL)
  status, output = end_of(processes, timeout=300)[1 - gone]
  assert status not in (0, -signal.SIGKILL), output
  assert (
    'To resume from the last checkpoint, run the same command on every host' in output
    or 'distributed service detected fatal errors' in output
  )
  assert not (workdir / 'contrast' / 'complete.json').exists()
  for status, output in end_of(on_two(workdir, *flags, '--config.contrast.eval_every=60')):
    assert status == 0, output
  whole = tmp_path / 'whole'
  whole.mkdir()
  for folder in ('simulated', 'prepared'):
    shutil.copytree(workdir / folder, whole / folder)
  for status, output in end_of(on_two(whole, *flags, '--config.contrast.eval_every=60')):
    assert status == 0, output
  ours, _ = load_weights(workdir / 'contrast' / 'weights')
  theirs, _ = load_weights(whole / 'contrast' / 'weights')
  assert all(np.array_equal(x, theirs[path]) for path, x in ours.items())


@pytest.mark.slow
def test_hosts_with_other_commands_are_refused(tmp_path):
  ends = end_of(
    start_two(
      lambda port, this: launch(
        tmp_path / 'run', f'--coordinator_address=127.0.0.1:{port}', '--num_processes=2', f'--process_id={this}',
        f'--config.seed={this}',
      )
    )
  )  # fmt: skip
  for status, output in ends:
    assert status == 2 and 'different configs' in output, output
