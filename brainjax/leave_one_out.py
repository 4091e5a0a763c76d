"""Leave-one-subject-out: a whole run for each subject, which learns nothing from it, and the scores of all together."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from brainjax import hosts, pipeline, workdirs
from brainjax.errors import UserError
from brainjax.evaluation.score import SCORES_FILE
from brainjax.files import write_json

RESULT = 'leave_one_out.json'
SHOWN = ('class_50way_top1', 'pairwise_pcc', 'pairwise_ssim', 'pcc', 'ssim')


def fold(config: ConfigDict, subject: str) -> ConfigDict:
  """The config of the run that leaves a subject out: all stages learn from the others, and it is tested on this one."""
  data = config.data
  others = tuple(name for name in (*data.subjects, *data.other_subjects) if name != subject)
  changed = config.copy_and_resolve_references()
  changed.data.update({'subjects': (subject,), 'other_subjects': others, 'leave_out_subjects': True})
  field = f'contrast_{data.dataset}_subjects'
  if field in data:
    changed.data[field] = tuple(name for name in data[field] if name != subject)
  return changed


def summarise(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """Score -> value and interval (over stimuli) of each subject, their mean, and its 95 % interval over subjects (Student's t).

  Args:
    scores: subject -> what scores.json holds.
  """
  names = set.intersection(*(set(each['scores']) for each in scores.values()))
  result = {}
  for name in sorted(names):
    found = {subject: each['scores'][name]['mean_of_samples'] for subject, each in scores.items()}
    values = np.array([entry['value'] for entry in found.values()])
    half = None
    if len(values) > 1:
      half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    result[name] = {
      'subjects': {subject: {key: entry[key] for key in ('value', 'interval')} for subject, entry in found.items()},
      'mean': mean,
      'interval': None if half is None else [mean - half, mean + half],
    }
  return result


def run(
  config: ConfigDict, workdir: Path, stages: Sequence[str], asked: bool = False, accepted: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
  """Runs a fold for each of `config.data.subjects` in `workdir`/<subject>, and writes what `summarise` says.

  Folds share raw and prepared data. Complete stages are not run again.

  Raises:
    UserError: fewer than two subjects, or as `pipeline.run`.
  """
  everybody = (*config.data.subjects, *config.data.other_subjects)
  if len(everybody) < 2:
    raise UserError(
      f'--leave_one_out: config.data.subjects is {config.data.subjects}; expected two or more subjects, so that one can learn from others.'
    )
  shared = workdirs.fill_in_paths(config, workdir.absolute())
  scores = {}
  for subject in config.data.subjects:
    hosts.log(f'leave one out: {subject}')
    pipeline.run(fold(shared, subject), workdir / subject, stages, asked, accepted)
    if (file := workdir / subject / SCORES_FILE).exists():
      scores[subject] = json.loads(file.read_text())
  if not scores:  # the stages do not score
    return {}
  result = summarise(scores)
  hosts.on_first(write_json, workdir / RESULT, result)
  for name in SHOWN:
    if name in result:
      each = ', '.join(f'{subject} {entry["value"]:.3f}' for subject, entry in result[name]['subjects'].items())
      interval = result[name]['interval']
      over = f' [{interval[0]:.3f}, {interval[1]:.3f}] over subjects' if interval else ''
      hosts.log(f'{name}: {result[name]["mean"]:.3f}{over} ({each})')
  return result
