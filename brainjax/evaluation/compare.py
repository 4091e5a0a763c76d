"""Comparison of two runs on the same stimuli, from their scores.json and scores_items.npz."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brainjax.errors import UserError
from brainjax.evaluation.score import ITEMS_FILE, SCORES_FILE, read_items, read_scores
from brainjax.evaluation.statistics import resampling


def _read(run: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """(scores of each item, scores.json) of a run."""
  scores, items = read_scores(run), read_items(run)
  if fault := _fault(items, scores['scores']):
    raise UserError(f'{run}: {fault}, so {SCORES_FILE} and {ITEMS_FILE} are not from one evaluation; run it again')
  return items, scores


def _fault(items: Mapping[str, np.ndarray], scores: Mapping[str, Any]) -> str:
  """Names what `compare` needs and the files lack; '' if nothing is missing."""
  checks = items.get('stimulus_check')
  if checks is None or checks.ndim != 1 or checks.dtype != np.int64:
    return f'{ITEMS_FILE} has no array stimulus_check of whole numbers'
  for name, entry in scores.items():
    values = items.get(f'scores/{name}')
    if values is None or values.ndim != 2 or len(values) != len(checks) or values.dtype.kind != 'f':
      return f'{ITEMS_FILE} has no array scores/{name} of {len(checks)} items'
    candidates = items.get(f'candidates/{name}', values[:, 0])
    if candidates.shape != checks.shape or candidates.dtype.kind != 'f':
      return f'{ITEMS_FILE} has no array candidates/{name} of {len(checks)} items'
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

  Raises:
    UserError: a run has no scores, they are damaged, the stimuli differ, or no score is common to both.
  """
  (items_a, scores_a), (items_b, scores_b) = _read(Path(run_a)), _read(Path(run_b))
  # Runs may have their items in another order: sort both by picture; the k-th item of a picture meets the k-th.
  order_a, order_b = (np.argsort(items['stimulus_check'], kind='stable') for items in (items_a, items_b))
  pictures = items_a['stimulus_check'][order_a]
  if not np.array_equal(pictures, items_b['stimulus_check'][order_b]):
    raise UserError(
      f'{run_a} ({len(order_a)} items) and {run_b} ({len(order_b)} items) do not show the same stimuli; '
      'a paired comparison needs the same test pictures at the same size'
    )
  _, first, place = np.unique(pictures, return_index=True, return_inverse=True)
  bootstrap = resampling.Bootstrap.draw(place, num_bootstrap, seed)
  result = {}
  for name, entry in scores_a['scores'].items():
    other = scores_b['scores'].get(name)
    # A score by another classifier is another score.
    if other is None or other.get('classifier') != entry.get('classifier'):
      continue
    a = items_a[f'scores/{name}'].mean(axis=1)[order_a]
    b = items_b[f'scores/{name}'].mean(axis=1)[order_b]
    # Of identification also the candidates are resampled. Files of older versions lack their influence.
    none = np.zeros(len(pictures))
    influence = items_a.get(f'candidates/{name}', none)[order_a] - items_b.get(f'candidates/{name}', none)[order_b]
    result[name] = {'a': float(a.mean()), 'b': float(b.mean())}
    result[name] |= resampling.paired_difference(a, b, bootstrap, influence[first])
    result[name] |= {'higher_is_better': entry['higher_is_better'], 'num_items': len(a)}
  if not result:
    raise UserError(f'{run_a} and {run_b} have no score in common (same name, same classifier)')
  return result
