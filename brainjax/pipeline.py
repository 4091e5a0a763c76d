"""The stages of a run in order: prepares data, skips what is complete, hands weights from stage to stage."""

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax import config_check, scoring, sharding
from brainjax.checkpoints import load_weights, save_weights
from brainjax.datasets import arrays, bold5000, god, hcp
from brainjax.errors import UserError
from brainjax.files import atomic_write
from brainjax.reconstruct import Reconstructor
from brainjax.simulate import simulate
from brainjax.stages import attend, common, contrast, diffuse, first_stage, image_mae, label2img, scene_classifier
from brainjax.stages import data as stage_data
from brainjax.stages.stage import Stage
from brainjax.train import train

METHOD = ('contrast', 'attend', 'diffuse', 'reconstruct', 'evaluate')
PRIOR = ('first_stage_training', 'image_mae_training', 'label2img', 'scene_classifier')
STAGES = METHOD + PRIOR
# What evaluate leaves in the workdir itself.
SCORES = ('scores.json', 'scores_items.npz', 'pictures.png', 'training_curves.png')
# Models that a stage does not use.
UNUSED = {'contrast': {'image_mae', 'first_stage', 'unet', 'conditioner'}, 'attend': {'first_stage', 'unet', 'conditioner'}}
# Fields that may differ between the runs of one workdir: they do not change results.
FREE = ('stages', 'mesh', 'compilation_cache', 'log_every', 'skip_nonfinite')
FREE_OF_STAGE = ('eval_every', 'checkpoint_every')


def run(config: ConfigDict, workdir: Path, stages: Sequence[str], asked: bool) -> None:
  """Runs the stages in order.

  Args:
    config: resolved; paths may hold '{workdir}'.
    workdir: gets a folder per stage, and the results.
    stages: names.
    asked: whether the user named the stages: a finished reconstruct or evaluate is then made again (and the old kept).

  Raises:
    UserError: what a user can mend.
  """
  config_check.check(config, stages, STAGES)
  workdir = workdir.absolute()
  config = _with_paths(config, workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'--workdir={workdir}: {error.strerror}; choose a folder that can be written.') from error
  with _lock(workdir):
    for name in _with_earlier(stages):
      _refuse_other_config(config, workdir, name, asked and name in stages)
    prepare_data(config, workdir, stages)
    for name in stages:
      started = time.monotonic()
      folder = workdir / name
      if _complete(folder):
        print(f'{name}: complete in {folder}, skipped')
        continue
      folder.mkdir(exist_ok=True)
      _write_json(folder / 'config.json', _relevant(config, name))
      _RUN[name](config, workdir)
      _write_json(folder / 'complete.json', {'seconds': round(time.monotonic() - started, 1)})
      print(f'{name}: done in {time.monotonic() - started:.0f} s')


def prepare_data(config: ConfigDict, workdir: Path, stages: Sequence[str]) -> None:
  """Simulates raw data if the config says so, and makes the TFDS datasets that the stages need."""
  if not set(stages) & set(METHOD):
    return
  if config.simulate.enabled:
    settings = config.simulate.to_dict()
    settings.pop('enabled')
    simulate(workdir / 'simulated', **settings)
  data = config.data
  subjects = {'god': set(), 'bold5000': set(), 'own': set()}
  subjects[data.dataset] |= {*data.subjects, *data.other_subjects}
  subjects['god'] |= set(data.contrast_god_subjects if 'contrast' in stages else ())
  if subjects['god']:
    god.prepare(data.god, data.prepared, sorted(subjects['god']))
  if subjects['bold5000']:
    bold5000.prepare(data.bold5000, data.prepared, sorted(subjects['bold5000']))
  if data.hcp and 'contrast' in stages:
    hcp.prepare(data.hcp, data.prepared)


def _train(make: Callable[[ConfigDict, Path, Any], Stage]) -> Callable[[ConfigDict, Path], None]:
  """A function that trains the stage that `make` gives, and saves its weights."""

  def run_stage(config: ConfigDict, workdir: Path) -> None:
    mesh = sharding.make_mesh(**config.mesh.to_dict())
    # Whatever trains or selects never opens test data.
    with arrays.forbid_test_split():
      stage = make(config, workdir, mesh)
      params = train(stage, workdir / stage.name, mesh, config.seed, {'config': _relevant(config, stage.name)})
    weights = workdir / stage.name / 'weights'
    shutil.rmtree(weights, ignore_errors=True)  # of a run that was killed between here and the end
    save_weights(weights, params, {'kind': stage.name, **stage.info})

  return run_stage


def _before(config: ConfigDict, workdir: Path, stage: str, previous: str) -> str:
  """`init_from`, or the weights of the stage before in the workdir."""
  return config[stage].init_from or str(workdir / previous / 'weights')


