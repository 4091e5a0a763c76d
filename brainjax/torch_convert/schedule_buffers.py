"""The constants of the noise schedule that CompVis checkpoints carry as tensors: checked on the way in, made on the way out."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from brainjax.errors import UserError

PUBLISHED = {'num_steps': 1000, 'start': 0.0015, 'end': 0.0195}  # of label2img
STABLE_DIFFUSION = {'num_steps': 1000, 'start': 0.00085, 'end': 0.012}


def buffers(num_steps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> dict[str, np.ndarray]:
  """The buffers of CompVis `DDPM` for its "linear" schedule, computed in float64, stored in float32 (each T)."""
  betas = np.linspace(start**0.5, end**0.5, num_steps) ** 2
  alphas = np.cumprod(1 - betas)
  previous = np.append(1.0, alphas[:-1])
  variance = betas * (1 - previous) / (1 - alphas)
  values = {
    'betas': betas,
    'alphas_cumprod': alphas,
    'alphas_cumprod_prev': previous,
    'sqrt_alphas_cumprod': alphas**0.5,
    'sqrt_one_minus_alphas_cumprod': (1 - alphas) ** 0.5,
    'log_one_minus_alphas_cumprod': np.log(1 - alphas),
    'sqrt_recip_alphas_cumprod': (1 / alphas) ** 0.5,
    'sqrt_recipm1_alphas_cumprod': (1 / alphas - 1) ** 0.5,
    'posterior_variance': variance,
    'posterior_log_variance_clipped': np.log(np.maximum(variance, 1e-20)),
    'posterior_mean_coef1': betas * previous**0.5 / (1 - alphas),
    'posterior_mean_coef2': (1 - previous) * (1 - betas) ** 0.5 / (1 - alphas),
  }
  return {name: value.astype(np.float32) for name, value in values.items()}


def read(state: Mapping[str, np.ndarray], source: str) -> dict[str, float]:
  """The schedule's settings (num_steps, start, end) from the buffers of a checkpoint; the published ones without any.

  Raises:
    UserError: the buffers are not those of a linear schedule.
  """
  if 'betas' not in state:
    return dict(PUBLISHED)
  betas = np.asarray(state['betas'], np.float64)
  rounding = float(ml_dtypes.finfo(state['betas'].dtype).eps)  # half-precision files have rounded buffers
  # The constants were typed as decimals. Rounded to 16 bits they are no longer told by their digits.
  found = {'num_steps': len(betas), 'start': float(f'{betas[0]:.6g}'), 'end': float(f'{betas[-1]:.6g}')}
  known = [{**named, 'num_steps': len(betas)} for named in (PUBLISHED, STABLE_DIFFUSION)]
  differing = []
  for settings in (*known, found) if rounding > 1e-6 else (found,):
    made = buffers(**settings)
    differing = [name for name, value in made.items() if name in state and not _same(state[name], value, rounding)]
    if not differing:
      return settings
  raise UserError(
    f'{source}: its noise schedule is not "linear" from {found["start"]} to {found["end"]} in {len(betas)} steps: '
    f'{", ".join(differing)} differ; only that schedule is supported'
  )


def _same(stored: np.ndarray, value: np.ndarray, rounding: float) -> bool:
  tolerance = {'rtol': max(1e-4, 2 * rounding), 'atol': max(1e-6, rounding**2)}
  return np.shape(stored) == value.shape and np.allclose(np.asarray(stored, np.float64), value, **tolerance)
