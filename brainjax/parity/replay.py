"""What the replays share: weights through the conversion tables, fast compilation, recorded training steps."""

import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from brainjax import optim, sharding, train, trees
from brainjax.errors import UserError
from brainjax.parity.golden import GRADIENT_FLOOR, Golden
from brainjax.stages import common, transfer
from brainjax.stages.problem import Loss
from brainjax.torch_convert import engine, sizes
from brainjax.torch_convert.config_fields import ConfigFields
from brainjax.trees import flatten, lists_to_tuples, unflatten

# At these sizes compiling takes longer than running.
COMPILER_OPTIONS = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
jit = partial(jax.jit, compiler_options=COMPILER_OPTIONS)

Flat = dict[str, np.ndarray]
Table = Iterable[engine.Row | engine.Ignored]
# Rounding error of float32 in a gradient, relative to its largest entry: a third of the bound on gradients. In PyTorch
# 2.4e-5 was seen, against float64.
ROUNDING = 3e-5
# A key's bias shifts all scores of a query by the same amount, so its true gradient is zero.
KEY_BIAS = 'key bias of an attention after AdamW: its true gradient is zero, so its steps are rounding noise'


def kwargs(
  read: Callable[[sizes.KnownShapes, ConfigFields], dict[str, Any]],
  state: Mapping[str, np.ndarray],
  config: Mapping[str, Any],
  golden: Golden,
  prefix: str = '',
) -> dict[str, Any]:
  """Reads the constructor arguments of a model from the shapes of its PyTorch tensors and from the file's config.

  Raises:
    UserError: an argument follows from neither.
  """
  shapes, assumed = {name: np.shape(value) for name, value in state.items()}, []
  arguments = read(sizes.KnownShapes(shapes, prefix, str(golden.path)), ConfigFields(config, assumed, str(golden.path)))
  if assumed:
    raise UserError(f'{golden.path}: {assumed[0].split(" is not")[0]} is not in config_json, and no shape shows it')
  return lists_to_tuples(arguments)


def load(
  model: nn.Module, table: Table, state: Mapping[str, np.ndarray], golden: Golden, *inputs: Any, **more: Any
) -> Flat:
  """Path -> array of a model, from a PyTorch state dict.

  Raises:
    UserError: the arrays do not fit the model.
  """
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
  """How far rounding of the gradients can move parameters that AdamW trains.

  AdamW divides a gradient by its own size. So an entry whose gradient is zero but for rounding still moves by up to the
  learning rate, in an arbitrary direction. Three AdamW run here: with the gradients, and with gradients that are higher
  and lower by `ROUNDING`. `total` sums up how far their steps differ: almost nothing for an ordinary entry.
  """

  def __init__(self, betas: tuple[float, float]):
    self._betas, self._count = betas, 0
    self._first: Flat = {}  # path -> first moment of the optimizer
    self._moments: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    self.total: Flat = {}

  def add(self, first: Mapping[str, jax.Array], rate: float) -> None:
    """Adds a step. Its clipped gradients follow from `first`, the optimizer's first moments after it."""
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
  flat: Mapping[str, np.ndarray],
  trainable: str,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  learning_rate: Callable[[Any], Any],
  batches: Iterable[Mapping[str, np.ndarray]],
  doubt: Doubt | None = None,
) -> Iterator[tuple[Flat, dict[str, float]]]:
  """Runs the step of the training loop on recorded batches.

  Args:
    flat: initial parameters, trained and frozen.
    trainable, loss, optimizer, learning_rate: see `Problem`. The recorded draws are fields of the batch; the key of the
      loss is not used.
    batches: one for each step.
    doubt: adds up what rounding does to the parameters.

  Yields:
    The trained parameters and the metrics after each step.
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


def epoch_rate(stage: ConfigDict, recorded: Mapping[str, Any], steps_per_epoch: int) -> Callable[[Any], Any]:
  """The stage's schedule with the recorded peak and length; step 0 is the first of the recorded epoch."""
  stage = stage.copy_and_resolve_references()
  stage.learning_rate, stage.num_epochs = recorded['lr'], recorded['num_epoch']
  stage.warmup_epochs = recorded['warmup_epochs']
  rate = common.schedule(stage, steps_per_epoch)
  return lambda step: rate(step + recorded['epoch'] * steps_per_epoch)


