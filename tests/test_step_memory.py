"""What `config.remat = 'auto'` chooses: bytes of a step counted by hand, and that a resumed stage keeps its choice."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from brainjax import pipeline, sharding, step_memory
from brainjax.models import recompute
from brainjax.stages.problem import Problem, Training

ROWS, IN, OUT = 8, 7, 9


class Sine(nn.Module):
  """sin(x w)."""

  @nn.compact
  def __call__(self, x):
    return jnp.sin(x @ self.param('kernel', nn.initializers.ones, (IN, OUT)))


def problem():
  def loss(params, batch, key):
    layer = recompute.recomputed(Sine, 'auto')()
    return layer.apply({'params': params['trained']}, batch['x'] * params['frozen']['w']).sum(), {}

  init = lambda key: {'trained': {'kernel': jnp.ones((IN, OUT))}, 'frozen': {'w': jnp.ones((ROWS, IN))}}
  return Problem(init, {}, '^trained', loss, optax.adam(0.1), lambda step: 0.1)


BATCH = {'x': jax.ShapeDtypeStruct((ROWS, IN), jnp.float32)}
STATE = 4 * 4 * IN * OUT + 4 + 4 * ROWS * IN  # parameters, gradients, two moments; a counter; the frozen ones


@pytest.mark.parametrize(
  'remat, kept',
  [('everything', ROWS * IN), ('cheap', ROWS * IN + ROWS * OUT), ('nothing', ROWS * IN + ROWS * OUT)],
  # The input of the layer; its product with the kernel; or, instead of the product, its cosine.
)
def test_bytes_of_a_step_as_counted_by_hand(remat, kept):
  # Rows as large as a parameter count as one: they do not shrink with the number of devices.
  assert step_memory.step_bytes(problem(), BATCH, sharding.make_mesh(), remat) == STATE + 4 * kept


def test_what_fits_into_the_memory_is_chosen():
  needed = step_memory.step_bytes(problem(), BATCH, sharding.make_mesh(), 'cheap')

  def choose(memory):
    return step_memory.choose_remat(problem(), BATCH, sharding.make_mesh(), memory)

  enough = int(needed / step_memory.SHARE) + 1
  assert [choose(memory) for memory in (None, enough - 2, enough)] == ['everything', 'everything', 'cheap']
  assert step_memory.memory_to_use(sharding.make_mesh()) is None  # this machine has a CPU alone


class Batches:
  """The batch number, as rows."""

  position = 0

  def __next__(self):
    self.position += 1
    return {'x': np.full((ROWS, IN), self.position, np.float32)}

  def get_state(self):
    return self.position

  def set_state(self, state):
    self.position = state


def test_a_resumed_stage_keeps_what_it_began_with(tmp_path, monkeypatch):
  training = Training(problem(), Batches(), None, 2, {})

  def chosen(remat, memory):
    monkeypatch.setattr(step_memory, 'memory_to_use', lambda mesh: memory)
    return pipeline._remat(ConfigDict({'remat': remat}), training, sharding.make_mesh(), tmp_path)

  assert [chosen('auto', memory) for memory in (None, 10**9)] == ['everything', 'cheap']
  assert chosen('nothing', 10**9) == 'nothing'
  assert training.batches.position == 0  # training gets the first batch
  (tmp_path / 'checkpoints' / '20').mkdir(parents=True)
  (tmp_path / 'config.json').write_text(json.dumps({'seed': 1}))  # of an earlier version
  assert chosen('auto', 10**9) == 'everything'
  (tmp_path / 'config.json').write_text(json.dumps({'remat': 'cheap'}))
  assert chosen('auto', None) == 'cheap' and chosen('nothing', None) == 'nothing'


def test_what_auto_means_ends_with_the_block():
  with recompute.auto_means('nothing'):
    assert recompute.recomputed(Sine, 'auto') is Sine
  assert recompute.recomputed(Sine, 'auto') is not Sine
