"""What the replays share: weights through the conversion tables, cheap compilation, recorded training steps."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from brainjax import optim, sharding, train, trees
from brainjax.errors import UserError
from brainjax.parity.golden import Golden
from brainjax.stages import transfer
from brainjax.torch_convert import engine, sizes
from brainjax.torch_convert.config_fields import ConfigFields
from brainjax.trees import flatten, lists_to_tuples, unflatten

# Compiling takes longer than running at these sizes.
COMPILER_OPTIONS = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
jit = partial(jax.jit, compiler_options=COMPILER_OPTIONS)

Flat = dict[str, np.ndarray]
Table = Iterable[engine.Row | engine.Ignored]
# A key's bias shifts every score of a query alike: its true gradient is zero, and Adam turns rounding into steps.
# Of float32 in a gradient, relative to its largest entry: a fifth of what gradients are allowed to be off.
ROUNDING = 2e-5
KEY_BIAS = 'key bias of an attention after AdamW: its true gradient is zero, so its steps are rounding noise'


def settings(
  read: Callable[[sizes.KnownShapes, ConfigFields], dict[str, Any]],
  state: Mapping[str, np.ndarray],
  config: Mapping[str, Any],
  golden: Golden,
  prefix: str = '',
) -> dict[str, Any]:
  """Constructor arguments of a model, from the shapes of its PyTorch tensors and from the file's config."""
  shapes, assumed = {name: np.shape(value) for name, value in state.items()}, []
  found = read(sizes.KnownShapes(shapes, prefix, str(golden.path)), ConfigFields(config, assumed, str(golden.path)))
  if assumed:
    raise UserError(f'{golden.path}: {assumed[0].split(" is not")[0]} is not in config_json, and shapes cannot tell it')
  return lists_to_tuples(found)


def load(
  model: nn.Module, table: Table, state: Mapping[str, np.ndarray], golden: Golden, *inputs: Any, **more: Any
) -> Flat:
  """Path -> array of a model, from a PyTorch state dict."""
  expected = transfer.init_shapes(lambda key: model.init(key, *inputs, **more)['params'])
  return engine.to_jax(table, state, expected, f'{golden.path}: its PyTorch state')


