"""The training loop of every stage: jit, gradients of the trainable parameters, logging, checkpoints, resume."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from brainjax import hosts, sharding
from brainjax.checkpoints import RunCheckpoints
from brainjax.errors import Stopped, UserError
from brainjax.files import atomic_write
from brainjax.metric_writer import MetricWriter
from brainjax.models.dense import cast_kernels
from brainjax.progress import progress
from brainjax.stages.problem import Batch, Batches, Loss, Problem, Training
from brainjax.trees import flatten, split, unflatten

Params = Mapping[str, jax.Array]  # '/'-joined path -> array
# Steps that the host may be ahead of the devices: enough to keep them busy, and few batches in their memory.
IN_FLIGHT = 4


class LoopOptions(NamedTuple):
  """How the loop runs.

  Attributes:
    name: of the stage, for messages and progress.
    eval_every, checkpoint_every, log_every: in steps.
    skip_nonfinite: steps with a loss or gradient that is not finite which are skipped before the run stops.
    select: the parameters that `train` returns: 'last', or 'best' by validation loss.
  """

  name: str
  eval_every: int
  checkpoint_every: int
  log_every: int
  skip_nonfinite: int = 0
  select: str = 'last'

  @classmethod
  def from_config(cls, config: ConfigDict, name: str) -> Self:
    """The options of a stage: from its section and the fields that all stages share."""
    stage = config[name]
    return cls(name, stage.eval_every, stage.checkpoint_every, config.log_every, config.skip_nonfinite, stage.select)


@flax.struct.dataclass
class TrainState:
  """What a step changes: the number of steps done, of those that were not finite, trained parameters, optimizer state."""

  step: jax.Array
  nonfinite: jax.Array
  params: Params
  opt_state: Any


def initialise(name: str, problem: Problem, key: jax.Array, mesh: Mesh) -> tuple[TrainState, Params]:
  """(state at step 0, frozen parameters), each laid out on the mesh by path rule. `name` is the stage's, for messages.

  Raises:
    UserError: a pretrained array has no place in the model, or another shape; nothing trains.
  """
  shapes = jax.eval_shape(lambda k: flatten(problem.init(k)), key)
  unfit = [
    f'{path} {tuple(x.shape)} (model: {tuple(shapes[path].shape) if path in shapes else "no such parameter"})'
    for path, x in problem.pretrained.items()
    if path not in shapes or shapes[path].shape != x.shape
  ]
  if unfit:
    raise UserError(
      f'stage {name}: these parameters of the start weights do not fit the model: ' + ', '.join(unfit[:10])
    )
  fresh = [path for path in shapes if path not in problem.pretrained]
  # XLA removes the initialisation of everything that is replaced.
  flat = jax.jit(
    lambda k: {path: x for path, x in flatten(problem.init(k)).items() if path in fresh},
    out_shardings={path: sharding.param_sharding(mesh, path, shapes[path].shape) for path in fresh},
  )(key)
  for path, x in problem.pretrained.items():
    flat[path] = sharding.put_param(path, np.asarray(x, np.float32), mesh)
  trained, frozen = split(flat, problem.trainable)
  if not trained:
    raise UserError(f'stage {name}: the pattern of trainable parameters, {problem.trainable!r}, matches none.')
  abstract = jax.eval_shape(problem.optimizer.init, trained)
  opt_state = jax.jit(problem.optimizer.init, out_shardings=sharding.tree_shardings(mesh, abstract))(trained)
  step, nonfinite = sharding.put_same((jnp.zeros((), jnp.int32),) * 2, mesh)
  return TrainState(step=step, nonfinite=nonfinite, params=trained, opt_state=opt_state), frozen


def cast_frozen(problem: Problem, frozen: Params, mesh: Mesh) -> Params:
  """The frozen parameters as the steps read them: kernels in `problem.kernel_dtype`."""
  cast = lambda params: sharding.constrain(mesh, flatten(cast_kernels(unflatten(params), problem.kernel_dtype)))
  return jax.jit(cast)(frozen)


def make_step(
  loss: Loss,
  optimizer: optax.GradientTransformation,
  learning_rate: Callable[[Any], Any],
  mesh: Mesh,
  skip_nonfinite: int = 0,
) -> Callable[[TrainState, Params, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
  """The jitted step: `(state, frozen, batch, root key) -> (state, metrics)`; the state is donated.

  Args:
    loss, optimizer, learning_rate: see `Problem`.
    mesh: of all devices.
    skip_nonfinite: in up to so many steps whose loss or gradient is not finite, parameters and optimizer stay unchanged.
  """

  def step(state: TrainState, frozen: Params, batch: Batch, root: jax.Array):
    key = jax.random.fold_in(root, state.step)

    def loss_of(trained):
      return loss(unflatten({**frozen, **trained}), batch, key)

    (value, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    # Sums over the batch go straight into shards. Without this constraint the compiler may keep whole copies.
    gradients = sharding.constrain(mesh, gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Not the norm of `updates`: a TPU would write them to memory, in a pass of their own over all parameters.
    change = jax.tree.map(jnp.subtract, params, state.params)
    gradient_norm = optax.global_norm(gradients)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
    nonfinite = jnp.where(finite, state.nonfinite, state.nonfinite + 1)
    if skip_nonfinite:
      skip = ~finite & (nonfinite <= skip_nonfinite)
      params, opt_state = jax.tree.map(
        lambda old, new: jnp.where(skip, old, new), (state.params, state.opt_state), (params, opt_state)
      )
    metrics = {
      **metrics,
      'loss': value,
      'gradient_norm': gradient_norm,
      'update_ratio': optax.global_norm(change) / optax.global_norm(state.params),
      'learning_rate': learning_rate(state.step - state.nonfinite),  # a skipped step does not advance the schedule
    }
    after = TrainState(step=state.step + 1, nonfinite=nonfinite, params=params, opt_state=opt_state)
    return sharding.constrain(mesh, after), metrics

  return jax.jit(sharding.on_mesh(mesh, step), donate_argnums=0)


def train(
  training: Training,
  options: LoopOptions,
  directory: Path,
  mesh: Mesh,
  seed: int,
  notes: Mapping[str, Any],
  wandb_project: str = '',
) -> dict[str, jax.Array]:
  """Trains a stage, or resumes from its newest checkpoint, and returns the selected parameters, trained and frozen (flat).

  Args:
    training: problem and data of the stage.
    options: of the loop.
    directory: `<workdir>/<stage>`; gets metrics.jsonl, events, checkpoints.
    mesh: of all devices.
    seed: of parameters and of every draw.
    notes: saved with each checkpoint (the resolved config).
    wandb_project: of Weights & Biases; empty: off.

  Raises:
    UserError: the weights do not fit; a loss is not finite (the batch is saved for replay); every checkpoint is damaged;
      the checkpoint was saved with other data or other start weights.
    Stopped: SIGTERM came, and the state of that step is saved.
  """
  problem, batches = training.problem, training.batches
  init_key, root = sharding.put_same(tuple(jax.random.split(jax.random.key(seed))), mesh)
  state, whole = initialise(options.name, problem, init_key, mesh)
  frozen = cast_frozen(problem, whole, mesh)
  # The cast has rounded these. The host keeps them for the result.
  rounded = sharding.to_host({path: x for path, x in whole.items() if frozen[path].dtype != x.dtype})
  del whole
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
  inputs = dict(training.info.get('inputs', {}))
  best_metric = 'loss' if options.select == 'best' else None
  with (
    hosts.StopSignal() as stopping,
    contextlib.closing(RunCheckpoints(directory / 'checkpoints', best_metric)) as checkpoints,
  ):
    first = 0
    if latest := checkpoints.latest(abstract):
      first, state, saved = latest
      since = f'checkpoint {first} of stage {options.name} was saved'
      check_same_inputs(saved.get('inputs', {}), inputs, since)
      batches.set_state(saved['data'])

    def save(step: int, state: TrainState, scores: Mapping[str, float] | None) -> None:
      checkpoints.save(step, state, {**notes, 'inputs': inputs, 'data': batches.get_state()}, scores)

    with contextlib.closing(MetricWriter(directory, first, wandb_project)) as writer:
      state = _run_steps(training, options, directory, mesh, root, first, state, frozen, writer, save, stopping)
    stopping.begin_save()
    checkpoints.wait()
    if best_metric and (best := checkpoints.best(abstract)):
      _, state, _ = best
  return {**frozen, **{path: sharding.put_param(path, x, mesh) for path, x in rounded.items()}, **state.params}


def check_same_inputs(before: Mapping[str, str], now: Mapping[str, str], since: str) -> None:
  """Raises a UserError where data or weights (name -> SHA-256) differ from those at an earlier moment (`since`)."""
  if changed := sorted(name for name in before.keys() & now.keys() if before[name] != now[name]):
    raise UserError(f'changed since {since}: {", ".join(changed)}. Put the old ones back or choose another --workdir.')


def _run_steps(
  training: Training,
  options: LoopOptions,
  directory: Path,
  mesh: Mesh,
  root: jax.Array,
  first: int,
  state: TrainState,
  frozen: Params,
  writer: MetricWriter,
  save: Callable[[int, TrainState, Mapping[str, float] | None], None],
  stopping: hosts.StopSignal,
) -> TrainState:
  """All steps after `first`, each with the logs, validations and checkpoints that are due after it."""
  problem, num_steps = training.problem, training.num_steps
  step_fn = make_step(problem.loss, problem.optimizer, problem.learning_rate, mesh, options.skip_nonfinite)
  validate = _make_validate(problem.loss, training.validation, mesh, root) if training.validation else None
  with contextlib.closing(progress(num_steps, options.name, first, compiles=True)) as bar:
    nonfinite = int(jax.device_get(state.nonfinite)) if first else 0
    log = _MetricLog(options, training.batches, writer, bar, directory, nonfinite)
    for step in range(first + 1, num_steps + 1):
      batch = next(training.batches)
      state, metrics = step_fn(state, frozen, sharding.put_batch(batch, mesh), root)
      log.add(step, metrics)
      bar.update()
      last = step == num_steps
      stop = stopping.asked(step)
      save_now = last or stop or step % options.checkpoint_every == 0
      evaluate = validate is not None and (last or step % options.eval_every == 0)
      if save_now or evaluate or step % options.log_every == 0:
        log.write()
      scores = None
      if evaluate:
        scores = validate(state, frozen)
        writer.write(step, 'validation', scores)
        log.started = time.monotonic()
      if stop:
        stopping.begin_save()
      if save_now or (evaluate and options.select == 'best'):
        save(step, state, scores)
      if stop:
        raise Stopped(
          f'stopped by SIGTERM at step {step} of stage {options.name}; the state is saved. The same command resumes.'
        )
  return state


def _make_validate(
  loss: Loss, batches: Callable[[], Iterable[Mapping[str, np.ndarray]]], mesh: Mesh, root: jax.Array
) -> Callable[[TrainState, Params], dict[str, float]]:
  # Every validation uses the draws of step -1, so that its values can be compared.
  @jax.jit
  @partial(sharding.on_mesh, mesh)
  def metrics_of(params: Params, frozen: Params, batch: Batch, root: jax.Array, index: jax.Array):
    key = jax.random.fold_in(jax.random.fold_in(root, np.uint32(2**32 - 1)), index)
    value, metrics = loss(unflatten({**frozen, **params}), batch, key)
    return {**metrics, 'loss': value}, jnp.sum(batch['weight'])

  def validate(state: TrainState, frozen: Params) -> dict[str, float]:
    results = [metrics_of(state.params, frozen, sharding.put_batch(b, mesh), root, i) for i, b in enumerate(batches())]
    results = jax.device_get(results)
    total = sum(weight for _, weight in results)
    means = {name: float(sum(m[name] * weight for m, weight in results) / total) for name in results[0][0]}
    return means | {name: _summarise(name, [m[name] for m, _ in results]) for name in means if name.startswith('max_')}

  return validate


class _MetricLog:
  """Metrics since the last line of the log. They stay on the device until then, so that the host never waits for a step."""

  def __init__(
    self, options: LoopOptions, batches: Batches, writer: MetricWriter, bar: Any, directory: Path, nonfinite: int
  ):
    self._options, self._batches, self._writer, self._bar, self._directory = options, batches, writer, bar, directory
    self._nonfinite = nonfinite  # steps so far
    self._begin()

  def _begin(self) -> None:
    self._steps: list[tuple[int, dict[str, jax.Array]]] = []
    self._position = self._batches.get_state()  # of the first of these steps
    self.started = time.monotonic()

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Takes the metrics of a step. Waits only where the host is `IN_FLIGHT` steps ahead of the device."""
    self._steps.append((step, metrics))
    if len(self._steps) > IN_FLIGHT:
      jax.block_until_ready(self._steps[-1 - IN_FLIGHT][1]['loss'])

  def write(self) -> None:
    """Writes the means (of `max_...` the largest) over finite steps since the last line.

    Raises:
      UserError: more steps than allowed were not finite. Nothing has been saved since the one too many.
    """
    finite, allowed = [], self._options.skip_nonfinite
    values = jax.device_get(self._steps)
    for step, metrics in values:
      if math.isfinite(metrics['loss']) and math.isfinite(metrics['gradient_norm']):
        finite.append(metrics)
        continue
      self._nonfinite += 1
      if self._nonfinite > allowed:
        self._save_batch_and_stop(step, metrics)
      hosts.log(
        f'{self._options.name}: step {step} is skipped, its loss or gradient is not finite: {self._nonfinite} of at most {allowed}'
      )
    if finite:
      means = {name: _summarise(name, [metrics[name] for metrics in finite]) for name in finite[0]}
      means['skipped_steps'] = self._nonfinite
      means['steps_per_second'] = len(values) / (time.monotonic() - self.started)
      self._writer.write(values[-1][0], 'train', means)
      self._bar.set_postfix_str(f'loss {means["loss"]:.4g}', refresh=False)  # shown when the bar is drawn next
    self._begin()

  def _save_batch_and_stop(self, step: int, metrics: Mapping[str, Any]) -> NoReturn:
    # Batches are not kept: it is read again.
    self._batches.set_state(self._position)
    for _ in range(self._steps[0][0], step + 1):
      batch = next(self._batches)
    host = f'_host{jax.process_index()}' if jax.process_count() > 1 else ''  # each has its share of the batch
    path = self._directory / f'nonfinite_step{step}{host}.npz'
    with atomic_write(path) as temporary:
      np.savez(temporary, **batch)
    raise UserError(
      f'stage {self._options.name}: the loss of step {step} is {metrics["loss"]}, its gradient norm '
      f'{metrics["gradient_norm"]}; the batch and its row numbers are saved in {path}. Check these rows, lower the learning '
      'rate in a new --workdir, or allow some such steps with config.skip_nonfinite. The last checkpoint is intact.'
    )


def _summarise(name: str, values: list) -> float:
  """One value of several steps: the largest of a `max_...`, else the mean."""
  return float(np.max(values) if name.startswith('max_') else np.mean(values))


if __name__ == '__main__':
  print('error: brainjax.train is the training loop; the command is: brainjax train.', file=sys.stderr)
  sys.exit(UserError.status)
