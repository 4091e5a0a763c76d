"""Makes one stage from a config, as a run does."""

from pathlib import Path

from brainjax import pipeline  # noqa: F401 - registers the stages
from brainjax.resolve import resolve
from brainjax.sharding import make_mesh
from brainjax.stages.registry import RANDOM, STAGES


def make(name, config, init_from=''):
  """The `Training` of a stage that starts from the weights `init_from`; without them from random ones."""
  config = config.copy_and_resolve_references()
  config[name].init_from = str(init_from) or RANDOM
  return STAGES[name].make(resolve(config, Path('/no/workdir'), (name,)), make_mesh())
