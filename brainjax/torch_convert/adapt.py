"""Makes converted weights fit another run: another number of voxels, a shorter decoder."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from brainjax.errors import UserError
from brainjax.ops.positions import resize_nearest

Params = Mapping[str, np.ndarray]


def resize_voxels(
  params: Params, settings: Mapping[str, Any], voxels: int
) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
  """Resizes the position tables of an fMRI autoencoder to another number of voxels, nearest, as the release does.

  Args:
    params: path -> array of `FmriMAE`.
    settings: its constructor arguments.
    voxels: V of the run, a multiple of the patch size.

  Returns:
    the new parameters and settings, and a sentence that says from what to what.
  """
  patch_size, old = settings['patch_size'], settings['num_voxels']
  if voxels < patch_size or voxels % patch_size:
    below = max(voxels // patch_size, 1) * patch_size
    raise UserError(
      f'--voxels={voxels} is not a multiple of the patch size {patch_size}; the nearest are {below} and {below + patch_size}'
    )
  tokens = voxels // patch_size
  resized = {
    path: resize_nearest(array[0], tokens)[None] if path.endswith('/pos_embed') else array
    for path, array in params.items()
  }
  sentence = f'positions resized (nearest) from {old // patch_size} to {tokens} patches, {old} to {voxels} voxels'
  return resized, {**settings, 'num_voxels': voxels}, sentence


def shorten_decoder(
  params: Params, settings: Mapping[str, Any], depth: int
) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
  """Keeps the first `depth` decoder blocks, as phase 2 does with the eight of phase 1.

  Args, returns: as `resize_voxels`.
  """
  old = settings['decoder_depth']
  if not 1 <= depth <= old:
    raise UserError(f'--decoder_depth={depth}: the file has {old} decoder blocks; choose 1 to {old}')
  kept = {path: array[:depth] if path.startswith('decoder/blocks/') else array for path, array in params.items()}
  return kept, {**settings, 'decoder_depth': depth}, f'kept the first {depth} of {old} decoder blocks'
