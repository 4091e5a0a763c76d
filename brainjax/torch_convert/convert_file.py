"""Converts one released file to parameters: finds its kind and sizes, moves every tensor, checks each by the way back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainjax.errors import UserError
from brainjax.torch_convert import engine, kinds, schedule_buffers
from brainjax.torch_convert.engine import Ignored, Row
from brainjax.torch_convert.reader import LazyTensor
from brainjax.torch_convert.sizes import Hints
from brainjax.torch_convert.source import Source, open_source


class Converted(NamedTuple):
  """Parameters (path -> array; none if only planned) and the facts about them."""

  params: dict[str, np.ndarray]
  kind: str
  settings: dict[str, Any]
  models: dict[str, str]
  sources: list[Source]  # of a folder of diffusers one for each model, else one
  num_tensors: int
  num_values: int
  notes: list[str]


def convert_file(path: str | Path, kind: str = 'auto', ema: bool = False, plan_only: bool = False) -> Converted:
  """Reads a released file and converts it.

  Args:
    path: the file.
    kind: a name in `kinds.KINDS`, or 'auto'.
    ema: take the averaged weights.
    plan_only: check names and shapes, but read no values.

  Raises:
    UserError: the file cannot be read, is of no known kind, or any tensor is unknown, missing, doubled or mis-shaped.
  """
  source = open_source(path, ema)
  where, state, notes = str(source.path), source.state, source.notes
  if kind == 'vq_f4' and 'first_stage_model.quantize.embedding.weight' in state:
    prefix = 'first_stage_model.'
    notes.append(f'took the first stage alone out of {len(state)} tensors')
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
  kind = kinds.detect(state, kind, where)
  spec = kinds.KINDS[kind]
  state = kinds.cleaned(spec, state, notes)
  try:
    settings = kinds.model_settings(spec, state, Hints(source.config, notes, where), where)
  except UserError as error:
    strangers = engine.unknown_names(spec.table, state)  # told together, as the engine does with every other fault
    raise UserError(f'{error}' + (f' Unknown tensors: {", ".join(strangers)}.' if strangers else '')) from error
  expected = kinds.expected_shapes(spec, settings, where)
  expected |= {row.path: np.shape(state[row.torch]) for row in spec.loose if row.torch in state}
  if 'betas' in state:
    settings['schedule'] = schedule_buffers.read(state, where)
  elif spec.schedule:
    settings['schedule'] = dict(spec.schedule)
    notes.append(f'no noise schedule is in the file; taken is the published one, {_said(spec.schedule)}')
  if 'first_stage' in settings and 'first_stage_resolution' not in source.config:
    pixels = settings['first_stage']['resolution']
    notes.append(f'the size of pictures is not in the file; assumed {pixels} pixels, as published')
  params = move(spec.table, state, expected, where, notes, plan_only)
  return Converted(
    params=params,
    kind=kind,
    settings=settings,
    models={part.path.rstrip('/'): part.model.__name__ for part in spec.parts},
    sources=[source],
    num_tensors=len(source.state),
    num_values=sum(int(np.prod(tensor.shape)) for tensor in source.state.values()),
    notes=notes,
  )


def _said(settings: Mapping[str, Any]) -> str:
  return ', '.join(f'{name}={value}' for name, value in settings.items())


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
  """
  if plan_only:
    # Stand-ins of one byte a value, which tell floating point from other types.
    stand_ins = {
      name: np.broadcast_to(np.bool_(0) if tensor.dtype.kind in 'iub' else np.int8(0), tensor.shape)
      for name, tensor in state.items()
    }
    planned = engine.to_jax(table, stand_ins, expected, where)
    _check_floating({path: array.dtype != np.bool_ for path, array in planned.items()}, where)
    return {}
  if halves := sorted({str(tensor.dtype) for tensor in state.values() if tensor.dtype.kind not in 'iub'} - {'float32'}):
    notes.append(f'converted {", ".join(halves)} to float32')
  params = engine.to_jax(table, state, expected, where)
  _check_floating({path: array.dtype == np.float32 for path, array in params.items()}, where)
  bad = []
  for path, array in params.items():
    if not np.isfinite(array).all():
      bad.append(path)
    for name, back in engine.to_torch(table, {path: array}).items():
      # Bits, not values: -0 and nan count too, and it is faster.
      if not np.array_equal(back.view(np.uint32), np.ascontiguousarray(state[name]).view(np.uint32)):
        raise UserError(f'{where}: {name} does not survive the way to {path} and back; nothing was written')
  if bad:
    notes.append(f'WARNING: values that are not finite (inf, nan) in {", ".join(bad[:10])}')
  return params


def _check_floating(floating: Mapping[str, bool], where: str) -> None:
  if odd := [path for path, is_floating in floating.items() if not is_floating]:
    raise UserError(f'{where}: {", ".join(odd[:20])} would come from integers; weights must be floating point')
