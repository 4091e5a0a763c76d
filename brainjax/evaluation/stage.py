"""The evaluate stage: scores a run's reconstructions and writes scores.json, report.html and two PNGs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from brainjax import hosts
from brainjax.datasets import registry, transforms
from brainjax.datasets.arrays import ArrayDataset
from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import UserError
from brainjax.evaluation import report, test_set
from brainjax.evaluation.baselines import pictures as baselines
from brainjax.evaluation.images import Images, read_images
from brainjax.evaluation.interpretation import results as interpretation
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.networks import published as published_networks
from brainjax.evaluation.networks.classifiers import Classifier
from brainjax.evaluation.report import provenance, showcase
from brainjax.evaluation.score import ITEMS_FILE, SCORES_FILE, evaluate, read_items, score_images
from brainjax.reconstruct import Reconstructor
from brainjax.rules import NOT_NEGATIVE, POSITIVE, Rule
from brainjax.stages import common, reconstruct
from brainjax.stages import data as stage_data
from brainjax.stages.registry import StageSpec, WeightsField

REPORT = 'report.html'


def score(config: ConfigDict, workdir: Path) -> dict[str, Any]:
  """Writes the results into the workdir.

  Returns:
    What scores.json holds.

  Raises:
    UserError: images.npz or weights are missing or damaged.
  """
  images = read_images(reconstruct.pictures_of(workdir))
  classifier = classifiers.load(config.evaluate.classifier) if config.evaluate.classifier else None
  options = {
    'num_bootstrap': config.evaluate.num_bootstrap,
    'num_shuffles': config.evaluate.num_shuffles,
    'seed': config.seed,
  }
  published = published_networks.load(config.evaluate.published)
  judges = {
    'classifier': classifier and classifier.probabilities,
    'classifier_name': classifier and classifier.name,
    'features': _features(config.evaluate.features),
    'published': published.functions,
  }
  reconstructor = Reconstructor(reconstruct.weights_of(workdir), common.compute_dtype(config))
  fitted = reconstructor.transforms
  train = stage_data.target_rows(config, 'train', image_size=config.data.image_size, fitted=fitted)
  items = np.arange(len(images.stimuli))
  test = stage_data.test(config, fitted).take(items)
  # Baselines choose their penalty for the noise of the test rows, and the noise ceiling is about the data: both get them
  # as they are, not at the model's scale.
  unscaled = {subject: t.with_test_scale('train') for subject, t in fitted.items()}
  plain = stage_data.test(config, unscaled).take(items)
  trials = test_set.load_trials(config, unscaled)

  drawn = _baselines(config, workdir, classifier, train, plain, trials)
  facts = {
    'zero_shot': test_set.compare_categories(config, train, test),
    'noise_ceiling': {
      subject: test_set.estimate_noise_ceiling(rows, config.evaluate.num_bootstrap, config.seed + place)
      for place, (subject, rows) in enumerate(trials.items())
    },
    'about_baselines': {name: baseline.about for name, baseline in drawn.items()},
    'published_networks': published.about,
  }
  averaged = config.evaluate.trials_averaged
  single = test_set.select_trials(trials, test, config.evaluate.single_trials, config.seed, averaged)
  if single is not None:
    facts['single_trials'] = _score_single_trials(
      single,
      _sample(config, reconstructor, _at_test_scale(single, fitted, averaged)),
      _baselines(config, workdir, classifier, train, single, {}),
      **judges | options,
    ) | {'trials_averaged': averaged}
  scores = evaluate(
    images,
    out=workdir,
    baselines={name: baseline.pictures for name, baseline in drawn.items()},
    subsets=test_set.split_by_category(train, test),
    attributes=test_set.known_attributes(config, classifier, images.class_index),
    training_images=train.pictures,
    facts=facts,
    **judges | options,
  )
  captions = None if images.categories is None else list(images.categories)
  title = 'seen, and reconstructed from fMRI'
  report.draw_grid(images.stimuli, images.samples, workdir / 'pictures.png', captions=captions, title=title)
  report.draw_curves(workdir, workdir / 'training_curves.png')
  page = _page(config, workdir, images, scores, train, test, drawn, reconstructor)
  page = dataclasses.replace(page, confused_classes=_name_classes(scores, classifier.classes if classifier else ()))
  report.write_page(page, workdir / REPORT)
  if explained := interpretation.read(workdir):
    report.put_brain_section(workdir / REPORT, *explained)
  return scores


def _name_classes(scores: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
  """The most frequent mistakes of the classifier with the names of its classes, or their numbers."""
  named = lambda number: names[number] if names else f'class {number}'
  pairs = scores['confusion'].get('classes', [])
  return [pair | {key: named(pair[key]) for key in ('of', 'taken_for')} for pair in pairs]


def _features(sources: Sequence[str]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
  """Key of each network -> its features. Two networks with one key are refused, as one's scores would be lost."""
  features = {}
  for source in sources:
    network = classifiers.load(source, needs_classes=False)
    if network.key in features:
      raise UserError(
        f'evaluate.features: {source} would be scored under the name {network.key} as an earlier one; leave one out'
      )
    features[network.key] = network.features
  return features


