"""Attention: which tokens of fMRI the UNet looks at, by layer, resolution and diffusion step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from brainjax import sharding
from brainjax.evaluation.interpretation import looks
from brainjax.evaluation.interpretation.areas import Areas
from brainjax.reconstruct import Reconstructor

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
  """Attention while sample 0 of each row is made; for the other arguments see `looks.over_batches`.

  Raises:
    UserError: the number of steps is impossible.
    ValueError: a level of `at` is not in [0, 1).
  """
  steps, _, every = looks.over_batches(
    reconstructor,
    _program,
    'attention',
    {'fmri': fmri},
    axis=1,
    name='attention',
    at=at,
    num_steps=num_steps,
    sampler=sampler,
    seed=seed,
    guidance=guidance,
    batch_size=batch_size,
  )
  every = {name: every[name] for name in sorted(every, key=_in_order)}  # L N Q T
  sides = np.array([round(x.shape[2] ** 0.5) for x in every.values()])
  maps = {
    name: x.mean(axis=1).reshape(len(steps), side, side, -1)
    for (name, x), side in zip(every.items(), sides, strict=True)
  }
  weights = np.stack([x.mean(axis=2) for x in every.values()], axis=1)
  return Attention(tuple(every), sides, steps, weights, maps, _patches_of(reconstructor))


def _in_order(layer: str) -> tuple[int, int, str]:
  """Way down, middle, way up, as the feature map passes."""
  block = layer.split('/')[0]
  kind, _, number = block.partition('_')
  return ('input', 'middle', 'output').index(kind), int(number) if number.isdigit() else 0, layer


def _program(
  models: Any, params: Any, batch: dict[str, jax.Array], root: jax.Array, levels: looks.Levels
) -> dict[str, jax.Array]:
  """Attention of one batch: layer -> L B queries T, mean over heads."""
  del root
  context = models.conditioner.apply({'params': params['conditioner']}, batch['fmri'])

  def look(level):
    x, t, _ = level
    variables = {'params': params['unet']}
    _, sown = models.unet.apply(variables, x, jnp.full(len(x), t), context, mutable='intermediates')
    found = {}
    for path, modules in flatten_dict(sown['intermediates'], is_leaf=lambda path, _: path[-1:] == (CROSS,)).items():
      if path[-1] == CROSS:
        (query,), (key,) = modules['query'], modules['key']  # B L N D, B T N D
        scores = jnp.einsum('blnd,btnd->bnlt', query, key) / query.shape[-1] ** 0.5
        found['/'.join(path)] = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).mean(axis=1)
    return found

  return jax.lax.map(look, levels)


def _patches_of(reconstructor: Reconstructor) -> np.ndarray:
  """The share of each patch in each context token: T P; rows sum to 1."""
  maps = (reconstructor.params['conditioner'][f'channel_mapper_{i}']['kernel'] for i in (0, 1))
  first, second = (np.asarray(sharding.to_host(x), np.float64) for x in maps)
  weight = np.abs(first @ second).T  # P M @ M T
  return weight / weight.sum(axis=1, keepdims=True)
