"""Writes the files of a new user's own experiment into the current folder: NIfTI betas with baselines, masks, events, pictures."""

from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

GRID, NUM_TRAIN, NUM_TEST, REPETITIONS = (7, 8, 9), 60, 8, 3
rng = np.random.default_rng(0)
Path('pictures').mkdir()
colours = rng.uniform(0, 1, (NUM_TRAIN + NUM_TEST, 2, 2, 3))
names = [f'p{i:03d}.png' for i in range(len(colours))]
for name, colour in zip(names, colours, strict=True):
  small = Image.fromarray((255 * colour).astype(np.uint8))
  small.resize((70, 80), Image.Resampling.BICUBIC).save(Path('pictures', name))
masks = {'V1': np.zeros(GRID, bool), 'V2': np.zeros(GRID, bool)}
masks['V1'][1:4, 2:6, 3:8] = True  # 60 voxels
masks['V2'][3:6, 2:6, 2:5] = True  # 36 voxels, 8 of them in V1, too
affine = np.diag([2.0, 2, 2, 1])
for name, mask in masks.items():
  nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), affine), f'{name}.nii.gz')
nibabel.save(nibabel.Nifti1Image(np.roll(masks['V1'], 1, axis=0).astype(np.uint8), affine), 'shifted.nii.gz')

# A voxel's response is linear in the colours, upon a baseline of 500 +- 50; trials deviate by 10 to 15.
weights = rng.normal(size=(colours[0].size, *GRID))
baseline = rng.normal(500, 50, GRID)


def respond(numbers):
  """Volumes X Y Z N of the trials that showed these pictures."""
  signal = np.tensordot(colours[numbers].reshape(len(numbers), -1) - 0.5, weights, axes=1)
  trials = baseline + 9 * signal + rng.normal(0, 5, (len(numbers), *GRID))
  return np.moveaxis(trials, 0, -1).astype(np.float32)


shown = rng.permutation(
  np.concatenate([np.arange(NUM_TRAIN), np.repeat(np.arange(NUM_TRAIN, len(names)), REPETITIONS)])
)
nibabel.save(nibabel.Nifti1Image(respond(shown), affine), 'betas.nii.gz')
rows = [f'{names[n]}\t{"train" if n < NUM_TRAIN else "test"}\t{i % 2}' for i, n in enumerate(shown)]
Path('events.tsv').write_text('\n'.join(['image\tsplit\tsession', *rows]) + '\n')
new = respond(np.arange(NUM_TRAIN, NUM_TRAIN + 5))
nibabel.save(nibabel.Nifti1Image(new, affine), 'new.nii.gz')
nibabel.save(nibabel.Nifti1Image(new / 100, affine), 'percent.nii.gz')
