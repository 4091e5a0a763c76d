"""THE training loop: jit, gradients of what trains, logging, checkpoints, resume. There is no second one."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from brainjax import hosts, sharding, workdirs
from brainjax.checkpoints import RunCheckpoints
from brainjax.errors import Stopped, UserError
from brainjax.files import atomic_write
from brainjax.metric_writer import MetricWriter, progress
from brainjax.stages.stage import Batch, Stage
from brainjax.trees import flatten, split, unflatten

Params = Mapping[str, jax.Array]  # '/'-joined path -> array
# Steps that the host may be ahead of the devices: enough to keep them busy, and few batches in their memory.
IN_FLIGHT = 4
# Seconds that a step may take to end after SIGTERM; schedulers wait 30 or more before they kill.
GRACE = 25.0


@flax.struct.dataclass
class TrainState:
  """What a step changes: the number of steps done, of those that were not finite, trained parameters, optimizer state."""

  step: jax.Array
  nonfinite: jax.Array
  params: Params
  opt_state: Any


def initialise(stage: Stage, key: jax.Array, mesh: Mesh) -> tuple[TrainState, Params]:
  """(state at step 0, frozen parameters), each laid out on the mesh by path rule.

  Raises:
    UserError: a pretrained array has no place in the model, or another shape.
  """
  shapes = jax.eval_shape(lambda k: flatten(stage.init(k)), key)
  unfit = [
    f'{path} {tuple(x.shape)} (model: {tuple(shapes[path].shape) if path in shapes else "no such parameter"})'
    for path, x in stage.pretrained.items()
    if path not in shapes or shapes[path].shape != x.shape
  ]
  if unfit:
    raise UserError(f'stage {stage.name}: the weights to start from do not fit the model in: ' + ', '.join(unfit[:10]))
  fresh = [path for path in shapes if path not in stage.pretrained]
  # Only what is not replaced is drawn: XLA removes the rest of the initialisation.
  flat = jax.jit(
    lambda k: {path: x for path, x in flatten(stage.init(k)).items() if path in fresh},
    out_shardings={path: sharding.param_sharding(mesh, path, shapes[path].shape) for path in fresh},
  )(key)
  for path, x in stage.pretrained.items():
    flat[path] = sharding.put_param(path, np.asarray(x, np.float32), mesh)
  trained, frozen = split(flat, stage.trainable)
  if not trained:
    raise UserError(f'stage {stage.name}: no parameter matches the expression of what trains, {stage.trainable!r}.')
  abstract = jax.eval_shape(stage.optimizer.init, trained)
  opt_state = jax.jit(stage.optimizer.init, out_shardings=sharding.tree_shardings(mesh, abstract))(trained)
  step, nonfinite = sharding.put_same((jnp.zeros((), jnp.int32),) * 2, mesh)
  return TrainState(step=step, nonfinite=nonfinite, params=trained, opt_state=opt_state), frozen


def make_step(
  stage: Stage, mesh: Mesh
) -> Callable[[TrainState, Params, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
  """The jitted step: `(state, frozen, batch, root key) -> (state, metrics)`; the state is donated.

  In up to `skip_nonfinite` steps whose loss or gradient is not finite, parameters and optimizer stay as they were.
  """

  def step(state: TrainState, frozen: Params, batch: Batch, root: jax.Array):
    key = jax.random.fold_in(root, state.step)

    def loss(trained):
      return stage.loss(unflatten({**frozen, **trained}), batch, key)

    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    # Summed over the batch straight into shards; without being told the compiler may keep whole copies.
    gradients = sharding.constrain(mesh, gradients)
    updates, opt_state = stage.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    gradient_norm = optax.global_norm(gradients)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient_norm)
    nonfinite = jnp.where(finite, state.nonfinite, state.nonfinite + 1)
    if stage.skip_nonfinite:
      skip = ~finite & (nonfinite <= stage.skip_nonfinite)
      params, opt_state = jax.tree.map(
        lambda old, new: jnp.where(skip, old, new), (state.params, state.opt_state), (params, opt_state)
      )
    metrics = {
      **metrics,
      'loss': value,
      'gradient_norm': gradient_norm,
      'update_ratio': optax.global_norm(updates) / optax.global_norm(state.params),
      'learning_rate': stage.learning_rate(state.step),
    }
    after = TrainState(step=state.step + 1, nonfinite=nonfinite, params=params, opt_state=opt_state)
    return sharding.constrain(mesh, after), metrics

  return jax.jit(sharding.on_mesh(mesh, step), donate_argnums=0)


def train(
  stage: Stage, directory: Path, mesh: Mesh, seed: int, notes: Mapping[str, Any], wandb_project: str = ''
) -> dict[str, jax.Array]:
  """Trains a stage, or goes on from its newest checkpoint, and returns the selected parameters, trained and frozen (flat).

  Args:
    stage: see `Stage`.
    directory: `<workdir>/<stage>`; gets metrics.jsonl, events, checkpoints.
    mesh: of all devices.
    seed: of parameters and of every draw.
    notes: saved with each checkpoint (the resolved config).
    wandb_project: of Weights & Biases; empty: off.

  Raises:
    UserError: weights that do not fit; a loss that is not finite (the batch is saved for replay); no whole checkpoint;
      other data or weights to start from than those of the checkpoint.
    Stopped: SIGTERM came, and the state of that step is saved.
  """
  init_key, root = sharding.put_same(tuple(jax.random.split(jax.random.key(seed))), mesh)
  state, frozen = initialise(stage, init_key, mesh)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
  inputs = dict(stage.info.get('inputs', {}))
  with (
    _StopSignal() as stopping,
    contextlib.closing(
      RunCheckpoints(directory / 'checkpoints', 'loss' if stage.select == 'best' else None)
    ) as checkpoints,
  ):
    first = 0
    if found := checkpoints.latest(abstract):
      first, state, saved = found
      since = f'checkpoint {first} of stage {stage.name} was saved'
      workdirs.refuse_other_inputs(saved.get('inputs', {}), inputs, since)
      stage.batches.set_state(saved['data'])

    def save(step: int, state: TrainState, scores: Mapping[str, float] | None) -> None:
      checkpoints.save(step, state, {**notes, 'inputs': inputs, 'data': stage.batches.get_state()}, scores)

    with contextlib.closing(MetricWriter(directory, first, wandb_project)) as writer:
      state = _steps(stage, directory, mesh, root, first, state, frozen, writer, save, stopping)
    stopping.begin_save()
    checkpoints.wait()
    if stage.select == 'best' and (found := checkpoints.best(abstract)):
      _, state, _ = found
  return {**frozen, **state.params}


def _steps(
  stage: Stage,
  directory: Path,
  mesh: Mesh,
  root: jax.Array,
  first: int,
  state: TrainState,
  frozen: Params,
  writer: MetricWriter,
  save: Callable[[int, TrainState, Mapping[str, float] | None], None],
  stopping: '_StopSignal',
) -> TrainState:
  """Every step from `first` on, with what is due after it: logs, validation, checkpoints."""
  step_fn = make_step(stage, mesh)
  validate = _make_validate(stage, mesh, root) if stage.validation else None
  with contextlib.closing(progress(stage.num_steps, stage.name, first)) as bar:
    pending = _Pending(stage, writer, bar, directory, int(jax.device_get(state.nonfinite)) if first else 0)
    for done in range(first + 1, stage.num_steps + 1):
      batch = next(stage.batches)
      state, metrics = step_fn(state, frozen, sharding.put_batch(batch, mesh), root)
      pending.add(done, metrics, batch)
      bar.update()
      last = done == stage.num_steps
      stop = stopping.asked(done)
      save_now = last or stop or done % stage.checkpoint_every == 0
      evaluate = validate is not None and (last or done % stage.eval_every == 0)
      if save_now or evaluate or done % stage.log_every == 0:
        pending.log()
      scores = None
      if evaluate:
        scores = validate(state, frozen)
        writer.write(done, 'validation', scores)
        pending.started = time.monotonic()
      if stop:
        stopping.begin_save()
      if save_now or (evaluate and stage.select == 'best'):
        save(done, state, scores)
      if stop:
        raise Stopped(
          f'stopped by SIGTERM at step {done} of stage {stage.name}; the state is saved, the same command goes on.'
        )
  return state


def _make_validate(stage: Stage, mesh: Mesh, root: jax.Array) -> Callable[[TrainState, Params], dict[str, float]]:
  # The draws are those of step -1, the same at every validation, so that values are comparable.
  @jax.jit
  @partial(sharding.on_mesh, mesh)
  def metrics_of(params: Params, frozen: Params, batch: Batch, root: jax.Array, index: jax.Array):
    key = jax.random.fold_in(jax.random.fold_in(root, np.uint32(2**32 - 1)), index)
    value, metrics = stage.loss(unflatten({**frozen, **params}), batch, key)
    return {**metrics, 'loss': value}, jnp.sum(batch['weight'])

  def validate(state: TrainState, frozen: Params) -> dict[str, float]:
    results = [
      metrics_of(state.params, frozen, sharding.put_batch(b, mesh), root, i) for i, b in enumerate(stage.validation())
    ]
    results = jax.device_get(results)
    total = sum(weight for _, weight in results)
    means = {name: float(sum(m[name] * weight for m, weight in results) / total) for name in results[0][0]}
    return means | {name: _summary(name)([m[name] for m, _ in results]) for name in means if name.startswith('max_')}

  return validate


class _Pending:
  """Metrics that are still on the device, with the batches they came from; fetched and checked at each log."""

  def __init__(self, stage: Stage, writer: MetricWriter, bar: Any, directory: Path, skipped: int):
    self._stage, self._writer, self._bar, self._directory = stage, writer, bar, directory
    self._steps: list[tuple[int, dict[str, jax.Array]]] = []
    self._batches: list[Mapping[str, np.ndarray]] = []
    self._skipped = skipped  # steps that were not finite
    self.started = time.monotonic()

  def add(self, step: int, metrics: dict[str, jax.Array], batch: Mapping[str, np.ndarray]) -> None:
    self._steps.append((step, metrics))
    self._batches.append(batch)
    if len(self._steps) > IN_FLIGHT:
      jax.block_until_ready(self._steps[-1 - IN_FLIGHT][1]['loss'])

  def log(self) -> None:
    """Writes the means (of `max_...` the largest) since the last log, over finite steps.

    Raises:
      UserError: more steps than allowed were not finite. Nothing has been saved since the one too many.
    """
    values = jax.device_get(self._steps)
    finite = []
    for (step, metrics), batch in zip(values, self._batches, strict=True):
      if math.isfinite(metrics['loss']) and math.isfinite(metrics['gradient_norm']):
        finite.append(metrics)
        continue
      self._skipped += 1
      if self._skipped > self._stage.skip_nonfinite:
        self._refuse(step, metrics, batch)
      hosts.log(
        f'{self._stage.name}: step {step} is skipped, it was not finite: {self._skipped} of at most {self._stage.skip_nonfinite}'
      )
    if finite:
      means = {name: _summary(name)([metrics[name] for metrics in finite]) for name in finite[0]}
      means['skipped_steps'] = self._skipped
      means['steps_per_second'] = len(values) / (time.monotonic() - self.started)
      self._writer.write(values[-1][0], 'train', means)
      self._bar.set_postfix_str(f'loss {means["loss"]:.4g}', refresh=False)  # shown when the bar is drawn next
    self._steps.clear()
    self._batches.clear()
    self.started = time.monotonic()

  def _refuse(self, step: int, metrics: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> None:
    host = f'_host{jax.process_index()}' if jax.process_count() > 1 else ''  # each has its share of the batch
    path = self._directory / f'nonfinite_step{step}{host}.npz'
    with atomic_write(path) as temporary:
      np.savez(temporary, **batch)
    raise UserError(
      f'stage {self._stage.name}: the loss of step {step} is {metrics["loss"]}, its gradient norm '
      f'{metrics["gradient_norm"]}; the batch, with the numbers of its rows, is saved in {path}. Look at these data, lower '
      'the learning rate in a new --workdir, or allow some such steps with config.skip_nonfinite. The last checkpoint is '
      'intact.'
    )


def _summary(name: str) -> Callable[[list], float]:
  """How values of a metric become one: extremes stay extremes, everything else is averaged."""
  return lambda values: float(np.max(values) if name.startswith('max_') else np.mean(values))


class _StopSignal:
  """Notices SIGTERM, so that the loop can save and leave; the hosts of one run agree on the step through JAX's notice."""

  def __init__(self):
    self._asked = False
    self._timer = threading.Timer(GRACE, self._give_up)
    self._timer.daemon = True
    self._noticing = hosts.at_sigterm(self._ask)

  def __enter__(self) -> '_StopSignal':
    self._noticing.__enter__()
    return self

  def __exit__(self, kind, error, trace) -> None:
    self._timer.cancel()
    self._noticing.__exit__(kind, error, trace)
    if self._asked and error is None:  # it came after the last step: handed on
      os.kill(os.getpid(), signal.SIGTERM)

  def asked(self, step: int) -> bool:
    """Whether to save after this step and leave. To be called at every step."""
    return self._asked if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)

  def begin_save(self) -> None:
    """From here on nothing is hurried: a save that is under way is not cut off."""
    self._timer.cancel()

  def _ask(self) -> None:
    if not self._asked:
      self._asked = True
      self._timer.start()

  def _give_up(self) -> None:
    # In the middle of a compilation or a validation that takes longer than schedulers wait.
    hosts.end_now(
      f'stopped by SIGTERM in a step that takes more than {GRACE:.0f} s; the same command goes on from the last checkpoint.',
      Stopped.status,
    )
