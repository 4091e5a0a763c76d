"""The demo in a few minutes, for notebooks and the impatient: fewer pictures and steps. Its scores are low."""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
  """The demo's models, a quarter of its training pictures, a tenth of its steps, 2 samples of 20 test pictures."""
  config = demo.get_config()
  config.stage_minutes = (0.3, 0.5, 0.9, 0.3, 0.3, 0.4)
  config.simulate.hcp_subjects = 2
  config.data.target_train_proportion = 0.25
  config.contrast.update({'num_steps': 20, 'warmup_epochs': 0.5})
  config.attend.update({'num_steps': 20, 'warmup_epochs': 0.5})
  config.diffuse.update({'num_steps': 80})
  config.reconstruct.update({'sampler': 'dpm', 'num_steps': 20, 'num_samples': 2, 'num_items': 20})
  config.evaluate.update({'num_bootstrap': 500, 'num_shuffles': 20, 'single_trials': 0, 'ridge': False})
  config.interpret.update({'num_items': 10, 'num_bootstrap': 2000})
  return config
