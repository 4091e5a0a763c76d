"""The training loop on a small stage whose answers are known."""

import hashlib
import io
import json
import os
import signal
import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tqdm import tqdm

from brainjax import hosts, sharding, train
from brainjax.errors import Stopped, UserError
from brainjax.stages.problem import Problem, Training


class Counted:
  """Batches 0, 1, 2, ...: the batch number, eight times; NaN at `broken`; `event` is called before that batch."""

  def __init__(self, broken=(), event=None):
    self.position, self.broken, self.event = 0, broken, event or {}

  def __iter__(self):
    return self

  def __next__(self):
    self.event.get(self.position, lambda: None)()
    value = np.nan if self.position in self.broken else float(self.position)
    row = np.arange(8, dtype=np.int32) + 8 * self.position
    self.position += 1
    return {'x': np.full(8, value, np.float32), 'row': row, 'weight': np.ones(8, np.float32)}

  def get_state(self):
    return {'position': self.position}

  def set_state(self, state):
    self.position = state['position']


def _stage(num_steps=6, broken=(), event=None, **fields):
  def init(key):
    return {'trained': {'w': jax.random.normal(key, (7,))}, 'frozen': {'w': jnp.full((9,), 2.0)}}

  def loss(params, batch, key):
    noise = jax.random.normal(key, (7,))
    value = jnp.sum((params['trained']['w'] - batch['x'].mean() + 0.1 * noise) ** 2) * params['frozen']['w'].mean()
    return value, {'mean': batch['x'].mean(), 'max_x': batch['x'].max()}

  problem = dict(
    init=init,
    pretrained={},
    trainable='^trained/',
    loss=loss,
    optimizer=optax.adam(0.1),
    learning_rate=lambda step: 0.1,
  )
  data = dict(batches=Counted(broken, event), validation=None, num_steps=num_steps, info={})
  options = dict(name='small', eval_every=2, checkpoint_every=2, log_every=2)

  def with_fields(default, names):
    return default | {name: value for name, value in fields.items() if name in names}

  problem = Problem(**with_fields(problem, Problem._fields))
  return Training(problem, **with_fields(data, Training._fields)), train.LoopOptions(
    **with_fields(options, train.LoopOptions._fields)
  )


def _run(stage, folder, seed=3):
  return train.train(*stage, folder, sharding.make_mesh(), seed, {})


def test_frozen_parameters_have_no_optimizer_state_and_do_not_change(tmp_path):
  stage = _stage()
  state, frozen = train.initialise('small', stage[0].problem, jax.random.key(0), sharding.make_mesh())
  assert list(state.params) == ['trained/w'] and list(frozen) == ['frozen/w']
  assert {x.shape for x in jax.tree.leaves(state.opt_state)} == {(), (7,)}
  result = _run(stage, tmp_path)
  np.testing.assert_array_equal(result['frozen/w'], 2.0)


def test_frozen_kernels_are_cast_once_and_come_back_whole(tmp_path):
  def init(key):
    return {'trained': {'kernel': jnp.ones(7)}, 'frozen': {'kernel': jax.random.normal(key, (9,)), 'bias': jnp.ones(9)}}

  def loss(params, batch, key):
    types = params['trained']['kernel'].dtype, params['frozen']['kernel'].dtype, params['frozen']['bias'].dtype
    assert types == (jnp.float32, jnp.bfloat16, jnp.float32)
    return params['trained']['kernel'].sum() * params['frozen']['kernel'].astype(jnp.float32).mean(), {}

  stage = _stage(2, init=init, loss=loss, kernel_dtype=jnp.bfloat16)
  result = _run(stage, tmp_path)
  key = jax.random.split(jax.random.key(3))[0]
  assert result['frozen/kernel'].dtype == jnp.float32
  np.testing.assert_array_equal(result['frozen/kernel'], init(key)['frozen']['kernel'])


