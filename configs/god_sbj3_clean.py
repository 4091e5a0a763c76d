"""The run of god_sbj3.py with training stimuli held out, by which each stage's best checkpoint is chosen."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Holds 100 of the 1,200 training stimuli out; test data are read by evaluate only, as always."""
  config = base.get_config()
  config.data.num_val_stimuli = 100
  for stage in ('attend', 'diffuse'):
    config[stage].select = 'best'
  return config
