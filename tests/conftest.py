"""Settings that every test shares: CPU, highest matmul precision, a compilation cache."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

jax.config.update('jax_default_matmul_precision', 'highest')
