"""The stages of a run in order: prepares data, skips what is complete, hands weights from stage to stage."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from brainjax import classifiers, config_check, hosts, scoring, sharding
from brainjax.checkpoints import check_weights, load_weights, read_info, save_weights
from brainjax.datasets import arrays, bold5000, god, hcp
from brainjax.errors import UserError
from brainjax.files import atomic_write, put_aside
from brainjax.metrics import images
from brainjax.reconstruct import Reconstructor
from brainjax.simulate import simulate
from brainjax.stages import attend, common, contrast, diffuse, first_stage, image_mae, label2img, scene_classifier
from brainjax.stages import data as stage_data
from brainjax.stages.stage import Stage
from brainjax.train import train

METHOD = ('contrast', 'attend', 'diffuse', 'reconstruct', 'evaluate')
PRIOR = ('first_stage_training', 'image_mae_training', 'label2img', 'scene_classifier')
STAGES = METHOD + PRIOR
REMADE = ('reconstruct', 'evaluate')  # made again when the user names them
# What evaluate leaves in the workdir itself.
SCORES = ('scores.json', 'scores_items.npz', 'pictures.png', 'training_curves.png', 'report.html')
# Models that a stage does not use.
UNUSED = {
  'contrast': {'image_mae', 'first_stage', 'unet', 'conditioner'},
  'attend': {'first_stage', 'unet', 'conditioner'},
}
# Fields that may differ between the runs of one workdir: they do not change results.
FREE = ('stages', 'mesh', 'remat', 'compilation_cache', 'log_every', 'skip_nonfinite', 'wandb')
FREE_OF_STAGE = ('eval_every', 'checkpoint_every')
# Fields of a stage that may name weights, those that must, and the stage before, for where `init_from` is empty.
WEIGHTS = {
  'contrast': ('init_from',),
  'attend': ('init_from',),
  'diffuse': ('init_from',),
  'evaluate': ('classifier', 'features'),
}
NEEDED_WEIGHTS = {'attend': ('image_init_from',), 'diffuse': ('prior_init_from',)}
# Where the needed ones come from.
ORIGIN = {
  'image_init_from': 'pytorch_model.bin of facebook/vit-mae-base (Hugging Face), by python -m brainjax.convert pytorch_model.bin',
  'prior_init_from': 'model.ckpt of label2img (pretrains/ldm/label2img of MinD-Vis), by python -m brainjax.convert model.ckpt',
}
AFTER = {'attend': 'contrast', 'diffuse': 'attend', 'reconstruct': 'diffuse', 'label2img': 'first_stage_training'}


def run(config: ConfigDict, workdir: Path, stages: Sequence[str], asked: bool, accepted: Sequence[str] = ()) -> None:
  """Runs the stages in order.

  Args:
    config: resolved; paths may hold '{workdir}'.
    workdir: gets a folder per stage, and the results.
    stages: names.
    asked: whether the user named the stages: a finished reconstruct or evaluate is then made again (and the old kept).
    accepted: fields that may have another value than in the earlier runs of this workdir.

  Raises:
    UserError: what a user can mend.
  """
  config_check.check(config, stages, STAGES)
  known = _flat(json.loads(config.to_json_best_effort()))
  if unknown := [field for field in accepted if field not in known]:
    raise UserError(
      f'--accept_changes={",".join(unknown)}: no such field of the config; the fields are in configs/base.py.'
    )
  sharding.make_mesh(**config.mesh.to_dict())  # says whether there are so many devices
  workdir = workdir.absolute()
  config = _with_paths(config, workdir)
  if not hosts.same(json.dumps([config.to_json_best_effort(), str(workdir), list(stages), asked, list(accepted)])):
    raise UserError(
      'the hosts were started with different configs, stages or workdirs; give every host the same command.'
    )
  with _lock(workdir):
    hosts.on_first(_before_stages, config, workdir, stages, asked, accepted)
    for name in stages:
      started = time.monotonic()
      folder = workdir / name
      if hosts.from_first(_complete(folder)):
        hosts.tell(f'{name}: complete in {folder}, skipped')
        continue
      hosts.on_first(_write_json, folder / 'config.json', _relevant(config, workdir, name))
      _RUN[name](config, workdir)
      seconds = time.monotonic() - started
      hosts.on_first(_write_json, folder / 'complete.json', {'seconds': round(seconds, 1)})
      hosts.tell(f'{name}: done in {seconds:.0f} s')


def _before_stages(
  config: ConfigDict, workdir: Path, stages: Sequence[str], asked: bool, accepted: Sequence[str]
) -> None:
  for name in _with_earlier(stages):
    _refuse_other_config(config, workdir, name, asked and name in stages, accepted)
  to_do = [name for name in stages if asked and name in REMADE or not _complete(workdir / name)]
  _check_weights(config, workdir, to_do)
  prepare_data(config, workdir, stages)
  _refuse_other_voxels(workdir, stages, stage_data.check(config, to_do))
  for name in to_do:
    if _complete(workdir / name):
      _put_aside(workdir, name)


def _refuse_other_voxels(workdir: Path, stages: Sequence[str], voxels: dict[str, dict[str, int]]) -> None:
  """Raw files may change between two runs of a workdir; stages that saw other voxels do not go together."""
  for earlier in _with_earlier(stages):
    file = workdir / earlier / 'weights' / 'weights.json'
    before = _read_json(file).get('voxels_of', {}) if _complete(workdir / earlier) and file.is_file() else {}
    for name, now in voxels.items():
      for subject in before.keys() & now.keys():
        if before[subject] != now[subject]:
          raise UserError(
            f'{workdir / earlier} saw {before[subject]} voxels of {subject}, but its data now have {now[subject]}, for stage '
            f'{name}: the raw files changed; put the old ones back or choose another --workdir.'
          )


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
      notes = {'config': _relevant(config, workdir, stage.name)}
      params = train(stage, workdir / stage.name, mesh, config.seed, notes, config.wandb)
    hosts.on_first(
      _save, workdir / stage.name / 'weights', sharding.to_host(params), {'kind': stage.name, **stage.info}
    )

  return run_stage


def _save(weights: Path, params: dict[str, np.ndarray], info: dict[str, Any]) -> None:
  shutil.rmtree(weights, ignore_errors=True)  # of a run that was killed between here and the end
  save_weights(weights, params, info)


def _before(config: ConfigDict, workdir: Path, stage: str, previous: str) -> str:
  """`init_from`, or the weights of the stage before in the workdir."""
  return config[stage].init_from or str(workdir / previous / 'weights')


def _reconstruct(config: ConfigDict, workdir: Path) -> None:
  options = config.reconstruct.to_dict()
  num_items = options.pop('num_items')
  mesh = sharding.make_mesh(**config.mesh.to_dict())
  reconstructor = Reconstructor(workdir / 'diffuse' / 'weights', common.compute_dtype(config), mesh)
  config = config.copy_and_resolve_references()
  # Sizes come with weights, so the width of the padding may not be the config's.
  common.take_sizes(config.fmri_mae, reconstructor.info['settings']['conditioner'])
  test = stage_data.test(config)
  count = num_items or len(test)
  samples = reconstructor(test.columns['fmri'][:count], **options)
  stimulus = test.columns['stimulus'][:count]
  arrays_of_images = {
    'stimuli': test.pictures[test.picture_row[:count]],
    'samples': samples,
    'stimulus': stimulus,
    'class_index': test.columns['class_index'][:count],
    'categories': np.array([test.info['names'][int(number)] for number in stimulus]),
  }
  hosts.on_first(_write_arrays, workdir / 'reconstruct' / 'images.npz', arrays_of_images)


def _write_arrays(file: Path, contents: dict[str, np.ndarray]) -> None:
  with atomic_write(file) as path:
    np.savez_compressed(path, **contents)


def _evaluate(config: ConfigDict, workdir: Path) -> None:
  # On the first host and its devices: the pictures of a test set are few.
  hosts.on_first(lambda: print(scoring.summary(scoring.score(config, workdir))))


_RUN: dict[str, Callable[[ConfigDict, Path], None]] = {
  'contrast': _train(lambda config, workdir, mesh: contrast.make(config, mesh)),
  'attend': _train(lambda config, workdir, mesh: attend.make(config, _before(config, workdir, 'attend', 'contrast'))),
  'diffuse': _train(lambda config, workdir, mesh: diffuse.make(config, _before(config, workdir, 'diffuse', 'attend'))),
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


def _check_weights(config: ConfigDict, workdir: Path, stages: Sequence[str]) -> None:
  """Asks for the weights of all stages before the first one spends days.

  Raises:
    UserError: some are missing or damaged; the sentence names the field.
  """
  for position, name in enumerate(stages):
    section = config.get(name, {})
    wanted = []
    for field in (*NEEDED_WEIGHTS.get(name, ()), *WEIGHTS.get(name, ())):
      sources = (section[field],) if isinstance(section[field], str) else section[field]
      needed = field in NEEDED_WEIGHTS.get(name, ())
      origin = f' (made from {ORIGIN[field]}; docs/weights.md)' if needed else ''
      wanted += [(f'config.{name}.{field} = {source!r}{origin}', source) for source in sources if source or needed]
    before = AFTER.get(name)
    if before and not section.get('init_from') and before not in stages[:position]:
      wanted.append((f'stage {name} begins with what stage {before} leaves', workdir / before / 'weights'))
    for what, source in wanted:
      if section.get('random_init') and not (source and Path(source).exists()):
        continue
      try:
        (classifiers.check if name == 'evaluate' else check_weights)(source)
      except UserError as error:
        raise UserError(f'{what}: {error}') from error
    if name == 'diffuse' and section.prior_init_from and Path(section.prior_init_from).exists():
      settings = read_info(section.prior_init_from).get('settings', {})
      diffuse.check_prior(section.prior_init_from, settings, config.data.image_size)
    if name == 'evaluate' and 'reconstruct' not in stages[:position]:
      images.read_images(workdir / 'reconstruct' / 'images.npz')


def _with_paths(config: ConfigDict, workdir: Path) -> ConfigDict:
  """The config with '{workdir}' replaced in its texts, which then name something below the workdir."""
  config = config.copy_and_resolve_references()
  for part, section in {'config': config, **{f'config.{name}': value for name, value in config.items()}}.items():
    for name, value in section.items() if isinstance(section, ConfigDict) else ():
      if not isinstance(value, str) or '{workdir}' not in value:
        continue
      section[name] = value.replace('{workdir}', str(workdir))
      if not Path(os.path.normpath(section[name])).is_relative_to(workdir):
        raise UserError(f'{part}.{name} is {value!r}, which leads out of the workdir; expected a path below it.')
  return config


def _portable(tree: Any, workdir: Path) -> Any:
  """A JSON tree with '{workdir}' in place of that path, so that the folder can be moved."""
  if isinstance(tree, dict):
    return {name: _portable(value, workdir) for name, value in tree.items()}
  if isinstance(tree, list):
    return [_portable(value, workdir) for value in tree]
  if isinstance(tree, str) and (tree == str(workdir) or tree.startswith(f'{workdir}/')):
    return '{workdir}' + tree.removeprefix(str(workdir))
  return tree


def _relevant(config: ConfigDict, workdir: Path, name: str) -> dict[str, Any]:
  """The part of the config that a stage's result depends on."""
  order = METHOD if name in METHOD else PRIOR
  later = set(STAGES) - set(order[: order.index(name) + 1]) | UNUSED.get(name, set())
  kept = json.loads(config.to_json_best_effort())
  kept = {key: value for key, value in kept.items() if key not in later and key not in FREE}
  kept['simulate'].pop('workers')
  for key in STAGES:
    if key in kept:
      kept[key] = {field: value for field, value in kept[key].items() if field not in FREE_OF_STAGE}
  return _portable(kept, workdir)


