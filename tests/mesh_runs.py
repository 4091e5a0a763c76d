"""Runs in a process of its own with eight virtual devices, for the tests; prints what came out as JSON.

python -m tests.mesh_runs train contrast 1x1 8x1 1x8 2x4    # data x fsdp: meshes over as many devices
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from brainjax import pipeline, sharding, train  # noqa: F401 - pipeline registers the stages
from brainjax.checkpoints import save_weights
from brainjax.datasets import arrays
from brainjax.metric_writer import read_metrics
from brainjax.reconstruct import Reconstructor
from brainjax.stages import attend, common, contrast, diffuse
from brainjax.stages import data as stage_data
from brainjax.trees import flatten
from configs import tiny

ROOT = Path(__file__).parent.parent
# Compiling takes longer than running at these sizes.
CHEAP = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
# 29 rows in batches of 7 leave a batch of one; 7 rows on 2, 4 and 8 devices have to be filled up.
STEPS, BATCH, VOXELS, SIDE = 20, 7, 80, 32
ROWS = {'train': 29, 'val': 9}


def environment(devices):
  """For a process with so many virtual devices."""
  flags = f'--xla_force_host_platform_device_count={devices} {CHEAP}'
  # Each collective under way holds a thread of XLA's pool, which has one per device: several at once can wait for each
  # other for ever. NPROC is the pool's size.
  return os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu', 'NPROC': '32'}


def on_eight_devices(*arguments):
  """What this module prints, called from a test."""
  command = [sys.executable, '-m', 'tests.mesh_runs', *arguments]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, env=environment(8))
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def dataset(split):
  """Random responses to random pictures."""
  rng, rows = np.random.default_rng(len(split)), ROWS[split]
  return arrays.ArrayDataset(
    {'fmri': rng.standard_normal((rows, VOXELS), np.float32)},
    rng.integers(0, 256, (rows, SIDE, SIDE, 3), np.uint8),
    np.arange(rows),
    signed_unit=True,
    info={},
  )


def settings(steps):
  """The tiny config, every step logged; the rate moves the weights within a few steps."""
  config = tiny.get_config()
  config.log_every = 1
  for stage in ('contrast', 'attend', 'diffuse'):
    config[stage].update({'num_steps': steps, 'batch_size': BATCH, 'eval_every': 10, 'checkpoint_every': steps})
    config[stage].update({'learning_rate': 1e-3, 'warmup_epochs': 0.0})
  return config


def make_mesh(layout):
  """'2x4' -> a mesh of the first eight devices."""
  data, fsdp = map(int, layout.split('x'))
  return sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])


def make(name, config, mesh):
  """The stage on the random data."""

  def data_of(*args, **kwargs):
    return stage_data.make(config, name, [], dataset('train'), dataset('val'))

  padded = functools.partial(sharding.padded, devices=mesh.size)
  with (
    mock.patch.object(sharding, 'padded', padded),
    mock.patch.object(contrast, '_data', data_of),
    mock.patch.object(stage_data, 'paired', data_of),
  ):
    return {'contrast': contrast, 'attend': attend, 'diffuse': diffuse}[name].make(config, mesh)


def losses_of(folder):
  """Losses of training, and everything that validation wrote."""
  lines = read_metrics(folder / 'metrics.jsonl')
  return {
    'losses': [line['loss'] for line in lines if line['split'] == 'train'],
    'validation': [[v for k, v in sorted(line.items()) if k != 'split'] for line in lines if line['split'] != 'train'],
  }


def run_train(name, *layouts):
  """The same run on several meshes, and the share of the state after a step that one device holds."""
  results = {}
  for layout in layouts:
    with tempfile.TemporaryDirectory() as folder:
      mesh, config = make_mesh(layout), settings(STEPS)
      shares = []
      with mock.patch.object(train, 'make_step', _watched(shares)):
        train.train(
          make(name, config, mesh), train.LoopOptions.from_config(config, name), Path(folder), mesh, config.seed, {}
        )
      results[layout] = losses_of(Path(folder)) | {'share': shares[-1]}
  return results


def _watched(shares):
  original = train.make_step

  def make_step(*arguments):
    step = original(*arguments)

    def watched(*arguments):
      state, metrics = step(*arguments)
      leaves = jax.tree.leaves(state)
      shares.append(sum(x.addressable_shards[0].data.nbytes for x in leaves) / sum(x.nbytes for x in leaves))
      return state, metrics

    return watched

  return make_step


def run_reshard(*layouts):
  """A contrast run that goes on from its checkpoint on another mesh every four steps."""
  with tempfile.TemporaryDirectory() as folder:
    for number, layout in enumerate(layouts, 1):
      mesh, config = make_mesh(layout), settings(20)
      # The schedule is that of 20 steps; only the end is nearer.
      stage = make('contrast', config, mesh)._replace(num_steps=4 * number, validation=None)
      train.train(stage, train.LoopOptions.from_config(config, 'contrast'), Path(folder), mesh, config.seed, {})
    return losses_of(Path(folder))


def run_negatives(*layouts):
  """Both contrastive terms with `per_device` negatives, on 16 rows of which the last three are filling."""
  pred, fmri, weight = contrast_rows()
  views = {'pred': pred, 'mask': np.ones(pred.shape[:2], np.float32)}
  results = {}
  for layout in layouts:
    mesh = make_mesh(layout)
    info_nce, _ = contrast.make_contrasts('per_device', 0.1, mesh)
    batch = sharding.put_rows({'fmri': fmri, 'weight': weight}, mesh)
    loss = jax.jit(lambda batch, info_nce=info_nce: contrast.contrast_loss(
      views, batch['fmri'], contrast.Weights(), info_nce, row_weight=batch['weight'])[1])  # fmt: skip
    results[layout] = {name: float(value) for name, value in loss(batch).items()}
  return results


def contrast_rows():
  """Two views of 16 rows of 6 voxels in patches of 2, the rows, and their weights."""
  rng = np.random.default_rng(5)
  pred, fmri = rng.standard_normal((32, 3, 2), np.float32), rng.standard_normal((16, 6), np.float32)
  return pred, fmri, (np.arange(16) < 13).astype(np.float32)


def run_reconstruct(*layouts):
  """Pictures of a random model on several meshes."""
  parts = diffuse.models(tiny.get_config(), VOXELS)
  flat = jax.jit(lambda key: flatten(parts.init_params(key)))(jax.random.key(0))
  fmri = np.random.default_rng(1).standard_normal((3, VOXELS), np.float32)
  info = {'settings': {name: common.kwargs_of(part) for name, part in parts._asdict().items()}}
  with tempfile.TemporaryDirectory() as folder:
    save_weights(Path(folder) / 'weights', jax.device_get(flat), info)
    return {
      layout: Reconstructor(Path(folder) / 'weights', mesh=make_mesh(layout))(
        fmri, num_samples=3, num_steps=4, normalised=True
      ).tolist()
      for layout in layouts
    }


if __name__ == '__main__':
  jax.config.update('jax_default_matmul_precision', 'highest')
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  print(json.dumps(globals()[f'run_{sys.argv[1]}'](*sys.argv[2:])))
