"""The test set: categories seen in training or not, single trials, and the noise ceiling of its fMRI."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from brainjax.datasets import checks, registry, transforms
from brainjax.datasets.arrays import ArrayDataset
from brainjax.datasets.input_transform import InputTransform
from brainjax.datasets.paired import NO_CLASS, explainable_variance
from brainjax.errors import UserError
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.networks.classifiers import Classifier
from brainjax.evaluation.scores import tables
from brainjax.evaluation.statistics import repetitions, resampling
from brainjax.simulator import stimuli
from brainjax.stages import data as stage_data

SEEN, UNSEEN, UNKNOWN = 'category seen in training', 'category not seen in training', 'category unknown'


def split_by_category(train: ArrayDataset, test: ArrayDataset) -> dict[str, np.ndarray]:
  """Test items by whether their category has training pictures: name -> N bool.

  A category is identified by its WordNet id, or by its name in data sets without ids. A picture of unknown category is
  named after its file, so its name is not used. `train` are the rows that the model learned from.
  """
  seen = {_category(train, number) for number in train.info['names']} - {''}
  names = [_category(test, number) for number in test.columns['stimulus'].tolist()]
  is_known, is_seen = np.array([name != '' for name in names]), np.array([name in seen for name in names])
  parts = {SEEN: is_seen, UNSEEN: is_known & ~is_seen}
  return parts if is_known.all() else parts | {UNKNOWN: ~is_known}


def _category(rows: ArrayDataset, number: int) -> str:
  """WordNet id or name of the category of a stimulus; '' if it is unknown."""
  if rows.info['class_indices'][number] == NO_CLASS:
    return rows.info['wordnet_ids'].get(number, '')
  return rows.info['wordnet_ids'].get(number) or rows.info['names'][number]


def compare_categories(config: ConfigDict, train: ArrayDataset, test: ArrayDataset) -> dict[str, Any]:
  """Facts for scores.json: how many test categories are in the training set, which, and by what they were matched."""
  ids = any(rows.info['wordnet_ids'].get(n) for rows in (train, test) for n in rows.info['names'])
  in_test = {_category(test, number): test.info['names'][number] for number in test.columns['stimulus'].tolist()}
  in_train = {_category(train, number) for number in train.info['names']} - {''}
  in_test.pop('', None)
  both = sorted(name for category, name in in_test.items() if category in in_train)
  facts = {
    'matched_by': 'WordNet id' if ids else 'category name',
    'num_test_categories': len(in_test),
    'num_training_categories': len(in_train),
    'num_test_categories_in_training': len(both),
    'num_test_items_without_category': sum(not _category(test, n) for n in test.columns['stimulus'].tolist()),
    'test_categories_in_training': both,
    'note': 'training of the fMRI models; an image prior that was trained elsewhere may have seen more',
  }
  return facts | ({'simulated_attributes': _attributes(train, test)} if registry.is_simulated(config) else {})


def _attributes(train: ArrayDataset, test: ArrayDataset) -> dict[str, Any]:
  """For simulated scenes: how many attributes a test category shares with the most similar training category."""
  table = stimuli.categories().attributes
  a, b = (table[np.unique(rows.columns['class_index'])] for rows in (test, train))  # T 5, K 5
  shared = (a[:, None] == b[None]).sum(axis=-1).max(axis=1)
  unseen = {name: len(set(a[:, i].tolist()) - set(b[:, i].tolist())) for i, name in enumerate(stimuli.ATTRIBUTES)}
  return {
    'attributes': list(stimuli.ATTRIBUTES),
    'values_in_test_but_not_in_training': unseen,
    'test_categories_by_most_attributes_shared_with_a_training_category': {
      str(count): int((shared == count).sum()) for count in np.unique(shared)
    },
  }


def known_attributes(config: ConfigDict, classifier: Classifier | None, class_index: np.ndarray) -> tables.Attributes:
  """Attributes of simulated scenes that the demo's classifier can judge; none of other data or by other classifiers.

  Args:
    config: of the run.
    classifier: what scores the pictures.
    class_index: N, the category of each item.
  """
  if (
    not registry.is_simulated(config)
    or classifier is None
    or classifier.key != classifiers.SCENES
    or min(class_index) < 0
  ):
    return {}
  table = stimuli.categories().attributes
  result = {}
  for i, (name, values) in enumerate(stimuli.ATTRIBUTES.items()):
    of_class = np.array(values)[table[:, i]]
    result[name] = of_class, of_class[class_index]
  return result


def load_trials(
  config: ConfigDict, fitted: Mapping[str, InputTransform] | None = None
) -> dict[str, ArrayDataset | str]:
  """Single test trials of each test subject, by the weights' transforms; the reason as text for a subject without them."""
  result: dict[str, ArrayDataset | str] = {}
  for subject in config.data.subjects:
    try:
      result[subject] = stage_data.rows(config, 'test_trials', (subject,), image_size=0, fitted=fitted)
    except UserError as error:
      result[subject] = str(error)
  return result


