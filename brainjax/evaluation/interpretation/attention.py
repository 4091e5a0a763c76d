"""Attention: which tokens of fMRI the UNet looks at, by layer, resolution and diffusion step."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from brainjax import sharding
from brainjax.evaluation.interpretation.areas import Areas
from brainjax.models.unet import Attention as UNetAttention
from brainjax.ops import diffusion
from brainjax.reconstruct import Reconstructor, program_options, sample_latent

CROSS = 'attn2'  # the UNet's name of attention to the context


class Attention(NamedTuple):
  """Where the UNet's cross-attention goes; each distribution over the T context tokens sums to 1.

  Attributes:
    layers: A names.
    resolutions: A, side of the feature map of each layer.
    steps: L, sampler steps done before each look.
    weights: L A N T, mean over the heads and the places of the feature map.
    maps: layer -> L h w T, mean over heads and items: what each place of the latent looks at.
    patches: T P, the share that each fMRI patch has in each context token: the magnitude of the linear maps of the token
      axis. The encoder mixes patches before, so this is where tokens come from at first order only.
  """

  layers: tuple[str, ...]
  resolutions: np.ndarray
  steps: np.ndarray
  weights: np.ndarray
  maps: dict[str, np.ndarray]
  patches: np.ndarray

  def entropy(self) -> np.ndarray:
    """Entropy of the mean distribution of each step and layer over that of uniform attention: L A in [0, 1]."""
    mean = self.weights.mean(axis=2)
    return -np.sum(mean * np.log(np.maximum(mean, 1e-12)), axis=-1) / np.log(mean.shape[-1])

  def on_areas(self, areas: Areas) -> dict[str, np.ndarray]:
    """Attention that goes to each area by the voxels of its patches: name -> L A N."""
    patch = np.arange(len(areas.source)) // (len(areas.source) // self.patches.shape[1])
    result = {}
    for name in areas.masks:
      share = np.bincount(patch, weights=areas.entries(name)) / np.bincount(patch)  # P
      result[name] = self.weights @ (self.patches @ share)
    return result


def obstacle(reconstructor: Reconstructor) -> str:
  """Why there is no such attention to look at; empty if there is."""
  if reconstructor.models.conditioner.global_pool:
    return 'the context is one pooled token, which all attention goes to'
  return ''


def compute(
  reconstructor: Reconstructor,
  fmri: np.ndarray,
  *,
  at: tuple[float, ...] = (0.1, 0.5, 0.9),
  num_steps: int = 20,
  sampler: str = 'dpm',
  seed: int = 0,
  guidance: float = 1.0,
  batch_size: int = 8,
) -> Attention:
  """Attention while sample 0 of each row is made; arguments are those of `saliency.compute`.

  Raises:
    UserError: as of `Reconstructor`.
  """
  taken = diffusion.sample_steps(reconstructor.schedule.num_steps, num_steps)[::-1]
  places = np.array([int(share * len(taken)) for share in at])
  options = program_options(num_steps, sampler, 0.0, guidance)
  program = partial(_program, reconstructor.models, reconstructor.schedule, places=tuple(places.tolist()), **options)
  program = jax.jit(sharding.on_mesh(reconstructor.mesh, program))
  size = sharding.padded(min(batch_size, len(fmri)), reconstructor.mesh.size)
  root = sharding.put_same(jax.random.key(seed), reconstructor.mesh)
  parts = []
  for start in range(0, len(fmri), size):
    rows = np.arange(start, start + size) % len(fmri)
    batch = sharding.put_rows({'fmri': fmri[rows], 'item': rows, 'sample': 0 * rows}, reconstructor.mesh)
    found = program(reconstructor.params, batch, root)
    parts.append({name: np.asarray(x)[:, : min(size, len(fmri) - start)] for name, x in found.items()})
  layers = tuple(sorted(parts[0], key=_in_order))
  every = {name: np.concatenate([part[name] for part in parts], axis=1) for name in layers}  # L N Q T
  sides = np.array([round(x.shape[2] ** 0.5) for x in every.values()])
  maps = {
    name: x.mean(axis=1).reshape(len(places), side, side, -1)
    for (name, x), side in zip(every.items(), sides, strict=True)
  }
  weights = np.stack([x.mean(axis=2) for x in every.values()], axis=1)
  return Attention(layers, sides, places, weights, maps, _patches_of(reconstructor))


def _in_order(layer: str) -> tuple[int, int, str]:
  """Way down, middle, way up, as the feature map passes."""
  block = layer.split('/')[0]
  kind, _, number = block.partition('_')
  return ('input', 'middle', 'output').index(kind), int(number) if number.isdigit() else 0, layer


def _program(
  models: Any,
  schedule: diffusion.Schedule,
  params: Any,
  batch: dict[str, jax.Array],
  root: jax.Array,
  *,
  places: tuple[int, ...],
  **options: Any,
) -> dict[str, jax.Array]:
  """Attention of one batch: layer -> L B queries T, mean over heads."""
  _, trajectory = sample_latent(models, schedule, params, batch, root, return_trajectory=True, **options)
  steps = diffusion.sample_steps(schedule.num_steps, options['num_steps'])[::-1]
  context = models.conditioner.apply({'params': params['conditioner']}, batch['fmri'])

  def look(level):
    x, t = level
    found = {}

    def intercept(call, args, kwargs, at):
      module = at.module
      if isinstance(module, UNetAttention) and module.name == CROSS and at.method_name == '__call__':
        scope = module.variables['params']
        queries, keys = args[0] @ scope['to_q']['kernel'], args[1] @ scope['to_k']['kernel']
        queries, keys = (x.reshape(*x.shape[:2], module.num_heads, -1) for x in (queries, keys))
        scores = jnp.einsum('blnd,btnd->bnlt', queries, keys) / queries.shape[-1] ** 0.5
        found['/'.join(module.path)] = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).mean(axis=1)
      return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
      models.unet.apply({'params': params['unet']}, x, jnp.full(len(x), t), context)
    return found

  chosen = np.array(places)
  return jax.lax.map(look, (trajectory.x[chosen], jnp.array(steps[chosen])))


def _patches_of(reconstructor: Reconstructor) -> np.ndarray:
  """The share of each patch in each context token: T P; rows sum to 1."""
  maps = (reconstructor.params['conditioner'][f'channel_mapper_{i}']['kernel'] for i in (0, 1))
  first, second = (np.asarray(sharding.to_host(x), np.float64) for x in maps)
  weight = np.abs(first @ second).T  # P M @ M T
  return weight / weight.sum(axis=1, keepdims=True)
