"""Reconstructs what was seen: weights + fMRI -> uint8 pictures. Python: `Reconstructor`; command: brainjax reconstruct."""

import copy
import os
import zipfile
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from brainjax import sharding
from brainjax.checkpoints import load_weights
from brainjax.datasets import raw, transforms
from brainjax.datasets.responses import Betas, MaskOf, Responses, Sessions
from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.files import atomic_folder
from brainjax.models.latent_diffusion import LatentDiffusion, latent_diffusion
from brainjax.ops import diffusion, samplers
from brainjax.progress import progress
from brainjax.trees import subtree, unflatten

SAMPLERS = {'plms': samplers.plms, 'dpm': samplers.dpm, 'ddim': samplers.ddim}


class Reconstructor:
  """A fine-tuned model that turns fMRI into pictures.

  Example:
    model = Reconstructor.from_pretrained('runs/god_sbj3/diffuse/weights')
    pictures = model.from_betas('session.nii.gz', mask='V1.nii.gz,V2.nii.gz', num_samples=5)  # uint8 N 5 H W 3

  Attributes:
    num_voxels: width W of the model input.
    info: what was saved with the weights.
    responses: turns responses into model input.
    transforms: subject -> `InputTransform`, its way from responses to model input. Empty for converted weights.
    models, params: conditioner, UNet and first stage, and their parameters on the devices of `mesh`.
    schedule: of the diffusion.
  """

  def __init__(self, weights: str | os.PathLike, dtype: Any = jnp.float32, mesh: Mesh | None = None):
    """Loads the weights of the diffuse stage, or of a converted LDM checkpoint.

    Args:
      weights: folder or file.
      dtype: compute precision.
      mesh: devices to sample on; None: those of this host. On a mesh over several hosts, every host must make the same
        calls.

    Raises:
      UserError: there are no such weights.
    """
    flat, info = load_weights(weights)
    kwargs = info.get('settings', {})
    if not set(LatentDiffusion._fields) <= set(kwargs):
      raise UserError(
        f'{weights} holds {", ".join(kwargs) or "no models"}; expected the weights of the diffuse stage or a converted LDM.'
      )
    self.models = latent_diffusion(kwargs, dtype)
    self.schedule = diffusion.make_schedule(**kwargs.get('schedule', {}))
    self.mesh = sharding.make_mesh(devices=jax.local_devices()) if mesh is None else mesh
    params = {path: sharding.put_param(path, x, self.mesh) for path, x in flat.items()}
    self.params = {name: unflatten(subtree(params, name)) for name in self.models._fields}
    static = ('num_steps', 'sampler', 'guided', 'noisy')
    # Every device gets the pictures, so that every host can read them all.
    whole = sharding.replicated(self.mesh)
    sample, denoise = (
      sharding.on_mesh(self.mesh, partial(program, self.models, self.schedule)) for program in (_sample, _denoise)
    )
    self._sample = jax.jit(sample, static_argnames=static, out_shardings=whole)
    self._denoise = jax.jit(denoise, static_argnames=(*static, 'at'))
    self._compiled: dict[Hashable, Any] = {}
    self.info = info
    self.responses = Responses(info, self.models.conditioner.num_voxels)
    self.num_voxels, self.transforms = self.responses.num_voxels, self.responses.transforms

  @classmethod
  def from_pretrained(cls, source: str | os.PathLike, **options: Any) -> Self:
    """The model of a packed folder or file, of a run's weights, or of a repository `hf://org/name[@revision]`.

    `options` and errors are those of the class.
    """
    return cls(source, **options)

  def with_params(self, params: Any) -> Self:
    """The same model with other parameters: a tree like `params`."""
    other = copy.copy(self)
    other.params = params
    return other

  def compiled(self, key: Hashable, program: Callable[..., Any]) -> Callable[..., Any]:
    """A program of this model, compiled once for each key, also for the models that `with_params` makes of it."""
    return self._compiled.setdefault(key, jax.jit(sharding.on_mesh(self.mesh, program)))

  def from_betas(
    self,
    betas: Betas,
    mask: MaskOf = None,
    subject: str = '',
    scale: float | None = None,
    repetitions: int = 1,
    session: Sessions = None,
    **options: Any,
  ) -> np.ndarray:
    """Samples pictures of responses in arrays or files: uint8 N S H W 3.

    Arguments and errors are those of `Responses.from_betas` and of a call, which gets `options`.
    """
    fmri = self.responses.from_betas(betas, mask, subject, scale, repetitions, session)
    return self(fmri, normalised=True, **options)

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
    subject: str = '',
    normalised: bool = False,
    repetitions: int = 1,
    session: Sessions = None,
  ) -> np.ndarray:
    """Samples pictures.

    Args:
      fmri: responses of a subject, N V or V: the voxels of the ROI, or all voxels of the subject, in the order and the
        unit of its training data.
      num_samples: S, pictures per row.
      num_steps: of the sampler.
      sampler: 'plms' (the paper's), 'dpm' (DPM-Solver++, for 20 to 50 steps) or 'ddim'.
      seed: picture s of row n depends on (seed, n, s) alone, not on the batch it is sampled in.
      eta: noise of DDIM; 0 is deterministic.
      guidance: classifier-free guidance against a zero context; 1 is none, as published.
      batch_size: pictures sampled together, at most.
      subject: whose responses these are; empty where the weights know one subject.
      normalised: `fmri` is z-scored as in training already; see `Responses.model_input`.
      repetitions, session: see `Responses.model_input`.

    Returns:
      uint8, N S H W 3.

    Raises:
      UserError: fMRI of another width, or not finite; responses in another unit than those of training; raw responses where
        the weights carry no input transform; an unknown subject or sampler; an impossible number.
    """
    fmri = self.responses.model_input(fmri, subject, normalised, repetitions, session)
    check_options(self.schedule.num_steps, num_steps, sampler, seed, eta, guidance, num_samples, batch_size)
    options = program_options(num_steps, sampler, eta, guidance)
    total = len(fmri) * num_samples
    # Few sizes, so that few programs are compiled: powers of two up to the batch size.
    batch_size = sharding.padded(min(batch_size, 1 << (total - 1).bit_length()), self.mesh.size)
    item, sample = (x.reshape(-1) for x in np.mgrid[: len(fmri), :num_samples])
    root = sharding.put_same(jax.random.key(seed), self.mesh)
    pictures = []
    bar = progress(total, 'reconstruct', compiles=True)
    for start in range(0, total, batch_size):
      rows = np.arange(start, start + batch_size) % total  # the last batch is padded
      batch = sharding.put_rows({'fmri': fmri[item[rows]], 'item': item[rows], 'sample': sample[rows]}, self.mesh)
      pictures.append(np.asarray(self._sample(self.params, batch, root, **options)))
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
    subject: str = '',
    normalised: bool = False,
    repetitions: int = 1,
    session: Sessions = None,
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes the steps of the sampler for sample 0 of one row. Other arguments and errors are those of a call.

    Args:
      fmri: V.
      num_pictures: K, at most; spread evenly over the steps, the start and the end among them.

    Returns:
      Numbers of steps done K; the noisy latent decoded after each, and the picture that the model expects at it: uint8
      K H W 3 each. The last noisy latent is the sample. Before the first step there is no expectation: its place holds
      the noise.
    """
    fmri = self.responses.model_input(fmri, subject, normalised, repetitions, session)
    check_options(self.schedule.num_steps, num_steps, sampler, seed, eta, guidance, num_pictures=num_pictures)
    options = program_options(num_steps, sampler, eta, guidance)
    total = len(diffusion.sample_steps(self.schedule.num_steps, num_steps))
    at = np.unique(np.linspace(0, total, min(num_pictures, total + 1)).round().astype(int))
    batch = {'fmri': fmri[:1], 'item': np.zeros(1, int), 'sample': np.zeros(1, int)}
    pictures = self._denoise(self.params, batch, jax.random.key(seed), at=tuple(at.tolist()), **options)
    return at, *(np.asarray(x) for x in pictures)


def check_options(
  num_train_steps: int,
  num_steps: int,
  sampler: str,
  seed: int,
  eta: float,
  guidance: float,
  num_samples: int = 1,
  batch_size: int = 1,
  num_pictures: int = 1,
) -> None:
  """Checks the options of `Reconstructor`, which config.reconstruct has too, against a schedule of `num_train_steps`.

  Raises:
    UserError: one is impossible; the sentence begins with its name.
  """
  counts = {'num_steps': num_steps, 'num_samples': num_samples, 'batch_size': batch_size, 'num_pictures': num_pictures}
  for name, value in counts.items():
    if not _is_whole(value) or value < 1:
      raise UserError(f'{name} is {value}; expected a whole number, 1 or more.')
  if sampler not in SAMPLERS:
    raise UserError(f'sampler is {sampler!r}; expected one of {", ".join(SAMPLERS)}.')
  if sampler != 'ddim' and eta:
    raise UserError(f'eta is {eta}, but the sampler {sampler} is deterministic; use eta 0 or the sampler ddim.')
  if not 0 <= eta < np.inf or not 0 <= guidance < np.inf:
    raise UserError(
      f'eta is {eta} and guidance {guidance}; expected finite numbers, guidance 0 or more, eta 0 or more.'
    )
  if not _is_whole(seed) or not 0 <= seed < 2**32:
    raise UserError(f'seed is {seed}; expected a whole number, 0 to 2**32 - 1.')
  try:
    diffusion.sample_steps(num_train_steps, num_steps)
  except UserError as error:  # names the nearest numbers that are possible
    raise UserError(f'num_steps is {num_steps}: {error}.') from error


def _is_whole(value: Any) -> bool:
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def program_options(num_steps: int, sampler: str, eta: float, guidance: float) -> dict[str, Any]:
  """Arguments of the compiled programs: a new program only where guidance or noise is switched on or off."""
  static = {'num_steps': num_steps, 'sampler': sampler, 'guided': guidance != 1, 'noisy': eta != 0}
  return static | {'eta': eta, 'guidance': guidance}


def sample_latent(
  models: LatentDiffusion,
  schedule: diffusion.Schedule,
  params: Any,
  batch: dict[str, jax.Array],
  root: jax.Array,
  *,
  num_steps: int,
  sampler: str,
  guided: bool,
  noisy: bool,
  eta: jax.Array,
  guidance: jax.Array,
  return_trajectory: bool = False,
) -> Any:
  """fMRI B V -> latent B h w C: conditioner and every sampling step; with `return_trajectory` as the samplers return it."""
  keys = jax.vmap(lambda item, sample: jax.random.fold_in(jax.random.fold_in(root, item), sample))(
    batch['item'], batch['sample']
  )
  x_T = jax.vmap(lambda key: jax.random.normal(key, models.first_stage.latent_shape))(keys)
  context = models.conditioner.apply({'params': params['conditioner']}, batch['fmri'])

  def eps_given(context):
    return lambda x, t: models.unet.apply({'params': params['unet']}, x, t, context)

  eps_fn = eps_given(context)
  if guided:
    eps_fn = samplers.guided(eps_fn, eps_given(jnp.zeros_like(context)), guidance)
  noise = {'eta': eta, 'key': jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)} if noisy else {}
  steps = diffusion.sample_steps(schedule.num_steps, num_steps)
  return SAMPLERS[sampler](eps_fn, x_T, schedule, steps, return_trajectory=return_trajectory, **noise)


def _decode(models: LatentDiffusion, params: Any, latent: jax.Array) -> jax.Array:
  """Latent B h w C -> uint8 B H W 3."""
  image = models.first_stage.apply({'params': params['first_stage']}, latent, method='to_image')
  return transforms.to_uint8(image)


def _sample(models: LatentDiffusion, schedule: diffusion.Schedule, params: Any, *inputs: Any, **options: Any):
  """fMRI B V -> uint8 B H W 3, as one program; `inputs` and `options` are those of `sample_latent`."""
  return _decode(models, params, sample_latent(models, schedule, params, *inputs, **options))


def _denoise(
  models: LatentDiffusion, schedule: diffusion.Schedule, params: Any, *inputs: Any, at: tuple[int, ...], **options: Any
) -> tuple[jax.Array, jax.Array]:
  """Noisy latents and predicted results of one row after the steps `at`, decoded: uint8 K H W 3 each."""
  _, trajectory = sample_latent(models, schedule, params, *inputs, return_trajectory=True, **options)
  return tuple(_decode(models, params, x[np.array(at), 0]) for x in trajectory)


def _read_fmri(path: Path) -> np.ndarray:
  """Numbers of shape N V or V; the header is checked before memory is allocated."""
  if path.is_file() and zipfile.is_zipfile(path):
    with raw.NpzReader(path) as archive:
      raise UserError(f'{path} is an .npz archive of {", ".join(archive.names)}; save one of them as .npy.')
  return raw.read_npy(path, ndim=(1, 2))


@command_line
def main(argv: list[str] | None = None) -> None:
  """Command line.

  Raises:
    UserError: an option, the weights or the responses cannot be used, or `--out` exists.
  """
  parser = ArgumentParser(prog='brainjax reconstruct', description=__doc__)
  parser.add_argument('--weights', required=True, help='folder of the diffuse stage, or of a converted LDM checkpoint')
  parser.add_argument('--fmri', help='.npy file, trials x voxels: model input, padded and z-scored as in training')
  parser.add_argument(
    '--betas', help='.npy (trials x voxels, or volumes) or NIfTI: responses in the unit of the training data'
  )
  parser.add_argument(
    '--mask', help='with volumes in --betas: the masks of the training data, as for brainjax prepare own'
  )
  parser.add_argument('--scale', type=float, help='the numbers in --betas are betas times this, such as 300 (NSD)')
  parser.add_argument('--subject', default='', help='with --betas: whose they are, where the weights know several')
  parser.add_argument('--repetitions', type=int, default=1, help='with --betas: trials that each row is the mean of')
  parser.add_argument('--session', help='with --betas: of the training data, where they are of one; default: a new one')
  parser.add_argument('--out', required=True, help='new folder for images.npz and PNG files')
  parser.add_argument('--num_samples', type=int, default=5)
  parser.add_argument('--num_steps', type=int, default=250)
  parser.add_argument('--sampler', default='plms', choices=list(SAMPLERS))
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  out = Path(args.out)
  if out.exists():
    raise UserError(f'--out={out} exists already; nothing is overwritten, choose another folder.')
  if (args.fmri is None) == (args.betas is None):
    raise UserError('name either --fmri (model input) or --betas (responses in the unit of the training data).')
  if args.betas is None and (args.mask or args.scale or args.subject or args.session):
    raise UserError('--mask, --scale, --subject and --session are for --betas; --fmri is model input already.')
  fmri = None if args.fmri is None else _read_fmri(Path(args.fmri))
  with atomic_folder(out) as folder:  # reports a place that cannot be written before hours of sampling
    folder.mkdir()
    model = Reconstructor.from_pretrained(args.weights)
    if fmri is None:
      fmri = model.responses.from_betas(args.betas, args.mask, args.subject, args.scale, args.repetitions, args.session)
    pictures = model(
      fmri,
      num_samples=args.num_samples,
      num_steps=args.num_steps,
      sampler=args.sampler,
      seed=args.seed,
      normalised=True,
    )
    for item, samples in enumerate(pictures):
      for number, picture in enumerate(samples):
        Image.fromarray(picture).save(folder / f'trial{item:04d}_sample{number}.png')
    np.savez_compressed(folder / 'images.npz', samples=pictures)


if __name__ == '__main__':
  raise SystemExit(main())
