"""The evaluate stage: scores a run's reconstructions beside a ridge baseline, and draws them."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from brainjax import classifiers, report
from brainjax.checkpoints import load_weights
from brainjax.evaluate import evaluate
from brainjax.metrics.baseline import ridge
from brainjax.metrics.images import Images, read_images
from brainjax.models.autoencoder import VQModel
from brainjax.stages import data as stage_data
from brainjax.stages.first_stage import encode_pictures
from brainjax.trees import below, unflatten


def score(config: ConfigDict, workdir: Path) -> dict[str, Any]:
  """Writes scores.json, pictures.png and training_curves.png into the workdir; returns the scores."""
  images = read_images(workdir / 'reconstruct' / 'images.npz')
  name, classify = classifiers.load(config.evaluate.classifier) if config.evaluate.classifier else (None, None)
  train = stage_data.target_rows(config, 'train', image_size=config.data.image_size)
  baselines = {'ridge': ridge_pictures(config, workdir, train)} if config.evaluate.ridge else {}
  result = evaluate(
    images,
    classify,
    name,
    num_bootstrap=config.evaluate.num_bootstrap,
    num_shuffles=config.evaluate.num_shuffles,
    seed=config.seed,
    out=workdir,
    baselines={key: pictures[: len(images.stimuli)] for key, pictures in baselines.items()},
    training_images=train.pictures,
  )
  draw(images, workdir)
  return result


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


def ridge_pictures(config: ConfigDict, workdir: Path, train: Any) -> np.ndarray:
  """Pictures of ridge regression from voxels to first-stage latents: N H W 3 uint8 for the test items."""
  flat, info = load_weights(workdir / 'diffuse' / 'weights')
  first_stage = VQModel(**{k: tuple(v) if isinstance(v, list) else v for k, v in info['settings']['first_stage'].items()})
  weights = below(flat, 'first_stage')
  latents = encode_pictures(first_stage, weights, train.pictures)  # P h w C
  targets = latents[train.picture_row]
  test = stage_data.test(config)
  predicted = ridge(
    train.columns['fmri'], targets.reshape(len(targets), -1), test.columns['fmri'], groups=train.columns['stimulus']
  ).predictions
  variables = jax.device_put({'params': unflatten(weights)})
  decode = jax.jit(lambda variables, z: first_stage.apply(variables, z, method='decode'))
  images = np.concatenate(
    [np.asarray(decode(variables, z)) for z in np.array_split(predicted.reshape(-1, *latents.shape[1:]).astype(np.float32), 5)]
  )
  return np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def summary(scores: dict[str, Any]) -> str:
  """The headline scores, a line each: mean over samples with its interval, chance, null, and the ridge baseline's."""
  lines = [f'{"score":<20} {"mean of samples":<24} {"chance":>6}  {"null":<16} ridge']
  for name in ('class_50way_top1', 'class_2way_top1', 'pairwise_pcc', 'pairwise_ssim', 'pcc', 'ssim'):
    if name not in scores['scores']:
      continue
    entry = scores['scores'][name]
    mean = entry['mean_of_samples']
    null = '{:.3f} to {:.3f}'.format(*mean['null']['interval'])
    value = f'{mean["value"]:.3f} ({mean["interval"][0]:.3f} to {mean["interval"][1]:.3f})'
    chance = '' if entry['chance'] is None else f'{entry["chance"]:.2f}'
    ridge = scores['baselines'].get('ridge', {}).get(name)
    ridge = '' if ridge is None else f'{ridge["first_sample"]["value"]:.3f}'
    lines.append(f'{name:<20} {value:<24} {chance:>6}  {null:<16} {ridge}')
  return '\n'.join(lines)
