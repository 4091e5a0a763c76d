"""The paper's run on subject 1 of the Natural Scenes Dataset; contrast learns from HCP and from subjects 1, 2, 5 and 7 of NSD.

One hour of data of a subject: --config.data.train_sessions=1. Another subject: --config.data.subjects="('subj02',)".
"""

from ml_collections import ConfigDict

from configs import base


def get_config(subject: str = 'subj01') -> ConfigDict:
  """Full size: nsdgeneral, each voxel z-scored within each session, the shared 1,000 pictures as test set."""
  config = base.get_config()
  config.data.dataset = 'nsd'
  config.data.subjects = (subject,)
  config.data.contrast_god_subjects = ()
  # Those who completed all 40 sessions. `()`: HCP alone.
  config.data.contrast_nsd_subjects = ('subj01', 'subj02', 'subj05', 'subj07')
  # Validation stimuli are drawn among the 72,000 training pictures of all subjects, of which each saw an eighth: 1,600 are
  # about 200 of subject 1. 0 is the paper's protocol.
  config.data.num_val_stimuli = 0
  return config
