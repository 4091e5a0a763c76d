"""The stages of a run in order: prepares data, skips what is complete, passes weights from stage to stage."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

import brainjax
from brainjax import all_stages as _all_stages  # noqa: F401 - registers the stages
from brainjax import config_check, hosts, locate, prepare, sharding, step_memory, workdirs
from brainjax.checkpoints import save_weights
from brainjax.datasets import arrays
from brainjax.datasets import registry as data_sets
from brainjax.errors import UserError
from brainjax.files import write_json
from brainjax.models import recompute
from brainjax.ops import attention
from brainjax.resolve import resolve
from brainjax.simulate import simulate
from brainjax.stages import common
from brainjax.stages import data as stage_data
from brainjax.stages.problem import Training
from brainjax.stages.registry import RANDOM, STAGES, StageSpec, starts_here, with_ancestors
from brainjax.train import LoopOptions, train


def run(config: ConfigDict, workdir: Path, stages: Sequence[str], asked: bool, accepted: Sequence[str] = ()) -> None:
  """Runs stages in order.

  Args:
    config: as the user gave it; texts may hold '{workdir}'.
    workdir: gets a folder per stage, and the results.
    stages: names.
    asked: whether the user named the stages: a finished reconstruct or evaluate is then made again (and the old kept).
    accepted: fields that may have another value than in the earlier runs of this workdir.

  Raises:
    UserError: anything that the user can mend.
  """
  data_sets.import_plugins(config.get('plugins', ()))
  hosts.log(_describe_devices(config))
  config_check.refuse_unknown_fields(config)
  workdirs.refuse_unknown_fields(config, accepted)
  workdir = workdir.absolute()
  given, config = workdirs.fill_in_paths(config, workdir), resolve(config, workdir, stages)
  sharding.make_mesh(**config.mesh.to_dict())  # raises an error where there are not so many devices
  if not hosts.all_equal(json.dumps([config.to_json_best_effort(), str(workdir), list(stages), asked, list(accepted)])):
    raise UserError(
      'the hosts were started with different configs, stages or workdirs; give every host the same command.'
    )
  with attention.policy(config.attention), workdirs.lock(workdir):
    hosts.on_first(_prepare_run, given, config, workdir, stages, asked, accepted)
    spent: dict[str, float] = {}
    for name in stages:
      started = time.monotonic()
      folder = workdir / name
      if hosts.from_first(workdirs.is_complete(folder)):
        hosts.log(f'{name}: complete in {folder}, skipped')
        continue
      try:
        _run_stage(STAGES[name], config, workdir)
      except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
          raise
        raise UserError(
          f'stage {name} needs more memory than the devices have ({str(error).splitlines()[0][:200]}). Choose a smaller '
          'batch_size of that stage, share the parameters between devices (config.mesh.fsdp), or set config.remat to everything.'
        ) from error
      seconds = time.monotonic() - started
      hosts.on_first(write_json, folder / 'complete.json', {'seconds': round(seconds, 1)})
      spent[name] = seconds
      hosts.log(f'{name}: done in {seconds:.0f} s{_time_left(config, spent, stages)}')


def _describe_devices(config: ConfigDict) -> str:
  """The first line of a run: what computes, and how precisely."""
  devices = jax.devices()
  kinds = ', '.join(sorted({device.device_kind for device in devices}))
  precision = jnp.dtype(common.compute_dtype(config)).name if config.dtype == 'auto' else config.dtype
  return f'brainjax {brainjax.__version__} on {len(devices)} device{"s" * (len(devices) > 1)} ({kinds}), {precision}'


def _time_left(config: ConfigDict, spent: Mapping[str, float], stages: Sequence[str]) -> str:
  """The time left over all stages, where the config says how long each takes on some machine.

  `spent`: seconds of the stages done in this run.
  """
  known = len(config.stage_minutes) == len(config.stages)
  minutes = dict(zip(config.stages, config.stage_minutes, strict=True)) if known else {}
  left = stages[stages.index(list(spent)[-1]) + 1 :]
  if not left or not minutes.keys() >= {*spent, *left}:
    return ''
  ratio = sum(spent.values()) / sum(minutes[name] for name in spent)  # of this machine to that one
  seconds = ratio * sum(minutes[name] for name in left)
  return f', about {seconds / 60:.0f} min left' if seconds > 90 else f', about {seconds:.0f} s left'


def _prepare_run(
  given: ConfigDict, config: ConfigDict, workdir: Path, stages: Sequence[str], asked: bool, accepted: Sequence[str]
) -> None:
  """Checks everything before the first stage starts, which may take days."""
  for name in with_ancestors(stages):
    workdirs.refuse_other_config(given, config, workdir, name, asked and name in stages, accepted)
  to_do = [name for name in stages if asked and STAGES[name].run or not workdirs.is_complete(workdir / name)]
  for position, name in enumerate(to_do):
    _check_weights(STAGES[name], config, workdir, to_do[:position])
  prepare_data(config, workdir, to_do)
  stage_data.check(config, to_do)
  for name in to_do:
    workdirs.refuse_other_raw_files(workdir, to_do, stage_data.inputs(config, STAGES[name].sources(config)))
  for name in to_do:
    if workdirs.is_complete(workdir / name):
      workdirs.put_result_aside(workdir, name)


def prepare_data(config: ConfigDict, workdir: Path, stages: Sequence[str]) -> None:
  """Simulates raw data if the stages read them, and prepares the data sets that the stages read.

  Raises:
    UserError: raw files are missing or do not fit, or the folder of the simulation holds other data.
  """
  config = workdirs.fill_in_paths(config, workdir)
  subjects: dict[str, set[str]] = {}
  for name in stages:
    for source in STAGES[name].sources(config):
      subjects.setdefault(source.data_set, set()).update(source.subjects)
  for name, names in subjects.items():
    if not data_sets.get(name).raw_field:  # the user prepares data sets without such a field
      for subject in sorted(names) or ['']:
        data_sets.get(name).open(config.data.prepared, subject)
  if any(data_sets.is_simulated(config, name) for name in subjects):
    options = config.simulate.to_dict()
    options.pop('enabled')
    simulate(options.pop('folder'), **options)
  for name, names in subjects.items():
    if field := data_sets.get(name).raw_field:
      prepare.for_run(name, config.data[field], config.data.prepared, sorted(names))


def _run_stage(spec: StageSpec, config: ConfigDict, workdir: Path) -> None:
  folder, kept = workdir / spec.name, workdirs.relevant(config, workdir, spec.name)
  if spec.run:
    hosts.on_first(write_json, folder / 'config.json', kept)
    spec.run(config, workdir)
    return
  notes = {'config': kept}
  mesh = sharding.make_mesh(**config.mesh.to_dict())
  with arrays.forbid_test_split():  # training and selection never open test data
    training = spec.make(config, mesh)
    remat = _remat(config, training, mesh, folder)
    hosts.on_first(write_json, folder / 'config.json', kept | {'remat': remat})
    with recompute.auto_means(remat):
      params = train(
        training, LoopOptions.from_config(config, spec.name), folder, mesh, config.seed, notes, config.wandb
      )
  hosts.on_first(_save, folder / 'weights', sharding.to_host(params), {'kind': spec.name, **training.info})


def _remat(config: ConfigDict, training: Training, mesh: Mesh, folder: Path) -> str:
  """What `config.remat` means for a stage; a stage that resumes keeps the value it started with."""
  if config.remat != 'auto':
    return config.remat
  if before := workdirs.remat_of_checkpoints(folder):
    return before
  position = training.batches.get_state()
  batch = next(training.batches)
  training.batches.set_state(position)
  rows = {name: (len(x) * jax.process_count(), *x.shape[1:]) for name, x in batch.items()}
  shapes = {name: jax.ShapeDtypeStruct(shape, batch[name].dtype) for name, shape in rows.items()}
  remat = step_memory.choose_remat(training.problem, shapes, mesh, step_memory.memory_to_use(mesh))
  return recompute.CHOICES[hosts.from_first(recompute.CHOICES.index(remat))]


def _save(weights: Path, params: dict[str, np.ndarray], info: dict[str, Any]) -> None:
  shutil.rmtree(weights, ignore_errors=True)  # of a run that was killed between here and complete.json
  save_weights(weights, params, info)


def _check_weights(spec: StageSpec, config: ConfigDict, workdir: Path, earlier: Sequence[str]) -> None:
  """Checks the weights that a stage starts from. `earlier`: stages of this run before it.

  Raises:
    UserError: some are missing or damaged; the sentence names the field.
  """
  section = config.get(spec.name, {})
  from_stage = starts_here(config, workdir, spec.name)
  for field in spec.weights:
    if from_stage and field.name == 'init_from':
      continue
    value = section[field.name]
    for source in (value,) if isinstance(value, str) else value:
      exists = bool(source) and locate.weights(source).exists()
      if source in ('', RANDOM) and not field.needed or field.needed and section.get('random_init') and not exists:
        continue
      spec.check_source(field, source)
  if from_stage and spec.after not in earlier:
    try:
      STAGES[spec.after].check_result(workdir / spec.after)
    except UserError as error:
      raise UserError(f'stage {spec.name} starts from the result of stage {spec.after}: {error}') from error
