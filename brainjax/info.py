"""Command: describes weights, a run, prepared data or a raw file: brainjax info X"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from brainjax import checkpoints, hub, locate, workdirs
from brainjax.datasets import events, neuroimaging, own_betas, raw, registry, store
from brainjax.datasets.input_transform import InputTransform
from brainjax.datasets.masks import suffix_of
from brainjax.datasets.overview import find_prepared
from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.evaluation.score import SCORES_FILE, read_scores
from brainjax.torch_convert.convert_file import convert_file
from brainjax.torch_convert.writer import SUFFIXES


def describe(source: str) -> Iterator[str]:
  """Sentences about `source`: a path, or hf://org/name[@revision].

  Raises:
    UserError: it is of no known kind, or damaged.
  """
  path = locate.weights(source)
  if not path.exists():
    raise UserError(f'{source} does not exist; name weights, a workdir, prepared data, a raw file, or hf://org/name.')
  if hub.is_hub(source) or path.name == locate.PACKED or (path / 'weights.json').is_file():
    yield from _weights(path)
  elif path.is_file():
    yield from _file(path)
  elif stages := workdirs.finished(path):
    yield from _run(path, stages)
  elif prepared := find_prepared(path):
    yield from _prepared(prepared)
  else:
    raise UserError(
      f'{path}: neither weights, nor a workdir with a finished stage, nor prepared data of a known data set '
      '(name the module of your own in --plugins). For a folder of raw files: brainjax prepare check.'
    )


def _weights(path: Path) -> Iterator[str]:
  params, info = checkpoints.load_weights(path)
  yield f'weights   of {info.get("kind", "unknown kind")}: {sum(x.size for x in params.values()):,} values'
  for name, value in info.get('settings', {}).items():
    shown = ', '.join(f'{key} {item}' for key, item in value.items()) if isinstance(value, Mapping) else value
    yield f'          {name}: {shown}'
  for fields in info.get('input', []):
    transform = InputTransform.from_json(fields)
    way = 'of one subject together' if transform.mean.ndim == 0 else 'voxel by voxel'
    within = ' within sessions' if transform.by_session else ''
    yield (
      f'responses of {transform.data_set}/{transform.subject}: {transform.num_voxels} voxels of {transform.roi} among '
      f'{len(transform.mask)} stored ones, z-scored {way}{within}, padded to {transform.width}'
    )
  if not info.get('input'):
    yield 'responses  these weights do not say how responses become model input (normalised=True)'
  yield from _scores(info.get('scores'))
  for name in ('origin', 'licence', 'packed_by', 'converter'):
    if info.get(name):
      yield f'{name:9} {info[name]}'


def _scores(scores: Mapping[str, Any] | None) -> Iterator[str]:
  for name, entry in (scores or {}).get('scores', {}).items():
    mean = entry['mean_of_samples']
    low, high = mean['interval']
    yield f'score     {name}: {mean["value"]:.3f} ({low:.3f} to {high:.3f}), p {mean["null"]["p_value"]:.2g}'


def _run(path: Path, stages: Mapping[str, float | None]) -> Iterator[str]:
  yield f'run       {path}'
  for name, seconds in stages.items():
    yield f'stage     {name}: complete' + (f', {seconds:.0f} s' if seconds is not None else '')
  if (path / SCORES_FILE).is_file():
    yield from _scores(read_scores(path))
  for name in ('report.html', 'pictures.png'):
    if (path / name).is_file():
      yield f'file      {path / name}'


def _prepared(prepared: Mapping[str, Sequence[Path]]) -> Iterator[str]:
  for name, folders in prepared.items():
    for folder in folders:
      facts = store.read_metadata(folder)
      rois = ', '.join(f'{roi} {count}' for roi, count in facts['rois'].items())
      yield f'data set  {name}/{facts.get("subject", "")}: {facts["num_voxels"]} voxels; ROIs {rois}'
      if 'num_train_stimuli' in facts:
        yield f'          {facts["num_train_stimuli"]} training and {facts["num_test_stimuli"]} test pictures'
  yield 'more      brainjax prepare check FOLDER reads every row and draws a page'


def _file(path: Path) -> Iterator[str]:
  suffix = suffix_of(path)
  if suffix in own_betas.NIFTI:
    yield f'file      {neuroimaging.describe_nifti(path)}'
  elif suffix == '.npy':
    array = raw.read_npy(path, ndim=(1, 2, 3, 4), kinds='biuf')
    yield f'file      NumPy array, shape {array.shape}, {array.dtype}, from {array.min():.4g} to {array.max():.4g}'
  elif suffix == '.npz':
    with raw.NpzReader(path) as archive:
      yield f'file      NumPy archive of {len(archive.names)} arrays'
      for name in archive.names:
        shape, dtype = archive.header(name)
        yield f'          {name}: shape {shape}, {dtype}'
  elif suffix in ('.tsv', '.csv'):
    table = events.read_events(path)
    yield f'file      events: {len(table.images)} trials, {len(set(table.images))} pictures'
    for split in events.SPLITS:
      yield f'          {split}: {table.splits.count(split)} trials, {len(table.pictures(split))} pictures'
  elif suffix == '.safetensors' and _is_ours(path):
    yield from _weights(path)
  elif suffix in SUFFIXES:
    converted = convert_file(path, 'auto', False, plan_only=True)
    yield f'file      PyTorch weights of kind {converted.kind}: {converted.num_tensors} tensors, {converted.num_values:,} values'
    yield f'next      brainjax convert {path} --out=weights/{converted.kind}'
  else:
    raise UserError(
      f'{path}: brainjax knows no files {suffix or "without a suffix"}; expected weights ({", ".join(SUFFIXES)}), .npy, '
      '.npz, .nii, .nii.gz, or a table of events (.tsv, .csv).'
    )


def _is_ours(path: Path) -> bool:
  try:
    checkpoints.read_info(path)
  except UserError:
    return False
  return True


@command_line
def main(argv: Sequence[str] | None = None) -> None:
  """Prints what things are.

  Raises:
    UserError: as `describe`.
  """
  parser = ArgumentParser(prog='brainjax info', description=__doc__)
  registry.add_plugins_option(parser)
  parser.add_argument('source', nargs='+', help='weights, a workdir, prepared data, a raw file, or hf://org/name')
  argv = registry.take_plugins(sys.argv[1:] if argv is None else argv)
  for source in parser.parse_args(argv).source:
    for line in describe(source):
      print(line)


if __name__ == '__main__':
  sys.exit(main())