def _reconstruct(config: ConfigDict, workdir: Path) -> None:
  options = config.reconstruct.to_dict()
  num_items = options.pop('num_items')
  reconstructor = Reconstructor(workdir / 'diffuse' / 'weights', common.compute_dtype(config))
  config = config.copy_and_resolve_references()
  # Sizes come with weights, so the width of the padding may not be the config's.
  common.take_sizes(config.fmri_mae, reconstructor.info['settings']['conditioner'])
  test = stage_data.test(config)
  count = num_items or len(test)
  samples = reconstructor(test.columns['fmri'][:count], **options)
  stimulus = test.columns['stimulus'][:count]
  with atomic_write(workdir / 'reconstruct' / 'images.npz') as path:
    np.savez_compressed(
      path,
      stimuli=test.pictures[test.picture_row[:count]],
      samples=samples,
      stimulus=stimulus,
      class_index=test.columns['class_index'][:count],
      categories=np.array([test.info['names'][int(number)] for number in stimulus]),
    )


def _evaluate(config: ConfigDict, workdir: Path) -> None:
  scores = scoring.score(config, workdir)
  print(scoring.summary(scores))


_RUN: dict[str, Callable[[ConfigDict, Path], None]] = {
  'contrast': _train(lambda config, workdir, mesh: contrast.make(config, mesh)),
  'attend': _train(lambda config, workdir, mesh: attend.make(config, _before(config, workdir, 'attend', 'contrast'))),
  'diffuse': _train(
    lambda config, workdir, mesh: diffuse.make(config, _before(config, workdir, 'diffuse', 'attend'))
  ),
  'reconstruct': _reconstruct,
  'evaluate': _evaluate,
  'first_stage_training': _train(lambda config, workdir, mesh: first_stage.make(config)),
  'image_mae_training': _train(lambda config, workdir, mesh: image_mae.make(config)),
  'label2img': _train(
    lambda config, workdir, mesh: label2img.make(config, load_weights(workdir / 'first_stage_training' / 'weights')[0])
  ),
  'scene_classifier': _train(lambda config, workdir, mesh: scene_classifier.make(config)),
}


def _complete(folder: Path) -> bool:
  return (folder / 'complete.json').is_file()


def _with_paths(config: ConfigDict, workdir: Path) -> ConfigDict:
  """The config with '{workdir}' replaced in its texts."""
  config = config.copy_and_resolve_references()
  for section in [config, *(value for value in config.values() if isinstance(value, ConfigDict))]:
    for name, value in section.items():
      if isinstance(value, str):
        section[name] = value.replace('{workdir}', str(workdir))
  return config


def _relevant(config: ConfigDict, name: str) -> dict[str, Any]:
  """The part of the config that a stage's result depends on."""
  order = METHOD if name in METHOD else PRIOR
  later = set(STAGES) - set(order[: order.index(name) + 1]) | UNUSED.get(name, set())
  kept = json.loads(config.to_json_best_effort())
  kept = {key: value for key, value in kept.items() if key not in later and key not in FREE}
  kept['simulate'].pop('workers')
  for key in STAGES:
    if key in kept:
      kept[key] = {field: value for field, value in kept[key].items() if field not in FREE_OF_STAGE}
  return kept


def _refuse_other_config(config: ConfigDict, workdir: Path, name: str, asked: bool) -> None:
  """A stage's folder made with another config is never mixed with this one's; what can be made again is put aside."""
  folder = workdir / name
  remake = asked and name in ('reconstruct', 'evaluate')
  begun = _complete(folder) or (folder / 'weights').exists() or any((folder / 'checkpoints').glob('[0-9]*'))
  if begun and (folder / 'config.json').is_file():
    before = _flat(json.loads((folder / 'config.json').read_text()))
    now = _flat(_relevant(config, name))
    changed = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
    if changed and not (remake and all(field.startswith(('reconstruct.', 'evaluate.')) for field in changed)):
      told = ', '.join(f'{field} (there {before.get(field)}, here {now.get(field)})' for field in changed[:5])
      raise UserError(
        f'{folder} was made with another config: {told}. Choose another --workdir, the config of that run, '
        f'or move {folder} away to make it again.'
      )
  if remake and _complete(folder):
    number = 1
    while (aside := workdir / f'{name}.{number}').exists():
      number += 1
    folder.rename(aside)
    for file in (workdir / name for name in (SCORES if name == 'evaluate' else ())):
      if file.exists():
        file.rename(aside / file.name)
    print(f'{name}: the result that was there is now in {aside}')


def _with_earlier(stages: Sequence[str]) -> list[str]:
  """The stages and all before them, whose results they start from."""
  last = {order: max((order.index(name) for name in stages if name in order), default=-1) for order in (METHOD, PRIOR)}
  return [name for order, index in last.items() for name in order[: index + 1]]


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in tree.items():
    flat |= _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
  return flat


def _write_json(path: Path, value: Any) -> None:
  if jax.process_index() == 0:
    with atomic_write(path) as temporary:
      temporary.write_text(json.dumps(value, indent=2) + '\n')


@contextlib.contextmanager
def _lock(workdir: Path) -> Iterator[None]:
  """Refuses a second run in one workdir. The lock goes with the process, however it ends."""
  with open(workdir / '.lock', 'w') as handle:
    if jax.process_index() == 0:
      try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise UserError(f'another run is at work in {workdir}; wait for it or choose another --workdir.') from error
    yield
