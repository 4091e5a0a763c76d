"""Scalars on disk, and Weights & Biases: off by default, one sentence where it is asked for and not there."""

import json
import math
import subprocess
import sys
import types

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from brainjax.errors import UserError
from brainjax.metric_writer import MetricWriter, read_metrics
from brainjax.progress import progress
from configs import base


class FakeRun:
  """Keeps what is logged."""

  def __init__(self):
    self.logged, self.finished = [], False

  def log(self, scalars, step):
    self.logged.append((step, scalars))

  def finish(self):
    self.finished = True


@pytest.fixture
def fake(monkeypatch):
  made = []

  def init(**options):
    made.append((options, FakeRun()))
    return made[-1][1]

  module = types.ModuleType('wandb')
  module.init = init
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return made


def write(directory, **options):
  writer = MetricWriter(directory, **options)
  writer.write(1, 'train', {'loss': 2.0})
  writer.write(1, 'validation', {'loss': float('nan')})
  writer.close()


def test_off_by_default(tmp_path, fake):
  assert base.get_config().wandb == ''
  write(tmp_path / 'run' / 'contrast')
  assert fake == []
  lines = (tmp_path / 'run' / 'contrast' / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {'step': 1, 'split': 'train', 'loss': 2.0},
    {'step': 1, 'split': 'validation', 'loss': None},
  ]


def records(file):
  """The events of a file: length, checksum, bytes, checksum (TFRecord)."""
  data, found = file.read_bytes(), []
  while data:
    size = int.from_bytes(data[:8], 'little')
    found.append(Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  return found


def test_tensorboard_gets_the_same_scalars_and_where_a_run_goes_on(tmp_path):
  write(tmp_path, first_step=7)
  (file,) = (tmp_path / 'events').glob('events.out.tfevents.*')
  version, start, *scalars = records(file)
  assert version.file_version == 'brain.Event:2'
  assert (start.step, start.session_log.status) == (7, SessionLog.START)
  told = [(event.step, value.tag, value.simple_value) for event in scalars for value in event.summary.value]
  assert told[0] == (1, 'train/loss', 2.0) and told[1][1] == 'validation/loss' and math.isnan(told[1][2])


def test_a_full_disk_is_reported_at_once(tmp_path):
  # In a process of its own, which gets a limit on the size of its files. Those of TensorBoard reach it first.
  script = """
import pathlib, resource, signal, sys
from brainjax.errors import command_line
from brainjax.metric_writer import MetricWriter

def main():
  writer = MetricWriter(pathlib.Path(sys.argv[1]))
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
  for step in range(10**6):
    writer.write(step, 'train', {f's{number}': 1.0 for number in range(50)})

sys.exit(command_line(main)())
"""
  done = subprocess.run([sys.executable, '-c', script, tmp_path], capture_output=True, text=True, timeout=60)
  assert done.returncode == 2 and 'File too large; complete files are intact' in done.stderr


def test_weights_and_biases_gets_the_same_scalars(tmp_path, fake):
  write(tmp_path / 'run' / 'contrast', wandb_project='brains')
  ((options, run),) = fake
  assert (options['project'], options['name'], options['resume']) == ('brains', 'run-contrast', 'allow')
  assert run.logged[0] == (1, {'train/loss': 2.0}) and list(run.logged[1][1]) == ['validation/loss'] and run.finished
  assert len(read_metrics(tmp_path / 'run' / 'contrast' / 'metrics.jsonl')) == 2
  # The same stage goes on in the same run, another stage has its own.
  write(tmp_path / 'run' / 'contrast', wandb_project='brains', first_step=1)
  write(tmp_path / 'run' / 'attend', wandb_project='brains')
  assert fake[1][0]['id'] == options['id'] != fake[2][0]['id']


def test_asked_for_and_not_installed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(UserError, match="config.wandb is 'brains'.*pip install wandb"):
    MetricWriter(tmp_path / 'run', wandb_project='brains')
  assert not (tmp_path / 'run').exists()


def test_progress_is_sparse_without_a_terminal_and_can_be_switched_off(monkeypatch, capfd):
  with progress(7, 'contrast') as bar:
    for _ in range(7):
      bar.update()
  assert bar.mininterval == 60 and 1 <= capfd.readouterr().err.count('contrast') <= 2
  monkeypatch.setenv('BRAINJAX_PROGRESS', '0')
  with progress(7, 'contrast') as bar:
    bar.update()
  assert capfd.readouterr().err == ''


def test_rate_and_time_left_do_not_count_the_first_step_which_compiles(monkeypatch, capfd):
  now = [1000.0]
  with progress(20, 'contrast', 2, compiles=True) as bar:
    assert 'compiling' in capfd.readouterr().err
    monkeypatch.setattr(bar, '_time', lambda: now[0])
    monkeypatch.setattr(bar, 'start_t', now[0])
    now[0] += 174  # seconds
    bar.update()
    for _ in range(4):
      now[0] += 2
      bar.update()
    shown = str(bar)
    assert '7/20  2.00s/step, 00:26 left' in shown and 'compiling' not in shown
