"""The diffusion process against the golden numbers and values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.errors import UserError
from brainjax.ops import diffusion
from brainjax.parity import published
from tests import golden_files

SCHEDULE = diffusion.make_schedule()


@pytest.fixture(scope='module')
def golden():
  return golden_files.load('diffusion')[0]


def test_schedule(golden):
  for ours in diffusion.Schedule._fields:
    table, expected = getattr(SCHEDULE, ours), golden[f'schedule/{ours}']
    assert table.dtype == np.float32
    if ours == 'posterior_log_variance_clipped':  # the reference clips the first, zero, variance by 1e-20
      assert table[0] == pytest.approx(np.log(1e-20))
    np.testing.assert_allclose(table, expected, rtol=1e-6, err_msg=ours)
  assert SCHEDULE.num_steps == 1000


def test_forward_process(golden):
  t = jnp.asarray(golden['t'])
  x0, eps = golden['x0'], golden['noise']
  x_t = jax.jit(lambda x0, t, eps: diffusion.q_sample(SCHEDULE, x0, t, eps))(x0, t, eps)
  np.testing.assert_allclose(x_t, golden['q_sample/x_t'], atol=1e-6)
  back = published.predict_x0(SCHEDULE, x_t, t, eps)
  np.testing.assert_allclose(back, x0, atol=1e-4)
  expected = golden['predict_start_from_noise']
  np.testing.assert_allclose(published.predict_x0(SCHEDULE, x0, t, eps), expected, rtol=1e-5, atol=1e-5)


def test_posterior(golden):
  result = published.posterior(SCHEDULE, golden['x0'], golden['noise'], jnp.asarray(golden['t']))
  for name in ('mean', 'variance', 'log_variance'):
    np.testing.assert_allclose(getattr(result, name), golden[f'q_posterior/{name}'], rtol=1e-5, atol=1e-6)


def test_eps_loss(golden):
  loss = diffusion.eps_loss(jnp.asarray(golden['apply_model/eps']), jnp.asarray(golden['noise']))
  assert loss.shape == (2,)
  np.testing.assert_allclose(loss.mean(), golden['p_losses/loss_simple'], rtol=1e-6)
  np.testing.assert_allclose(loss.mean(), golden['p_losses/loss'], rtol=1e-6)
  by_hand = diffusion.eps_loss(jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 4.0], [0.0, 3.0]]))
  np.testing.assert_allclose(by_hand, [2.5, 4.5])


@pytest.mark.parametrize('number', [1, 10, 50, 100, 250])
def test_sample_steps(golden, number):
  steps = diffusion.sample_steps(1000, number)
  np.testing.assert_array_equal(steps, golden[f'ddim_timesteps/S{number}'])
  assert steps.dtype == np.int32


def test_sample_steps_out_of_range(golden):
  assert golden['ddim_timesteps/S300'][-1] == 1000  # what the reference would do
  with pytest.raises(UserError, match='number of sampling steps is 300.* 250 and 334'):
    diffusion.sample_steps(1000, 300)
  with pytest.raises(UserError, match='number of sampling steps is 1000.* 500'):
    diffusion.sample_steps(1000, 1000)
  for number in (0, -7, 1001):
    with pytest.raises(UserError, match='expected 1 to 1000'):
      diffusion.sample_steps(1000, number)


@pytest.mark.parametrize('num_train_steps', [7, 64, 100])
def test_every_accepted_number_of_steps_is_in_range(num_train_steps):
  accepted = 0
  for number in range(1, num_train_steps + 1):
    try:
      steps = diffusion.sample_steps(num_train_steps, number)
    except UserError:
      continue
    accepted += 1
    assert steps[0] == 1 and steps[-1] < num_train_steps and len(steps) >= number
  assert accepted


def test_ema_update(golden):
  average = {'w': jnp.asarray(golden['ema/w0'])}
  update = jax.jit(lambda average, params, n: published.ema_update(average, params, n, float(golden['ema/decay'])))
  for n in range(1, 5):
    average = update(average, {'w': golden[f'ema/w{n}']}, n)
    np.testing.assert_allclose(average['w'], golden[f'ema/shadow_after{n}'], rtol=1e-6, atol=1e-7)


def test_ema_decay_is_reached():
  average = published.ema_update(jnp.array([1.0]), jnp.array([0.0]), 10**7, 0.9)
  np.testing.assert_allclose(average, [0.9], rtol=1e-6)


def test_stratified_steps_spread_a_batch_and_leave_each_row_uniform():
  draw = jax.jit(lambda key: diffusion.stratified_steps(key, 7, 1000))
  steps = np.stack([draw(key) for key in jax.random.split(jax.random.key(0), 2000)])
  assert steps.min() == 0 and steps.max() == 999
  gaps = np.diff(np.sort(steps, axis=1), axis=1)
  assert gaps.min() >= 142 and gaps.max() <= 143 + 1  # 1000 / 7
  counts = [np.histogram(row, 10, (0, 1000))[0] for row in steps.T]
  assert np.abs(np.array(counts) - 200).max() < 70  # five deviations of a uniform draw
