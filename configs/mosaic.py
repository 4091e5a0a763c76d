"""One model for many subjects on one surface: contrast on HCP and MOSAIC, attend and diffuse on any subjects of MOSAIC.

brainjax train --config=mosaic --config.data.subjects="('sub-01_GOD', 'sub-02_NSD')" --config.data.other_subjects="(...)"
"""

from ml_collections import ConfigDict

from configs import base

# One subject of each data set with pictures is tested; the others train too. List those that you have prepared.
SUBJECTS = ('sub-01_NSD', 'sub-01_GOD', 'sub-01_BOLD5000', 'sub-01_THINGS')
OTHERS = (
  *(f'sub-{k:02d}_NSD' for k in range(2, 9)),
  *(f'sub-{k:02d}_GOD' for k in range(2, 6)),
  *(f'sub-{k:02d}_BOLD5000' for k in range(2, 5)),
  *(f'sub-{k:02d}_THINGS' for k in range(2, 4)),
)


def get_config() -> ConfigDict:
  """V1 to V4 of everybody, the 4,183 vertices that HCP has too; the sizes of the paper."""
  config = base.get_config()
  config.data.dataset = 'mosaic'
  config.data.subjects = SUBJECTS
  config.data.other_subjects = OTHERS
  config.data.contrast_god_subjects = ()
  config.data.contrast_mosaic_subjects = SUBJECTS + OTHERS
  config.data.roi = 'V1+V2+V3+V4'
  config.data.balance = 0.5
  config.data.num_val_stimuli = 2000  # of those of all data sets
  config.data.hcp_val_subjects = 50
  config.data.test_scale = 'single_trial'
  config.contrast.select = 'best'
  return config