def estimate_noise_ceiling(trials: ArrayDataset | str, num_bootstrap: int, seed: int) -> dict[str, Any]:
  """The noise ceiling of one subject, for scores.json.

  Per voxel the share of the averaged response's variance that the stimulus explains; and split-half identification
  (`repetitions`), with its interval over stimuli. `trials` are single test trials, or the reason why there are none.
  """
  if isinstance(trials, str):
    return {'missing': trials}
  fmri, stimulus = trials.columns['fmri'], trials.columns['stimulus']
  labels, counts = np.unique(stimulus, return_counts=True)
  explained = explainable_variance(fmri, stimulus)
  halves = repetitions.split_half_identification(fmri, stimulus, seed=seed)
  if explained is None or halves is None:
    return {'missing': 'no test picture was shown more than once'}
  voxels = checks.noise_ceiling(explained.astype(np.float64), float(counts.mean()))
  bootstrap = resampling.Bootstrap.draw(np.arange(len(labels)), num_bootstrap, seed)
  low, high = bootstrap.interval(halves.fractions, halves.influence)
  return {
    'repetitions': [int(counts.min()), int(counts.max())],
    'voxels': {
      'description': 'share of the variance of the averaged response that the stimulus explains, over voxels',
      'median': float(np.median(voxels)),
      'quartiles': [float(q) for q in np.quantile(voxels, (0.25, 0.75))],
    },
    'split_half_identification': {
      'description': 'pairwise identification of one half of the repetitions by the other, by correlation of fMRI',
      'value': float(halves.fractions.mean()),
      'interval': [max(low, 0.0), min(high, 1.0)],
      'chance': 0.5,
      'num_stimuli': len(labels),
    },
  }


def select_trials(
  trials: dict[str, ArrayDataset | str], test: ArrayDataset, count: int, seed: int, averaged: int = 1
) -> ArrayDataset | None:
  """Draws single trials of the test items, or means of a few, with the pictures of the items.

  Args:
    trials: from `load_trials`, in the order of the subjects' numbers.
    test: the test items that are scored.
    count: trials (or means) of each item, at most.
    seed: of the draw.
    averaged: trials in each mean; no trial is in two.

  Returns:
    Rows in the order of the items; None if a subject has no single trials, or no more than `averaged` of any item.
  """
  if count == 0 or any(isinstance(rows, str) for rows in trials.values()):
    return None
  rng, subjects = np.random.default_rng(seed), list(trials.values())
  fmri, items = [], []
  for item, (subject, stimulus) in enumerate(zip(test.columns['subject'], test.columns['stimulus'], strict=True)):
    rows = subjects[subject]
    trial_rows = np.flatnonzero(rows.columns['stimulus'] == stimulus)
    groups = len(trial_rows) // averaged if len(trial_rows) > averaged else 0  # a mean of all is the item itself
    chosen = rng.permutation(trial_rows)[: groups * averaged].reshape(groups, averaged)[:count]
    fmri += [transforms.fit_width(rows.columns['fmri'][group].mean(axis=0), test.num_voxels) for group in chosen]
    items += [item] * len(chosen)
  if not items:
    return None
  single = test.take(np.array(items))
  single.columns['fmri'] = np.stack(fmri)
  return single
