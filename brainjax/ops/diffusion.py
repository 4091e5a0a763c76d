"""The diffusion process: noise schedule, forward process, posterior, losses, sampling steps and weight averaging."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainjax.errors import UserError


class Schedule(NamedTuple):
  """Constants of a diffusion of T steps; NumPy float32, shape (T,), computed in float64 (Ho et al. 2020, eq. 4-7)."""

  betas: np.ndarray
  alphas_cumprod: np.ndarray
  alphas_cumprod_prev: np.ndarray
  sqrt_alphas_cumprod: np.ndarray
  sqrt_one_minus_alphas_cumprod: np.ndarray
  sqrt_recip_alphas_cumprod: np.ndarray
  sqrt_recipm1_alphas_cumprod: np.ndarray
  posterior_variance: np.ndarray
  posterior_log_variance: np.ndarray  # of the variance clipped at 1e-20: the first one is zero
  posterior_mean_coef1: np.ndarray
  posterior_mean_coef2: np.ndarray

  @property
  def num_steps(self) -> int:
    """T, the number of training steps."""
    return len(self.betas)


def make_schedule(num_steps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> Schedule:
  """`exact_schedule` rounded to float32."""
  return Schedule(*(table.astype(np.float32) for table in exact_schedule(num_steps, start, end)))


def exact_schedule(num_steps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> Schedule:
  """The schedule of latent diffusion in float64: the roots of the betas are equally spaced from sqrt(start) to sqrt(end).

  Stable Diffusion 1 has start 0.00085 and end 0.012.
  """
  betas = np.linspace(start**0.5, end**0.5, num_steps, dtype=np.float64) ** 2
  alphas = 1 - betas
  cumprod = np.cumprod(alphas)
  previous = np.append(1.0, cumprod[:-1])
  variance = betas * (1 - previous) / (1 - cumprod)
  return Schedule(
    betas=betas,
    alphas_cumprod=cumprod,
    alphas_cumprod_prev=previous,
    sqrt_alphas_cumprod=np.sqrt(cumprod),
    sqrt_one_minus_alphas_cumprod=np.sqrt(1 - cumprod),
    sqrt_recip_alphas_cumprod=np.sqrt(1 / cumprod),
    sqrt_recipm1_alphas_cumprod=np.sqrt(1 / cumprod - 1),
    posterior_variance=variance,
    posterior_log_variance=np.log(np.maximum(variance, 1e-20)),
    posterior_mean_coef1=betas * np.sqrt(previous) / (1 - cumprod),
    posterior_mean_coef2=(1 - previous) * np.sqrt(alphas) / (1 - cumprod),
  )


def _at(table: np.ndarray, t: jax.Array, like: jax.Array) -> jax.Array:
  """Entries of a table at t B, shaped B 1 1 1 to multiply `like`."""
  if t.shape != like.shape[:1]:
    raise ValueError(f'one diffusion step per sample is expected: t {t.shape} for samples {like.shape}')
  return jnp.asarray(table)[t].reshape(-1, *[1] * (like.ndim - 1))


def q_sample(schedule: Schedule, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
  """Noises x0 B H W C to step t B with the draw eps B H W C (Ho et al. 2020, eq. 4)."""
  return _at(schedule.sqrt_alphas_cumprod, t, x0) * x0 + _at(schedule.sqrt_one_minus_alphas_cumprod, t, x0) * eps


def predict_x0(schedule: Schedule, x_t: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
  """Inverts `q_sample`: x_t B H W C at step t B and its noise eps -> x0 B H W C."""
  recip = _at(schedule.sqrt_recip_alphas_cumprod, t, x_t)
  return recip * x_t - _at(schedule.sqrt_recipm1_alphas_cumprod, t, x_t) * eps


class Posterior(NamedTuple):
  """Gaussian q(x_{t-1} | x_t, x0)."""

  mean: jax.Array  # B H W C
  variance: jax.Array  # B 1 1 1
  log_variance: jax.Array  # B 1 1 1


def posterior(schedule: Schedule, x0: jax.Array, x_t: jax.Array, t: jax.Array) -> Posterior:
  """The distribution one step back, given x0 and x_t B H W C at step t B (Ho et al. 2020, eq. 6-7)."""
  mean = _at(schedule.posterior_mean_coef1, t, x_t) * x0 + _at(schedule.posterior_mean_coef2, t, x_t) * x_t
  return Posterior(mean, _at(schedule.posterior_variance, t, x_t), _at(schedule.posterior_log_variance, t, x_t))


def eps_loss(pred: jax.Array, eps: jax.Array) -> jax.Array:
  """Mean squared error of the predicted noise, per sample and in float32: B H W C -> B (Ho et al. 2020, eq. 14)."""
  if pred.shape != eps.shape:
    raise ValueError(f'prediction {pred.shape} and noise {eps.shape} differ in shape')
  error = pred.astype(jnp.float32) - eps.astype(jnp.float32)
  return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))


def sample_steps(num_train_steps: int, num_sample_steps: int) -> np.ndarray:
  """The training steps that a sampler visits: 1, 1 + c, 1 + 2c, ... with c = num_train_steps // num_sample_steps.

  If num_train_steps is no multiple of num_sample_steps, there are more steps than asked for, as in the published code.

  Returns:
    int32 steps, ascending.

  Raises:
    UserError: the number is outside 1..num_train_steps, or its last step would be num_train_steps, too far.
  """
  if not 1 <= num_sample_steps <= num_train_steps:
    raise UserError(f'number of sampling steps is {num_sample_steps}, expected 1 to {num_train_steps}')
  if not _steps_fit(num_train_steps, num_sample_steps):
    below = [n for n in range(num_sample_steps, 0, -1) if _steps_fit(num_train_steps, n)][:1]
    above = [n for n in range(num_sample_steps, num_train_steps + 1) if _steps_fit(num_train_steps, n)][:1]
    valid = ' and '.join(map(str, below + above))
    raise UserError(
      f'number of sampling steps is {num_sample_steps}, whose last step {num_train_steps} is beyond the last training '
      f'step {num_train_steps - 1}; the nearest valid numbers are {valid}'
    )
  return np.arange(0, num_train_steps, num_train_steps // num_sample_steps, dtype=np.int32) + np.int32(1)


def quadratic_steps(num_train_steps: int, num_sample_steps: int) -> np.ndarray:
  """Training steps that are denser near the image: squares of S equal steps up to 0.8 T, plus one (Song et al. 2021, D.2).

  No command of the published code uses them; they can be given to any sampler in place of `sample_steps`.

  Returns:
    int32 steps, ascending.

  Raises:
    UserError: there are too many, so that two would be the same or one beyond the last training step.
  """
  roots = np.linspace(0, np.sqrt(0.8 * num_train_steps), max(num_sample_steps, 1))
  steps = np.square(roots).astype(np.int32) + np.int32(1)
  if num_sample_steps < 1 or steps[-1] >= num_train_steps or np.any(np.diff(steps) < 1):
    raise UserError(f'{num_sample_steps} quadratically spaced sampling steps do not fit into {num_train_steps} steps')
  return steps


def _steps_fit(num_train_steps: int, num_sample_steps: int) -> bool:
  # The last step is the largest multiple of the stride below num_train_steps, plus one.
  stride = num_train_steps // num_sample_steps
  return (num_train_steps - 1) // stride * stride + 1 < num_train_steps


def ema_update(average, params, num_updates: jax.Array | int, decay: float = 0.9999):
  """One step of the exponential moving average of parameters, warmed up by min(decay, (1 + n) / (10 + n)).

  Args:
    average: tree of averages.
    params: tree of the same structure, the new parameters.
    num_updates: n, updates so far including this one (1 at the first).
    decay: weight of the old average after the warm-up.

  Returns:
    The new tree of averages.
  """
  n = jnp.asarray(num_updates, jnp.float32)
  weight = jnp.minimum(decay, (1 + n) / (10 + n))
  return jax.tree.map(lambda old, new: old - (1 - weight) * (old - new), average, params)
