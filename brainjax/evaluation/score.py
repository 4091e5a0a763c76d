"""Reconstructed images to scores with intervals, chance levels and nulls: scores.json and scores_items.npz."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.errors import UserError, as_user_error
from brainjax.evaluation import breakdown
from brainjax.evaluation.images import Images
from brainjax.evaluation.networks import lpips
from brainjax.evaluation.scores import nearest, tables
from brainjax.evaluation.scores.measures import Network, Score
from brainjax.evaluation.scores.published import Compared
from brainjax.evaluation.scores.tables import Measured
from brainjax.evaluation.statistics import resampling
from brainjax.files import atomic_write, read_npz, sha256, write_json

FORMAT = 'brainjax scores 1'
NUM_WAYS = (2, 50, 100, 1000)
SCORES_FILE, ITEMS_FILE = 'scores.json', 'scores_items.npz'


def evaluate(
  images: Images,
  classifier: Network | None,
  classifier_name: str | None,
  *,
  out: Path,
  facts: Mapping[str, Any] | None = None,
  training_images: np.ndarray | None = None,
  **options: Any,
) -> dict[str, Any]:
  """Scores the reconstructions and writes scores.json and scores_items.npz into `out`.

  Args:
    images: stimuli and samples, as `reconstruct` writes them.
    classifier: uint8 N H W 3 -> probabilities N C; None leaves out class accuracy.
    classifier_name: is named in every class score.
    out: folder.
    facts: plain values for scores.json (noise ceiling, categories seen in training, ...).
    training_images: M H W 3 uint8 of the same size; the nearest one to each sample is reported, to detect copying.
    **options: those of `score_images`.

  Returns:
    What scores.json holds.

  Raises:
    UserError: as `score_images`, or `out` cannot be written.
  """
  result, items = score_images(images, classifier, classifier_name, **options)
  if training_images is not None:
    rows, similarity = nearest.nearest(images.samples, training_images)
    items |= {'nearest_training/row': rows, 'nearest_training/pcc': similarity}
    result['nearest_training'] = {
      'measure': 'Pearson correlation of pixels',
      'num_training_images': len(training_images),
      'num_distinct_nearest': len(np.unique(rows)),
      'mean_pcc_to_nearest': float(similarity.mean()),
      'fraction_nearer_to_training_than_to_stimulus': float(np.mean(similarity > items['scores/pcc'])),
    }
  result |= facts or {}
  out = Path(out)
  with atomic_write(out / ITEMS_FILE) as path:
    np.savez_compressed(path, stimulus=images.stimulus, stimulus_check=_checks(images.stimuli), **items)
  write_json(out / SCORES_FILE, result)
  return result


def read_scores(run: Path) -> dict[str, Any]:
  """What scores.json holds.

  Args:
    run: the workdir of an evaluated run, or another folder with the file.

  Raises:
    UserError: the file is missing, damaged or of another format.
  """
  path = run / SCORES_FILE
  if not path.is_file():
    raise UserError(f'{run} has no {SCORES_FILE}; give the workdir of an evaluated run.')
  with as_user_error(f'{run}: {SCORES_FILE} is damaged', 'run evaluate again'):
    scores = json.loads(path.read_text())
  if not isinstance(scores, dict) or scores.get('format') != FORMAT or not isinstance(scores.get('scores'), dict):
    raise UserError(f'{run}: {SCORES_FILE} is not of the format {FORMAT!r}; run evaluate again.')
  return scores


def read_items(run: Path) -> dict[str, np.ndarray]:
  """What scores_items.npz beside scores.json holds: the scores of each item, see `score_images`.

  Raises:
    UserError: the file is missing or damaged.
  """
  with as_user_error(f'{run}: {ITEMS_FILE} is missing or damaged', 'run evaluate again'):
    return read_npz(run / ITEMS_FILE)


class Judge:
  """Measures samples against the stimuli of a set of images, as often as needed.

  Attributes:
    stimuli: U H W 3 uint8, each once.
    stimulus: N, the place of each item's stimulus in `stimuli`.
    classes: U, what the classifier says about the stimuli; None without a classifier.
    perceptual: whether LPIPS is measured.
  """

  def __init__(
    self,
    images: Images,
    classifier: Network | None = None,
    features: Mapping[str, Network] | None = None,
    perceptual: bool | None = None,
    attributes: tables.Attributes | None = None,
    published: Mapping[str, Network] | None = None,
  ):
    """Arguments and errors are those of `score_images`."""
    self._classifier, self._features = classifier, features or {}
    if perceptual is None:
      perceptual = lpips.installed() and min(images.stimuli.shape[1:3]) >= lpips.MIN_SIDE
    self.perceptual = perceptual
    self._weights = lpips.read_weights() if perceptual else None
    _, first, self.stimulus = np.unique(images.stimulus, return_index=True, return_inverse=True)
    self.stimuli = images.stimuli[first]
    self.classes = None if classifier is None else tables.classify(classifier, self.stimuli).argmax(axis=-1)
    self._targets = {name: tables.in_blocks(function, self.stimuli) for name, function in self._features.items()}
    self._published = {name: Compared(network, network(self.stimuli)) for name, network in (published or {}).items()}
    self._attributes = {name: (of_class, of_item[first]) for name, (of_class, of_item) in (attributes or {}).items()}

  def __call__(self, samples: np.ndarray) -> Measured:
    """Measures N S H W 3 uint8, the items in the order of the images."""
    return tables.measure_samples(
      samples,
      self.stimuli,
      self.classes,
      self._targets,
      self._classifier,
      self._features,
      self._weights,
      self._attributes if self._classifier else None,
      self._published,
      self.stimulus,
    )


def score_images(
  images: Images,
  classifier: Network | None = None,
  classifier_name: str | None = None,
  *,
  num_ways: Sequence[int] = NUM_WAYS,
  num_bootstrap: int = 2000,
  num_shuffles: int = 100,
  seed: int = 0,
  baselines: Mapping[str, np.ndarray] | None = None,
  subsets: Mapping[str, np.ndarray] | None = None,
  features: Mapping[str, Network] | None = None,
  perceptual: bool | None = None,
  attributes: tables.Attributes | None = None,
  published: Mapping[str, Network] | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Scores the reconstructions; writes nothing.

  Args:
    images: stimuli and samples.
    classifier: uint8 N H W 3 -> probabilities N C; None leaves out class accuracy.
    classifier_name: is named in every class score.
    num_ways: n of n-way scores. Those above the number of classes (class accuracy) or of stimuli (identification) are
      left out.
    num_bootstrap: resamplings of the stimuli for the 95 % intervals.
    num_shuffles: shuffled pairings for the null.
    seed: of bootstrap, shuffles and the released protocol's draws.
    baselines: name -> N H W 3 uint8, other reconstructions of the same items, scored alike and compared item by item.
    subsets: name -> N bool, items that are scored apart as well (say, categories seen and unseen in training). Candidates
      and null are drawn inside the subset.
    features: name -> function of uint8 B H W 3 that gives B D (Inception, CLIP, ...): two-way identification and FID.
    perceptual: whether to score LPIPS; None does where the weights are installed and the images large enough.
    attributes: attribute -> its value in each class of the classifier C, and in each item N.
    published: name -> network of the scores of published tables (`scores.published.measure`).

  Returns:
    (plain values for scores.json, arrays for scores_items.npz: 'scores/<score>' N S, 'candidates/<score>' N,
    'baselines/<name>/<score>' N 1).

  Raises:
    UserError: LPIPS is asked for, and its package is not installed.
  """
  baselines = baselines or {}
  measure = Judge(images, classifier, features, perceptual, attributes, published)
  stimuli, stimulus, classes = measure.stimuli, measure.stimulus, measure.classes
  draws = {'num_bootstrap': num_bootstrap, 'num_shuffles': num_shuffles, 'seed': seed}
  resamplings, measured = resampling.draw(stimulus, **draws), measure(images.samples)
  scores = measured.scores(num_ways)
  n, s, height, width = images.samples.shape[:4]
  result = {
    'format': FORMAT,
    'num_items': n,
    'num_stimuli': len(stimuli),
    'num_samples': s,
    'image_size': [height, width],
    'classifier': classifier_name,
    'num_classes': None if classifier is None else measured.probabilities.shape[-1],
    'protocol': _protocol(measure.perceptual) | draws,
    'scores': _summaries(scores, classifier_name, *resamplings),
    'fid': {
      name: {'first_sample': value, 'num_images': [n, len(stimuli)], 'baselines': {}}
      for name, value in measured.distances.items()
    },
  }
  if classes is not None:
    result['num_distinct_classes_of_stimuli'] = len(np.unique(classes))
    result['released_protocol'] = tables.released_protocol(measured.probabilities, classes[stimulus], images, seed)
  values = {name: resampling.observed(score.table, stimulus) for name, score in scores.items()}  # N S each
  influence = {name: score.influence(stimulus, 'mean_of_samples') for name, score in scores.items()}  # U each
  arrays = {f'scores/{name}': value for name, value in values.items()}
  # By item, as items are what scores_items.npz is about.
  arrays |= {f'candidates/{name}': value[stimulus] for name, value in influence.items() if value.any()}
  result |= breakdown.describe(scores, measured, stimulus, images.categories, attributes or {}, num_bootstrap, seed)
  result['baselines'] = {}
  for baseline, pictures in baselines.items():
    other = measure(pictures[:, None])
    for name, distance in other.distances.items():
      result['fid'][name]['baselines'][baseline] = distance
    result['baselines'][baseline] = {}
    for name, score in other.scores(num_ways).items():
      arrays[f'baselines/{baseline}/{name}'] = value = resampling.observed(score.table, stimulus)
      entry = tables.summarise(score, *resamplings)
      kept = {key: entry[key] for key in ('higher_is_better', 'num_items', 'num_samples', 'first_sample')}
      kept['model_minus_baseline'] = resampling.paired_difference(
        values[name].mean(axis=1),
        value[:, 0],
        resamplings[0],
        influence[name] - score.influence(stimulus, 'first_sample'),
      )
      result['baselines'][baseline][name] = kept
  result['subsets'] = {}
  for name, keep in (subsets or {}).items():
    chosen, place = np.unique(stimulus[keep], return_inverse=True)
    inside = {}
    if keep.any():
      part = measured.select(keep, chosen).scores(num_ways)
      inside = _summaries(part, classifier_name, *resampling.draw(place, **draws))
    result['subsets'][name] = {'num_items': int(keep.sum()), 'scores': inside}
  return result, arrays


