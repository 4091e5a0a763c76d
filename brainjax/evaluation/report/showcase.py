"""Examples in the report: masked fMRI rebuilt by the autoencoders, and the denoising of one picture."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax.checkpoints import load_weights
from brainjax.datasets import transforms
from brainjax.datasets.arrays import ArrayDataset
from brainjax.evaluation.report import Strip, Trace
from brainjax.ops import losses, patches
from brainjax.reconstruct import Reconstructor
from brainjax.stages.registry import STAGES
from brainjax.trees import unflatten

NUM_TRACES = 3
STRIP_LENGTH = 8


def make_traces(config: ConfigDict, workdir: Path, test: ArrayDataset) -> dict[str, list[Trace]]:
  """Masked reconstructions of the first test rows by every stage that rebuilds fMRI: stage -> traces.

  Test rows, because no stage has learned from them. The masks are drawn from the run's seed.

  Raises:
    UserError: weights cannot be read.
  """
  result = {}
  for name, spec in STAGES.items():
    if spec.rebuild and (workdir / name / 'weights').is_dir():
      flat, info = load_weights(workdir / name / 'weights')
      fmri = transforms.fit_width(test.columns['fmri'][:NUM_TRACES], info['num_voxels'])
      result[name] = _traces(fmri, spec.rebuild(config, unflatten(flat), info['settings'], fmri, test))
  return result


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


def make_strip(config: ConfigDict, reconstructor: Reconstructor, test: ArrayDataset) -> Strip:
  """The steps of the sampler for sample 1 of the first test item."""
  options = config.reconstruct.to_dict()
  for name in ('num_items', 'num_samples', 'batch_size'):
    options.pop(name)
  fmri = transforms.fit_width(test.columns['fmri'][0], reconstructor.num_voxels)
  steps, noisy, expected = reconstructor.denoising(fmri, num_pictures=STRIP_LENGTH, normalised=True, **options)
  labels = ['noise' if step == 0 else f'step {step}' for step in steps]
  return Strip(labels, {'noisy latent, decoded': noisy, 'what the model expects': expected})