def check_training(
  golden: Golden,
  parts: Mapping[str, tuple[str, Table]],
  stage: ConfigDict,
  options: Mapping[str, Any],
  flat: Mapping[str, np.ndarray],
  trainable: str,
  loss: Loss,
  learning_rate: Callable[[Any], Any],
  batches: Iterable[Mapping[str, np.ndarray]],
) -> tuple[list[Flat], dict[str, list[float]]]:
  """Runs recorded training steps and compares the parameters after each step that the file has.

  Args:
    golden: the file, with arrays `PREFIX_step1/...`.
    parts: PREFIX -> first part of the parameters' paths (empty: all parameters), and their conversion table.
    stage: its config, for the optimizer.
    options: arguments of `optim.make` that the config does not have.
    flat, trainable, loss, learning_rate, batches: see `steps`.

  Returns:
    The trained parameters after each step, and the values of each metric.
  """
  parameters, metrics, doubt = [], [], Doubt(tuple(stage.betas))
  optimizer = common.optimizer_of(stage, learning_rate, **options)
  runs = steps(flat, trainable, loss, optimizer, learning_rate, batches, doubt)
  for number, (trained, values) in enumerate(runs, 1):
    parameters.append(trained)
    metrics.append(values)
    for prefix, (part, table) in parts.items():
      if golden.names_in(f'{prefix}_step{number}'):
        both = (trees.subtree(tree, part) if part else tree for tree in (trained, doubt.total))
        _check_parameters(golden, f'{prefix}_step{number}', *(to_torch(table, tree) for tree in both))
  return parameters, {name: [values[name] for values in metrics] for name in metrics[0]}


def _check_parameters(golden: Golden, prefix: str, actual: Flat, doubt: Flat) -> None:
  """Compares the parameters `prefix/...`, without key biases; entries may differ by their `doubt`."""
  names = golden.names_in(prefix)
  for name in names:
    if re.search(r'(^|\.)key\.bias$', name):
      golden.exclude(f'{prefix}/{name}', KEY_BIAS)
      continue
    reasons, keep = [], slice(None)
    if name.endswith('qkv.bias'):
      width = len(golden.peek(f'{prefix}/{name}')) // 3
      keep = np.r_[:width, 2 * width : 3 * width]
      reasons.append(f'without its second third, the {KEY_BIAS}')
    value = actual.get(name, np.zeros(0))
    tolerance = doubt.get(name, np.zeros(value.shape))
    if ignored := golden.absolute(f'{prefix}/{name}', value, keep, f'{prefix}/* ({len(names)} arrays)', tolerance):
      reasons.append(
        f'without {ignored} of {np.size(value)} entries whose gradients are almost zero: they differ by no more than '
        'rounding explains'
      )
    if reasons:
      golden.partly[f'{prefix}/{name}'] = '; and '.join(reasons)
  golden.fact(f'{prefix}: names that train', len(set(actual) ^ set(names)))


def check_gradients(golden: Golden, prefix: str, actual: Mapping[str, Any]) -> None:
  """Compares the gradients `prefix/...`, or their norms; see `GRADIENT_FLOOR`."""
  expected = [golden.peek(f'{prefix}/{name}') for name in golden.names_in(prefix)]
  golden.close_all(prefix, actual, floor=GRADIENT_FLOOR * norm(expected))


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


def check_hyperparameters(golden: Golden, config: ConfigDict, fields: Mapping[str, str]) -> None:
  """Compares recorded hyperparameters with those of the config: field of config_json -> field of the config."""
  for recorded, field in fields.items():
    theirs, ours = (
      functools.reduce(operator.getitem, name.split('.'), tree)
      for name, tree in ((recorded, golden.config), (field, config))
    )
    quantity = f'config_json {recorded} {theirs}, config.{field} {ours}'
    golden.fact(f'config_json/{recorded}', theirs != ours, quantity=quantity)
