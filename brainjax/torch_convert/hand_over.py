"""Gives one stage's weights to the next: pure functions of flat parameter mappings ('/'-joined path -> array)."""

from collections.abc import Mapping

import numpy as np

from brainjax.errors import UserError
from brainjax.ops.positions import resize_nearest

Flat = Mapping[str, np.ndarray]


def _fit(path: str, array: np.ndarray, fresh: np.ndarray, source: str) -> np.ndarray:
  """The array, cut to the first layers if it belongs to a decoder that is deeper than the new model's."""
  array = np.asarray(array)
  if path.startswith('decoder/blocks/'):
    array = array[: fresh.shape[0]]
  if array.shape != fresh.shape:
    raise UserError(
      f'{source} does not fit the model: {path} has shape {array.shape}, expected {fresh.shape}; '
      'use the model sizes (width, depth, patch size, voxels) that these weights were trained with.'
    )
  return array


def _adapt(weights: Flat, fresh: Flat, new: str, source: str) -> dict[str, np.ndarray]:
  """Takes each parameter of `fresh` from `weights`, except those below the prefix `new` that are not there."""
  missing = sorted(path for path in fresh if path not in weights and not path.startswith(new))
  if missing:
    raise UserError(f'{source} does not fit the model: it has nothing for {", ".join(missing[:20])}.')
  return {
    path: _fit(path, weights[path], array, source) if path in weights else np.asarray(array)
    for path, array in fresh.items()
  }


def contrast_to_attend(weights: Flat, fresh: Flat, source: str = 'the phase-1 checkpoint') -> dict[str, np.ndarray]:
  """Phase 1 -> phase 2 of the fMRI autoencoder: the first decoder layers are kept, the cross-attention is new.

  Args:
    weights: parameters of an `FmriMAE`.
    fresh: freshly initialised parameters of the `FmriMAE` of phase 2.
    source: what to call `weights` in an error.

  Raises:
    UserError: a parameter outside the cross-attention is missing, or has another shape.
  """
  return _adapt(weights, fresh, 'encoder/cross/', source)


def image_to_attend(weights: Flat, fresh: Flat, source: str = 'the image autoencoder') -> dict[str, np.ndarray]:
  """A plain pretrained ViT-MAE -> the image autoencoder of phase 2: first decoder layers kept, cross-attention new.

  Arguments and errors as in `contrast_to_attend`, for `ImageMAE`.
  """
  return _adapt(weights, fresh, 'encoder/cross/', source)


def mae_to_conditioner(
  weights: Flat, fresh: Flat, drop_norms: bool = False, source: str = 'the fMRI autoencoder'
) -> dict[str, np.ndarray]:
  """The encoder of phase 1 or 2 -> the conditioner of the diffusion model.

  Decoder and cross-attention are left out; the mask token and the mappers stay fresh; the position table is resized
  (nearest row, class row aside) if the number of patches differs.

  Args:
    weights: parameters of an `FmriMAE`.
    fresh: freshly initialised parameters of an `FmriConditioner`.
    drop_norms: leave every LayerNorm fresh, as the released code does with global_pool (quirk B12).
    source: what to call `weights` in an error.

  Raises:
    UserError: a parameter of the encoder is missing, or has another shape.
  """
  result = {path: np.asarray(array) for path, array in fresh.items()}
  for path, array in fresh.items():
    if not path.startswith('mae/') or path == 'mae/mask_token' or (drop_norms and 'norm' in path):
      continue
    origin = path.replace('mae/', 'encoder/', 1)
    if origin not in weights:
      raise UserError(f'{source} does not fit the conditioner: it has nothing for {origin}.')
    values = np.asarray(weights[origin])
    if path == 'mae/pos_embed' and values.shape[1] != array.shape[1]:
      values = resize_nearest(values[0], array.shape[1] - 1)[None]
    if values.shape != array.shape:  # the depth must agree too: half an encoder is not the encoder
      found = f'{origin} has shape {values.shape}, expected {array.shape}'
      raise UserError(f'{source} does not fit the conditioner: {found}.')
    result[path] = values
  return result
