"""The published code: its hyperparameters in configs/, and formulas of its diffusion that no stage uses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from brainjax.errors import UserError
from brainjax.ops.diffusion import Schedule, at_steps


def config() -> ConfigDict:
  """Returns `configs/god_sbj3_released.py`: the hyperparameters and quirks of the published code.

  Raises:
    UserError: the package `configs` is not installed, or another one hides it.
  """
  try:
    from configs import god_sbj3_released
  except ImportError as error:
    raise UserError(
      f'configs/god_sbj3_released.py cannot be imported ({error}); parity compares with its hyperparameters. Run it from '
      'the root of the repository, or from a folder without a package `configs` of its own.'
    ) from error
  return god_sbj3_released.get_config()


def predict_x0(schedule: Schedule, x_t: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
  """Inverts `q_sample`: x_t B H W C at step t B and its noise eps -> x0 B H W C."""
  recip = at_steps(schedule.sqrt_recip_alphas_cumprod, t, x_t)
  return recip * x_t - at_steps(schedule.sqrt_recipm1_alphas_cumprod, t, x_t) * eps


class Posterior(NamedTuple):
  """The Gaussian q(x_{t-1} | x_t, x0)."""

  mean: jax.Array  # B H W C
  variance: jax.Array  # B 1 1 1
  log_variance: jax.Array  # B 1 1 1


def posterior(schedule: Schedule, x0: jax.Array, x_t: jax.Array, t: jax.Array) -> Posterior:
  """Computes the distribution one step back, given x0 and x_t B H W C at step t B (Ho et al. 2020, eq. 6-7)."""
  first, second = at_steps(schedule.posterior_mean_coef1, t, x_t), at_steps(schedule.posterior_mean_coef2, t, x_t)
  return Posterior(
    first * x0 + second * x_t,
    at_steps(schedule.posterior_variance, t, x_t),
    at_steps(schedule.posterior_log_variance_clipped, t, x_t),
  )


def ddpm(
  eps_fn: Callable[[jax.Array, jax.Array], jax.Array], x_T: jax.Array, schedule: Schedule, noise: jax.Array
) -> jax.Array:
  """Ancestral sampling through the training steps t = N - 1, ..., 0 (Ho et al. 2020, algorithm 2).

  Args:
    eps_fn: (x B H W C, t B) -> predicted noise B H W C.
    x_T: the start at t = N - 1, B H W C.
    schedule: the diffusion.
    noise: the draw of each step in the order of use, N B H W C; the last one is not used.

  Returns:
    x0 B H W C.
  """

  def step(x, entry):
    t, draw = entry
    steps = jnp.full(x.shape[:1], t, jnp.int32)
    before = posterior(schedule, predict_x0(schedule, x, steps, eps_fn(x, steps)), x, steps)
    return before.mean + jnp.where(t > 0, jnp.exp(0.5 * before.log_variance), 0.0) * draw, None

  return jax.lax.scan(step, x_T, (np.arange(len(noise), dtype=np.int32)[::-1], jnp.asarray(noise)))[0]


def quadratic_steps(num_train_steps: int, num_sample_steps: int) -> np.ndarray:
  """Lists steps that are denser near the image: squares of S equal steps up to 0.8 T, plus one (Song et al. 2021, D.2).

  Returns:
    Ascending steps, int32.

  Raises:
    UserError: there are too many, so that two would be equal or one is after the last training step.
  """
  roots = np.linspace(0, np.sqrt(0.8 * num_train_steps), max(num_sample_steps, 1))
  steps = np.square(roots).astype(np.int32) + np.int32(1)
  if num_sample_steps < 1 or steps[-1] >= num_train_steps or np.any(np.diff(steps) < 1):
    raise UserError(f'{num_sample_steps} quadratically spaced sampling steps do not fit into {num_train_steps} steps')
  return steps


def ema_update(average: Any, params: Any, num_updates: jax.Array | int, decay: float = 0.9999) -> Any:
  """One step of the moving average of parameters (trees), warmed up by min(decay, (1 + n) / (10 + n)).

  `num_updates` is n, the updates so far including this one: 1 at the first.
  """
  n = jnp.asarray(num_updates, jnp.float32)
  return optax.incremental_update(params, average, 1 - jnp.minimum(decay, (1 + n) / (10 + n)))
