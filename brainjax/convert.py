"""Command line: released PyTorch weights to Orbax (`SOURCE --out=DIR`) and back (`DIR --to_torch --out=FILE`)."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import brainjax
from brainjax.checkpoints import load_weights, save_weights
from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.files import atomic_folder, sha256
from brainjax.stages.registry import STAGES
from brainjax.torch_convert import engine, kinds, schedule_buffers
from brainjax.torch_convert.config_fields import Ambiguous
from brainjax.torch_convert.convert_file import Converted, convert_file, resize_voxels, shorten_decoder
from brainjax.torch_convert.diffusers import is_diffusers, read_folder, write_folder
from brainjax.torch_convert.source import CARRIED
from brainjax.torch_convert.writer import check_absent, check_target, write_state, writing
from brainjax.trees import subtree

# What the weights of a run know in addition to sizes: a PyTorch file keeps it as JSON.
KEPT = ('num_voxels', 'input', 'inputs', 'origin', 'licence', 'run', 'scores', 'hours')


def _parser() -> ArgumentParser:
  parser = ArgumentParser(prog='brainjax convert', description=__doc__)
  parser.add_argument(
    'source', help='a released file (.pth, .ckpt, .bin, .safetensors), a diffusers folder, or converted weights'
  )
  parser.add_argument('--kind', default='auto', choices=['auto', *kinds.KINDS, 'diffusers'])
  parser.add_argument('--out', help='folder (or file, with --to_torch) to write; must not exist')
  parser.add_argument(
    '--dry_run', action='store_true', help='print what the file is and whether it fits; write nothing'
  )
  parser.add_argument('--ema', action='store_true', help='use the averaged weights (model_ema.*)')
  parser.add_argument(
    '--voxels', type=int, help='resize the position tables of an fMRI autoencoder to this many voxels'
  )
  parser.add_argument('--decoder_depth', type=int, help='keep this many decoder blocks of an fMRI autoencoder')
  parser.add_argument('--to_torch', action='store_true', help='convert back: write .pth or .safetensors')
  parser.add_argument('--to_diffusers', action='store_true', help='write a folder that diffusers loads')
  return parser


def main(argv: list[str] | None = None, origin: Mapping[str, Any] | None = None) -> None:
  """Parses the command line and runs one of the directions. `origin`: see `to_jax`.

  Raises:
    UserError: options exclude each other, the source cannot be converted, or the output cannot be written.
  """
  options = _parser().parse_args(argv)
  if options.to_torch and options.to_diffusers:
    raise UserError('--to_torch and --to_diffusers are two outputs; choose one')
  if not options.out and not options.dry_run:
    raise UserError('--out is missing: name the folder or file to write, or ask for --dry_run')
  if options.to_torch or options.to_diffusers:
    one_way = [name for name in ('ema', 'voxels', 'decoder_depth', 'dry_run') if getattr(options, name)]
    if one_way or options.kind != 'auto':
      raise UserError(
        f'--{(one_way or ["kind"])[0]} is for reading a release; leave it out with --to_torch and --to_diffusers'
      )
    return to_torch(options.source, options.out) if options.to_torch else to_diffusers(options.source, options.out)
  return to_jax(options, origin)


def to_jax(options: argparse.Namespace, origin: Mapping[str, Any] | None = None) -> None:
  """Released file -> folder of weights; prints what the file is.

  `origin`: where the file comes from and its licence, saved with the weights.

  Raises:
    UserError: the file cannot be read or converted, or the folder cannot be written.
  """
  source = Path(options.source)
  if options.out:
    check_absent(options.out)
  if (source / 'weights.json').is_file():
    raise UserError(f'{source} holds brainjax weights already; --to_torch or --to_diffusers converts them back')
  is_folder = options.kind == 'diffusers' or (options.kind == 'auto' and is_diffusers(source))
  if is_folder and options.ema:
    raise UserError('--ema is for CompVis checkpoints; diffusers folders hold one set of weights')
  if is_folder:
    converted = read_folder(source, options.dry_run)
  else:
    converted = convert_file(source, options.kind, options.ema, options.dry_run)
  if options.voxels is not None:
    converted = resize_voxels(converted, options.voxels)
  if options.decoder_depth is not None:
    converted = shorten_decoder(converted, options.decoder_depth)
  info = _info(converted, options.ema)
  info |= converted.sources[0].carried | dict(origin or {})
  _report(info)
  if options.dry_run:
    print('dry run   every tensor fits; nothing was written')
    return
  save_weights(options.out, converted.params, info)
  print(f'wrote     {options.out}')


def _facts(file: Path) -> dict[str, Any]:
  return {'path': str(file), 'sha256': sha256(file), 'bytes': file.stat().st_size}


def _info(converted: Converted, ema: bool) -> dict[str, Any]:
  first = converted.sources[0]
  return {
    'kind': converted.kind,
    'settings': converted.kwargs,
    'models': converted.models,
    'sources': [{**_facts(file), 'form': source.form} for source in converted.sources for file in source.files],
    'config_files': [_facts(file) for source in converted.sources for file in source.config_files],
    'source_config': {name: value for name, value in first.config.items() if not isinstance(value, Ambiguous)},
    'num_tensors': converted.num_tensors,
    'num_values': converted.num_values,
    'epoch': first.epoch,
    'ema': ema,
    'notes': converted.notes,
    'converter': f'brainjax {brainjax.__version__}',
  }


def _report(info: Mapping[str, Any]) -> None:
  about = kinds.KINDS[info['kind']].about if info['kind'] in kinds.KINDS else 'folder of diffusers'
  for source in info['sources']:
    print(f'file      {source["path"]} ({source["form"]}, {source["bytes"] / 1e6:.1f} MB)')
    print(f'sha256    {source["sha256"]}')
  print(f'kind      {info["kind"]}: {about}')
  print(f'epoch     {"not in the file" if info["epoch"] is None else info["epoch"]}')
  print(f'tensors   {info["num_tensors"]}, {info["num_values"]} values')
  kwargs = info['settings']
  nested = any(isinstance(value, dict) for value in kwargs.values())
  for part, values in (kwargs if nested else {'settings': kwargs}).items():
    print(f'{part:<9} ' + ', '.join(f'{name}={value}' for name, value in values.items()))
  for note in info['notes']:
    print(f'note      {note}')


def _load(source: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  params, info = load_weights(source)
  if not isinstance(info.get('settings'), dict) or 'kind' not in info:
    raise UserError(
      f'{source}/weights.json lacks kind or settings, so neither brainjax.convert nor a stage wrote it; convert the release again'
    )
  from brainjax import all_stages  # noqa: F401 - registers the stages; slow to import, so only for the way back

  stage = STAGES.get(info['kind'])
  if stage and stage.release:
    kind, part = stage.release
    if part:
      others = [path.split('/')[0] for path in params if not path.startswith(f'{part}/')]
      info['left_out'] = f'{len(others)} tensors of {", ".join(sorted(set(others)))}: {kind} is the part {part} alone'
      params, info = subtree(params, part), info | {'settings': info['settings'][part]}
    info |= {'kind': kind}
  if info['kind'] == 'ldm' and 'n_embed' not in info['settings'].get('first_stage', {}):
    info |= {'kind': 'ldm_sd1'}
  return params, info


def to_torch(source: str, out: str) -> None:
  """Folder of weights -> a PyTorch file with the names, shapes and keys of the original code.

  Raises:
    UserError: no PyTorch file has such weights, they are incomplete, or the file cannot be written.
  """
  target = check_target(out)
  params, info = _load(source)
  spec = kinds.KINDS.get(info['kind'])
  if spec is None:
    raise UserError(f'{source} is of kind {info["kind"]}, which has no original PyTorch file; use --to_diffusers')
  kwargs = info['settings']
  expected = kinds.compute_shapes(spec, kwargs, source, params)
  loose = {row.path for row in spec.loose}
  odd = sorted(
    path for path in expected.keys() | (params.keys() - loose) if expected.get(path) != np.shape(params.get(path))
  )
  if odd:
    raise UserError(
      f'{source}: parameters are missing, unexpected or of another shape than weights.json says: {", ".join(odd[:20])}; nothing was written'
    )
  state = engine.to_torch(spec.table, params)
  if info['kind'] in ('ldm', 'ldm_sd1', 'label2img', 'sd1'):
    state = schedule_buffers.make_buffers(**kwargs.get('schedule', {})) | state
  beside = {'epoch': info.get('epoch'), 'config': (info.get('source_config') or {}) | _flat_config(kwargs)}
  beside |= {CARRIED: json.dumps({name: info[name] for name in KEPT if name in info})}
  write_state(target, state, spec.key, beside)
  print(
    f'wrote     {target}: {len(state)} tensors'
    + (f' under the key {spec.key}' if spec.key and target.suffix != '.safetensors' else '')
  )
  if 'left_out' in info:
    print(f'note      not in it: {info["left_out"]}')
  if info['kind'] == 'sd1':
    print('note      without the text encoder, which was not converted: load with strict=False')
  for note in info.get('notes', ()):
    if note.startswith('ignored: ') and 'tensors such as' in note:
      print(f'note      not in it: {note.removeprefix("ignored: ")}; load with strict=False if the model has them')
  for part, values in kwargs.items():
    if isinstance(values, dict) and values.get('num_groups', 32) != 32:
      print(f'note      {part} normalises in {values["num_groups"]} groups; the original code has 32 written into it')
  if 'norm_epsilon' in kwargs:
    print(f'note      the model needs layer_norm_eps={kwargs["norm_epsilon"]} in its Hugging Face config')


def _flat_config(kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """Constructor arguments as one config like those of the releases; the UNet's fields get the prefix `unet_`."""
  if 'unet' not in kwargs:
    return {**kwargs} | ({'layer_norm_eps': kwargs['norm_epsilon']} if 'norm_epsilon' in kwargs else {})
  config = {f'unet_{name}': value for name, value in kwargs['unet'].items()} | kwargs.get('conditioner', {})
  first_stage = kwargs.get('first_stage', {})
  for ours, theirs in (
    ('latent_scale', 'scale_factor'),
    ('resolution', 'first_stage_resolution'),
    ('num_groups', 'first_stage_num_groups'),
  ):
    if ours in first_stage:
      config[theirs] = first_stage[ours]
  return config


def to_diffusers(source: str, out: str) -> None:
  """Folder of weights -> a folder with unet/ and vqvae/ (or vae/) that diffusers' from_pretrained reads.

  Raises:
    UserError: the weights hold no such model, or the folder cannot be written.
  """
  target = check_absent(out)
  params, info = _load(source)
  with writing(target), atomic_folder(target) as temporary:
    notes = write_folder(temporary, params, info['settings'])
  print(f'wrote     {target}')
  for note in notes:
    print(f'note      {note}')


if __name__ == '__main__':
  sys.exit(command_line(main)())
