"""Reconstructed images to scores with intervals, chance levels and nulls: scores.json and scores_items.npz."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brainjax.errors import UserError
from brainjax.evaluation.images import Images
from brainjax.evaluation.networks import lpips
from brainjax.evaluation.scores import features as feature_scores
from brainjax.evaluation.scores import nearest, tables
from brainjax.evaluation.scores.tables import Classifier
from brainjax.evaluation.statistics import resampling
from brainjax.files import atomic_write, sha256

FORMAT = 'brainjax scores 1'
NUM_WAYS = (2, 50, 100, 1000)
SCORES_FILE, ITEMS_FILE = 'scores.json', 'scores_items.npz'


def evaluate(
  images: Images,
  classifier: Classifier | None,
  classifier_name: str | None,
  *,
  num_ways: Sequence[int] = NUM_WAYS,
  num_bootstrap: int = 2000,
  num_shuffles: int = 100,
  seed: int = 0,
  out: Path,
  baselines: dict[str, np.ndarray] | None = None,
  subsets: dict[str, np.ndarray] | None = None,
  training_images: np.ndarray | None = None,
  features: dict[str, Classifier] | None = None,
  perceptual: bool | None = None,
  facts: dict | None = None,
) -> dict:
  """Scores the reconstructions and writes scores.json and scores_items.npz into `out`.

  Args:
    images: what `reconstruct` left.
    classifier: uint8 N H W 3 -> probabilities N C; None leaves out class accuracy.
    classifier_name: stands in every class score.
    num_ways: n of n-way scores; those above the number of classes (class accuracy) or of stimuli (identification) are
      left out.
    num_bootstrap: resamplings of the stimuli for the 95 % intervals.
    num_shuffles: shuffled pairings for the null, at least 20.
    seed: of bootstrap, shuffles and the released protocol's draws.
    out: folder.
    baselines: name -> N H W 3 uint8, other reconstructions of the same items, scored alike and compared item by item.
    subsets: name -> N bool, items to score apart as well (say, categories seen and unseen in training).
    training_images: M H W 3 uint8 of the same size; the one nearest to each sample is found, so that copying shows.
    features: name -> function of uint8 B H W 3 that gives B D (Inception, CLIP, ...): two-way identification and FID.
    perceptual: whether to score LPIPS; None does where the weights are installed and the images large enough.
    facts: plain values that scores.json holds beside the scores (noise ceiling, categories seen in training, ...).

  Returns:
    What scores.json holds.
  """
  images.validate('images')
  if num_shuffles < 20:
    raise UserError(f'evaluate.num_shuffles is {num_shuffles}; a null needs at least 20 shuffles')
  if num_bootstrap < 100:
    raise UserError(f'evaluate.num_bootstrap is {num_bootstrap}; an interval needs at least 100 resamplings')
  if (classifier is None) != (classifier_name is None):
    raise ValueError('a classifier and its name go together')
  if perceptual is None:
    perceptual = lpips.installed() and min(images.stimuli.shape[1:3]) >= lpips.MIN_SIDE
  weights = lpips.read_weights() if perceptual else None
  ids, first, stimulus = np.unique(images.stimulus, return_index=True, return_inverse=True)
  stimuli = images.stimuli[first]
  bootstrap = resampling.Bootstrap.draw(stimulus, num_bootstrap, seed)
  pairings = resampling.draw_pairings(len(ids), num_shuffles, seed + 1)
  classes = None if classifier is None else tables.classify(classifier, stimuli).argmax(axis=-1)

  targets = {name: tables.in_blocks(function, stimuli) for name, function in (features or {}).items()}

  def score(samples):
    scores = tables.image_score_tables(stimuli, samples, num_ways, weights)
    probabilities = None if classifier is None else tables.classify(classifier, samples)
    if probabilities is not None:
      scores |= tables.class_tables(probabilities, classes, num_ways)
    embedded = {name: tables.in_blocks(function, samples) for name, function in (features or {}).items()}
    for name, values in embedded.items():
      scores |= tables.feature_tables(targets[name], values, name)
    # Of one sample a stimulus, so that samples of one item do not count as different pictures.
    distances = {
      name: feature_scores.frechet_distance(values[:, 0], targets[name]) for name, values in embedded.items()
    }
    return scores, probabilities, distances

  scores, probabilities, distances = score(images.samples)
  items = {name: resampling.observed(score.table, stimulus) for name, score in scores.items()}
  n, s, height, width = images.samples.shape[:4]
  result = {
    'format': FORMAT,
    'num_items': n,
    'num_stimuli': len(ids),
    'num_samples': s,
    'image_size': [height, width],
    'classifier': classifier_name,
    'num_classes': None if probabilities is None else probabilities.shape[-1],
    'protocol': {
      'images': 'uint8, converted to float before any arithmetic',
      'interval': '95 % percentile bootstrap over stimuli; items of one stimulus are resampled together',
      'null': 'reconstructions re-paired with other stimuli by random permutations (not derangements)',
      'p_value': '(1 + shuffles at least as good) / (1 + shuffles), one-sided',
      'class': "arg-max of the classifier on the stimulus (the release's rule)",
      'class_accuracy': 'exact expectation over all draws of the n-1 other classes; exact ties ordered by a fair draw',
      'identification': 'candidates are the other stimuli of this set; ties count against the reconstruction',
      'best_of_samples': 'chosen per item with knowledge of the stimulus: an upper bound, not an accuracy',
      'lpips': f'version 0.1, weights SHA-256 {sha256(lpips.weights_file())}' if perceptual else 'left out',
      'num_bootstrap': num_bootstrap,
      'num_shuffles': num_shuffles,
      'seed': seed,
    },
    'scores': {name: tables.summarise(score, stimulus, bootstrap, pairings) for name, score in scores.items()},
  }
  for name, entry in result['scores'].items():
    if name.startswith('class_'):
      entry['classifier'] = classifier_name
  if classes is not None:
    result['num_distinct_classes_of_stimuli'] = len(np.unique(classes))
    result['released_protocol'] = tables.released_protocol(probabilities, classes[stimulus], images, seed)
  result['fid'] = {
    name: {'first_sample': value, 'num_images': [n, len(ids)], 'baselines': {}} for name, value in distances.items()
  }
  result['baselines'] = {}
  for baseline, pictures in (baselines or {}).items():
    Images(images.stimuli, pictures[:, None], images.stimulus, images.class_index).validate(f'baseline {baseline}')
    baseline_scores, _, distances = score(pictures[:, None])
    for name, value in distances.items():
      result['fid'][name]['baselines'][baseline] = value
    entries = {}
    for name, score in baseline_scores.items():
      own = resampling.observed(score.table, stimulus)
      items[f'baselines/{baseline}/{name}'] = own
      mean = resampling.aggregate(items[name], 'mean_of_samples', score.higher_is_better)
      entry = tables.summarise(score, stimulus, bootstrap, pairings)
      entries[name] = {key: entry[key] for key in ('higher_is_better', 'num_items', 'num_samples', 'first_sample')}
      entries[name]['model_minus_baseline'] = resampling.paired_difference(mean, own[:, 0], bootstrap)
    result['baselines'][baseline] = entries
  result['subsets'] = {}
  for name, keep in (subsets or {}).items():
    if keep.any():
      chosen = resampling.Bootstrap.draw(np.unique(stimulus[keep], return_inverse=True)[1], num_bootstrap, seed)
      entries = {key: tables.summarise(score, stimulus, chosen, pairings, keep) for key, score in scores.items()}
      result['subsets'][name] = {'num_items': int(keep.sum()), 'scores': entries}
    else:
      result['subsets'][name] = {'num_items': 0, 'scores': {}}
  if training_images is not None:
    rows, similarity = nearest.nearest(images.samples, training_images)
    items |= {'nearest_training/row': rows, 'nearest_training/pcc': similarity}
    result['nearest_training'] = {
      'measure': 'Pearson correlation of pixels',
      'num_training_images': len(training_images),
      'num_distinct_nearest': len(np.unique(rows)),
      'mean_pcc_to_nearest': float(similarity.mean()),
      'fraction_nearer_to_training_than_to_stimulus': float(np.mean(similarity > items['pcc'])),
    }
  result |= facts or {}
  out = Path(out)
  with atomic_write(out / ITEMS_FILE) as path:
    arrays = {name if '/' in name else f'scores/{name}': values for name, values in items.items()}
    np.savez_compressed(path, stimulus=images.stimulus, stimulus_check=_checks(images.stimuli), **arrays)
  with atomic_write(out / SCORES_FILE) as path:
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + '\n')
  return result


def _checks(stimuli: np.ndarray) -> np.ndarray:
  """One number per picture, equal only for equal pictures: two runs are comparable only on the same pictures."""
  digests = [hashlib.sha256(np.ascontiguousarray(picture).tobytes()).digest() for picture in stimuli]
  return np.array([int.from_bytes(digest[:8], 'little', signed=True) for digest in digests], np.int64)
