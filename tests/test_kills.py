"""Killed at any moment and started again by the same command, a run ends in the same bits."""

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from brainjax import pipeline
from brainjax.checkpoints import load_weights
from brainjax.errors import UserError
from brainjax.files import sha256
from configs import tiny
from tests.killing import Run
from tests.test_hosts import end_of, start_two

TRAINED = ('contrast', 'attend', 'diffuse')
STAGES = (*TRAINED, 'reconstruct', 'evaluate')
NUM_KILLS = 20
# Long enough for several checkpoints and validations, and for a best one that is not the last.
LONGER = [
  f'--config.{stage}.{field}={value}'
  for stage in TRAINED
  for field, value in (('num_steps', 6), ('checkpoint_every', 2), ('eval_every', 3))
] + ['--config.attend.select=best', '--config.contrast.learning_rate=0.01']


def command(workdir, *flags):
  return ['--config=configs/tiny.py', f'--workdir={workdir}', *flags]


def only(*stages):
  return f'--config.stages={stages!r}'


def result(workdir, stage):
  """What a stage leaves, as text and bytes that can be compared."""
  folder = workdir / stage
  if stage == 'evaluate':
    return {name: (workdir / name).read_bytes() for name in ('scores.json', 'scores_items.npz')}
  if stage == 'reconstruct':
    with np.load(folder / 'images.npz') as archive:
      return {name: archive[name].tobytes() for name in archive.files}
  steps = sorted((path for path in (folder / 'checkpoints').iterdir()), key=lambda path: int(path.name))
  found = {'kept checkpoints': str([path.name for path in steps])}
  with ocp.StandardCheckpointer() as checkpointer:
    for keys, leaf in jax.tree_util.tree_leaves_with_path(checkpointer.restore(steps[-1] / 'state')):
      found[f'state{jax.tree_util.keystr(keys)}'] = np.asarray(leaf).tobytes()
  notes = json.loads((steps[-1] / 'notes' / 'metadata').read_text())
  found['data position'] = json.dumps(notes['data'], sort_keys=True)
  found |= {f'weights {path}': x.tobytes() for path, x in load_weights(folder / 'weights')[0].items()}
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  found['metrics'] = str([{k: v for k, v in line.items() if k != 'steps_per_second'} for line in lines])
  return found


def sums_below(folder, pattern='*'):
  return {file.relative_to(folder): sha256(file) for file in folder.rglob(pattern) if file.is_file()}


def assert_same(workdir, reference, stages):
  for stage in stages:
    ours, theirs = result(workdir, stage), result(reference, stage)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if ours[name] != theirs[name]], stage
  left = [path for path in workdir.rglob('*') if '.tmp' in path.name or '-tmp' in path.name or '.staging' in path.name]
  assert not left


def uninterrupted(folder, *flags):
  """(workdir, its moments) of a run that nothing disturbs."""
  status, output = Run(command(folder / 'run', *flags), folder / 'run', moments=folder / 'moments').end()
  assert status == 0, output
  return folder / 'run', [line.split(' ', 1) for line in (folder / 'moments').read_text().splitlines()]


def moments_of(workdir, moments, stage):
  """The moments from the first in a stage's folder to the first in the next one's; 'data' is what comes before all."""

  def first(name):
    return next(i for i, (_, path) in enumerate(moments) if Path(path).is_relative_to(workdir / name))

  names = [name for name in STAGES if (workdir / name).exists()]
  starts = {'data': 0, **{name: first(name) for name in names}, 'the end': len(moments)}
  order = list(starts)
  return moments[starts[stage] : starts[order[order.index(stage) + 1]]]


