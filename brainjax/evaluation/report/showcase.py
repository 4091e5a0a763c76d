"""What the report shows beside scores: fMRI reconstructions of contrast and attend, and one picture as it is denoised."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax.checkpoints import load_weights
from brainjax.datasets import transforms
from brainjax.datasets.arrays import ArrayDataset
from brainjax.evaluation.report import Strip, Trace
from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.ops import losses, patches
from brainjax.reconstruct import Reconstructor
from brainjax.stages import attend
from brainjax.trees import unflatten

NUM_TRACES = 3
STRIP_LENGTH = 8


def traces(config: ConfigDict, workdir: Path, test: ArrayDataset) -> dict[str, list[Trace]]:
  """Masked reconstructions of the first test rows by the stages whose weights lie in the workdir: stage -> traces.

  Test rows, because no stage has learned from them. The masks are drawn from the run's seed.
  """
  made = {'contrast': _contrast, 'attend': _attend}
  result = {}
  for stage, make in made.items():
    if not (workdir / stage / 'weights').is_dir():
      continue
    flat, info = load_weights(workdir / stage / 'weights')
    fmri = transforms.fit_width(test.columns['fmri'][:NUM_TRACES], info['num_voxels'])
    out = make(config, unflatten(flat), info['settings'], fmri, test)
    result[stage] = _traces(fmri, out)
  return result


def _contrast(config: ConfigDict, params: Any, settings: dict, fmri: np.ndarray, test: ArrayDataset) -> dict:
  mae = FmriMAE(**settings)
  noise = jax.random.uniform(jax.random.key(config.seed), (len(fmri), mae.num_patches))
  return jax.jit(mae.apply, static_argnums=3)({'params': params}, fmri, noise, config.contrast.mask_ratio)


def _attend(config: ConfigDict, params: Any, settings: dict, fmri: np.ndarray, test: ArrayDataset) -> dict:
  fmri_mae, image_mae = FmriMAE(**settings['fmri']), ImageMAE(**settings['image'])
  pictures = test.pictures[test.picture_row[: len(fmri)]]
  pictures = np.stack([transforms.resize_image(picture, image_mae.image_size) for picture in pictures])
  image = transforms.imagenet_normalise((transforms.to_signed_unit(pictures) + 1) / 2, config.released.double_rescale)
  keys = jax.random.split(jax.random.key(config.seed))
  noises = [
    jax.random.uniform(k, (len(fmri), mae.num_patches)) for k, mae in zip(keys, (fmri_mae, image_mae), strict=True)
  ]
  ratios = config.attend.mask_ratio, config.attend.image_mask_ratio

  @jax.jit
  def forward(params, fmri, image, fmri_noise, image_noise):
    return attend.forward(fmri_mae, image_mae, params, fmri, image, fmri_noise, image_noise, *ratios)

  return forward(params, fmri, image, *noises)[0]


def _traces(fmri: np.ndarray, out: dict[str, jax.Array]) -> list[Trace]:
  predicted = np.asarray(patches.unpatchify_1d(out['pred']))  # B V
  masked = np.repeat(np.asarray(out['mask']) > 0, out['pred'].shape[-1], axis=1)  # B L -> B V
  # Every row has as many masked voxels, so that these stack to B Vm.
  hidden = [jnp.stack([row[m] for row, m in zip(rows, masked, strict=True)]) for rows in (predicted, fmri)]
  correlations = np.asarray(losses.correlation(*hidden))
  return [
    Trace(row, prediction, mask, f'masked voxels: r = {r:.2f}')
    for row, prediction, mask, r in zip(fmri, predicted, masked, correlations, strict=True)
  ]


def denoising(config: ConfigDict, reconstructor: Reconstructor, test: ArrayDataset) -> Strip:
  """How sample 1 of the first test item comes about."""
  options = config.reconstruct.to_dict()
  for name in ('num_items', 'num_samples', 'batch_size'):
    options.pop(name)
  fmri = transforms.fit_width(test.columns['fmri'][0], reconstructor.num_voxels)
  steps, noisy, expected = reconstructor.denoising(fmri, num_pictures=STRIP_LENGTH, **options)
  labels = ['noise' if step == 0 else f'step {step}' for step in steps]
  return Strip(labels, {'noisy latent, decoded': noisy, 'what the model expects': expected})
