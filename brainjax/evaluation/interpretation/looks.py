"""What saliency and attention share: a program that looks into the model at some steps of the sampler, over batches of rows."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainjax import sharding
from brainjax.ops import diffusion
from brainjax.progress import progress
from brainjax.reconstruct import Reconstructor, program_options, sample_latent


class Levels(NamedTuple):
  """The sampler at L of its steps, for a batch.

  Attributes:
    x: L B h w C, its state, held fixed: no gradient goes through it.
    t: L, the diffusion step.
    alpha: L, the share of signal in the variance of the state.
  """

  x: jax.Array
  t: jax.Array
  alpha: jax.Array


def over_batches(
  reconstructor: Reconstructor,
  program: Callable[..., Any],
  key: Hashable,
  rows: Mapping[str, np.ndarray],
  *inputs: Any,
  axis: int,
  name: str,
  at: tuple[float, ...],
  num_steps: int,
  sampler: str,
  seed: int,
  guidance: float,
  batch_size: int,
) -> tuple[np.ndarray, np.ndarray, Any]:
  """Runs a program on sample 0 of each row, as one compiled program over batches.

  Args:
    reconstructor: the model.
    program: (models, params, batch, root key, `Levels`, *inputs) -> tree of arrays.
    key: names the program and all that is fixed in it: it is compiled once for each.
    rows: 'fmri', model input N W, and what else the program reads of each row.
    *inputs: the same for all batches.
    axis: of the rows in every array of the result.
    name: of the progress bar.
    at: noise levels, as shares of the sampler's way: 0 is pure noise, towards 1 the finished latent.
    num_steps, sampler, seed, guidance: of the sampler, as in a call of `Reconstructor`; DDIM without noise.
    batch_size: rows at a time.

  Returns:
    Sampler steps done before each level L, the share of noise in the variance of the state there L, and the tree with all rows.

  Raises:
    UserError: the number of steps is impossible.
    ValueError: a level of `at` is not in [0, 1).
  """
  if not all(0 <= share < 1 for share in at):
    raise ValueError(f'levels must be at least 0 and less than 1, found {at}')
  steps = diffusion.sample_steps(reconstructor.schedule.num_steps, num_steps)[::-1]
  places = np.array([int(share * len(steps)) for share in at])
  chosen = steps[places]
  alpha = reconstructor.schedule.alphas_cumprod[chosen]
  models, options = reconstructor.models, program_options(num_steps, sampler, 0.0, guidance)

  def run(params, batch, root, *inputs):
    _, trajectory = sample_latent(
      models, reconstructor.schedule, params, batch, root, return_trajectory=True, **options
    )
    levels = Levels(jax.lax.stop_gradient(trajectory.x[places]), jnp.array(chosen), jnp.array(alpha))
    return program(models, params, batch, root, levels, *inputs)

  run = reconstructor.compiled((key, tuple(places), tuple(options.items())), run)
  count = len(rows['fmri'])
  size = sharding.padded(min(batch_size, count), reconstructor.mesh.size)
  root = sharding.put_same(jax.random.key(seed), reconstructor.mesh)
  parts, bar = [], progress(count, name, compiles=True)
  for start in range(0, count, size):
    numbers = np.arange(start, start + size) % count  # the last batch is padded
    batch = {key: x[numbers] for key, x in rows.items()} | {'item': numbers, 'sample': 0 * numbers}
    found = run(reconstructor.params, sharding.put_rows(batch, reconstructor.mesh), root, *inputs)
    whole = (slice(None),) * axis + (slice(count - start),)
    parts.append(jax.tree.map(lambda x, whole=whole: np.asarray(x)[whole], found))
    bar.update(min(size, count - start))
  bar.close()
  return places, 1 - alpha, jax.tree.map(lambda *arrays: np.concatenate(arrays, axis), *parts)