@pytest.mark.parametrize(
  'killed', [('contrast',), pytest.param((*TRAINED, 'reconstruct'), marks=pytest.mark.slow)], ids=['contrast', 'all']
)
def test_killed_in_a_save_in_a_hand_over_and_in_sampling(tmp_path, killed):
  stages = only(*killed)
  reference, moments = uninterrupted(tmp_path / 'whole', stages)
  workdir = tmp_path / 'killed'
  places = {  # kind of the first moment of a stage, and what its path has
    'contrast': ('os.mkdir', 'checkpoints/2.'),
    'attend': ('os.rename', '.weights.tmp'),
    'diffuse': None,  # the very first
    'reconstruct': ('batch', ''),
  }
  for stage in killed:
    kill_at = 0
    if places[stage]:
      kind, text = places[stage]
      of_stage = moments_of(reference, moments, stage)
      kill_at = next(i for i, (k, path) in enumerate(of_stage) if k == kind and text in path)
    status, output = Run(command(workdir, stages), workdir, after=stage, kill_at=kill_at).end()
    assert status == -signal.SIGKILL, output
    assert not (workdir / stage / 'complete.json').exists()
  status, output = Run(command(workdir, stages), workdir).end()
  assert status == 0, output
  assert_same(workdir, reference, killed)


def test_sigterm_ends_a_run_in_time_and_a_second_run_is_refused(tmp_path):
  # Simulated data are made by the first of the two.
  workdir = tmp_path / 'run'
  flags = command(
    workdir, only('contrast'), '--config.contrast.num_steps=1000000', '--config.contrast.checkpoint_every=1000000'
  )
  first = Run(flags, workdir)
  deadline = time.monotonic() + 600
  while not (
    (workdir / 'contrast' / 'metrics.jsonl').exists() and (workdir / 'contrast' / 'metrics.jsonl').stat().st_size
  ):
    assert first.process.is_alive() and time.monotonic() < deadline, first.output
    time.sleep(0.1)
  status, output = Run(flags, workdir).end()
  assert status == 2 and 'another run uses' in output and output.count('\n') == 2  # the devices, and the reason
  os.kill(first.process.pid, signal.SIGTERM)
  sent = time.monotonic()
  status, output = first.end()
  assert status == 143, output
  assert time.monotonic() - sent < 30  # what schedulers wait
  step = output.split('stopped by SIGTERM at step ')[1].split(' ')[0]
  assert [path.name for path in (workdir / 'contrast' / 'checkpoints').iterdir()] == [step]


# As `python -c SCRIPT <port> <process> <folder>`: trains, and the second process gets SIGTERM on the way.
SCRIPT = """
import os, pathlib, signal, sys
from brainjax import hosts, sharding, train
port, this, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
hosts.join(f'127.0.0.1:{port}', 2, this)
from tests.test_train import _stage
terminate = {3: lambda: os.kill(os.getpid(), signal.SIGTERM)} if this else {}
stage = _stage(10**6, event=terminate, checkpoint_every=10**6, log_every=1)
with hosts.ending_together():
  train.train(*stage, folder, sharding.make_mesh(), 3, {})
"""


def test_sigterm_to_one_of_two_hosts_saves_the_same_step_on_both(tmp_path):
  ends = end_of(start_two(lambda port, process: [sys.executable, '-c', SCRIPT, str(port), str(process), str(tmp_path)]))
  assert [status for status, _ in ends] == [143, 143], ends
  steps = {output.split('stopped by SIGTERM at step ')[1].split(' ')[0] for _, output in ends}
  assert {path.name for path in (tmp_path / 'checkpoints').iterdir()} == steps and len(steps) == 1


def test_a_workdir_in_use_is_refused(tmp_path):
  with open(tmp_path / '.lock', 'w') as handle:
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match='another run uses'):
      pipeline.run(tiny.get_config(), tmp_path, ('contrast',), asked=True)
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  return uninterrupted(tmp_path_factory.mktemp('reference'), *LONGER)