def _summaries(
  scores: Mapping[str, Score], classifier_name: str | None, bootstrap: resampling.Bootstrap, pairings: np.ndarray
) -> dict[str, dict]:
  """The entry of every score; those of classes name the classifier."""
  entries = {name: tables.summarise(score, bootstrap, pairings) for name, score in scores.items()}
  for name, entry in entries.items():
    if name.startswith('class_'):
      entry['classifier'] = classifier_name
  return entries


def _protocol(perceptual: bool) -> dict[str, Any]:
  return {
    'images': 'uint8, converted to float before any arithmetic',
    'interval': '95 % percentile bootstrap over stimuli; items of one stimulus are resampled together; a stimulus is '
    'resampled as an item and as a candidate of identification (by its jackknife influence)',
    'null': 'reconstructions re-paired with other stimuli by random permutations (not derangements)',
    'p_value': '(1 + shuffles at least as good) / (1 + shuffles), one-sided',
    'class': "arg-max of the classifier on the stimulus (the release's rule)",
    'class_accuracy': 'exact expectation over all draws of the n-1 other classes; exact ties ordered by a fair draw',
    'identification': 'candidates are the other stimuli of this set; ties count against the reconstruction',
    'subsets': 'candidates and null are drawn inside the subset',
    'best_of_samples': 'chosen per item with knowledge of the stimulus: an upper bound, not an accuracy',
    'lpips': f'version 0.1, weights SHA-256 {sha256(lpips.weights_file())}' if perceptual else 'left out',
  }


def _checks(stimuli: np.ndarray) -> np.ndarray:
  """One number per picture, equal only for equal pictures: two runs are comparable only on the same pictures."""
  digests = [hashlib.sha256(np.ascontiguousarray(picture).tobytes()).digest() for picture in stimuli]
  return np.array([int.from_bytes(digest[:8], 'little', signed=True) for digest in digests], np.int64)