def variables(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The argument of `apply`."""
  return {'params': unflatten(flat)}


def to_torch(table: Table, tree: Any) -> Flat:
  """Parameters or gradients, nested or flat, under their PyTorch names."""
  return engine.to_torch(table, {path: np.asarray(leaf) for path, leaf in flatten(tree).items()})


def norm(arrays: Iterable[Any]) -> float:
  """Global norm."""
  return float(np.sqrt(sum(np.square(np.asarray(x), dtype=np.float64).sum() for x in arrays)))


def norms(arrays: Mapping[str, Any]) -> dict[str, float]:
  """Norm of each array."""
  return {name: norm([x]) for name, x in arrays.items()}


def nhwc(x: Any) -> Any:
  """... C H W -> ... H W C."""
  return np.moveaxis(np.asarray(x), -3, -1)


def nchw(x: Any) -> Any:
  """... H W C -> ... C H W."""
  return np.moveaxis(np.asarray(x), -1, -3)


class Doubt:
  """What rounding does to AdamW, whose step is a gradient over its own size.

  An entry whose gradient is zero but for rounding still steps by up to the learning rate, in a direction that means
  nothing. Three AdamW are followed, with the gradients and with these `ROUNDING` higher and lower; `total` sums how far
  their steps are apart. For an ordinary entry that is next to nothing.
  """

  def __init__(self, betas: tuple[float, float]):
    self._betas, self._count = betas, 0
    self._first: Flat = {}  # path -> first moment of the optimizer
    self._moments: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    self.total: Flat = {}

  def add(self, first: Mapping[str, jax.Array], rate: float) -> None:
    """Adds a step after which the optimizer's first moments are `first`, from which its (clipped) gradients follow."""
    self._count += 1
    b1, b2 = self._betas
    for path, moment in first.items():
      moment = np.asarray(moment, np.float64)
      gradient = (moment - b1 * self._first.get(path, 0.0)) / (1 - b1)
      self._first[path] = moment
      axes = tuple(range(int('/blocks/' in path), gradient.ndim))  # layers are stacked on axis 0
      error = ROUNDING * np.abs(gradient).max(axis=axes, keepdims=True)
      moments, steps = self._moments.get(path, [(0.0, 0.0)] * 3), []
      self._moments[path] = []
      for sign, (m, v) in zip((0, 1, -1), moments, strict=True):
        shifted = gradient + sign * error
        m, v = b1 * m + (1 - b1) * shifted, b2 * v + (1 - b2) * shifted**2
        self._moments[path].append((m, v))
        steps.append(m / (1 - b1**self._count) / (np.sqrt(v / (1 - b2**self._count)) + 1e-8))
      moved = rate * np.maximum(np.abs(steps[1] - steps[0]), np.abs(steps[2] - steps[0]))
      self.total[path] = self.total.get(path, 0.0) + moved


def steps(
  name: str,
  flat: Mapping[str, np.ndarray],
  trainable: str,
  loss: Callable[[Any, Mapping[str, jax.Array], jax.Array], tuple[jax.Array, dict[str, jax.Array]]],
  optimizer: optax.GradientTransformation,
  learning_rate: Callable[[Any], Any],
  batches: Iterable[Mapping[str, np.ndarray]],
  doubt: Doubt | None = None,
) -> Iterator[tuple[Flat, dict[str, float]]]:
  """Runs the training loop's own step on recorded batches; gives (trained parameters, metrics) after each.

  Args:
    doubt: follows along.
    loss: see `Problem`; the recorded draws are fields of the batch, the key is not used.
  """
  trained, frozen = trees.split(flat, trainable)
  trained, frozen = (jax.tree.map(jnp.array, part) for part in (trained, frozen))
  step_fn = train.make_step(loss, optimizer, learning_rate, sharding.make_mesh())
  step, nonfinite = (jnp.zeros((), jnp.int32) for _ in range(2))  # two buffers: the step donates both
  state = train.TrainState(step=step, nonfinite=nonfinite, params=trained, opt_state=optimizer.init(trained))
  run, key = None, jax.random.key(0)
  for batch in batches:
    batch = jax.tree.map(jnp.asarray, batch)
    if run is None:
      lowered = step_fn.lower(state, frozen, batch, key)
      run = lowered.compile(compiler_options=COMPILER_OPTIONS)
    state, metrics = run(state, frozen, batch, key)
    if doubt:
      doubt.add(optax.tree_utils.tree_get(state.opt_state, 'mu'), float(metrics['learning_rate']))
    yield {path: np.array(x) for path, x in state.params.items()}, {k: float(v) for k, v in metrics.items()}


def check_parameters(golden: Golden, prefix: str, actual: Flat, doubt: Flat) -> None:
  """Compares the parameters below `prefix/` after optimizer steps, key biases apart; `doubt` (see `Doubt`) is granted."""
  names = golden.below(prefix)
  for name in names:
    if re.search(r'(^|\.)key\.bias$', name):
      golden.exclude(f'{prefix}/{name}', KEY_BIAS)
      continue
    keep = slice(None)
    if name.endswith('qkv.bias'):
      width = len(golden.peek(f'{prefix}/{name}')) // 3
      keep = np.r_[:width, 2 * width : 3 * width]
      golden.partly[f'{prefix}/{name}'] = f'without its second third, the {KEY_BIAS}'
    value = actual.get(name, np.zeros(0))
    granted = doubt.get(name, np.zeros(value.shape))
    if excused := golden.absolute(f'{prefix}/{name}', value, keep, f'{prefix}/* ({len(names)} arrays)', granted):
      known = golden.partly.get(f'{prefix}/{name}')
      golden.partly[f'{prefix}/{name}'] = (f'{known}; and ' if known else '') + (
        f'without {excused} of {np.size(value)} entries, as far apart as rounding lets them: their gradients are next to zero'
      )
  golden.fact(f'{prefix}: names that train', len(set(actual) ^ set(names)))


def check_groups(golden: Golden, field: str, table: Table, flat: Mapping[str, np.ndarray], trainable: str) -> None:
  """Compares which parameters train and decay with `config_json[field]`: name -> decay, no_decay or frozen."""
  trained, _ = trees.split(flat, trainable)
  codes = {path: 0 if path not in trained else 1 if optim.NO_DECAY.search(path) else 2 for path in flat}
  ours = engine.to_torch(table, {path: np.full(np.shape(x), codes[path]) for path, x in flat.items()})
  groups = ('frozen', 'no_decay', 'decay')
  expected = golden.config[field]
  wrong = [
    name
    for name in expected.keys() | ours.keys()
    if name not in ours or groups[ours[name].flat[0]] != expected.get(name)
  ]
  golden.fact(f'config_json {field} ({len(expected)} names)', len(wrong))
