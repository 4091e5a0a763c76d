"""Maps against the simulated cortex that made the data, with two controls: the shuffled model and the moved stimulus."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax.evaluation.interpretation.run import Run
from brainjax.evaluation.interpretation.saliency import LATENT
from brainjax.evaluation.statistics.resampling import Bootstrap
from brainjax.simulate import NOISE
from brainjax.simulator import cortex, stimuli, vision

PLACES = ('left', 'right')  # layouts of moved stimuli
NUM_BOOTSTRAP = 1000
NUM_SHUFFLED = 3  # shuffled models
CONTROL_ITEMS = 16  # items, or moved scenes, of a control


def cortex_of(config: ConfigDict, subject: str) -> cortex.Subject:
  """The simulated cortex behind a subject of a run's data, such as 'sbj_1'."""
  options = {name: config.simulate[name] for name in (*NOISE, 'subject_jitter')}
  sizes = cortex.CortexConfig(num_voxels=config.simulate.voxels, **options)
  return cortex.Subject(sizes, config.simulate.seed, group=0, number=int(subject.removeprefix('sbj_')))


def agreement(magnitude: np.ndarray, explainable_variance: np.ndarray) -> dict[str, np.ndarray]:
  """How well the map of each item finds the voxels that carry signal.

  Args:
    magnitude: N V, of saliency.
    explainable_variance: V, the share of a single trial's variance that the stimulus explains; 0 for pure noise.

  Returns:
    Of each item, N:
    signal_correlation: Spearman's, with the deviation of the signal, over voxels that respond.
    noise_ratio: mean over pure-noise voxels, over that of the others; left out where all respond.
    noise_auc: the chance that a voxel that responds has more than one of pure noise; 1/2 is nothing. Left out likewise.
  """
  from scipy.stats import rankdata  # slow to import

  responds = explainable_variance > 0
  result = {'signal_correlation': _rank_correlation(magnitude[:, responds], explainable_variance[None, responds])}
  count, silent = int(responds.sum()), int((~responds).sum())
  if count and silent:
    means = [magnitude[:, which].mean(axis=1) for which in (~responds, responds)]
    result['noise_ratio'] = means[0] / np.maximum(means[1], 1e-30)
    ranks = rankdata(magnitude, axis=1)[:, responds].sum(axis=1)
    result['noise_auc'] = (ranks - count * (count + 1) / 2) / (count * silent)  # Mann and Whitney's U
  return result


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Spearman's correlation of the rows of two arrays N V (or 1 V): N; 0 where one is constant."""
  from scipy.stats import rankdata  # slow to import

  a, b = (rankdata(x, axis=1) - (x.shape[1] + 1) / 2 for x in (a, b))
  size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  return np.where(size > 0, (a * b).sum(axis=1) / np.where(size > 0, size, 1), 0.0)


def centre(maps: np.ndarray, fields: np.ndarray) -> np.ndarray:
  """The mean receptive field, weighted by the magnitude of a map: ... V_early, V_early 3 -> ... 2 (x, y; y points down)."""
  weight = np.abs(maps)
  return (weight @ fields[:, :2]) / np.maximum(weight.sum(axis=-1, keepdims=True), 1e-12)


