"""Start weights of a stage: loading them, and fitting those of one stage to the models of the next.

The functions that fit take and return flat mappings ('/'-joined path -> array). They return only the parameters that they reuse: the
other parameters of the new model keep their initial values.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax import hosts, locate
from brainjax.checkpoints import load_weights
from brainjax.errors import UserError
from brainjax.ops.positions import resize_nearest
from brainjax.stages.registry import RANDOM
from brainjax.trees import flatten

Flat = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def load_start_weights(
  config: ConfigDict, stage: str, field: str = 'init_from'
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The weights that a field of a stage's config names: (path -> array, info). Both are empty for a random start.

  Raises:
    UserError: the weights cannot be read.
  """
  source, random_init = config[stage][field], config[stage].get('random_init')
  if not source and random_init is None:
    return {}, {}
  if source == RANDOM or random_init and not (source and locate.weights(source).exists()):
    hosts.log(f'{stage}.{field} is {source!r}: these weights start from random numbers')
    return {}, {}
  return load_weights(source)


def init_shapes(init: Callable[[jax.Array], Any]) -> dict[str, tuple[int, ...]]:
  """Path -> shape of the parameters that `init` would create. Nothing is computed."""
  shapes = jax.eval_shape(init, jax.random.key(0))
  return {path: tuple(x.shape) for path, x in flatten(shapes).items()}


def log_resized(stage: str, source: str, kwargs: Mapping[str, Any], num_voxels: int) -> None:
  """Logs that position tables are resized, if weights and data differ in the number of voxels."""
  before = kwargs.get('num_voxels', num_voxels)
  if before != num_voxels:
    hosts.log(
      f'{stage}: {source} is for {before} voxels, these data have {num_voxels}; position tables are resized (nearest)'
    )


def mae_to_mae(weights: Flat, shapes: Shapes, source: str = 'the start weights') -> dict[str, np.ndarray]:
  """An autoencoder -> an autoencoder of the same modality: phase 1 -> phase 2, or a ViT-MAE -> phase 2.

  If the new decoder has fewer layers, it gets the first ones. If the weights have no cross-attention, that of the new model
  keeps its initial values; so does the decoder (the file that the authors of MAE published has none). Position tables are
  resized (nearest row, class row aside) if the number of patches differs.

  Args:
    weights: parameters of an `FmriMAE` or `ImageMAE`.
    shapes: of the parameters of the new one.
    source: names `weights` in an error.

  Raises:
    UserError: another parameter is missing, or one has another shape.
  """
  may_lack = ['encoder/cross/']
  if not any(path.startswith('decoder/') for path in weights):
    may_lack.append('decoder/')
    hosts.log(f'{source} has no decoder; the decoder starts from random weights')
  return fit_all(weights, shapes, source, tuple(may_lack))


def mae_to_conditioner(
  weights: Flat, shapes: Shapes, drop_norms: bool = False, source: str = 'the fMRI autoencoder'
) -> dict[str, np.ndarray]:
  """The encoder of phase 1 or 2 -> the conditioner of the diffusion model.

  Decoder and cross-attention are left out. The mask token and the mappers stay new. The position table is resized
  (nearest row, class row aside) if the number of patches differs.

  Args:
    weights: parameters of an `FmriMAE`.
    shapes: of the parameters of an `FmriConditioner`.
    drop_norms: keep every LayerNorm new, as the released code does with global_pool (quirk B12).
    source: names `weights` in an error.

  Raises:
    UserError: a parameter of the encoder is missing, or has another shape.
  """
  origin = {path: path.replace('mae/', 'encoder/', 1) for path in shapes if path.startswith('mae/')}
  wanted = {
    origin[path]: shapes[path] for path in origin if path != 'mae/mask_token' and not (drop_norms and 'norm' in path)
  }
  encoder = fit_all(weights, wanted, source)
  return {path: encoder[origin[path]] for path in origin if origin[path] in encoder}


def fit_all(weights: Flat, shapes: Shapes, source: str, may_lack: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
  """The parameters of `shapes`, fitted. Those with a prefix of `may_lack` may be missing.

  Raises:
    UserError: another one is missing, or one has another shape.
  """
  missing = sorted(path for path in shapes if path not in weights and not path.startswith(may_lack))
  if missing:
    raise UserError(f'{source} does not fit the model: it lacks {", ".join(missing[:20])}.')
  return {path: _fit(path, weights[path], shape, source) for path, shape in shapes.items() if path in weights}


def _fit(path: str, array: np.ndarray, shape: tuple[int, ...], source: str) -> np.ndarray:
  """The array, cut to the first layers of a decoder, or resized if it is a position table."""
  array = np.asarray(array)
  if path.startswith('decoder/blocks/'):
    array = array[: shape[0]]
  if path.endswith('pos_embed') and array.shape[::2] == shape[::2]:
    array = resize_nearest(array[0], shape[1] - 1)[None]
  if array.shape != tuple(shape):
    raise UserError(
      f'{source} does not fit the model: {path} has shape {array.shape}, expected {tuple(shape)}; '
      'use the model sizes (width, depth, patch size) that these weights were trained with.'
    )
  return array