def test_a_run_that_stops_and_goes_on_ends_in_the_same_bits(tmp_path):
  whole = _run(_stage(6), tmp_path / 'whole')
  _run(_stage(4), tmp_path / 'parts')
  parts = _run(_stage(6), tmp_path / 'parts')
  np.testing.assert_array_equal(parts['trained/w'], whole['trained/w'])
  lines = [json.loads(line) for line in (tmp_path / 'parts' / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == [2, 4, 6]
  assert [line['mean'] for line in lines] == [0.5, 2.5, 4.5]  # the batches went on where they stopped


def test_the_best_checkpoint_is_selected_by_validation(tmp_path):
  # The rate is so large that the loss on x = 0 grows from the first validation on.
  def validation():
    return [{'x': np.zeros(8, np.float32), 'weight': np.ones(8, np.float32)}]

  fields = dict(validation=validation, optimizer=optax.sgd(0.3))
  best = _run(_stage(6, select='best', **fields), tmp_path / 'best')
  second = _run(_stage(2, **fields), tmp_path / 'second')
  np.testing.assert_array_equal(best['trained/w'], second['trained/w'])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(tmp_path):
  with pytest.raises(UserError, match='stage small: the loss of step 4 is nan') as error:
    _run(_stage(broken=(3,), checkpoint_every=1, log_every=20), tmp_path)
  file = tmp_path / 'nonfinite_step4.npz'
  assert str(file) in str(error.value)
  with np.load(file) as batch:
    assert np.isnan(batch['x']).all()
    assert batch['row'].tolist() == list(range(24, 32))
  # The state before the bad step is there for the replay, and nothing of it or after.
  assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['2', '3']


@pytest.mark.parametrize('infinite_loss', [False, True])
def test_as_many_steps_as_allowed_are_skipped(tmp_path, capsys, infinite_loss):
  # By hand: gradient descent on (w - x)^2 / 2 without the steps that are skipped.
  def loss(params, batch, key):
    w, x = params['trained']['w'], batch['x'].mean()
    if infinite_loss:  # the gradient is finite: the loss alone tells
      return jnp.sum((w - jnp.nan_to_num(x)) ** 2) / 2 + jnp.where(jnp.isnan(x), jnp.inf, 0.0), {}
    return jnp.sum((w - x) ** 2) / 2, {}

  def run(broken, folder, allowed, steps=6):
    fields = dict(
      init=lambda key: {'trained': {'w': jnp.full(7, 4.0)}}, loss=loss, optimizer=optax.sgd(0.5), checkpoint_every=3
    )
    return _run(_stage(steps, broken=broken, skip_nonfinite=allowed, **fields), tmp_path / folder)

  w = 4.0
  for x in (0, 3, 5):
    w -= 0.5 * (w - x)
  np.testing.assert_allclose(run((1, 2, 4), 'three', 3)['trained/w'], w, rtol=1e-6)
  told = capsys.readouterr().out
  assert [f'step {step} is skipped' in told for step in range(1, 7)] == [step in (2, 3, 5) for step in range(1, 7)]
  lines = (tmp_path / 'three' / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['skipped_steps'] for line in lines] == [1, 2, 3]
  with pytest.raises(UserError, match='the loss of step 3 is'):
    run((1, 2, 4), 'one', 1)
  # As the sentence advises: the same workdir goes on when more are allowed.
  np.testing.assert_allclose(run((1, 2, 4), 'one', 3)['trained/w'], w, rtol=1e-6)
  # A run that goes on remembers how many there were: two before the checkpoint of step 3, one after it.
  run((1, 2, 4), 'again', 2, steps=3)
  with pytest.raises(UserError, match='the loss of step 5 is'):
    run((1, 2, 4), 'again', 2)


def test_a_checkpoint_of_another_model_or_optimizer_is_refused(tmp_path):
  _run(_stage(2), tmp_path)
  with pytest.raises(UserError, match='checkpoint 2 in .* holds other arrays than this config trains'):
    _run(_stage(4, optimizer=optax.sgd(0.1)), tmp_path)
  with pytest.raises(UserError, match='checkpoint 2 in .* holds other arrays than this config trains'):
    _run(_stage(4, init=lambda key: {'trained': {'w': jnp.zeros(9)}, 'frozen': {'w': jnp.zeros(9)}}), tmp_path)


def test_a_checkpoint_of_other_data_or_other_frozen_weights_is_refused(tmp_path):
  inputs = {'raw files of god/sbj_1': 'a', 'weights of diffuse.prior_init_from': 'b'}
  _run(_stage(2, info={'inputs': inputs}), tmp_path)
  _run(_stage(4, info={'inputs': inputs}), tmp_path)
  for name in inputs:
    with pytest.raises(UserError, match=f'since checkpoint 4 of stage small was saved: {name}. Put the old'):
      _run(_stage(6, info={'inputs': inputs | {name: 'other'}}), tmp_path)


def test_sigterm_saves_the_step_it_came_in_and_leaves(tmp_path):
  whole = _run(_stage(6), tmp_path / 'whole')
  terminate = {2: lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(2)}  # until the thread has noticed
  with pytest.raises(Stopped, match='SIGTERM at step 3 of stage small') as error:
    _run(_stage(6, event=terminate, checkpoint_every=6), tmp_path / 'parts')
  assert error.value.status == 143  # what schedulers expect
  assert [path.name for path in (tmp_path / 'parts' / 'checkpoints').iterdir()] == ['3']
  parts = _run(_stage(6), tmp_path / 'parts')
  np.testing.assert_array_equal(parts['trained/w'], whole['trained/w'])


def test_a_step_that_takes_too_long_after_sigterm_is_not_waited_for(tmp_path, monkeypatch, capsys):
  left = []
  monkeypatch.setattr(os, '_exit', lambda status: left.append((status, time.monotonic())))
  monkeypatch.setattr(hosts, 'GRACE', 0.05)
  ended = []

  def compile_for_long():
    # As in a compilation, the main thread is outside Python when the signal comes, and for long after.
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10_000_000)  # about two seconds
    ended.append(time.monotonic())

  with pytest.raises(Stopped):
    _run(_stage(6, event={2: compile_for_long}), tmp_path)
  ((status, when),) = left
  assert status == 143 and when < ended[0] and 'resumes from the last checkpoint' in capsys.readouterr().err


def test_extremes_are_the_largest_and_other_metrics_the_mean_since_the_last_line(tmp_path):
  _run(_stage(6, log_every=3, checkpoint_every=6), tmp_path)
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [(line['mean'], line['max_x']) for line in lines] == [(1.0, 2.0), (4.0, 5.0)]
  assert all({'gradient_norm', 'update_ratio', 'learning_rate', 'steps_per_second'} <= line.keys() for line in lines)


def test_the_host_waits_for_the_device_at_logs_only(tmp_path, monkeypatch):
  fetched = []
  device_get = jax.device_get
  monkeypatch.setattr(jax, 'device_get', lambda tree: fetched.append(len(tree)) or device_get(tree))
  bars = []
  monkeypatch.setattr(
    train, 'progress', lambda *args, **kwargs: bars.append(io.StringIO()) or tqdm(total=6, file=bars[0])
  )
  monkeypatch.setattr(train.RunCheckpoints, 'save', lambda *args: None)
  # A transfer that is not asked for by device_get is refused (on accelerators; on CPU nothing is transferred).
  with jax.transfer_guard_device_to_host('disallow'):
    _run(_stage(6, log_every=3, checkpoint_every=6), tmp_path)
  assert fetched == [3, 3]
  assert ', loss ' in bars[0].getvalue()
  assert ', ,' not in bars[0].getvalue()


def test_weights_that_do_not_fit_are_named(tmp_path):
  stage = _stage(pretrained={'trained/w': np.zeros(8), 'other/w': np.zeros(2)})
  with pytest.raises(
    UserError, match=r'trained/w \(8,\) \(model: \(7,\)\), other/w \(2,\) \(model: no such parameter\)'
  ):
    _run(stage, tmp_path)


def test_the_logged_rate_is_the_one_used_after_a_skipped_step(tmp_path):
  # Gradient descent with the rate 1, 1/2, 1/4, ... by update: the skipped step does not advance it.
  rate = lambda count: 0.5**count
  stage = _stage(4, broken=(1,), optimizer=optax.sgd(rate), learning_rate=rate, skip_nonfinite=1, log_every=1)
  _run(stage, tmp_path)
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [(line['step'], line['learning_rate']) for line in lines] == [(1, 1.0), (3, 0.5), (4, 0.25)]


def test_batches_are_not_kept_between_logs(tmp_path):
  alive, most = weakref.WeakValueDictionary(), []

  class Watched(Counted):
    def __next__(self):
      batch = super().__next__()
      alive[self.position] = batch['x']
      most.append(len(alive))
      return batch

  _run(_stage(40, batches=Watched(), log_every=40, checkpoint_every=40), tmp_path)
  assert max(most[10:]) < 12
