"""Reconstructs what was seen: weights + fMRI -> uint8 pictures. Python: `Reconstructor`; command: python -m brainjax.reconstruct."""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from brainjax import sharding
from brainjax.checkpoints import load_weights
from brainjax.errors import UserError, command_line
from brainjax.files import atomic_write
from brainjax.metric_writer import progress
from brainjax.models.autoencoder import VQModel
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.unet import UNet
from brainjax.ops import diffusion, samplers
from brainjax.stages.diffuse import Models, latent_shape
from brainjax.trees import below, unflatten

SAMPLERS = ('plms', 'ddim')


class Reconstructor:
  """A fine-tuned model that turns fMRI into pictures.

  Example:
    pictures = Reconstructor('runs/god_sbj3/diffuse/weights')(fmri, num_samples=5)  # fmri: N V -> uint8 N 5 H W 3
  """

  def __init__(self, weights: str | os.PathLike, dtype: Any = jnp.float32):
    """Loads the weights of the diffuse stage, or of a converted LDM checkpoint.

    Raises:
      UserError: there are no such weights.
    """
    flat, info = load_weights(weights)
    settings = info.get('settings', {})
    if not {'conditioner', 'unet', 'first_stage'} <= set(settings):
      raise UserError(
        f'{weights} holds {", ".join(settings) or "no models"}; expected the weights of the diffuse stage or a converted LDM.'
      )
    self._models = Models(
      FmriConditioner(**_tuples(settings['conditioner']), dtype=dtype),
      UNet(**_tuples(settings['unet']), dtype=dtype),
      VQModel(**_tuples(settings['first_stage']), dtype=dtype),
    )
    self._mesh = sharding.make_mesh()
    self._params = jax.device_put(
      {name: unflatten(below(flat, name)) for name in self._models._fields}, sharding.replicated(self._mesh)
    )
    self._sample = jax.jit(partial(_sample, self._models), static_argnames=('num_steps', 'sampler', 'eta', 'guidance'))
    self.num_voxels = self._models.conditioner.num_voxels
    self.info = info

  def __call__(
    self,
    fmri: np.ndarray,
    num_samples: int = 5,
    num_steps: int = 250,
    sampler: str = 'plms',
    seed: int = 0,
    eta: float = 0.0,
    guidance: float = 1.0,
    batch_size: int = 40,
  ) -> np.ndarray:
    """Samples pictures.

    Args:
      fmri: N V (or V), normalised and padded as in training.
      num_samples: S, pictures per row.
      num_steps: of the sampler.
      sampler: 'plms' or 'ddim'.
      seed: picture s of row n depends on (seed, n, s) alone, not on the batch it is sampled in.
      eta: noise of DDIM; 0 is deterministic.
      guidance: classifier-free guidance against a zero context; 1 is none, as published.
      batch_size: pictures sampled together.

    Returns:
      uint8, N S H W 3.

    Raises:
      UserError: fMRI of another width, or not finite; an unknown sampler or impossible number.
    """
    fmri = self._checked(fmri)
    if sampler not in SAMPLERS:
      raise UserError(f'sampler is {sampler!r}; expected one of {", ".join(SAMPLERS)}.')
    if sampler == 'plms' and eta:
      raise UserError(f'eta is {eta}, but PLMS is deterministic; use eta 0 or the sampler ddim.')
    if num_samples < 1:
      raise UserError(f'num_samples is {num_samples}; expected 1 or more.')
    diffusion.sample_steps(diffusion.make_schedule().num_steps, num_steps)  # refuses impossible numbers before any work
    devices = self._mesh.size
    total = len(fmri) * num_samples
    batch_size = -(-min(batch_size, total) // devices) * devices
    item, sample = (x.reshape(-1) for x in np.mgrid[: len(fmri), :num_samples])
    options = {'num_steps': num_steps, 'sampler': sampler, 'eta': eta, 'guidance': guidance}
    root = jax.random.key(seed)
    pictures = []
    bar = progress(total, 'reconstruct')
    for start in range(0, total, batch_size):
      rows = np.arange(start, start + batch_size) % total  # the last batch is filled up
      batch = sharding.put_batch({'fmri': fmri[item[rows]], 'item': item[rows], 'sample': sample[rows]}, self._mesh)
      pictures.append(np.asarray(self._sample(self._params, batch, root, **options)))
      bar.update(min(batch_size, total - start))
    bar.close()
    pictures = np.concatenate(pictures)[:total]
    return pictures.reshape(len(fmri), num_samples, *pictures.shape[1:])

  def _checked(self, fmri: np.ndarray) -> np.ndarray:
    fmri = np.asarray(fmri)
    if fmri.ndim == 1:
      fmri = fmri[None]
    if fmri.ndim != 2 or fmri.shape[1] != self.num_voxels or not np.issubdtype(fmri.dtype, np.number) or not len(fmri):
      raise UserError(
        f'fMRI is {fmri.dtype} {fmri.shape}; these weights expect numbers of shape (trials, {self.num_voxels}): '
        'the same ROI, in the same order, wrap-padded and z-scored as in training.'
      )
    bad = np.argwhere(~np.isfinite(fmri))
    if len(bad):
      raise UserError(
        f'fMRI has {len(bad)} values that are not finite, the first in trial {bad[0, 0]}, voxel {bad[0, 1]}.'
      )
    return fmri.astype(np.float32)


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
  """JSON has lists where the models, which must be hashable, have tuples."""
  return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def _sample(
  models: Models, params, batch, root: jax.Array, *, num_steps: int, sampler: str, eta: float, guidance: float
) -> jax.Array:
  """fMRI B V -> uint8 B H W 3, as one program: conditioner, every sampling step, decoder."""
  schedule = diffusion.make_schedule()
  steps = diffusion.sample_steps(schedule.num_steps, num_steps)
  keys = jax.vmap(lambda item, sample: jax.random.fold_in(jax.random.fold_in(root, item), sample))(
    batch['item'], batch['sample']
  )
  x_T = jax.vmap(lambda key: jax.random.normal(key, latent_shape(models.first_stage)))(keys)
  context = models.conditioner.apply({'params': params['conditioner']}, batch['fmri'])

  def eps_given(context):
    return lambda x, t: models.unet.apply({'params': params['unet']}, x, t, context)

  eps_fn = eps_given(context)
  if guidance != 1:
    eps_fn = samplers.guided(eps_fn, eps_given(jnp.zeros_like(context)), guidance)
  if sampler == 'plms':
    latent = samplers.plms(eps_fn, x_T, schedule, steps)
  else:
    latent = samplers.ddim(eps_fn, x_T, schedule, steps, eta=eta, key=jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))
  image = models.first_stage.apply({'params': params['first_stage']}, latent, method='decode')
  return jnp.round((jnp.clip(image, -1, 1) + 1) * 127.5).astype(jnp.uint8)


