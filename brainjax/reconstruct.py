"""Reconstructs what was seen: weights + fMRI -> uint8 pictures. Python: `Reconstructor`; command: python -m brainjax.reconstruct."""

import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from brainjax import hosts, sharding
from brainjax.checkpoints import load_weights
from brainjax.datasets import raw
from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.files import atomic_folder
from brainjax.metric_writer import progress
from brainjax.models.autoencoder import first_stage
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.unet import UNet
from brainjax.ops import diffusion, samplers
from brainjax.stages.diffuse import Models, latent_shape
from brainjax.trees import lists_to_tuples, subtree, unflatten

UNLIKELY_SCALE = 5  # root mean square of fMRI that is hardly z-scored
SAMPLERS = ('plms', 'dpm', 'ddim')


class Reconstructor:
  """A fine-tuned model that turns fMRI into pictures.

  Example:
    pictures = Reconstructor('runs/god_sbj3/diffuse/weights')(fmri, num_samples=5)  # fmri: N V -> uint8 N 5 H W 3
  """

  def __init__(self, weights: str | os.PathLike, dtype: Any = jnp.float32, mesh: Mesh | None = None):
    """Loads the weights of the diffuse stage, or of a converted LDM checkpoint.

    Args:
      weights: folder or file.
      dtype: compute precision.
      mesh: devices to sample on; None: this host's. With a mesh over several hosts every host must make the same calls.

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
      FmriConditioner(**lists_to_tuples(settings['conditioner']), dtype=dtype),
      UNet(**lists_to_tuples(settings['unet']), dtype=dtype),
      first_stage(settings['first_stage'], dtype),
    )
    self._schedule = diffusion.make_schedule(**settings.get('schedule', {}))
    self._mesh = sharding.make_mesh(devices=jax.local_devices()) if mesh is None else mesh
    params = {path: sharding.put_param(path, x, self._mesh) for path, x in flat.items()}
    self._params = {name: unflatten(subtree(params, name)) for name in self._models._fields}
    options = ('num_steps', 'sampler', 'eta', 'guidance')
    # The pictures go to every device, so that every host can read them all.
    whole = sharding.replicated(self._mesh)
    sample, denoise = (
      sharding.on_mesh(self._mesh, partial(f, self._models, self._schedule)) for f in (_sample, _denoise)
    )
    self._sample = jax.jit(sample, static_argnames=options, out_shardings=whole)
    self._denoise = jax.jit(denoise, static_argnames=(*options, 'at'))
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
      sampler: 'plms' (the paper's), 'dpm' (DPM-Solver++, for 20 to 50 steps) or 'ddim'.
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
    options = _checked_options(self._schedule, num_steps, sampler, eta, guidance)
    for name, value in (('num_samples', num_samples), ('batch_size', batch_size)):
      if value < 1:
        raise UserError(f'{name} is {value}; expected 1 or more.')
    total = len(fmri) * num_samples
    batch_size = sharding.padded(min(batch_size, total), self._mesh.size)
    item, sample = (x.reshape(-1) for x in np.mgrid[: len(fmri), :num_samples])
    root = sharding.put_same(jax.random.key(seed), self._mesh)
    pictures = []
    bar = progress(total, 'reconstruct')
    for start in range(0, total, batch_size):
      rows = np.arange(start, start + batch_size) % total  # the last batch is filled up
      batch = sharding.put_rows({'fmri': fmri[item[rows]], 'item': item[rows], 'sample': sample[rows]}, self._mesh)
      pictures.append(np.asarray(self._sample(self._params, batch, root, **options)))
      bar.update(min(batch_size, total - start))
    bar.close()
    pictures = np.concatenate(pictures)[:total]
    return pictures.reshape(len(fmri), num_samples, *pictures.shape[1:])

  def denoising(
    self,
    fmri: np.ndarray,
    num_steps: int = 250,
    sampler: str = 'plms',
    seed: int = 0,
    eta: float = 0.0,
    guidance: float = 1.0,
    num_pictures: int = 8,
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How sample 0 of a call with one row comes about; arguments as of a call.

    Args:
      fmri: V.
      num_pictures: K, at most; spread evenly over the steps, the start and the end among them.

    Returns:
      Numbers of steps done K; the noisy latent decoded after each, and the picture that the model expects at it: uint8
      K H W 3 each. The last noisy latent is the sample. Before the first step nothing is expected: the noise stands there.
    """
    fmri = self._checked(fmri)
    options = _checked_options(self._schedule, num_steps, sampler, eta, guidance)
    total = len(diffusion.sample_steps(self._schedule.num_steps, num_steps))
    at = np.unique(np.linspace(0, total, min(num_pictures, total + 1)).round().astype(int))
    batch = {'fmri': fmri[:1], 'item': np.zeros(1, int), 'sample': np.zeros(1, int)}
    pictures = self._denoise(self._params, batch, jax.random.key(seed), at=tuple(at.tolist()), **options)
    return at, *(np.asarray(x) for x in pictures)

  def _checked(self, fmri: np.ndarray) -> np.ndarray:
    fmri = np.asarray(fmri)
    if fmri.ndim == 1:
      fmri = fmri[None]
    if fmri.ndim != 2 or fmri.shape[1] != self.num_voxels or fmri.dtype.kind not in 'fiu' or not len(fmri):
      raise UserError(
        f'fMRI is {fmri.dtype} {fmri.shape}; these weights expect numbers of shape (trials, {self.num_voxels}): '
        'the same ROI, in the same order, wrap-padded and z-scored as in training.'
      )
    with np.errstate(over='ignore'):  # told below
      fmri = fmri.astype(np.float32)
    bad = np.argwhere(~np.isfinite(fmri))
    if len(bad):
      raise UserError(
        f'fMRI has {len(bad)} values that are not finite, the first in trial {bad[0, 0]}, voxel {bad[0, 1]}.'
      )
    if (scale := np.sqrt(np.mean(np.square(fmri, dtype=np.float64)))) > UNLIKELY_SCALE:
      hosts.log(
        f'fMRI has a root mean square of {scale:.3g}, where z-scored voxels have about 1: was it z-scored as in training?'
      )
    return fmri


