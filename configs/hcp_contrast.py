"""Phase 1 alone, on HCP resting-state data without GOD: an fMRI encoder for any later subject."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """140 epochs of double-contrastive pre-training."""
  config = base.get_config()
  config.stages = ('contrast',)
  config.data.contrast_god_subjects = ()
  return config
