"""A workdir with simulated data, small random weights and the demo's classifier: enough for the stage interpret."""

import numpy as np

from brainjax.checkpoints import load_weights, save_weights
from brainjax.datasets import god
from brainjax.datasets.paired_rows import load
from brainjax.files import write_json
from brainjax.simulate import GOD_FOLDER, simulate
from configs import tiny
from tests.small_weights import NUM_VOXELS, write_weights

VOXELS = 80


def make(workdir):
  """Fills the workdir; returns the config of the run."""
  config = tiny.get_config()
  config.simulate.folder = str(workdir / 'simulated')
  config.data.prepared = str(workdir / 'prepared')
  config.data.image_size = 16  # as the weights draw
  config.first_stage.ch_mult = config.unet.channel_mult = (1, 2)
  config.fmri_mae.patch_size = 8
  config.data.zscore = 'voxel'
  config.evaluate.classifier = 'configs/demo_classifier.safetensors'
  config.interpret.update({'num_items': 7, 'num_steps': 4, 'num_points': 2, 'num_bootstrap': 200, 'attribute': 'left'})
  config.interpret.areas = ('V1', 'V2+V3')
  simulate(workdir / 'simulated', voxels=VOXELS, subjects=1, hcp_subjects=0, image_size=64)
  god.prepare(workdir / 'simulated' / GOD_FOLDER, config.data.prepared, ['sbj_1'])
  options = {'patch_size': 8, 'zscore': 'voxel', 'num_val_stimuli': 20, 'val_seed': 7, 'image_size': 0}
  train = load(god.DATA_SET, config.data.prepared, ['sbj_1'], **options)
  folder = write_weights(workdir / 'small')
  params, info = load_weights(folder)
  transforms = [transform.with_width(NUM_VOXELS).to_json() for transform in train.info['transforms'].values()]
  save_weights(workdir / 'diffuse' / 'weights', params, info | {'input': transforms})
  (workdir / 'evaluate').mkdir()
  write_json(workdir / 'evaluate' / 'config.json', {'seed': 7} | _sections(config))
  write_json(workdir / 'evaluate' / 'complete.json', {'seconds': 1.0})
  return config


def _sections(config):
  """What the stage evaluate would have saved of them."""
  import json

  kept = json.loads(config.to_json_best_effort())
  return {
    name: kept[name]
    for name in ('data', 'simulate', 'fmri_mae', 'first_stage', 'unet', 'evaluate', 'reconstruct', 'released')
  }


def mean_training_response(config):
  """The mean over training rows of every voxel of the model input: W."""
  options = {'patch_size': 8, 'zscore': 'voxel', 'num_val_stimuli': 20, 'val_seed': 7, 'image_size': 0}
  rows = load(god.DATA_SET, config.data.prepared, ['sbj_1'], **options)
  return np.resize(rows.columns['fmri'].mean(axis=0), NUM_VOXELS)
