"""Scalars on disk, and Weights & Biases: off by default, one sentence where it is asked for and not there."""

import json
import sys
import types

import pytest

from brainjax.errors import UserError
from brainjax.metric_writer import MetricWriter, read_metrics
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
