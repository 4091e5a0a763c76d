"""Samplers of a diffusion model as pure functions of its noise prediction: PLMS, DPM-Solver++ and DDIM."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from brainjax.ops.diffusion import Schedule
from brainjax.ops.types import Array

EpsFn = Callable[[jax.Array, jax.Array], jax.Array]  # (x B H W C, t B int32) -> predicted noise B H W C
QuantizeFn = Callable[[jax.Array], jax.Array]  # predicted x0 B H W C -> the nearest codes

# Weights of the present and the three previous noise predictions (Adams-Bashforth; Liu et al. 2022, eq. 12).
# The row is the number of previous predictions; row 0 is a DDIM step.
ADAMS_BASHFORTH = (
  np.array([[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]])
).astype(np.float32)


class Trajectory(NamedTuple):
  """Every intermediate of a sampler, from the start: entry 0 is x_T in both.

  Attributes:
    x: steps+1 B H W C, the noisy latents.
    pred_x0: steps+1 B H W C, the predicted results.
  """

  x: Array
  pred_x0: Array


Start = Float[Array, 'B H W C']
# x0, or x0 and every intermediate.
Result = Float[Array, 'B H W C'] | tuple[Float[Array, 'B H W C'], Trajectory]


class StepTable(NamedTuple):
  """Constants of each sampling step in the order of use (descending t); NumPy, shape (steps,)."""

  t: np.ndarray
  alpha: np.ndarray
  alpha_prev: np.ndarray
  sigma: np.ndarray


def step_table(schedule: Schedule, steps: Int[np.ndarray, ' steps'], eta: float | jax.Array = 0.0) -> StepTable:
  """Computes the constants of the sampling steps (Song et al. 2021, eq. 12 and 16).

  Args:
    schedule: the diffusion.
    steps: ascending training steps, see `sample_steps`; the step before the first is training step 0.
    eta: amount of noise, 0 (deterministic) to 1 (ancestral).

  Raises:
    ValueError: the steps do not ascend, or leave the schedule.
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


def predict_x0(x: Start, eps: Start, alpha: Any) -> Start:
  """The result that a noise prediction says: x is sqrt(alpha) x0 + sqrt(1 - alpha) eps (Song et al. 2021, eq. 9)."""
  return (x - jnp.sqrt(1 - alpha) * eps) / jnp.sqrt(alpha)


def guided(eps_fn_cond: EpsFn, eps_fn_uncond: EpsFn, scale: float | jax.Array) -> EpsFn:
  """Adds classifier-free guidance: eps_uncond + scale (eps_cond - eps_uncond) (Ho & Salimans 2022)."""

  def eps_fn(x: Start, t: Int[Array, ' B']) -> Start:
    uncond = eps_fn_uncond(x, t)
    return uncond + scale * (eps_fn_cond(x, t) - uncond)

  return eps_fn


def plms(
  eps_fn: EpsFn,
  x_T: Start,
  schedule: Schedule,
  steps: Int[np.ndarray, ' steps'],
  *,
  quantize_x0: QuantizeFn | None = None,
  return_trajectory: bool = False,
) -> Result:
  """Pseudo linear multi-step sampling, deterministic (PLMS; Liu et al. 2022).

  The model is called once per step, and twice in the first: the prediction at x_T is averaged with the prediction at
  the tentative next point. Both calls are entries of one scan, so that the model is compiled once.

  Args:
    eps_fn: the noise prediction.
    x_T: the start, standard normal noise.
    schedule: the diffusion.
    steps: ascending training steps, see `sample_steps`.
    quantize_x0: applied to every predicted x0.
    return_trajectory: also return every intermediate.

  Returns:
    x0, and the `Trajectory` if `return_trajectory`.
  """
  table = step_table(schedule, steps)
  num_steps = len(table.t)
  # Entry 0 is the tentative part of the first step; entry 1 completes it; entry k > 1 is step k - 1.
  order = np.append(0, np.arange(num_steps))
  weights = ADAMS_BASHFORTH[np.minimum(order, 3)]
  weights[1] = (0.5, 0.5, 0, 0)
  table = StepTable(*(column[order] for column in table))
  # The second call of the first step is at the next t; if there is one step only, at the same t.
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
  x_T: Start,
  schedule: Schedule,
  steps: Int[np.ndarray, ' steps'],
  *,
  quantize_x0: QuantizeFn | None = None,
  return_trajectory: bool = False,
) -> Result:
  """DPM-Solver++ of second order, multi-step, deterministic (Lu et al. 2022, algorithm 2). 20 to 50 steps are enough.

  The first and the last step are of first order; the last one ends at the predicted x0, without noise. Arguments and result
  are those of `plms`; the model is called once per step.
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
  x_T: Start,
  schedule: Schedule,
  steps: Int[np.ndarray, ' steps'],
  *,
  eta: float | jax.Array = 0.0,
  noise: Float[Array, 'steps B H W C'] | None = None,
  key: jax.Array | None = None,
  quantize_x0: QuantizeFn | None = None,
  return_trajectory: bool = False,
) -> Result:
  """Denoising diffusion implicit sampling (Song et al. 2021). Other arguments and the result are those of `plms`.

  Args:
    x_T: the start, at the last of `steps`. To decode a partly noised latent, pass it with the first n steps:
      `ddim(eps_fn, q_sample(schedule, x0, steps[n - 1], eps), schedule, steps[:n])`.
    eta: amount of noise, 0 (deterministic) to 1 (ancestral).
    noise: the draw of each step in the order of use; only with eta > 0.
    key: draws the noise if `noise` is None, one key or B keys; only with eta > 0.

  Raises:
    ValueError: eta > 0 without noise or key, or with both.
  """
  table = step_table(schedule, steps, eta)
  noisy = isinstance(eta, jax.Array) or eta != 0  # a traced eta may be anything
  draw = _noise_source(noise, key, x_T.shape) if noisy else None

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


def _ddim_step(x: Start, eps: Start, row: Any, quantize_x0: QuantizeFn | None) -> tuple[Start, Start]:
  """One step without noise: (x at the previous step, predicted x0)."""
  pred_x0 = predict_x0(x, eps, row.alpha)
  if quantize_x0 is not None:
    pred_x0 = quantize_x0(pred_x0)
  direction = jnp.sqrt(1 - row.alpha_prev - jnp.square(row.sigma)) * eps
  return jnp.sqrt(row.alpha_prev) * pred_x0 + direction, pred_x0


def _full(t: Any, x: Start) -> Int[Array, ' B']:
  return jnp.full(x.shape[:1], t, jnp.int32)


def _noise_source(
  noise: Float[Array, 'steps B H W C'] | None, key: jax.Array | None, shape: tuple[int, ...]
) -> Callable[[jax.Array], jax.Array]:
  """Returns a function from the number of a step to its draw B H W C."""
  if (noise is None) == (key is None):
    raise ValueError('stochastic sampling needs either noise or a key')
  if noise is None and key.ndim:  # a key for each sample: its noise does not depend on the batch
    return lambda i: jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, i), shape[1:], jnp.float32))(key)
  if noise is None:
    return lambda i: jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32)
  noise = jnp.asarray(noise)
  return lambda i: noise[i]


def _trajectory(x_T: Start, trace: tuple[Array, Array]) -> Trajectory:
  return Trajectory(*(jnp.concatenate([x_T[None], values]) for values in trace))