@command_line
def main(argv: list[str] | None = None) -> None:
  """Command line."""
  parser = argparse.ArgumentParser(prog='python -m brainjax.reconstruct', description=__doc__)
  parser.add_argument('--weights', required=True, help='folder of the diffuse stage, or of a converted LDM checkpoint')
  parser.add_argument('--fmri', required=True, help='.npy file: trials x voxels, prepared as in training')
  parser.add_argument('--out', required=True, help='new folder for images.npz and PNG files')
  parser.add_argument('--num_samples', type=int, default=5)
  parser.add_argument('--num_steps', type=int, default=250)
  parser.add_argument('--sampler', default='plms', choices=SAMPLERS)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  out = Path(args.out)
  if out.exists():
    raise UserError(f'--out={out} exists already; nothing is overwritten, choose another folder.')
  try:
    fmri = np.load(args.fmri, allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(f'--fmri={args.fmri} cannot be read as a .npy array of numbers ({error}).') from error
  pictures = Reconstructor(args.weights)(
    fmri, num_samples=args.num_samples, num_steps=args.num_steps, sampler=args.sampler, seed=args.seed
  )
  for item, samples in enumerate(pictures):
    for number, picture in enumerate(samples):
      with atomic_write(out / f'trial{item:04d}_sample{number}.png') as path:
        Image.fromarray(picture).save(path)
  with atomic_write(out / 'images.npz') as path:
    np.savez_compressed(path, samples=pictures)


if __name__ == '__main__':
  raise SystemExit(main())
