"""The paper's main experiment: contrast on HCP and GOD, then attend and diffuse on GOD subject 3."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """The defaults of base.py: 140, 60 and 700 epochs, the last checkpoint of each stage, 250 PLMS steps."""
  return base.get_config()
