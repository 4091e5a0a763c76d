"""One config for the whole run: paths and start weights filled in, sizes from the weights that it names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from brainjax import config_check, hosts, locate, workdirs
from brainjax.checkpoints import read_info
from brainjax.datasets import registry as data_sets
from brainjax.errors import UserError
from brainjax.stages import registry
from brainjax.stages.registry import STAGES, StageSpec
from brainjax.trees import lists_to_tuples


def resolve(config: ConfigDict, workdir: Path, stages: Sequence[str]) -> ConfigDict:
  """The config that every stage uses and that is saved with results.

  Weights set the model sizes, so a run can start from weights of any size. Before a stage has run, these are the weights
  that the config names for its start; afterwards, the weights that it saved. An empty `init_from` becomes the weights of
  the stage before.

  Args:
    config: the run's.
    workdir: of the run; '{workdir}' in texts becomes its path.
    stages: that are to run.

  Raises:
    UserError: an unknown stage or field value, weights that do not exist, or weights whose sizes exclude each other.
  """
  registry.check_names(tuple(stages))
  config = workdirs.fill_in_paths(config, workdir)
  _refuse_missing(config, workdir, stages)
  chosen: dict[str, tuple[Any, str, str]] = {}  # field -> (value, weights, stage that has yet to run)
  for name in registry.with_ancestors(stages):
    spec = STAGES[name]
    complete = workdirs.is_complete(workdir / name)
    if name not in stages and not complete:
      continue
    for sizes in spec.sizes(config, _infos(config, spec, workdir, complete)):
      section = config[sizes.section]
      kwargs = lists_to_tuples(sizes.kwargs)
      for field, value in kwargs.items():
        if not sizes.whole and field not in section:
          continue
        key = f'{sizes.section}.{field}'
        before, source, earlier = chosen.get(key, (value, '', ''))
        if before != value and earlier:
          raise UserError(
            f'{earlier} and {name} start from weights of different sizes: {key} is {before} in {source} and {value} in '
            f'{sizes.source}. Name weights of one size, or run these stages in two workdirs.'
          )
        chosen[key] = value, sizes.source, '' if complete else name
        if field in section and section[field] != value:
          hosts.log(f'config.{key} is {value}, as in the weights {sizes.source} (config: {section[field]})')
      if sizes.whole:
        config[sizes.section] = ConfigDict(kwargs)
      else:
        section.update({field: value for field, value in kwargs.items() if field in section})
  config_check.check(config, stages)
  config.data.zscore = data_sets.zscore_of(config.data.dataset, config.data.zscore)
  for name in STAGES:
    if 'init_from' in config.get(name, {}) and registry.starts_here(config, workdir, name):
      config[name].init_from = registry.weights_before(workdir, name)
  return config


def _refuse_missing(config: ConfigDict, workdir: Path, stages: Sequence[str]) -> None:
  """Names all missing start weights of all stages at once.

  Raises:
    UserError: some are missing.
  """
  faults = []
  for name in stages:
    section = config.get(name, {})
    if workdirs.is_complete(workdir / name) or section.get('random_init'):
      continue
    for field in STAGES[name].weights:
      value = section[field.name]
      for source in (value,) if isinstance(value, str) else value:
        if source in ('', registry.RANDOM, registry.weights_before(workdir, name)) or locate.weights(source).exists():
          continue
        try:
          STAGES[name].check_source(field, source)  # a classifier can be a name instead of weights
        except UserError as error:
          faults.append(str(error))
  if faults:
    raise UserError(faults[0] if len(faults) == 1 else '\n  '.join([f'{len(faults)} weights are missing:', *faults]))


def _infos(config: ConfigDict, spec: StageSpec, workdir: Path, complete: bool) -> Mapping[str, Mapping[str, Any]]:
  """Config field -> info of the weights that it names; for a complete stage, of the weights that the stage saved."""
  infos = {}
  for field in spec.weights if spec.make else ():
    source = config[spec.name][field.name]
    if source in ('', registry.RANDOM, registry.weights_before(workdir, spec.name)):
      continue
    if complete:
      infos[field.name] = read_info(workdir / spec.name / 'weights')
    elif locate.weights(source).exists() or not config[spec.name].get('random_init'):
      spec.check_source(field, source)
      infos[field.name] = read_info(source)
  return infos
