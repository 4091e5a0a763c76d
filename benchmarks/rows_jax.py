"""Our side of each row, made of the code that `launch.py` runs: built once, then called for each measurement."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import full_stages, rows
from benchmarks.rows import PLMS_STEPS, Row, config, voxels
from benchmarks.work import FEW, Work, elapsed, extrapolated
from brainjax import reconstruct, sharding, train
from brainjax.models.latent_diffusion import LatentDiffusion
from brainjax.ops import diffusion
from brainjax.stages import diffuse
from brainjax.stages.problem import Training
from brainjax.trees import flatten, subtree, unflatten


def build(row: Row, quick: bool, full: bool = False, changes: dict | None = None) -> Work:
  """Builds the computation of a row.

  Args:
    row: see `rows`.
    quick: at tiny sizes.
    full: sample all steps instead of computing their time from a few.
    changes: path of a config field -> value, to try variants.
  """
  settings = config(quick)
  settings.update_from_flattened_dict(changes or {})
  makers = dict.fromkeys(rows.STEPS, _training) | {'matmul': _matmul, 'copy': _copy}
  if row.name == 'sample':
    return _sample(row, settings, quick, full)
  return makers.get(row.name, _forward)(row, settings, quick)


def _matmul(row: Row, settings: ConfigDict, quick: bool) -> Work:
  dtype = jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
  a = jax.random.normal(jax.random.key(0), (row.batch, row.batch), dtype)
  product = jax.jit(jnp.matmul)
  return Work(lambda: product(a, a).block_until_ready())


def _copy(row: Row, settings: ConfigDict, quick: bool) -> Work:
  a = jnp.ones(row.batch * 2**18, jnp.float32)  # `batch` MiB
  add = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place: no new memory

  def call():
    nonlocal a
    a = add(a).block_until_ready()

  return Work(call)


class Pieces(NamedTuple):
  """A training step, and a function that builds its arguments."""

  step: Callable
  arguments: Callable[[], tuple]


def _stage(
  row: Row, settings: ConfigDict, mesh: jax.sharding.Mesh, num_voxels: int
) -> tuple[Training, dict[str, tuple]]:
  """Builds the stage of a row; returns it with the shapes of a batch."""
  if row.name == 'cached':
    settings = settings.copy_and_resolve_references()
    settings.diffuse.cached_crops = 1
  stage = full_stages.make(row.stage, settings, mesh, num_voxels)
  return stage, full_stages.shapes(row.stage, settings, row.batch, num_voxels)


def training_step(row: Row, settings: ConfigDict, num_voxels: int) -> Pieces:
  """Builds the jitted step of the training loop; its arguments are (state, frozen, batch, key)."""
  mesh = sharding.make_mesh(devices=jax.devices())
  stage, shapes = _stage(row, settings, mesh, num_voxels)

  def arguments():
    rng = np.random.default_rng(0)
    batch = {name: rng.standard_normal(shape, np.float32).clip(-1, 1) for name, shape in shapes.items()}
    batch['weight'] = np.ones(row.batch, np.float32)
    init_key, root = sharding.put_same(tuple(jax.random.split(jax.random.key(0))), mesh)
    state, frozen = train.initialise(row.stage, stage.problem, init_key, mesh)
    return state, train.cast_frozen(problem, frozen, mesh), sharding.put_batch(batch, mesh), root

  problem = stage.problem
  return Pieces(train.make_step(problem.loss, problem.optimizer, problem.learning_rate, mesh), arguments)


def _training(row: Row, settings: ConfigDict, quick: bool) -> Work:
  pieces = training_step(row, settings, voxels(row, quick))
  state, *rest = pieces.arguments()

  def call():
    nonlocal state
    state, metrics = pieces.step(state, *rest)
    jax.block_until_ready((state, metrics))  # the CPU frees its temporaries only now

  return Work(call)


class Forward(NamedTuple):
  """A function of parameters and inputs, with the shapes of the inputs."""

  apply: Callable
  part: str  # of the parameters
  inputs: dict[str, tuple]  # name -> shape; 't' has integers, the others float32


def forward(name: str, settings: ConfigDict, batch: int, num_voxels: int) -> tuple[LatentDiffusion, Forward]:
  """Builds the diffusion model; returns it with one of its passes: 'unet', 'encode' or 'decode'."""
  parts = diffuse.models(settings, num_voxels)
  side, latent = settings.data.image_size, parts.first_stage.latent_shape
  context = (parts.conditioner.context_tokens, parts.unet.context_dim)
  if name == 'unet':
    apply = lambda p, x, t, context: parts.unet.apply({'params': p}, x, t, context)
    return parts, Forward(apply, 'unet', {'x': (batch, *latent), 't': (batch,), 'context': (batch, *context)})
  shape = (batch, side, side, 3) if name == 'encode' else (batch, *latent)
  apply = lambda p, x: parts.first_stage.apply({'params': p}, x, method=name)
  return parts, Forward(apply, 'first_stage', {'x': shape})


def _forward(row: Row, settings: ConfigDict, quick: bool) -> Work:
  parts, (apply, part, shapes) = forward(row.name, settings, row.batch, voxels(row, quick))
  params = _parameters(parts, [part])[part]
  rng = np.random.default_rng(0)
  inputs = {name: jnp.asarray(rng.standard_normal(shape, np.float32)) for name, shape in shapes.items()}
  if 't' in inputs:
    inputs['t'] = jnp.full(row.batch, 500, jnp.int32)
  jitted = jax.jit(apply)
  return Work(lambda: jitted(params, *inputs.values()).block_until_ready())


def _parameters(parts: LatentDiffusion, wanted: list[str]) -> dict:
  """Initialises some of the parts with random parameters."""
  make = jax.jit(lambda key: {name: x for name, x in parts.init_params(key).items() if name in wanted})
  return make(jax.random.key(0))


def _sample(row: Row, settings: ConfigDict, quick: bool, full: bool) -> Work:
  parts = diffuse.models(settings, voxels(row, quick))
  params = _parameters(parts, list(parts._fields))
  rng = np.random.default_rng(0)
  part_size = min(row.batch, settings.reconstruct.batch_size)
  batch = {
    'fmri': jnp.asarray(rng.standard_normal((part_size, voxels(row, quick)), np.float32)),
    'item': jnp.zeros(part_size, jnp.int32),
    'sample': jnp.arange(part_size),
  }
  options = dict(sampler='plms', guided=False, noisy=False, eta=0.0, guidance=1.0)
  schedule = diffusion.make_schedule()
  whole = jax.jit(partial(reconstruct._sample, parts, schedule, num_steps=PLMS_STEPS, **options))
  latent = jax.jit(partial(reconstruct._latent, parts, schedule, **options), static_argnames='num_steps')
  decode = jax.jit(partial(reconstruct._decode, parts))
  root = jax.random.key(0)
  parts_of_batch = -(-row.batch // part_size)

  if full:
    return Work(lambda: [np.asarray(whole(params, batch, root)) for _ in range(parts_of_batch)])
  few = FEW[quick]
  steps = {number: latent.lower(params, batch, root, num_steps=number) for number in few}

  def warm():
    for number in few:
      steps[number] = steps[number].compile()
    decode(params, steps[few[0]](params, batch, root)).block_until_ready()

  def seconds() -> float:
    sampling = extrapolated(lambda number: elapsed(lambda: steps[number](params, batch, root).block_until_ready()), few)
    pictures = jnp.zeros((part_size, *parts.first_stage.latent_shape))
    return parts_of_batch * (sampling + elapsed(lambda: np.asarray(decode(params, pictures))))

  return Work(timed=seconds, warm=warm)


def abstract_step(row: Row, settings: ConfigDict, num_voxels: int) -> tuple[Callable, tuple]:
  """Returns the step and the shapes of its arguments, for counting operations. Nothing is allocated."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  stage, shapes = _stage(row, settings, mesh, num_voxels)
  return full_stages.abstract_step(stage, shapes, mesh)


def abstract_forward(name: str, settings: ConfigDict, batch: int, num_voxels: int) -> tuple[Callable, tuple]:
  """Returns a pass and the shapes of its arguments."""
  parts, (apply, part, shapes) = forward(name, settings, batch, num_voxels)
  flat = jax.eval_shape(lambda k: flatten(parts.init_params(k)), jax.eval_shape(lambda: jax.random.key(0)))
  kinds = {name: jnp.int32 if name == 't' else jnp.float32 for name in shapes}
  inputs = [jax.ShapeDtypeStruct(shape, kinds[name]) for name, shape in shapes.items()]
  return jax.jit(apply), (unflatten(subtree(flat, part)), *inputs)
