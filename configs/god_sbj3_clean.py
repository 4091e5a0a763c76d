"""The run of god_sbj3.py with held-out training stimuli, which choose the best checkpoint of attend and diffuse."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Holds out 100 of the 1,200 training stimuli. As always, only reconstruct and evaluate read test data."""
  config = base.get_config()
  config.data.num_val_stimuli = 100
  for stage in ('attend', 'diffuse'):
    config[stage].select = 'best'
  return config
