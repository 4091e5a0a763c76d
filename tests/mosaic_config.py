"""Two simulated subjects in the format of MOSAIC and one of HCP, at the sizes of configs/tiny.py."""

from configs import tiny

SUBJECTS = ('sub-01_GOD', 'sub-01_THINGS')


def get_config():
  config = tiny.get_config()
  config.simulate.update({'subjects': 0, 'mosaic_subjects': 2, 'mosaic_trials': 24, 'mosaic_repetitions': 2})
  config.simulate.subject_jitter = 0.2
  config.data.update({'mosaic': '{workdir}/simulated/MOSAIC', 'dataset': 'mosaic', 'subjects': SUBJECTS})
  config.data.update({'contrast_god_subjects': (), 'contrast_mosaic_subjects': SUBJECTS, 'roi': 'V1+V2+V3+V4'})
  config.data.update({'hcp_val_subjects': 1, 'num_val_stimuli': 12, 'balance': 0.5})
  config.fmri_mae.patch_size = 256
  config.contrast.select = 'best'
  config.reconstruct.num_items = 4
  return config
