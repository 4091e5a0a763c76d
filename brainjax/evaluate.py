"""Reconstructed images to scores with intervals, chance levels and nulls (scores.json); comparison of two runs."""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.errors import ArgumentParser, UserError, command_line
from brainjax.files import atomic_write, sha256
from brainjax.metrics import fid, lpips, nearest, score_tables, statistics
from brainjax.metrics.images import Images, read_images
from brainjax.metrics.score_tables import Classifier

FORMAT = 'brainjax scores 1'
NUM_WAYS = (2, 50, 100, 1000)
SCORES_FILE, ITEMS_FILE = 'scores.json', 'scores_items.npz'
__all__ = ['Images', 'compare', 'evaluate', 'read_images']


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
  bootstrap = statistics.Bootstrap.draw(stimulus, num_bootstrap, seed)
  pairings = statistics.draw_pairings(len(ids), num_shuffles, seed + 1)
  classes = None if classifier is None else score_tables.classify(classifier, stimuli).argmax(axis=-1)

  targets = {name: score_tables.in_blocks(function, stimuli) for name, function in (features or {}).items()}

  def tables(samples):
    scores = score_tables.image_score_tables(stimuli, samples, num_ways, weights)
    probabilities = None if classifier is None else score_tables.classify(classifier, samples)
    if probabilities is not None:
      scores |= score_tables.class_tables(probabilities, classes, num_ways)
    embedded = {name: score_tables.in_blocks(function, samples) for name, function in (features or {}).items()}
    for name, values in embedded.items():
      scores |= score_tables.feature_tables(targets[name], values, name)
    # Of one sample a stimulus, so that samples of one item do not count as different pictures.
    distances = {name: fid.frechet_distance(values[:, 0], targets[name]) for name, values in embedded.items()}
    return scores, probabilities, distances

  scores, probabilities, distances = tables(images.samples)
  items = {name: statistics.observed(score.table, stimulus) for name, score in scores.items()}
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
    'scores': {name: score_tables.summarise(score, stimulus, bootstrap, pairings) for name, score in scores.items()},
  }
  for name, entry in result['scores'].items():
    if name.startswith('class_'):
      entry['classifier'] = classifier_name
  if classes is not None:
    result['num_distinct_classes_of_stimuli'] = len(np.unique(classes))
    result['released_protocol'] = score_tables.released_protocol(probabilities, classes[stimulus], images, seed)
  result['fid'] = {
    name: {'first_sample': value, 'num_images': [n, len(ids)], 'baselines': {}} for name, value in distances.items()
  }
  result['baselines'] = {}
  for baseline, pictures in (baselines or {}).items():
    Images(images.stimuli, pictures[:, None], images.stimulus, images.class_index).validate(f'baseline {baseline}')
    baseline_scores, _, distances = tables(pictures[:, None])
    for name, value in distances.items():
      result['fid'][name]['baselines'][baseline] = value
    entries = {}
    for name, score in baseline_scores.items():
      own = statistics.observed(score.table, stimulus)
      items[f'baselines/{baseline}/{name}'] = own
      mean = statistics.aggregate(items[name], 'mean_of_samples', score.higher_is_better)
      entry = score_tables.summarise(score, stimulus, bootstrap, pairings)
      entries[name] = {key: entry[key] for key in ('higher_is_better', 'num_items', 'num_samples', 'first_sample')}
      entries[name]['model_minus_baseline'] = statistics.paired_difference(mean, own[:, 0], bootstrap)
    result['baselines'][baseline] = entries
  result['subsets'] = {}
  for name, keep in (subsets or {}).items():
    if keep.any():
      chosen = statistics.Bootstrap.draw(np.unique(stimulus[keep], return_inverse=True)[1], num_bootstrap, seed)
      entries = {key: score_tables.summarise(score, stimulus, chosen, pairings, keep) for key, score in scores.items()}
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


def _read_items(run: Path) -> tuple[dict[str, np.ndarray], dict]:
  """Per-item scores and scores.json of a run (its workdir or the folder that holds the files)."""
  folder = run if (run / ITEMS_FILE).is_file() else run / 'evaluate'
  if not ((folder / ITEMS_FILE).is_file() and (folder / SCORES_FILE).is_file()):
    raise UserError(f'{run} has no {SCORES_FILE} with {ITEMS_FILE}; give the workdir of a run that has been evaluated')
  try:
    with np.load(folder / ITEMS_FILE, allow_pickle=False) as archive:
      items = {name: archive[name] for name in archive.files}
    scores = json.loads((folder / SCORES_FILE).read_text())
  except Exception as error:  # a damaged archive raises one of many kinds
    raise UserError(f'{folder}: {SCORES_FILE} or {ITEMS_FILE} is damaged ({error}); run evaluate again') from error
  if fault := _fault(items, scores):
    raise UserError(f'{folder}: {fault}, so {SCORES_FILE} and {ITEMS_FILE} are not from one evaluation; run it again')
  return items, scores