def _baselines(
  config: ConfigDict,
  workdir: Path,
  classifier: Classifier | None,
  train: ArrayDataset,
  test: ArrayDataset,
  trials: baselines.Trials,
) -> dict[str, baselines.Baseline]:
  """Pictures of each baseline for the test rows; `trials` are those that the test rows are means of, if any."""
  if not config.evaluate.ridge:
    return {}
  if reason := baselines.describe_obstacle(train, test):
    hosts.log(f'evaluate: no ridge regression beside the model: {reason}')
    return {}
  regression = baselines.Regression(train, test, trials, config.evaluate.ridge_voxel_zscore)
  drawn = {'ridge': baselines.to_latents(reconstruct.weights_of(workdir), regression)}
  if classifier:
    drawn['ridge_nearest'] = baselines.to_features(classifier.features, classifier.name, regression)
  return drawn


def _at_test_scale(rows: ArrayDataset, fitted: Mapping[str, InputTransform], repetitions: int) -> ArrayDataset:
  """Scales test rows, each the mean of `repetitions` trials, as the model gets them."""
  scaled = rows.take(np.arange(len(rows)))
  for place, subject in enumerate(rows.info['subjects']):
    if subject in fitted:
      mine = rows.columns['subject'] == place
      scaled.columns['fmri'][mine] = fitted[subject].to_test_scale(rows.columns['fmri'][mine], repetitions)
  return scaled


def _sample(config: ConfigDict, reconstructor: Reconstructor, rows: ArrayDataset) -> np.ndarray:
  """One picture of each row: N 1 H W 3."""
  options = {name: value for name, value in config.reconstruct.items() if name not in ('num_items', 'num_samples')}
  return reconstructor(
    transforms.fit_width(rows.columns['fmri'], reconstructor.num_voxels), num_samples=1, normalised=True, **options
  )


def _score_single_trials(
  single: ArrayDataset, samples: np.ndarray, drawn: dict[str, baselines.Baseline], **options: Any
) -> dict[str, Any]:
  """Scores of single test trials, which stand beside those of averaged trials in scores.json."""
  columns = single.columns
  stimuli = single.pictures[single.picture_row]
  images = Images(stimuli, samples, columns['stimulus'], columns['class_index'])
  result, _ = score_images(images, baselines={name: b.pictures for name, b in drawn.items()}, **options)
  return {
    'num_items': result['num_items'],
    'num_stimuli': result['num_stimuli'],
    'scores': result['scores'],
    'baselines': result['baselines'],
    'about_baselines': {name: baseline.about for name, baseline in drawn.items()},
  }


