"""The paper's headline run: HCP and GOD pre-training, cross-modal tuning and LDM fine-tuning on GOD subject 3."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """The defaults of base.py are this run: 140 / 60 / 700 epochs, no selection of checkpoints, 250 PLMS steps."""
  return base.get_config()
