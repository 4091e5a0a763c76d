"""The paper's run on subject CSI1 of BOLD5000; contrast is that of configs/god_sbj3.py.

Across subjects, with a fifth of CSI1's own training pictures:
  --config.data.other_subjects="('CSI2', 'CSI3', 'CSI4')" --config.data.target_train_proportion=0.2
"""

from ml_collections import ConfigDict

from configs import base


def get_config(subject: str = 'CSI1') -> ConfigDict:
  """Full size. Contrast also learns from HCP, and from the five GOD subjects unless `contrast_god_subjects` is ()."""
  config = base.get_config()
  config.data.dataset = 'bold5000'
  config.data.subjects = (subject,)
  return config