def _page(
  config: ConfigDict,
  workdir: Path,
  images: Images,
  scores: dict[str, Any],
  train: ArrayDataset,
  test: ArrayDataset,
  drawn: dict[str, baselines.Baseline],
  reconstructor: Reconstructor,
) -> report.Page:
  """What report.html shows."""
  items = read_items(workdir)
  nearest = items['nearest_training/row']  # N S
  names = np.array([train.info['names'][number] for number in train.info['picture_stimulus'].tolist()])
  subjects = np.array(test.info['subjects'])[test.columns['subject']]
  sampling = config.reconstruct
  data = 'simulated data' if registry.is_simulated(config) else f'{config.data.dataset.upper()} data'
  return report.Page(
    title='Reconstructions from fMRI',
    images=images,
    scores=scores,
    items=items,
    summary=f'{", ".join(sorted(set(subjects.tolist())))}, {data}: {scores["num_stimuli"]} stimuli, '
    f'{scores["num_samples"]} samples of each, {sampling.sampler.upper()} with {sampling.num_steps} steps.',
    subject=subjects,
    baselines={name: baseline.pictures for name, baseline in drawn.items()},
    nearest=train.pictures[nearest],
    nearest_names=names[nearest],
    curves=report.read_curves(workdir),
    traces=showcase.make_traces(config, workdir, test),
    denoising=showcase.make_strip(config, reconstructor, test),
    provenance=provenance.collect(config, workdir, train, test, scores['about_baselines']),
  )


def format_summary(scores: dict[str, Any]) -> str:
  """The headline scores, a line each: mean over samples with its interval, chance, null, and the baselines'."""
  names = list(scores['baselines'])
  lines = [f'{"score":<20} {"mean of samples":<24} {"chance":>6}  {"null":<16} {" ".join(names)}']
  for name in ('class_50way_top1', 'class_2way_top1', 'pairwise_pcc', 'pairwise_ssim', 'pcc', 'ssim'):
    if name not in scores['scores']:
      continue
    entry = scores['scores'][name]
    mean = entry['mean_of_samples']
    null = '{:.3f} to {:.3f}'.format(*mean['null']['interval'])
    value = f'{mean["value"]:.3f} ({mean["interval"][0]:.3f} to {mean["interval"][1]:.3f})'
    chance = '' if entry['chance'] is None else f'{entry["chance"]:.2f}'
    others = ' '.join(f'{scores["baselines"][b][name]["first_sample"]["value"]:<{len(b)}.3f}' for b in names)
    lines.append(f'{name:<20} {value:<24} {chance:>6}  {null:<16} {others}')
  return '\n'.join(lines)


def _run(config: ConfigDict, workdir: Path) -> None:
  # On the first host and its devices: the pictures of a test set are few.
  hosts.on_first(lambda: print(format_summary(score(config, workdir))))


def _rules(config: ConfigDict) -> dict[str, Rule]:
  return {
    'evaluate.num_bootstrap': Rule(lambda x: x >= 100, '100 or more'),
    'evaluate.num_shuffles': Rule(lambda x: x >= 20, '20 or more'),
    'evaluate.single_trials': NOT_NEGATIVE,
    'evaluate.trials_averaged': POSITIVE,
  }


def _check_result(folder: Path) -> None:
  if not (folder.parent / SCORES_FILE).is_file():
    raise UserError(f'{folder.parent / SCORES_FILE} does not exist; run stage evaluate first.')


STAGE = StageSpec(
  'evaluate',
  after='reconstruct',
  run=_run,
  weights=(
    WeightsField('classifier', origin='brainjax fetch vit_h_14', check=classifiers.check),
    WeightsField('features', check=partial(classifiers.check, needs_classes=False)),
    WeightsField('published', check=published_networks.check),
  ),
  sources=stage_data.paired_sources,
  rules=_rules,
  check_result=_check_result,
  results=(SCORES_FILE, ITEMS_FILE, 'pictures.png', 'training_curves.png', REPORT),
)