def _refuse_other_config(config: ConfigDict, workdir: Path, name: str, asked: bool, accepted: Sequence[str]) -> None:
  """A stage's folder made with another config is never mixed with this one's, unless it is to be made again."""
  folder = workdir / name
  if folder.exists() and not folder.is_dir():
    raise UserError(
      f'{folder} is a file, where the folder of stage {name} belongs; move it away or choose another --workdir.'
    )
  remake = asked and name in REMADE
  begun = _complete(folder) or (folder / 'weights').exists() or any((folder / 'checkpoints').glob('[0-9]*'))
  if begun and (folder / 'config.json').is_file():
    before = _flat(_portable(_read_json(folder / 'config.json'), workdir))
    now = _flat(_relevant(config, workdir, name))
    changed = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
    if taken := [field for field in changed if field in accepted]:
      what = 'is complete and stays as it was made, with' if _complete(folder) and not remake else 'goes on with'
      hosts.tell(f'{name}: {what} another {", ".join(taken)}, as --accept_changes says')
    changed = [field for field in changed if field not in accepted]
    if changed and not (remake and all(field.startswith(('reconstruct.', 'evaluate.')) for field in changed)):
      told = ', '.join(f'{field} (there {before.get(field)}, here {now.get(field)})' for field in changed[:5])
      raise UserError(
        f'{folder} was made with another config: {told}. Choose another --workdir, the config of that run, '
        f'or move {folder} away to make it again. --accept_changes={",".join(changed)} goes on with the new values.'
      )


