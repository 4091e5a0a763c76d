"""Settings that every test shares: CPU, highest matmul precision, and checks of the shapes in annotations."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jaxtyping
import pytest

jax.config.update('jax_default_matmul_precision', 'highest')
# Before these modules are imported. Kernels are left out: their arguments are references to memory, not arrays.
_CHECKED = (
  'models',
  *(f'ops.{name}' for name in ('attention', 'diffusion', 'losses', 'masking', 'patches', 'positions', 'samplers')),
)
jaxtyping.install_import_hook([f'brainjax.{name}' for name in _CHECKED], 'beartype.beartype')


@pytest.fixture
def without_shape_checks():
  """Switches the checks of annotations off, for tests of the package's own checks."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)
