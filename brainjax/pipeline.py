"""The stages of a run in order: prepares data, skips what is complete, hands weights from stage to stage."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax import config_check, hosts, prepare, sharding, workdirs
from brainjax.checkpoints import check_weights, load_weights, read_info, save_weights
from brainjax.datasets import arrays
from brainjax.errors import UserError
from brainjax.evaluation import images
from brainjax.evaluation import stage as evaluation
from brainjax.evaluation.networks import classifiers
from brainjax.files import atomic_write
from brainjax.reconstruct import Reconstructor
from brainjax.simulate import simulate
from brainjax.stages import attend, common, contrast, diffuse, first_stage, image_mae, label2img, scene_classifier
from brainjax.stages import data as stage_data
from brainjax.stages.stage import Stage
from brainjax.train import train

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
  config_check.check(config, stages, workdirs.STAGES)
  workdirs.refuse_unknown_fields(config, accepted)
  sharding.make_mesh(**config.mesh.to_dict())  # says whether there are so many devices
  workdir = workdir.absolute()
  config = workdirs.with_paths(config, workdir)
  if not hosts.all_equal(json.dumps([config.to_json_best_effort(), str(workdir), list(stages), asked, list(accepted)])):
    raise UserError(
      'the hosts were started with different configs, stages or workdirs; give every host the same command.'
    )
  with workdirs.lock(workdir):
    hosts.on_first(_before_stages, config, workdir, stages, asked, accepted)
    for name in stages:
      started = time.monotonic()
      folder = workdir / name
      if hosts.from_first(workdirs.is_complete(folder)):
        hosts.log(f'{name}: complete in {folder}, skipped')
        continue
      hosts.on_first(workdirs.write_json, folder / 'config.json', workdirs.relevant(config, workdir, name))
      try:
        _RUN[name](config, workdir)
      except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
          raise
        raise UserError(
          f'stage {name} needs more memory than the devices have ({str(error).splitlines()[0][:200]}). Choose a smaller '
          'batch_size of that stage, share the parameters between devices (config.mesh.fsdp), or set config.remat to everything.'
        ) from error
      seconds = time.monotonic() - started
      hosts.on_first(workdirs.write_json, folder / 'complete.json', {'seconds': round(seconds, 1)})
      hosts.log(f'{name}: done in {seconds:.0f} s')


def _before_stages(
  config: ConfigDict, workdir: Path, stages: Sequence[str], asked: bool, accepted: Sequence[str]
) -> None:
  for name in workdirs.with_earlier(stages):
    workdirs.refuse_other_config(config, workdir, name, asked and name in stages, accepted)
  to_do = [name for name in stages if asked and name in workdirs.REMADE or not workdirs.is_complete(workdir / name)]
  _check_weights(config, workdir, to_do)
  prepare_data(config, workdir, to_do)
  stage_data.check(config, to_do)
  for name in set(to_do) & set(workdirs.METHOD):
    workdirs.refuse_other_raw_files(workdir, to_do, stage_data.inputs(config, name))
  for name in to_do:
    if workdirs.is_complete(workdir / name):
      workdirs.put_result_aside(workdir, name)


def prepare_data(config: ConfigDict, workdir: Path, stages: Sequence[str]) -> None:
  """Simulates raw data if the config says so, and makes the TFDS datasets that the stages need."""
  if not set(stages) & set(workdirs.METHOD):
    return
  if config.simulate.enabled:
    settings = config.simulate.to_dict()
    settings.pop('enabled')
    simulate(workdir / 'simulated', **settings)
  data = config.data
  subjects = {'god': set(), 'bold5000': set(), 'own': set()}
  if set(stages) & set(workdirs.PAIRED):
    subjects[data.dataset] |= {*data.subjects, *data.other_subjects}
  if 'contrast' in stages:
    subjects['god'] |= set(data.contrast_god_subjects)
  for name in ('god', 'bold5000'):  # your own are prepared by hand
    if subjects[name]:
      prepare.for_run(name, data[name], data.prepared, sorted(subjects[name]))
  if data.hcp and 'contrast' in stages:
    prepare.for_run('hcp', data.hcp, data.prepared)


def _train(make: Callable[[ConfigDict, Path, Any], Stage]) -> Callable[[ConfigDict, Path], None]:
  """A function that trains the stage that `make` gives, and saves its weights."""

  def run_stage(config: ConfigDict, workdir: Path) -> None:
    mesh = sharding.make_mesh(**config.mesh.to_dict())
    # Whatever trains or selects never opens test data.
    with arrays.forbid_test_split():
      stage = make(config, workdir, mesh)
      notes = {'config': workdirs.relevant(config, workdir, stage.name)}
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
  hosts.on_first(lambda: print(evaluation.summary(evaluation.score(config, workdir))))


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
      may_miss = section.get('random_init') and not what.startswith(f'config.{name}.init_from')  # named by the user
      if may_miss and not (source and Path(source).exists()):
        continue
      try:
        if name == 'evaluate':
          classifiers.check(source, needs_classes=what.startswith('config.evaluate.classifier'))
        else:
          check_weights(source)
      except UserError as error:
        raise UserError(f'{what}: {error}') from error
    if name == 'diffuse' and section.prior_init_from and Path(section.prior_init_from).exists():
      settings = read_info(section.prior_init_from).get('settings', {})
      diffuse.check_prior(section.prior_init_from, settings, config.data.image_size)
    if name == 'evaluate' and 'reconstruct' not in stages[:position]:
      images.read_images(workdir / 'reconstruct' / 'images.npz')