def _put_aside(workdir: Path, name: str) -> None:
  """Keeps the result of a stage that is made again."""
  aside = put_aside(workdir / name)
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


def _read_json(path: Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f'{path} is damaged ({error}); move {path.parent} away to make it again.') from error


def _write_json(path: Path, value: Any) -> None:
  with atomic_write(path) as temporary:
    temporary.write_text(json.dumps(value, indent=2) + '\n')


@contextlib.contextmanager
def _lock(workdir: Path) -> Iterator[None]:
  """Refuses a second run in one workdir, and hosts that do not share it. The lock goes with the process, however it ends."""
  file = workdir / '.lock'
  with contextlib.ExitStack() as held:
    hosts.on_first(lambda: held.enter_context(_taken(file)))
    if not hosts.same(file.read_text() if file.is_file() else ''):
      raise UserError(f'--workdir={workdir} is not one folder that all hosts see; choose one on a shared file system.')
    yield


@contextlib.contextmanager
def _taken(file: Path) -> Iterator[None]:
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = open(file, 'a')  # noqa: SIM115 - closed below
  except OSError as error:
    raise UserError(f'--workdir={file.parent}: {error.strerror}; choose a folder that can be written.') from error
  with handle:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(f'another run is at work in {file.parent}; wait for it or choose another --workdir.') from error
    except OSError as error:
      raise UserError(
        f'{file.parent} lies on a file system without locks ({error.strerror}); mount it with them (Lustre: -o flock) or '
        'choose another --workdir.'
      ) from error
    handle.truncate(0)
    handle.write(f'{socket.gethostname()} {os.getpid()} {time.time()}\n')  # what the other hosts must find
    handle.flush()
    os.fsync(handle.fileno())
    yield
