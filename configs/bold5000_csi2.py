"""The run of bold5000_csi1.py on subject CSI2."""

from ml_collections import ConfigDict

from configs import bold5000_csi1


def get_config() -> ConfigDict:
  """All fields but the subject are those of CSI1."""
  return bold5000_csi1.get_config('CSI2')
