"""One model for four simulated subjects of two data sets that share their cortical surface, in the format of MOSAIC: minutes on a CPU."""

from ml_collections import ConfigDict

from configs import demo

SUBJECTS = ('sub-01_GOD', 'sub-01_THINGS', 'sub-02_GOD', 'sub-02_THINGS')


def get_config() -> ConfigDict:
  """The demo's models and prior; 150 training trials of each subject, V1 to V4 and areas of objects, faces and scenes."""
  config = demo.get_config()
  config.stage_minutes = ()
  config.simulate.subjects = 0
  config.simulate.mosaic_subjects = len(SUBJECTS)
  config.simulate.mosaic_trials = 150
  config.simulate.subject_jitter = 0.2
  config.data.mosaic = '{workdir}/simulated/MOSAIC'
  config.data.dataset = 'mosaic'
  config.data.subjects = SUBJECTS[:1]
  config.data.other_subjects = SUBJECTS[1:]
  config.data.contrast_god_subjects = ()
  config.data.contrast_mosaic_subjects = SUBJECTS
  config.data.roi = 'V1+V2+V3+V4+LO1+LO2+LO3+PIT+FFC+VMV1+VMV2+VMV3'
  config.data.num_val_stimuli = 0
  config.data.hcp_val_subjects = 2
  config.data.balance = 1.0
  return config
