"""Samples pictures of the averaged test trials (paper, section 3.3): no training."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from brainjax import hosts, sharding
from brainjax.errors import UserError
from brainjax.files import atomic_write
from brainjax.reconstruct import Reconstructor, check_options
from brainjax.rules import NOT_NEGATIVE, Rule
from brainjax.stages import common
from brainjax.stages import data as stage_data
from brainjax.stages.registry import STAGES, StageSpec

IMAGES = 'images.npz'  # as `evaluation.images` reads it


def weights_of(workdir: Path) -> Path:
  """The weights that are sampled: of the stage before."""
  return workdir / STAGES[STAGE.name].after / 'weights'


def pictures_of(workdir: Path) -> Path:
  """The file of the stage's pictures."""
  return workdir / STAGE.name / IMAGES


def run(config: ConfigDict, workdir: Path) -> None:
  """Writes `<workdir>/reconstruct/images.npz`.

  Raises:
    UserError: the weights or the test data cannot be read, or an option is impossible.
  """
  options = config.reconstruct.to_dict()
  num_items = options.pop('num_items')
  mesh = sharding.make_mesh(**config.mesh.to_dict())
  reconstructor = Reconstructor(weights_of(workdir), common.compute_dtype(config), mesh)
  test = stage_data.test(config, reconstructor.transforms)
  count = num_items or len(test)
  samples = reconstructor(test.columns['fmri'][:count], normalised=True, **options)
  stimulus = test.columns['stimulus'][:count]
  contents = {
    'stimuli': test.pictures[test.picture_row[:count]],
    'samples': samples,
    'stimulus': stimulus,
    'class_index': test.columns['class_index'][:count],
    'categories': np.array([test.info['names'][int(number)] for number in stimulus]),
  }
  hosts.on_first(_write, pictures_of(workdir), contents)


def _write(file: Path, contents: dict[str, np.ndarray]) -> None:
  with atomic_write(file) as path:
    np.savez_compressed(path, **contents)


def _rules(config: ConfigDict) -> dict[str, Rule]:
  return {'reconstruct.num_items': NOT_NEGATIVE}


def check_sampling(config: ConfigDict, section: str, **options: Any) -> None:
  """Checks options of `Reconstructor` that a section of the config names.

  Raises:
    UserError: one is impossible; the sentence begins with the field.
  """
  try:
    check_options(config.noise_schedule.num_steps, **options)
  except UserError as error:
    raise UserError(f'config.{section}.{error}') from error


def _check(config: ConfigDict, stages: tuple[str, ...]) -> None:
  options = config.reconstruct.to_dict()
  options.pop('num_items')
  check_sampling(config, STAGE.name, **options)


def _check_result(folder: Path) -> None:
  if not (folder / IMAGES).is_file():
    raise UserError(f'{folder / IMAGES} does not exist; run stage reconstruct first.')


STAGE = StageSpec(
  'reconstruct',
  after='diffuse',
  run=run,
  sources=stage_data.paired_sources,
  rules=_rules,
  check=_check,
  check_result=_check_result,
)
