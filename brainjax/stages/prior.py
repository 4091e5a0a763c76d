"""What the four stages share that make the demo's prior from rendered scenes."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from brainjax.stages import common, transfer
from brainjax.stages.problem import Training


def training(config: ConfigDict, name: str, *, info: Mapping[str, Any], **parts: Any) -> Training:
  """`common.training` of a stage without epochs, which starts from the weights that its `init_from` names, if any.

  Args:
    config: the run's.
    name: of the stage.
    info: see `Training`.
    parts: other arguments of `common.training`.

  Raises:
    UserError: the start weights do not exist or are damaged.
  """
  start = {}
  if source := config[name].init_from:
    start, _ = transfer.load_start_weights(source, f'{name}.init_from', 'weights of this stage')
  inputs = transfer.digests({f'{name}.init_from': start})
  parts = {'pretrained': start, 'optimizer': {'decay_all': False}, 'steps_per_epoch': 1} | parts
  return common.training(config, name, info={'inputs': inputs, **info}, **parts)
