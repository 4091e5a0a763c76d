"""The run of god_sbj3.py with the quirks of the published code, to compare with released weights like for like."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Every field of `config.released` is on; docs/fidelity.md tells what each does."""
  config = base.get_config()
  for quirk in config.released:
    config.released[quirk] = True
  config.contrast.negatives = 'per_device'
  return config
