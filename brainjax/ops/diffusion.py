"""The diffusion process: noise schedule, forward process, loss, and the steps that a sampler visits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from brainjax.errors import UserError
from brainjax.ops.types import Array


class Schedule(NamedTuple):
  """Constants of a diffusion of T steps, by the names of the published code (Ho et al. 2020, eq. 4-7).

  All are NumPy float32 of shape (T,), computed in float64.
  """

  betas: np.ndarray
  alphas_cumprod: np.ndarray
  alphas_cumprod_prev: np.ndarray
  sqrt_alphas_cumprod: np.ndarray
  sqrt_one_minus_alphas_cumprod: np.ndarray
  log_one_minus_alphas_cumprod: np.ndarray
  sqrt_recip_alphas_cumprod: np.ndarray
  sqrt_recipm1_alphas_cumprod: np.ndarray
  posterior_variance: np.ndarray
  posterior_log_variance_clipped: np.ndarray  # the first variance is zero: clipped at 1e-20
  posterior_mean_coef1: np.ndarray
  posterior_mean_coef2: np.ndarray

  @property
  def num_steps(self) -> int:
    """T, the number of training steps."""
    return len(self.betas)


def make_schedule(num_steps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> Schedule:
  """Computes the schedule of latent diffusion (Rombach et al. 2022), in code called "linear".

  The square roots of the betas are equally spaced from sqrt(start) to sqrt(end). The defaults are those of label2img;
  Stable Diffusion 1 has start 0.00085 and end 0.012.
  """
  betas = np.linspace(start**0.5, end**0.5, num_steps, dtype=np.float64) ** 2
  alphas = 1 - betas
  cumprod = np.cumprod(alphas)
  previous = np.append(1.0, cumprod[:-1])
  variance = betas * (1 - previous) / (1 - cumprod)
  tables = Schedule(
    betas=betas,
    alphas_cumprod=cumprod,
    alphas_cumprod_prev=previous,
    sqrt_alphas_cumprod=np.sqrt(cumprod),
    sqrt_one_minus_alphas_cumprod=np.sqrt(1 - cumprod),
    log_one_minus_alphas_cumprod=np.log(1 - cumprod),
    sqrt_recip_alphas_cumprod=np.sqrt(1 / cumprod),
    sqrt_recipm1_alphas_cumprod=np.sqrt(1 / cumprod - 1),
    posterior_variance=variance,
    posterior_log_variance_clipped=np.log(np.maximum(variance, 1e-20)),
    posterior_mean_coef1=betas * np.sqrt(previous) / (1 - cumprod),
    posterior_mean_coef2=(1 - previous) * np.sqrt(alphas) / (1 - cumprod),
  )
  return Schedule(*(table.astype(np.float32) for table in tables))


def at_steps(table: Float[np.ndarray, ' T'], t: Int[Array, ' B'], like: Float[Array, 'B ...']) -> Float[Array, 'B ...']:
  """Looks up a table at the steps t, in a shape that multiplies `like`: B 1 1 1 for B H W C."""
  return jnp.asarray(table)[t].reshape(-1, *[1] * (like.ndim - 1))


def uniform_steps(key: jax.Array, count: int, num_steps: int) -> Int[Array, ' B']:
  """Draws a step in 0..num_steps - 1 for each of B = `count` rows."""
  return jax.random.randint(key, (count,), 0, num_steps)


def stratified_steps(key: jax.Array, count: int, num_steps: int) -> Int[Array, ' B']:
  """As `uniform_steps` for each row alone, but the B rows lie evenly on the circle of steps (Kingma et al. 2021)."""
  place = (jax.random.uniform(key) + jnp.arange(count) / count) % 1.0
  return jnp.minimum((place * num_steps).astype(jnp.int32), num_steps - 1)


def q_sample(
  schedule: Schedule, x0: Float[Array, '*shape'], t: Int[Array, ' B'], eps: Float[Array, '*shape']
) -> Float[Array, '*shape']:
  """Adds the noise eps to x0, as much as step t has (Ho et al. 2020, eq. 4)."""
  return (
    at_steps(schedule.sqrt_alphas_cumprod, t, x0) * x0 + at_steps(schedule.sqrt_one_minus_alphas_cumprod, t, x0) * eps
  )


def eps_loss(pred: Float[Array, '*shape'], eps: Float[Array, '*shape']) -> Float[Array, ' B']:
  """Computes the mean squared error of the predicted noise per sample, in float32 (Ho et al. 2020, eq. 14)."""
  error = pred.astype(jnp.float32) - eps.astype(jnp.float32)
  return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))


def sample_steps(num_train_steps: int, num_sample_steps: int) -> Int[np.ndarray, ' steps']:
  """Lists the training steps that a sampler visits: 1, 1 + c, 1 + 2c, ... with c = num_train_steps // num_sample_steps.

  As in the published code, there are more steps than asked for if num_train_steps is not a multiple of num_sample_steps.

  Args:
    num_train_steps: T of the schedule.
    num_sample_steps: how many to visit.

  Returns:
    Ascending steps, int32.

  Raises:
    UserError: the number is not in 1..num_train_steps, or the last step would be num_train_steps, which does not exist.
  """
  if not 1 <= num_sample_steps <= num_train_steps:
    raise UserError(f'number of sampling steps is {num_sample_steps}, expected 1 to {num_train_steps}')
  if not _steps_fit(num_train_steps, num_sample_steps):
    fewer = [n for n in range(num_sample_steps, 0, -1) if _steps_fit(num_train_steps, n)][:1]
    more = [n for n in range(num_sample_steps, num_train_steps + 1) if _steps_fit(num_train_steps, n)][:1]
    valid = ' and '.join(map(str, fewer + more))
    raise UserError(
      f'number of sampling steps is {num_sample_steps}; its last step would be {num_train_steps}, but the last training '
      f'step is {num_train_steps - 1}. The nearest valid numbers are {valid}'
    )
  return np.arange(0, num_train_steps, num_train_steps // num_sample_steps, dtype=np.int32) + np.int32(1)


def _steps_fit(num_train_steps: int, num_sample_steps: int) -> bool:
  # The last step is the largest multiple of the stride less than num_train_steps, plus one.
  stride = num_train_steps // num_sample_steps
  return (num_train_steps - 1) // stride * stride + 1 < num_train_steps
