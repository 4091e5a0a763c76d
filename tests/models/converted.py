"""Loads PyTorch weights into a model and compares trees under their PyTorch names."""

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from brainjax.torch_convert import engine


def shapes(model, *inputs) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every parameter; nothing is computed."""
  tree = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
  return {path: leaf.shape for path, leaf in flatten_dict(tree, sep='/').items()}


def from_torch(model, table, state, *inputs) -> dict:
  """The variables of a model, filled from a PyTorch state dict."""
  flat = engine.to_jax(table, state, shapes(model, *inputs))
  return {'params': unflatten_dict(flat, sep='/')}


def epsilons(model, *inputs) -> dict[str, float]:
  """Path -> epsilon of every LayerNorm (too small to be seen in the outputs at ordinary scales)."""
  seen = {}

  def watch(method, args, kwargs, context):
    if isinstance(context.module, nn.LayerNorm):
      seen['/'.join(context.module.path)] = context.module.epsilon
    return method(*args, **kwargs)

  with nn.intercept_methods(watch):
    jax.eval_shape(model.init, jax.random.key(0), *inputs)
  return seen


def random_variables(model, *inputs) -> dict:
  """Variables of random numbers, without compiling the model's own initialisation."""
  rng = np.random.default_rng(0)
  flat = {path: rng.normal(0, 0.2, shape).astype(np.float32) for path, shape in shapes(model, *inputs).items()}
  return {'params': unflatten_dict(flat, sep='/')}


def to_torch(table, params) -> dict[str, np.ndarray]:
  """A tree of parameters (or gradients) under PyTorch names."""
  return engine.to_torch(table, {path: np.asarray(leaf) for path, leaf in flatten_dict(params, sep='/').items()})


def torch_shapes(table, flat_shapes) -> dict[str, tuple[int, ...]]:
  """PyTorch name -> shape, of parameters known by their shapes here (one byte a value, so that full size is cheap)."""
  arrays = {path: np.broadcast_to(np.int8(0), shape) for path, shape in flat_shapes.items()}
  return {name: array.shape for name, array in engine.to_torch(table, arrays).items()}


def assert_close(actual, expected, tolerance=1e-5, name=''):
  """Equal up to a fraction of the largest expected entry."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape, name
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_gradients(actual, expected, tolerance=1e-4):
  """Every tensor of `expected` agrees, relative to its largest entry, with a floor of 1e-5 of the global norm."""
  norm = np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in expected.values()))
  for name, value in expected.items():
    bound = max(tolerance * np.abs(value).max(), 1e-5 * norm)
    np.testing.assert_allclose(actual[name], value, rtol=0, atol=bound, err_msg=name)
