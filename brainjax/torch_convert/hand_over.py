"""Gives one stage's weights to the next: pure functions of flat parameter mappings ('/'-joined path -> array).

Each returns only what is taken; the other parameters of the new model stay as they were initialised.
"""

from collections.abc import Mapping

import numpy as np

from brainjax.errors import UserError
from brainjax.ops.positions import resize_nearest

Flat = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def _fit(path: str, array: np.ndarray, shape: tuple[int, ...], source: str) -> np.ndarray:
  """The array, cut to the first layers if it belongs to a deeper decoder, resized if it is a position table.

  Raises:
    UserError: it has another shape for any other reason.
  """
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


def _taken(weights: Flat, shapes: Shapes, new: str | tuple[str, ...], source: str) -> dict[str, np.ndarray]:
  """Each parameter of `shapes` from `weights`, except those below the prefixes `new` that are not there."""
  missing = sorted(path for path in shapes if path not in weights and not path.startswith(new))
  if missing:
    raise UserError(f'{source} does not fit the model: it has nothing for {", ".join(missing[:20])}.')
  return {path: _fit(path, weights[path], shape, source) for path, shape in shapes.items() if path in weights}


def contrast_to_attend(weights: Flat, shapes: Shapes, source: str = 'the phase-1 checkpoint') -> dict[str, np.ndarray]:
  """Phase 1 -> phase 2 of the fMRI autoencoder: the first decoder layers are kept, the cross-attention is new.

  Position tables are resized (nearest row, class row aside) if the number of voxels differs.

  Args:
    weights: parameters of an `FmriMAE`.
    shapes: of the parameters of the `FmriMAE` of phase 2.
    source: what to call `weights` in an error.

  Raises:
    UserError: a parameter outside the cross-attention is missing, or has another shape.
  """
  return _taken(weights, shapes, 'encoder/cross/', source)


def image_to_attend(weights: Flat, shapes: Shapes, source: str = 'the image autoencoder') -> dict[str, np.ndarray]:
  """A plain pretrained ViT-MAE -> the image autoencoder of phase 2: first decoder layers kept, cross-attention new.

  A file without a decoder gives the encoder; the decoder is new.

  Arguments and errors as in `contrast_to_attend`, for `ImageMAE`.
  """
  has_decoder = any(path.startswith('decoder/') for path in weights)  # the published file of the official MAE has none
  return _taken(weights, shapes, 'encoder/cross/' if has_decoder else ('encoder/cross/', 'decoder/'), source)


def conditioner_again(weights: Flat, shapes: Shapes, source: str = 'the fine-tuned model') -> dict[str, np.ndarray]:
  """The conditioner of a fine-tuned model, to go on with it: all of it.

  Args:
    weights: parameters of an `FmriConditioner`.
    shapes: of the parameters of the one to train.
    source: what to call `weights` in an error.

  Raises:
    UserError: a parameter is missing, or has another shape.
  """
  if missing := sorted(shapes.keys() - weights.keys()):
    raise UserError(f'{source} does not fit the conditioner: it has nothing for {", ".join(missing[:20])}.')
  return {path: _fit(path, weights[path], shape, source) for path, shape in shapes.items()}


def mae_to_conditioner(
  weights: Flat, shapes: Shapes, drop_norms: bool = False, source: str = 'the fMRI autoencoder'
) -> dict[str, np.ndarray]:
  """The encoder of phase 1 or 2 -> the conditioner of the diffusion model.

  Decoder and cross-attention are left out; the mask token and the mappers stay fresh; the position table is resized
  (nearest row, class row aside) if the number of patches differs.

  Args:
    weights: parameters of an `FmriMAE`.
    shapes: of the parameters of an `FmriConditioner`.
    drop_norms: leave every LayerNorm fresh, as the released code does with global_pool (quirk B12).
    source: what to call `weights` in an error.

  Raises:
    UserError: a parameter of the encoder is missing, or has another shape.
  """
  result = {}
  for path, shape in shapes.items():
    if not path.startswith('mae/') or path == 'mae/mask_token' or (drop_norms and 'norm' in path):
      continue
    origin = path.replace('mae/', 'encoder/', 1)
    if origin not in weights:
      raise UserError(f'{source} does not fit the conditioner: it has nothing for {origin}.')
    result[path] = _fit(origin, weights[origin], shape, source)
  return result
