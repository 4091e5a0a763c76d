"""Where a result comes from: config, seeds, versions, weights' SHA-256, statistics of the data."""

import importlib.metadata
import json
import platform
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import brainjax
from brainjax import locate
from brainjax.checkpoints import load_weights, read_info, weights_digest
from brainjax.datasets import registry
from brainjax.datasets.arrays import ArrayDataset
from brainjax.evaluation.networks import classifiers
from brainjax.files import sha256
from brainjax.stages.registry import RANDOM, STAGES
from brainjax.trees import flatten

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'tensorflow-datasets')
DIGEST = 'SHA-256 over name, type, shape and bytes of every array in the order of names; of the file of a classifier, over its bytes'


def collect(
  config: ConfigDict, workdir: Path, train: ArrayDataset, test: ArrayDataset, baselines: Mapping[str, Mapping]
) -> dict[str, dict[str, Any]]:
  """Sections of plain values for the report and provenance.json.

  Raises:
    UserError: weights cannot be read.
  """
  fields = flatten(json.loads(config.to_json_best_effort()), '.')
  return {
    'Config': fields,
    'Seeds': {
      'training (initial weights, shuffling, masks, noise, validation split) and scores': config.seed,
      'sampling': config.reconstruct.seed,
      **({'simulation': config.simulate.seed} if registry.is_simulated(config) else {}),
    },
    'Versions': {
      'brainjax': brainjax.__version__,
      'Python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in PACKAGES},
      'devices': ', '.join(sorted({device.device_kind for device in jax.devices()})),
    },
    'Weights': _weights(config, workdir) | {'method': DIGEST},
    'Data': _data(config, train, test),
    **({'Baselines': flatten(dict(baselines), '.')} if baselines else {}),
  }


def _weights(config: ConfigDict, workdir: Path) -> dict[str, str]:
  """SHA-256 of the trained weights in the workdir, and of the files and folders that the run started from."""
  own = {name: path for name in STAGES if (path := workdir / name / 'weights').exists()}
  digests = {name: weights_digest(load_weights(path)[0]) for name, path in own.items()}
  inputs: dict[str, str] = {}  # training has hashed what it started from
  for path in own.values():
    inputs |= read_info(path).get('inputs', {})
  for field, source in _sources(config, set(map(str, own.values()))):
    path = classifiers.lite0_file() if source == classifiers.LITE0 else locate.weights(source)
    if digest := inputs.get(f'weights of {field}') or (_digest_of(path) if path.exists() else ''):
      digests[f'{field} = {source}'] = digest
  return digests


def _sources(config: ConfigDict, made_here: Collection[str]) -> Iterator[tuple[str, str]]:
  """(field, weights) of all that the run started from and that judged it, but for weights of its own stages."""
  for stage, spec in STAGES.items():
    for field in spec.weights:
      value = config.get(stage, {}).get(field.name, '')
      for source in (value,) if isinstance(value, str) else value:
        if source not in ('', RANDOM, *made_here):
          yield f'{stage}.{field.name}', source


def _digest_of(path: Path) -> str:
  return sha256(path) if path.is_file() else weights_digest(load_weights(path)[0])


def _data(config: ConfigDict, train: ArrayDataset, test: ArrayDataset) -> dict[str, Any]:
  facts: dict[str, Any] = {
    'data set': f'{config.data.dataset}, {"simulated" if registry.is_simulated(config) else "measured"}',
    'subjects': ', '.join(train.info['subjects']),
    'ROI': config.data.roi,
    'training rows, stimuli': f'{len(train)}, {len(np.unique(train.columns["stimulus"]))}',
    'test rows, stimuli': f'{len(test)}, {len(np.unique(test.columns["stimulus"]))}',
    'training stimuli held out for validation': config.data.num_val_stimuli,
  }
  for subject, transform in train.info['transforms'].items():
    mean, deviation = np.mean(transform.mean), np.mean(transform.std)  # of all voxels where each has its own
    facts[f'{subject}: voxels; mean and deviation of training fMRI before z-scoring'] = (
      f'{transform.num_voxels}; {mean:.6g}, {deviation:.6g}'
    )
  facts['test fMRI after z-scoring with training statistics: mean, deviation'] = (
    f'{test.columns["fmri"].mean():.4g}, {test.columns["fmri"].std():.4g}'
  )
  return facts
