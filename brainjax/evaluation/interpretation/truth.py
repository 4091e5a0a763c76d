"""Maps against the simulated cortex that made the data, and controls: the shuffled model, the moved stimulus."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax.simulate import NOISE
from brainjax.simulator import cortex, stimuli, vision

PLACES = ('left', 'right')  # layouts of moved stimuli


def cortex_of(config: ConfigDict, subject: str) -> cortex.Subject:
  """The simulated cortex behind a subject of a run's data, such as 'sbj_1'."""
  options = {name: config.simulate[name] for name in (*NOISE, 'subject_jitter')}
  sizes = cortex.CortexConfig(num_voxels=config.simulate.voxels, **options)
  return cortex.Subject(sizes, config.simulate.seed, group=0, number=int(subject.removeprefix('sbj_')))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
  """Spearman's correlation of two arrays V; 0 where one is constant."""
  from scipy.stats import spearmanr  # slow to import

  return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)


def agreement(maps: np.ndarray, explainable_variance: np.ndarray) -> dict[str, float]:
  """How well the magnitude of saliency finds the voxels that carry signal.

  Args:
    maps: N V, saliency of each item.
    explainable_variance: V, the share of a single trial's variance that the stimulus explains; 0 for pure noise.

  Returns:
    signal_correlation: Spearman's, of the mean magnitude with the deviation of the signal, over voxels that respond.
    noise_ratio: mean magnitude over pure-noise voxels, over that of the others.
    noise_auc: the chance that a voxel that responds has a larger mean magnitude than one of pure noise; 1/2 is nothing.
  """
  magnitude, silent = np.abs(maps).mean(axis=0), explainable_variance == 0
  result = {
    'signal_correlation': rank_correlation(magnitude[~silent], np.sqrt(explainable_variance[~silent])),
  }
  if silent.any() and not silent.all():
    largest = np.searchsorted(np.sort(magnitude[silent]), magnitude[~silent])
    result['noise_ratio'] = float(magnitude[silent].mean() / magnitude[~silent].mean())
    result['noise_auc'] = float(largest.mean() / silent.sum())
  return result


def describe(
  config: ConfigDict, subject: str, roi: np.ndarray, maps: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
  """`agreement` of every map of a subject at each noise level.

  Args:
    config: of a run on simulated data.
    subject: name.
    roi: which of the subject's voxels are those of the maps.
    maps: name -> L N V.
  """
  explained = cortex_of(config, subject).explainable_variance[roi]
  return {name: [agreement(level, explained) for level in x] for name, x in maps.items()}


def centre(maps: np.ndarray, fields: np.ndarray) -> np.ndarray:
  """The mean receptive field, weighted by the magnitude of saliency: N V_early, V_early 3 -> N 2 (x, y; y points down)."""
  weight = np.abs(maps)
  return (weight @ fields[:, :2]) / np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)


def moved_responses(subject: cortex.Subject, count: int, seed: int) -> dict[str, np.ndarray]:
  """Responses without noise to the same scenes with their object at the left and at the right: place -> N V float32."""
  rng = np.random.default_rng(seed)
  rows = stimuli.random_attributes(rng, count)
  result = {}
  for place in PLACES:
    rows[:, 4] = stimuli.LAYOUTS.index(place)
    images, scenes = stimuli.render(rows, np.arange(count) + 1000 * seed, vision.IMAGE_SIZE, return_scenes=True)
    result[place] = subject.signal(vision.extract_features(images, scenes))
  return result


def shuffled(params: Any, seed: int, parts: tuple[str, ...] = ('conditioner',)) -> Any:
  """A model whose learned structure is gone: the entries of each array are permuted (Adebayo et al. 2018).

  Sizes and distributions of the parameters stay. A map that looks the same for this model shows its input, not what the
  model has learned.

  Args:
    params: of a `Reconstructor`.
    seed: of the permutations.
    parts: of the model; the conditioner is what reads fMRI.
  """

  def permute(number: int, x: Any) -> Any:
    flat = np.random.default_rng([seed, number]).permutation(np.asarray(x).reshape(-1))
    return jax.device_put(flat.reshape(x.shape), x.sharding)

  result = dict(params)
  for part in parts:
    leaves, tree = jax.tree.flatten(params[part])
    result[part] = jax.tree.unflatten(tree, [permute(number, leaf) for number, leaf in enumerate(leaves)])
  return result
