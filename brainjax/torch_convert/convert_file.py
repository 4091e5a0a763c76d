"""Converts one released file to parameters: finds its kind and sizes, moves every tensor, checks each by converting it back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainjax.errors import UserError
from brainjax.ops.positions import resize_nearest
from brainjax.torch_convert import engine, kinds, schedule_buffers
from brainjax.torch_convert.config_fields import ConfigFields
from brainjax.torch_convert.engine import Ignored, Row
from brainjax.torch_convert.reader import LazyTensor
from brainjax.torch_convert.source import Source, open_source


class Converted(NamedTuple):
  """Parameters (path -> array; none if only planned) and the facts about them.

  Attributes:
    kind: a name in `kinds.KINDS`, or 'diffusers'.
    kwargs: constructor arguments of the model, or of each model by its name, and the noise schedule.
    models: name of each model ('' for the whole) -> its class.
    sources: one; of a diffusers folder one for each model.
  """

  params: dict[str, np.ndarray]
  kind: str
  kwargs: dict[str, Any]
  models: dict[str, str]
  sources: list[Source]
  num_tensors: int
  num_values: int
  notes: list[str]


def convert_file(path: str | Path, kind: str = 'auto', ema: bool = False, plan_only: bool = False) -> Converted:
  """Reads a released file and converts it.

  Args:
    path: the file, the index of a sharded file, or a Hugging Face folder.
    kind: a name in `kinds.KINDS`, or 'auto'.
    ema: take the averaged weights.
    plan_only: check names and shapes, but read no values.

  Raises:
    UserError: the file cannot be read, matches no known kind, or a tensor is unknown, missing, doubled or of a wrong shape.
  """
  source = open_source(path, ema, lambda state: bool(kinds.find_matching(state)))
  where, state, notes = str(source.path), source.state, source.notes
  if kind == 'vq_f4' and 'first_stage_model.quantize.embedding.weight' in state:
    prefix = 'first_stage_model.'
    notes.append(f'used only the first stage, out of {len(state)} tensors')
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
  kind = kinds.detect(state, kind, where)
  spec, config = kinds.KINDS[kind], kinds.derive_fields(state) | source.config
  state = kinds.clean_names(spec, state, notes)
  try:
    kwargs = kinds.model_kwargs(spec, state, ConfigFields(config, notes, where), where)
  except UserError as error:
    strangers = engine.find_unknown(spec.table, state)  # report all faults at once, as the engine does
    raise UserError(f'{error}' + (f' Unknown tensors: {", ".join(strangers)}.' if strangers else '')) from error
  expected = kinds.compute_shapes(spec, kwargs, where, state)
  expected |= {row.path: np.shape(state[row.torch]) for row in spec.loose if row.torch in state}
  if 'betas' in state:
    kwargs['schedule'] = schedule_buffers.read(state, where)
  elif spec.schedule:
    kwargs['schedule'] = dict(spec.schedule)
    notes.append(
      f'no noise schedule is in the file; assumed the published one, {schedule_buffers.describe(spec.schedule)}'
    )
  if 'first_stage' in kwargs and 'first_stage_resolution' not in config:
    pixels = kwargs['first_stage']['resolution']
    notes.append(f'the size of pictures is not in the file; assumed {pixels} pixels, as published')
  params = move(spec.table, state, expected, where, notes, plan_only)
  return Converted(
    params=params,
    kind=kind,
    kwargs=kwargs,
    models={part.path.rstrip('/'): part.model.__name__ for part in spec.parts},
    sources=[source],
    num_tensors=len(source.state),
    num_values=sum(tensor.size for tensor in source.state.values()),
    notes=notes,
  )


def move(
  table: tuple[Row | Ignored, ...],
  state: Mapping[str, LazyTensor],
  expected: Mapping[str, tuple[int, ...]],
  where: str,
  notes: list[str],
  plan_only: bool = False,
) -> dict[str, np.ndarray]:
  """Runs the engine, then turns every parameter back and compares it with the file, value for value.

  Args:
    table: rows of the kind.
    state: torch name -> tensor; each is read when it is needed and not kept.
    expected: path -> shape of all parameters that must come out.
    where: what to call the file in an error.
    notes: sentences for the user; added to.
    plan_only: use arrays without values, and give back nothing.

  Raises:
    UserError: as `engine.to_jax`; or a parameter would come from integers, or changes when it is converted back.
  """
  if plan_only:
    # One byte per value: int8 stands for integers, bool for floats. A stack with one layer of int8 is int8.
    planned = {
      name: np.broadcast_to(np.int8(0) if tensor.dtype.kind in 'iub' else np.bool_(0), tensor.shape)
      for name, tensor in state.items()
    }
    planned = engine.to_jax(table, planned, expected, where)
    _check_floating({path: array.dtype == np.bool_ for path, array in planned.items()}, where)
    return {}
  if others := sorted({str(tensor.dtype) for tensor in state.values() if tensor.dtype.kind not in 'iub'} - {'float32'}):
    notes.append(f'converted {", ".join(others)} to float32')
  params = engine.to_jax(table, state, expected, where)
  _check_floating({path: array.dtype == np.float32 for path, array in params.items()}, where)
  not_finite = []
  for path, array in params.items():
    if not np.isfinite(array).all():
      not_finite.append(path)
    for name, back in engine.to_torch(table, {path: array}).items():
      if state[name].dtype.kind in 'iub':  # stacked with layers of floating point
        _check_floating({name: False}, where)
      # Bits, not values: -0 and nan count too, and it is faster.
      if not np.array_equal(back.view(np.uint32), np.ascontiguousarray(state[name]).view(np.uint32)):
        raise UserError(f'{where}: {name} changes when it is converted to {path} and back; nothing was written')
  if not_finite:
    notes.append(f'WARNING: values that are not finite (inf, nan) in {", ".join(not_finite[:10])}')
  return params


def _check_floating(floating: Mapping[str, bool], where: str) -> None:
  if odd := [path for path, is_floating in floating.items() if not is_floating]:
    raise UserError(f'{where}: {", ".join(odd[:20])} would come from integers; weights must be floating point')


def resize_voxels(converted: Converted, num_voxels: int) -> Converted:
  """Resizes the position tables of an fMRI autoencoder to another number of voxels, nearest, as the release does.

  Raises:
    UserError: it is no fMRI autoencoder, or the number is no multiple of its patch size.
  """
  patch_size, before = _check_fmri(converted, 'voxels')['patch_size'], converted.kwargs['num_voxels']
  if num_voxels < patch_size or num_voxels % patch_size:
    lower = max(num_voxels // patch_size, 1) * patch_size
    raise UserError(
      f'--voxels={num_voxels} is not a multiple of the patch size {patch_size}; the nearest are {lower} and '
      f'{lower + patch_size}'
    )
  tokens = num_voxels // patch_size
  params = {
    path: resize_nearest(array[0], tokens)[None] if path.endswith('/pos_embed') else array
    for path, array in converted.params.items()
  }
  note = f'positions resized (nearest) from {before // patch_size} to {tokens} patches, {before} to {num_voxels} voxels'
  return _changed(converted, params, note, num_voxels=num_voxels)


def shorten_decoder(converted: Converted, depth: int) -> Converted:
  """Keeps the first `depth` decoder blocks of an fMRI autoencoder, as phase 2 does with the eight of phase 1.

  Raises:
    UserError: it is no fMRI autoencoder, or has fewer blocks.
  """
  before = _check_fmri(converted, 'decoder_depth')['decoder_depth']
  if not 1 <= depth <= before:
    raise UserError(f'--decoder_depth={depth}: the file has {before} decoder blocks; choose 1 to {before}')
  params = {
    path: array[:depth] if path.startswith('decoder/blocks/') else array for path, array in converted.params.items()
  }
  return _changed(converted, params, f'kept the first {depth} of {before} decoder blocks', decoder_depth=depth)


def _check_fmri(converted: Converted, option: str) -> dict[str, Any]:
  if converted.kind not in ('phase1', 'phase2'):
    raise UserError(
      f'--{option} is for fMRI autoencoders (phase1, phase2); {converted.sources[0].path} is of kind {converted.kind}'
    )
  return converted.kwargs


def _changed(converted: Converted, params: dict[str, np.ndarray], note: str, **kwargs: Any) -> Converted:
  return converted._replace(params=params, kwargs=converted.kwargs | kwargs, notes=[*converted.notes, note])
