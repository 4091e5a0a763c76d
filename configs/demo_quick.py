"""The demo in about two minutes, for notebooks and the impatient: fewer steps and pictures. Its scores are low."""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
  """The demo's data and models, a fifth of its steps, 2 samples of 20 test pictures."""
  config = demo.get_config()
  config.simulate.hcp_subjects = 2
  config.contrast.update({'num_steps': 40, 'warmup_epochs': 0.5})
  config.attend.update({'num_steps': 60, 'warmup_epochs': 0.5})
  config.diffuse.update({'num_steps': 200})
  config.reconstruct.update({'sampler': 'dpm', 'num_steps': 20, 'num_samples': 2, 'num_items': 20})
  config.evaluate.update({'num_bootstrap': 500, 'num_shuffles': 20, 'single_trials': 0})
  return config
