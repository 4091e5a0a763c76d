"""Scores a run's reconstructions, and leaves scores.json, pictures.png, training_curves.png and report.html."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from brainjax import hosts
from brainjax.datasets.arrays import ArrayDataset
from brainjax.errors import UserError
from brainjax.evaluation import report, test_set
from brainjax.evaluation.baselines import pictures as baselines
from brainjax.evaluation.images import Images, read_images
from brainjax.evaluation.networks import classifiers
from brainjax.evaluation.report import provenance, showcase
from brainjax.evaluation.score import ITEMS_FILE, evaluate
from brainjax.stages import data as stage_data


def score(config: ConfigDict, workdir: Path) -> dict[str, Any]:
  """Writes the results into the workdir; returns what scores.json holds."""
  images = read_images(workdir / 'reconstruct' / 'images.npz')
  classifier = classifiers.load(config.evaluate.classifier) if config.evaluate.classifier else None
  more = _features(config.evaluate.features)
  train = stage_data.target_rows(config, 'train', image_size=config.data.image_size)
  test = stage_data.test(config).take(np.arange(len(images.stimuli)))
  made = {}
  missing = baselines.why_not(train, test) if config.evaluate.ridge else ''
  if missing:
    hosts.log(f'evaluate: no ridge regression beside the model: {missing}')
  if config.evaluate.ridge and not missing:
    made['ridge'] = baselines.to_latents(workdir, train, test)
    if classifier:
      made['ridge_nearest'] = baselines.to_features(classifier.features, classifier.name, train, test)
  about = {name: baseline.about for name, baseline in made.items()}
  pictures = {name: baseline.pictures for name, baseline in made.items()}
  scores = evaluate(
    images,
    classifier and classifier.probabilities,
    classifier and classifier.name,
    num_bootstrap=config.evaluate.num_bootstrap,
    num_shuffles=config.evaluate.num_shuffles,
    seed=config.seed,
    out=workdir,
    baselines=pictures,
    subsets=test_set.subsets(train, test),
    training_images=train.pictures,
    features=more,
    facts={
      'zero_shot': test_set.zero_shot(config, train, test),
      'noise_ceiling': test_set.ceiling(config),
      'about_baselines': about,
    },
  )
  draw(images, workdir)
  report.write_page(page(config, workdir, images, scores, train, test, made), workdir / 'report.html')
  return scores


def _features(sources: Sequence[str]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
  """Key of each network -> its features; two networks with one key are told, as one's scores would be lost."""
  found = {}
  for source in sources:
    network = classifiers.load(source, needs_classes=False)
    if network.key in found:
      raise UserError(
        f'evaluate.features: {source} would be scored under the name {network.key} as one before it; leave one out'
      )
    found[network.key] = network.features
  return found


def draw(images: Images, workdir: Path) -> None:
  """pictures.png (stimulus, then samples) and training_curves.png."""
  captions = None if images.categories is None else list(images.categories)
  report.picture_grid(
    images.stimuli,
    images.samples,
    workdir / 'pictures.png',
    captions=captions,
    title='seen, and reconstructed from fMRI',
  )
  report.training_curves(workdir, workdir / 'training_curves.png')


def page(
  config: ConfigDict,
  workdir: Path,
  images: Images,
  scores: dict[str, Any],
  train: ArrayDataset,
  test: ArrayDataset,
  made: dict[str, baselines.Baseline],
) -> report.Page:
  """What report.html shows."""
  with np.load(workdir / ITEMS_FILE, allow_pickle=False) as archive:
    items = {name: archive[name] for name in archive.files}
  nearest = items['nearest_training/row']  # N S
  names = _names_of_pictures(train)
  subjects = np.array(test.info['subjects'])[test.columns['subject']]
  settings = config.reconstruct
  data = 'simulated data' if config.simulate.enabled else f'{config.data.dataset.upper()} data'
  return report.Page(
    title='Reconstructions from fMRI',
    images=images,
    scores=scores,
    items=items,
    summary=f'{", ".join(sorted(set(subjects.tolist())))}, {data}: {scores["num_stimuli"]} stimuli, '
    f'{scores["num_samples"]} samples of each, {settings.sampler.upper()} with {settings.num_steps} steps.',
    subject=subjects,
    baselines={name: baseline.pictures for name, baseline in made.items()},
    nearest=train.pictures[nearest],
    nearest_names=np.array(names)[nearest],
    curves=report.stage_metrics(workdir),
    traces=showcase.traces(config, workdir, test),
    denoising=showcase.denoising(config, workdir, test),
    provenance=provenance.provenance(
      config, workdir, train, test, {name: baseline.about for name, baseline in made.items()}
    ),
  )


def _names_of_pictures(train: ArrayDataset) -> list[str]:
  """The category of each of `train.pictures`."""
  return [train.info['names'][number] for number in train.info['picture_stimulus'].tolist()]


def summary(scores: dict[str, Any]) -> str:
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