def moved_responses(subject: cortex.Subject, count: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Responses without noise to the same scenes with their object at the left and at the right.

  Returns:
    Place -> the responses N V float32, and those where the early areas see the background alone.
  """
  rng = np.random.default_rng(seed)
  rows = stimuli.random_attributes(rng, count)
  result = {}
  for place in PLACES:
    rows[:, 4] = stimuli.LAYOUTS.index(place)
    scenes = stimuli.sample_scenes(rows, np.arange(count) + 1000 * seed)
    hidden = dataclasses.replace(scenes, radius=np.full_like(scenes.radius, 1e-3))  # too small to be seen
    # Higher areas get the facts of the whole scene in both.
    pictures = (stimuli.draw(each, vision.IMAGE_SIZE) for each in (scenes, hidden))
    result[place] = tuple(subject.signal(vision.extract_features(picture, scenes)) for picture in pictures)
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


def compare(run: Run, maps: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
  """How saliency agrees with the cortex that made the data of a run, subject by subject.

  Args:
    run: on simulated data.
    maps: subject -> '<target>/<method>' -> L N V.

  Returns:
    Subject -> 'maps': name -> a list over the levels of `agreement`, each with its mean over items and a 95 % interval over
    stimuli; 'shuffled': the same of `LATENT` for shuffled models, each with mean and range over the models, and
    'similarity', the rank correlation with the map of the trained model; 'moved': see `_moved`.
  """
  result = {}
  for place, subject in run.subjects:
    known, mask = cortex_of(run.config, subject), run.reconstructor.transforms[subject].mask
    explained = known.explainable_variance[mask]
    stimulus = np.unique(run.test.columns['stimulus'][run.subject == place], return_inverse=True)[1]
    resampled = Bootstrap.draw(stimulus, NUM_BOOTSTRAP, run.config.seed)
    result[subject] = {
      'maps': {
        name: [
          {key: _describe(x, resampled) for key, x in agreement(np.abs(level), explained).items()} for level in levels
        ]
        for name, levels in maps[subject].items()
      },
      'shuffled': _shuffled(run, place, maps[subject], explained),
      'moved': _moved(run, place, known),
    }
  return result


def _describe(values: np.ndarray, resampled: Bootstrap) -> dict[str, Any]:
  return {'value': float(values.mean()), 'interval': resampled.interval(values)}


def _shuffled(run: Run, place: int, maps: Mapping[str, np.ndarray], explained: np.ndarray) -> dict[str, Any]:
  rows = np.flatnonzero(run.subject == place)[:CONTROL_ITEMS]
  fmri, baseline = run.fmri[rows], run.uninformative[rows]
  means: dict[str, list[list[dict[str, float]]]] = {}  # name -> model -> level -> mean over items
  for seed in range(NUM_SHUFFLED):
    model = run.reconstructor.with_params(shuffled(run.reconstructor.params, seed))
    for method, values in run.saliency_of(fmri, baseline, model).maps.items():
      name, levels = f'{LATENT}/{method}', []
      for magnitude, trained in zip(np.abs(run.areas[place].to_voxels(values[:, 0])), maps[name], strict=True):
        similarity = _rank_correlation(magnitude, np.abs(trained[: len(rows)]))
        scores = agreement(magnitude, explained) | {'similarity': similarity}
        levels.append({key: float(x.mean()) for key, x in scores.items()})
      means.setdefault(name, []).append(levels)
  return {name: [_over_models(level) for level in zip(*models, strict=True)] for name, models in means.items()}


def _over_models(scores: Sequence[Mapping[str, float]]) -> dict[str, Any]:
  """Mean and range of each score over models."""
  values = {key: [each[key] for each in scores] for key in scores[0]}
  return {key: {'mean': float(np.mean(x)), 'range': [min(x), max(x)]} for key, x in values.items()}


def _moved(run: Run, place: int, known: cortex.Subject) -> dict[str, Any]:
  """How far saliency moves with a stimulus: right minus left, in half widths of the picture.

  Scenes without noise are shown twice, their object at the left and at the right. The baseline is the response where the
  early areas see no object, so `LATENT` is what they say about it. Of its map the mean x of their receptive fields is taken,
  weighted by the magnitude.

  Returns:
    '<method>' and 'shuffled/<method>': a list over the levels of mean and 95 % interval over scenes.
  """
  transform = run.reconstructor.transforms[run.config.data.subjects[place]]
  early = np.flatnonzero(transform.mask[: len(known.fields)])
  responses = moved_responses(known, CONTROL_ITEMS, run.config.seed)
  fmri, baseline = (
    # Without noise, as if over countless trials.
    transform(np.concatenate(both)[:, transform.mask], is_test=True, repetitions=np.inf).astype(np.float32)
    for both in zip(*(responses[where] for where in PLACES), strict=True)
  )
  resampled = Bootstrap.draw(np.arange(CONTROL_ITEMS), NUM_BOOTSTRAP, run.config.seed)
  models = {
    '': run.reconstructor,
    'shuffled/': run.reconstructor.with_params(shuffled(run.reconstructor.params, 0)),
  }
  result = {}
  for prefix, model in models.items():
    for method, values in run.saliency_of(fmri, baseline, model).maps.items():
      voxels = run.areas[place].to_voxels(values[:, 0])[..., : len(early)]  # L 2N V_early
      left, right = np.split(centre(voxels, known.fields[early])[..., 0], 2, axis=1)  # L N
      result[f'{prefix}{method}'] = [_describe(x, resampled) for x in right - left]
  return result