def _checked_options(
  schedule: diffusion.Schedule, num_steps: int, sampler: str, eta: float, guidance: float
) -> dict[str, Any]:
  """The sampler's options, or a `UserError` before any work."""
  if sampler not in SAMPLERS:
    raise UserError(f'sampler is {sampler!r}; expected one of {", ".join(SAMPLERS)}.')
  if sampler != 'ddim' and eta:
    raise UserError(f'eta is {eta}, but the sampler {sampler} is deterministic; use eta 0 or the sampler ddim.')
  if not 0 <= eta < np.inf or not np.isfinite(guidance):
    raise UserError(f'eta is {eta} and guidance {guidance}; expected finite numbers, eta 0 or more.')
  diffusion.sample_steps(schedule.num_steps, num_steps)  # refuses impossible numbers
  return {'num_steps': num_steps, 'sampler': sampler, 'eta': eta, 'guidance': guidance}


def _latent(
  models: Models,
  schedule: diffusion.Schedule,
  params: Any,
  batch: dict[str, jax.Array],
  root: jax.Array,
  *,
  num_steps: int,
  sampler: str,
  eta: float,
  guidance: float,
  return_trajectory: bool = False,
) -> Any:
  """fMRI B V -> latent B h w C: conditioner and every sampling step; with `return_trajectory` as the samplers return it."""
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
  if sampler != 'ddim':
    deterministic = {'plms': samplers.plms, 'dpm': samplers.dpm}[sampler]
    return deterministic(eps_fn, x_T, schedule, steps, return_trajectory=return_trajectory)
  noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
  return samplers.ddim(eps_fn, x_T, schedule, steps, eta=eta, key=noise_keys, return_trajectory=return_trajectory)


def _decode(models: Models, params: Any, latent: jax.Array) -> jax.Array:
  """Latent B h w C -> uint8 B H W 3."""
  image = models.first_stage.apply({'params': params['first_stage']}, latent, method='to_image')
  return jnp.round((jnp.clip(image, -1, 1) + 1) * 127.5).astype(jnp.uint8)


def _sample(
  models: Models,
  schedule: diffusion.Schedule,
  params: Any,
  batch: dict[str, jax.Array],
  root: jax.Array,
  **options: Any,
) -> jax.Array:
  """fMRI B V -> uint8 B H W 3, as one program."""
  return _decode(models, params, _latent(models, schedule, params, batch, root, **options))


def _denoise(
  models: Models,
  schedule: diffusion.Schedule,
  params: Any,
  batch: dict[str, jax.Array],
  root: jax.Array,
  *,
  at: tuple[int, ...],
  **options: Any,
) -> tuple[jax.Array, jax.Array]:
  """Noisy latents and predicted results of one row after the steps `at`, decoded: uint8 K H W 3 each."""
  _, trajectory = _latent(models, schedule, params, batch, root, return_trajectory=True, **options)
  chosen = np.array(at)
  return tuple(_decode(models, params, x[chosen, 0]) for x in trajectory)


def _read_fmri(path: Path) -> np.ndarray:
  """Numbers of shape N V or V; the header is checked before memory is taken."""
  if path.is_file() and zipfile.is_zipfile(path):
    with raw.NpzReader(path) as archive:
      raise UserError(f'--fmri={path} is an .npz archive of {", ".join(archive.names)}; save one of them as .npy.')
  return raw.read_npy(path, ndim=(1, 2))


@command_line
def main(argv: list[str] | None = None) -> None:
  """Command line."""
  parser = ArgumentParser(prog='python -m brainjax.reconstruct', description=__doc__)
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
  if not 0 <= args.seed < 2**32:
    raise UserError(f'--seed is {args.seed}; expected 0 .. 2**32 - 1.')
  fmri = _read_fmri(Path(args.fmri))
  with atomic_folder(out) as folder:  # a place that cannot be written is told before hours of sampling
    folder.mkdir()
    pictures = Reconstructor(args.weights)(
      fmri, num_samples=args.num_samples, num_steps=args.num_steps, sampler=args.sampler, seed=args.seed
    )
    for item, samples in enumerate(pictures):
      for number, picture in enumerate(samples):
        Image.fromarray(picture).save(folder / f'trial{item:04d}_sample{number}.png')
    np.savez_compressed(folder / 'images.npz', samples=pictures)


if __name__ == '__main__':
  raise SystemExit(main())
