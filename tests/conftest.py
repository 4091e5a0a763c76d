"""Settings that every test shares: CPU, highest matmul precision, and checks of the shapes in annotations."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jaxtyping

jax.config.update('jax_default_matmul_precision', 'highest')
# Before these modules are imported. Kernels are left out: their arguments are references to memory, not arrays.
_CHECKED = (
  'models',
  *(f'ops.{name}' for name in ('attention', 'diffusion', 'losses', 'masking', 'patches', 'positions', 'samplers')),
)
jaxtyping.install_import_hook([f'brainjax.{name}' for name in _CHECKED], 'beartype.beartype')

# The files that take longest start first, so that two processes end at about the same time.
_LONG = ('tests/test_pipeline.py', 'tests/test_reconstruct.py', 'tests/test_parity.py')


def pytest_collection_modifyitems(items):
  """Moves the tests of the longest files to the front."""
  items.sort(key=lambda item: not item.nodeid.startswith(_LONG))
