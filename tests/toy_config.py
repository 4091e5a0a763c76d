"""The tiny config with the plugin `tests.toys`."""

from configs import base, tiny


def get_config():
  """One stage on one data set, both from the plugin."""
  config = tiny.get_config().unlock()
  config.plugins = ('tests.toys',)
  config.stages = ('linear',)
  config.simulate.enabled = False
  config.data.toy = '{workdir}/../toy'
  config.data.update({'dataset': 'toy', 'subjects': ('s1',), 'num_val_stimuli': 2, 'zscore': 'voxel'})
  config.fmri_mae.patch_size = 2
  config.linear = base.training(1, 4, 0.01, warmup_epochs=0.0, clip_norm=1.0)
  config.linear.update({'num_steps': 3, 'gain': 1.0})
  return config.lock()
