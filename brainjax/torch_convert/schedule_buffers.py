"""The noise schedule that CompVis checkpoints carry as tensors: checked when read, computed when written."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from brainjax.errors import UserError
from brainjax.ops import diffusion

PUBLISHED = {'num_steps': 1000, 'start': 0.0015, 'end': 0.0195}  # of label2img
STABLE_DIFFUSION = {'num_steps': 1000, 'start': 0.00085, 'end': 0.012}


def make_buffers(num_steps: int = 1000, start: float = 0.0015, end: float = 0.0195) -> dict[str, np.ndarray]:
  """The buffers of CompVis `DDPM` for its "linear" schedule: the fields of a `Schedule` (each T)."""
  return diffusion.make_schedule(num_steps, start, end)._asdict()


def read(state: Mapping[str, np.ndarray], source: str) -> dict[str, float]:
  """The constants of the schedule (num_steps, start, end) from the buffers of a checkpoint, of which `betas` must be there.

  Raises:
    UserError: the buffers are not those of a linear schedule.
  """
  betas = np.asarray(state['betas'], np.float64)
  rounding = float(ml_dtypes.finfo(state['betas'].dtype).eps)  # half-precision files have rounded buffers
  # The constants were typed as decimals. Values rounded to 16 bits no longer show their digits, so the known ones are tried.
  rounded = {'num_steps': len(betas), 'start': float(f'{betas[0]:.6g}'), 'end': float(f'{betas[-1]:.6g}')}
  known = [{**named, 'num_steps': len(betas)} for named in (PUBLISHED, STABLE_DIFFUSION)]
  differing = []
  for constants in (*known, rounded) if rounding > 1e-6 else (rounded,):
    differing = [
      name
      for name, value in make_buffers(**constants).items()
      if name in state and not _same(state[name], value, rounding)
    ]
    if not differing:
      return constants
  raise UserError(
    f'{source}: its noise schedule is not "linear" from {rounded["start"]} to {rounded["end"]} in {len(betas)} steps: '
    f'{", ".join(differing)} differ; only that schedule is supported'
  )


def _same(stored: np.ndarray, value: np.ndarray, rounding: float) -> bool:
  tolerance = {'rtol': max(1e-4, 2 * rounding), 'atol': max(1e-6, rounding**2)}
  return np.shape(stored) == value.shape and np.allclose(np.asarray(stored, np.float64), value, **tolerance)


def describe(schedule: Mapping[str, float]) -> str:
  """A noise schedule in words."""
  return ', '.join(f'{name}={value}' for name, value in schedule.items())
