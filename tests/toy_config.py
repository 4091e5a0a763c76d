"""The tiny config with the plugin `tests.toys`."""

from configs import base, tiny


def get_config():
  """Contrast and a stage from the plugin, both on one data set, which is from the plugin too."""
  config = tiny.get_config().unlock()
  config.plugins = ('tests.toys',)
  config.stages = ('contrast', 'linear')
  config.simulate.enabled = False
  config.data.toy = '{workdir}/../toy'
  config.data.update({'dataset': 'toy', 'subjects': ('s1',), 'num_val_stimuli': 2, 'zscore': 'voxel'})
  config.data.update({'hcp': '', 'contrast_god_subjects': (), 'contrast_toy_subjects': ('s1',)})
  config.fmri_mae.patch_size = 2
  config.contrast.update({'mask_ratio': 0.5, 'num_steps': 2, 'batch_size': 4})
  config.linear = base.training(1, 4, 0.01, warmup_epochs=0.0, clip_norm=1.0)
  config.linear.update({'num_steps': 3, 'gain': 1.0})
  return config.lock()