def _fault(items: dict[str, np.ndarray], scores: Any) -> str:
  """What `compare` would miss; '' where nothing."""
  if not isinstance(scores, dict) or scores.get('format') != FORMAT or not isinstance(scores.get('scores'), dict):
    return f'{SCORES_FILE} is not of the format {FORMAT!r}'
  checks = items.get('stimulus_check')
  if checks is None or checks.ndim != 1 or checks.dtype != np.int64:
    return f'{ITEMS_FILE} has no array stimulus_check of whole numbers'
  for name, entry in scores['scores'].items():
    values = items.get(f'scores/{name}')
    if values is None or values.ndim != 2 or len(values) != len(checks) or values.dtype.kind != 'f':
      return f'{ITEMS_FILE} has no array scores/{name} of {len(checks)} items'
    if not isinstance(entry, dict) or not isinstance(entry.get('higher_is_better'), bool):
      return f'{SCORES_FILE} does not say whether higher is better in {name}'
  return ''


def compare(run_a: Path, run_b: Path, num_bootstrap: int = 10000, seed: int = 0) -> dict[str, dict]:
  """Compares two runs on the same stimuli by a paired bootstrap of per-item scores (mean over samples).

  Args:
    run_a: workdir, or folder with scores.json and scores_items.npz.
    run_b: the other.
    num_bootstrap: resamplings of the stimuli.
    seed: of the resamplings.

  Returns:
    score name -> a, b, difference (a - b), its 95 % interval, two-sided p value, higher_is_better, num_items.
  """
  (items_a, scores_a), (items_b, scores_b) = _read_items(Path(run_a)), _read_items(Path(run_b))
  # Runs may have their items in another order: sort both by picture; the k-th item of a picture meets the k-th.
  order_a, order_b = (np.argsort(items['stimulus_check'], kind='stable') for items in (items_a, items_b))
  pictures = items_a['stimulus_check'][order_a]
  if not np.array_equal(pictures, items_b['stimulus_check'][order_b]):
    raise UserError(
      f'{run_a} ({len(order_a)} items) and {run_b} ({len(order_b)} items) do not show the same stimuli; '
      'a paired comparison needs the same test pictures at the same size'
    )
  bootstrap = statistics.Bootstrap.draw(np.unique(pictures, return_inverse=True)[1], num_bootstrap, seed)
  result = {}
  for name, entry in scores_a['scores'].items():
    other = scores_b['scores'].get(name)
    # A score by another classifier is another score.
    if other is None or other.get('classifier') != entry.get('classifier'):
      continue
    a = items_a[f'scores/{name}'].mean(axis=1)[order_a]
    b = items_b[f'scores/{name}'].mean(axis=1)[order_b]
    result[name] = {'a': float(a.mean()), 'b': float(b.mean())} | statistics.paired_difference(a, b, bootstrap)
    result[name] |= {'higher_is_better': entry['higher_is_better'], 'num_items': len(a)}
  if not result:
    raise UserError(f'{run_a} and {run_b} have no score in common (same name, same classifier)')
  return result


def _print_comparison(result: dict[str, dict]) -> None:
  print(f'{"score (mean over samples)":32} {"A":>10} {"B":>10} {"A - B":>10} {"95 % interval":>23} {"p":>8}')
  for name, row in result.items():
    low, high = row['interval']
    better = 'A' if (low > 0) == row['higher_is_better'] else 'B'
    verdict = f'{better} better' if low > 0 or high < 0 else ''
    interval = f'[{low:.4f}, {high:.4f}]'
    numbers = f'{row["a"]:10.4f} {row["b"]:10.4f} {row["difference"]:10.4f} {interval:>23} {row["p_value"]:8.4f}'
    print(f'{name:32} {numbers} {verdict}')


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
  """Command line: `compare RUN_A RUN_B` and `score IMAGES.npz --out=DIR` (image scores only: no classifier)."""
  parser = ArgumentParser(prog='python -m brainjax.evaluate', description=__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  comparison = commands.add_parser('compare', help='paired bootstrap of two runs on the same stimuli')
  comparison.add_argument('run_a', type=Path)
  comparison.add_argument('run_b', type=Path)
  comparison.add_argument('--json', type=Path, help='also write the result here')
  scoring = commands.add_parser('score', help='image scores of an images.npz, without class accuracy')
  scoring.add_argument('images', type=Path)
  scoring.add_argument('--out', type=Path, required=True)
  for command in (comparison, scoring):
    command.add_argument('--seed', type=int, default=0)
  options = parser.parse_args(arguments)
  if options.seed < 0:
    raise UserError(f'--seed is {options.seed}; expected 0 or more.')
  for name, path in (('--json', getattr(options, 'json', None)), ('--out', getattr(options, 'out', None))):
    if path and path.exists():
      raise UserError(f'{name}={path} exists already; nothing is overwritten, choose another path.')
  if options.command == 'compare':
    result = compare(options.run_a, options.run_b, seed=options.seed)
    _print_comparison(result)
    if options.json:
      with atomic_write(options.json) as path:
        path.write_text(json.dumps(result, indent=2) + '\n')
    return
  result = evaluate(read_images(options.images), None, None, seed=options.seed, out=options.out)
  for name, entry in result['scores'].items():
    mean = entry['mean_of_samples']
    print(f'{name:32} {mean["value"]:10.4f} [{mean["interval"][0]:.4f}, {mean["interval"][1]:.4f}]')


if __name__ == '__main__':
  sys.exit(main())