def _moments_to_kill_at(count, seed):
  """One in each twentieth of the moments: (number, delay in seconds)."""
  rng = np.random.default_rng(seed)
  numbers = (np.arange(NUM_KILLS) + rng.random(NUM_KILLS)) * count / NUM_KILLS
  return [
    (int(number), float(delay))
    for number, delay in zip(numbers, rng.choice((0, 0.003, 0.03, 0.1), NUM_KILLS), strict=True)
  ]


def _copy(workdir, target, stage):
  """What a run has done before a stage begins."""
  done = () if stage == 'data' else ('simulated', 'prepared', *STAGES[: STAGES.index(stage)])
  for name in done:
    shutil.copytree(workdir / name, target / name)
  target.mkdir(parents=True, exist_ok=True)


@pytest.mark.nightly
@pytest.mark.parametrize('stage', ['data', *STAGES])
def test_a_stage_killed_at_any_moment(reference, stage, tmp_path, capsys):
  whole, moments = reference
  wanted = 'contrast' if stage == 'data' else stage
  kills = 0
  for kill_at, delay in _moments_to_kill_at(
    len(moments_of(whole, moments, stage)), seed=['data', *STAGES].index(stage)
  ):
    workdir = tmp_path / 'run'
    _copy(whole, workdir, stage)
    flags = command(workdir, only(wanted), *LONGER)
    after = '' if stage == 'data' else stage
    status, output = Run(flags, workdir, after=after, kill_at=kill_at, delay=delay).end()
    if status == 0 and delay:  # it had ended before: killed at once instead
      shutil.rmtree(workdir)
      _copy(whole, workdir, stage)
      status, output = Run(flags, workdir, after=after, kill_at=kill_at).end()
    assert status == -signal.SIGKILL, output
    kills += 1
    status, output = Run(flags, workdir).end()
    assert status == 0, output
    assert_same(workdir, whole, [wanted])
    if stage == 'data':
      assert sums_below(workdir / 'simulated') == sums_below(whole / 'simulated')
      records = sums_below(whole / 'prepared', '*.array_record*')
      assert records and sums_below(workdir / 'prepared', '*.array_record*') == records
    shutil.rmtree(workdir)
  with capsys.disabled():
    print(
      f'\n{stage}: killed {kills} times in {len(moments_of(whole, moments, stage))} moments, every run ended in the same bits'
    )


@pytest.mark.nightly
def test_convert_killed_at_any_moment(reference, tmp_path, capsys):
  pytest.importorskip('torch')
  workdir, _ = reference
  released = tmp_path / 'contrast.pth'
  status, output = Run(
    [f'{workdir}/contrast/weights', '--to_torch', f'--out={released}'], tmp_path / 'out', convert=True
  ).end()
  assert status == 0, output
  flags = [str(released), f'--out={tmp_path}/out/weights']
  status, output = Run(flags, tmp_path / 'out', moments=tmp_path / 'moments', convert=True).end()
  assert status == 0, output
  whole, _ = load_weights(tmp_path / 'out' / 'weights')
  count = len((tmp_path / 'moments').read_text().splitlines())
  for kill_at, delay in _moments_to_kill_at(count, seed=0):
    shutil.rmtree(tmp_path / 'out')
    status, output = Run(flags, tmp_path / 'out', kill_at=kill_at, delay=delay, convert=True).end()
    if status == 0 and delay:  # it had ended before: killed at once instead
      shutil.rmtree(tmp_path / 'out')
      status, output = Run(flags, tmp_path / 'out', kill_at=kill_at, convert=True).end()
    assert status == -signal.SIGKILL, output
    status, output = Run(flags, tmp_path / 'out', convert=True).end()
    assert status == 0 or 'exists already' in output
    params, _ = load_weights(tmp_path / 'out' / 'weights')
    assert params.keys() == whole.keys() and all(np.array_equal(params[name], whole[name]) for name in whole)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['weights']
  with capsys.disabled():
    print(f'\nconvert: killed {NUM_KILLS} times in {count} moments, the weights are the same bits')
