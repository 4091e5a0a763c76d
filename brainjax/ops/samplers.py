"""Samplers of a diffusion model as pure functions of its noise prediction: PLMS, DPM-Solver++, DDIM and ancestral DDPM."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainjax.ops.diffusion import Schedule, posterior, predict_x0

EpsFn = Callable[[jax.Array, jax.Array], jax.Array]  # (x B H W C, t B int32) -> predicted noise B H W C
QuantizeFn = Callable[[jax.Array], jax.Array]  # predicted x0 B H W C -> the same on the codebook

# Weights of the present and the three previous noise predictions, by how many previous ones there are
# (Adams-Bashforth; Liu et al. 2022, eq. 12). Row 0 is a plain DDIM step.
ADAMS_BASHFORTH = (
  np.array([[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]])
).astype(np.float32)


class Trajectory(NamedTuple):
  """Every intermediate of a sampler; entry 0 is the start x_T in both."""

  x: jax.Array  # steps+1 B H W C
  pred_x0: jax.Array  # steps+1 B H W C


class StepTable(NamedTuple):
  """Constants of each sampling step in the order in which they are taken (descending t); NumPy, shape (steps,)."""

  t: np.ndarray
  alpha: np.ndarray
  alpha_prev: np.ndarray
  sigma: np.ndarray


def step_table(schedule: Schedule, steps: np.ndarray, eta: float = 0.0) -> StepTable:
  """Constants of the sampling steps (Song et al. 2021, eq. 12 and 16).

  Args:
    schedule: the diffusion.
    steps: ascending training steps, see `sample_steps`; the step before the first is training step 0.
    eta: amount of noise, 0 (deterministic) to 1 (ancestral).
  """
  steps = np.asarray(steps, np.int32)
  ascending = steps.ndim == 1 and steps.size and np.all(np.diff(steps) > 0)
  if not ascending or steps[0] < 0 or steps[-1] >= schedule.num_steps:
    raise ValueError(f'steps must ascend within 0..{schedule.num_steps - 1}: {steps}')
  cumprod = np.asarray(schedule.alphas_cumprod, np.float64)
  alpha = cumprod[steps]
  alpha_prev = cumprod[np.append(0, steps[:-1])]
  sigma = eta * np.sqrt((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))
  return StepTable(steps[::-1], *(table[::-1].astype(np.float32) for table in (alpha, alpha_prev, sigma)))


def guided(eps_fn_cond: EpsFn, eps_fn_uncond: EpsFn, scale: float) -> EpsFn:
  """Classifier-free guidance: eps_uncond + scale (eps_cond - eps_uncond) (Ho & Salimans 2022)."""

  def eps_fn(x: jax.Array, t: jax.Array) -> jax.Array:
    uncond = eps_fn_uncond(x, t)
    return uncond + scale * (eps_fn_cond(x, t) - uncond)

  return eps_fn


def plms(
  eps_fn: EpsFn,
  x_T: jax.Array,
  schedule: Schedule,
  steps: np.ndarray,
  *,
  quantize_x0: QuantizeFn | None = None,
  return_trajectory: bool = False,
) -> jax.Array | tuple[jax.Array, Trajectory]:
  """Pseudo linear multi-step sampling, deterministic (Liu et al. 2022).

  The model is called once per step, and twice at the first: there, the prediction at x_T is averaged with the one at
  the tentative next point. Both calls are entries of the same scan, so that the model is compiled once.

  Args:
    eps_fn: the noise prediction.
    x_T: the start, B H W C.
    schedule: the diffusion.
    steps: ascending training steps, see `sample_steps`.
    quantize_x0: applied to every predicted x0.
    return_trajectory: whether to return every intermediate too.

  Returns:
    x0 B H W C, with the `Trajectory` if it is wanted.
  """
  table = step_table(schedule, steps)
  num_steps = len(table.t)
  # Entry 0 is the tentative part of the first step, entry 1 completes it, entry k > 1 is step k - 1.
  order = np.append(0, np.arange(num_steps))
  weights = ADAMS_BASHFORTH[np.minimum(order, 3)]
  weights[1] = (0.5, 0.5, 0, 0)
  table = StepTable(*(column[order] for column in table))
  # The second call of the first step is at the next t, which for a single step is the same t.
  t = table.t.copy()
  t[1] = t[min(2, num_steps)]
  completes = np.arange(num_steps + 1) == 1

  def step(carry, entry):
    x, history = carry
    t, weight, completes, row = entry
    eps = eps_fn(x, _full(t, x))
    combined = jnp.tensordot(weight, jnp.stack([eps, *history]), axes=1)
    start = jnp.where(completes, x_T, x)
    x_prev, pred_x0 = _ddim_step(start, combined, row, quantize_x0)
    # The prediction at the tentative point does not enter the history.
    history = jax.tree.map(lambda new, old: jnp.where(completes, old, new), (eps, *history[:2]), history)
    return (x_prev, history), (x_prev, pred_x0) if return_trajectory else None

  x_T = x_T.astype(jnp.float32)
  zero = jnp.zeros_like(x_T)
  (x0, _), trace = jax.lax.scan(step, (x_T, (zero, zero, zero)), (t, weights, completes, table))
  if return_trajectory:
    return x0, _trajectory(x_T, jax.tree.map(lambda values: values[1:], trace))
  return x0


def dpm(
  eps_fn: EpsFn,
  x_T: jax.Array,
  schedule: Schedule,
  steps: np.ndarray,
  *,
  quantize_x0: QuantizeFn | None = None,
  return_trajectory: bool = False,
) -> jax.Array | tuple[jax.Array, Trajectory]:
  """DPM-Solver++ of second order, multi-step, deterministic (Lu et al. 2022, algorithm 2): 20 to 50 steps are enough.

  The first and the last step are of first order; the last one ends without noise, at the predicted x0.

  Args:
    eps_fn: the noise prediction; called once per step.
    x_T: the start, B H W C.
    schedule: the diffusion.
    steps: ascending training steps, see `sample_steps`.
    quantize_x0: applied to every predicted x0.
    return_trajectory: whether to return every intermediate too.

  Returns:
    x0 B H W C, with the `Trajectory` if it is wanted.
  """
  table = step_table(schedule, steps)
  alpha, sigma = (np.sqrt(x) for x in (table.alpha.astype(np.float64), 1 - table.alpha.astype(np.float64)))
  half_log_snr = np.log(alpha / sigma)
  gaps = np.diff(half_log_snr)
  # From step i to i + 1: x becomes `keep` x + `new` x0 + `bend` (x0 - the x0 before).
  keep = np.append(sigma[1:] / sigma[:-1], 0)
  new = np.append(-alpha[1:] * np.expm1(-gaps), 1)
  bend = np.zeros(len(new))
  bend[1:-1] = 0.5 * new[1:-1] * gaps[1:] / gaps[:-1]
  rows = tuple(x.astype(np.float32) for x in (alpha, sigma, keep, new, bend))

  def step(carry, entry):
    x, before = carry
    t, (alpha, sigma, keep, new, bend) = entry
    pred_x0 = (x - sigma * eps_fn(x, _full(t, x))) / alpha
    if quantize_x0 is not None:
      pred_x0 = quantize_x0(pred_x0)
    x = keep * x + new * pred_x0 + bend * (pred_x0 - before)
    return (x, pred_x0), (x, pred_x0) if return_trajectory else None

  x_T = x_T.astype(jnp.float32)
  (x0, _), trace = jax.lax.scan(step, (x_T, jnp.zeros_like(x_T)), (table.t, rows))
  return (x0, _trajectory(x_T, trace)) if return_trajectory else x0


def ddim(
  eps_fn: EpsFn,
  x_T: jax.Array,
  schedule: Schedule,
  steps: np.ndarray,
  *,
  eta: float = 0.0,
  noise: jax.Array | None = None,
  key: jax.Array | None = None,
  quantize_x0: QuantizeFn | None = None,
  return_trajectory: bool = False,
) -> jax.Array | tuple[jax.Array, Trajectory]:
  """Denoising diffusion implicit sampling (Song et al. 2021).

  Args:
    eps_fn: the noise prediction.
    x_T: the start, B H W C, at the last of `steps`. To decode a partly noised latent, give it with the first entries of
      the steps only: `ddim(eps_fn, q_sample(schedule, x0, steps[n - 1], eps), schedule, steps[:n])`.
    schedule: the diffusion.
    steps: ascending training steps, see `sample_steps`.
    eta: amount of noise, 0 (deterministic) to 1 (ancestral).
    noise: the draws of each step in the order in which they are used, steps B H W C; only with eta > 0.
    key: draws them if `noise` is not given, one key or B of them; only with eta > 0.
    quantize_x0: applied to every predicted x0.
    return_trajectory: whether to return every intermediate too.

  Returns:
    x0 B H W C, with the `Trajectory` if it is wanted.
  """
  table = step_table(schedule, steps, eta)
  draw = _drawer(noise, key, len(table.t), x_T.shape) if eta else None

  def step(x, entry):
    i, row = entry
    eps = eps_fn(x, _full(row.t, x))
    x, pred_x0 = _ddim_step(x, eps, row, quantize_x0)
    if draw is not None:
      x += row.sigma * draw(i)
    return x, (x, pred_x0) if return_trajectory else None

  x_T = x_T.astype(jnp.float32)
  x0, trace = jax.lax.scan(step, x_T, (np.arange(len(table.t)), table))
  return (x0, _trajectory(x_T, trace)) if return_trajectory else x0


def ddpm(
  eps_fn: EpsFn,
  x_T: jax.Array,
  schedule: Schedule,
  num_steps: int | None = None,
  *,
  noise: jax.Array | None = None,
  key: jax.Array | None = None,
  quantize_x0: QuantizeFn | None = None,
  return_trajectory: bool = False,
) -> jax.Array | tuple[jax.Array, Trajectory]:
  """Ancestral sampling through every training step t = num_steps - 1, ..., 0 (Ho et al. 2020, algorithm 2).

  Args:
    eps_fn: the noise prediction.
    x_T: the start, B H W C, at t = num_steps - 1.
    schedule: the diffusion.
    num_steps: how many of the last steps to take; None takes all.
    noise: the draws of each step in the order in which they are used, num_steps B H W C (the last one is not used).
    key: draws them if `noise` is not given.
    quantize_x0: applied to every predicted x0.
    return_trajectory: whether to return every intermediate too.

  Returns:
    x0 B H W C, with the `Trajectory` if it is wanted.
  """
  num_steps = schedule.num_steps if num_steps is None else num_steps
  if not 1 <= num_steps <= schedule.num_steps:
    raise ValueError(f'num_steps is {num_steps}, expected 1 to {schedule.num_steps}')
  draw = _drawer(noise, key, num_steps, x_T.shape)

  def step(x, entry):
    i, t = entry
    t_vector = _full(t, x)
    pred_x0 = predict_x0(schedule, x, t_vector, eps_fn(x, t_vector))
    if quantize_x0 is not None:
      pred_x0 = quantize_x0(pred_x0)
    before = posterior(schedule, pred_x0, x, t_vector)
    x = before.mean + jnp.where(t > 0, jnp.exp(0.5 * before.log_variance), 0.0) * draw(i)
    return x, (x, pred_x0) if return_trajectory else None

  x_T = x_T.astype(jnp.float32)
  order = np.arange(num_steps, dtype=np.int32)
  x0, trace = jax.lax.scan(step, x_T, (order, order[::-1]))
  return (x0, _trajectory(x_T, trace)) if return_trajectory else x0


def _ddim_step(x: jax.Array, eps: jax.Array, row: Any, quantize_x0: QuantizeFn | None) -> tuple[jax.Array, jax.Array]:
  """One step without its noise: (x at the previous step, predicted x0)."""
  pred_x0 = (x - jnp.sqrt(1 - row.alpha) * eps) / jnp.sqrt(row.alpha)
  if quantize_x0 is not None:
    pred_x0 = quantize_x0(pred_x0)
  direction = jnp.sqrt(1 - row.alpha_prev - jnp.square(row.sigma)) * eps
  return jnp.sqrt(row.alpha_prev) * pred_x0 + direction, pred_x0


def _full(t: jax.Array, x: jax.Array) -> jax.Array:
  return jnp.full(x.shape[:1], t, jnp.int32)


def _drawer(noise: jax.Array | None, key: jax.Array | None, num_steps: int, shape: tuple[int, ...]):
  """A function of the step's number that gives its draw B H W C."""
  if (noise is None) == (key is None):
    raise ValueError('stochastic sampling needs either noise or a key')
  if noise is None and key.ndim:  # a key for each sample: its noise does not depend on the batch
    return lambda i: jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, i), shape[1:], jnp.float32))(key)
  if noise is None:
    return lambda i: jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32)
  if noise.shape != (num_steps, *shape):
    raise ValueError(f'noise has shape {noise.shape}, expected {(num_steps, *shape)}')
  noise = jnp.asarray(noise)
  return lambda i: noise[i]


def _trajectory(x_T: jax.Array, trace: tuple[jax.Array, jax.Array]) -> Trajectory:
  return Trajectory(*(jnp.concatenate([x_T[None], values]) for values in trace))
