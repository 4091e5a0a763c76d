"""The training loop on a small stage whose answers are known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brainjax import sharding, train
from brainjax.errors import UserError
from brainjax.stages.stage import Stage


class Counted:
  """Batches 0, 1, 2, ...: the batch number, eight times; NaN at `broken`."""

  def __init__(self, broken=None):
    self.position, self.broken = 0, broken

  def __iter__(self):
    return self

  def __next__(self):
    value = np.nan if self.position == self.broken else float(self.position)
    self.position += 1
    return {'x': np.full(8, value, np.float32), 'weight': np.ones(8, np.float32)}

  def get_state(self):
    return {'position': self.position}

  def set_state(self, state):
    self.position = state['position']


def _stage(num_steps=6, broken=None, **fields):
  def init(key):
    return {'trained': {'w': jax.random.normal(key, (7,))}, 'frozen': {'w': jnp.full((9,), 2.0)}}

  def loss(params, batch, key):
    noise = jax.random.normal(key, (7,))
    value = jnp.sum((params['trained']['w'] - batch['x'].mean() + 0.1 * noise) ** 2) * params['frozen']['w'].mean()
    return value, {'mean': batch['x'].mean()}

  default = dict(
    name='small', init=init, pretrained={}, trainable='^trained/', loss=loss, optimizer=optax.adam(0.1),
    learning_rate=lambda step: 0.1, batches=Counted(broken), validation=None, num_steps=num_steps, eval_every=2,
    checkpoint_every=2, log_every=2, skip_nonfinite=0, select='last', info={},
  )  # fmt: skip
  return Stage(**default | fields)


def _run(stage, folder, seed=3):
  return train.train(stage, folder, sharding.make_mesh(), seed, {})


def test_frozen_parameters_have_no_optimizer_state_and_do_not_change(tmp_path):
  stage = _stage()
  state, frozen = train.initialise(stage, jax.random.key(0), sharding.make_mesh())
  assert list(state.params) == ['trained/w'] and list(frozen) == ['frozen/w']
  assert {x.shape for x in jax.tree.leaves(state.opt_state)} == {(), (7,)}
  result = _run(stage, tmp_path)
  np.testing.assert_array_equal(result['frozen/w'], 2.0)


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
  with pytest.raises(UserError, match='loss of step 4 is nan'):
    _run(_stage(broken=3), tmp_path)
  batch = np.load(tmp_path / 'nonfinite_step4.npz')
  assert np.isnan(batch['x']).all()


def test_weights_that_do_not_fit_are_named(tmp_path):
  stage = _stage(pretrained={'trained/w': np.zeros(8), 'other/w': np.zeros(2)})
  with pytest.raises(UserError, match=r'trained/w \(8,\) \(model: \(7,\)\), other/w \(2,\) \(model: no such parameter\)'):
    _run(stage, tmp_path)
