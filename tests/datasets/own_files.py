"""Writes a small study of one's own: betas, events, masks and pictures; the same betas as NIfTI."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from brainjax.datasets import own

NUM_TRAIN, NUM_TEST, REPETITIONS, NUM_VOXELS = 7, 3, 4, 12
MASKS = {'V1': [0, 1, 2, 3, 7], 'V2': [6, 7, 8, 10]}


@dataclasses.dataclass
class Study:
  """What was written."""

  betas: Path
  events: Path
  images: Path
  masks: dict[str, Path]
  fmri: np.ndarray
  table: dict[str, np.ndarray]

  def source(self, **changes) -> own.Source:
    """The files without masks."""
    return dataclasses.replace(own.Source(self.betas, self.events, self.images), **changes)


def options(study: Study, out: Path) -> list[str]:
  """Of the command `prepare own`."""
  return [f'--betas={study.betas}', f'--events={study.events}', f'--images={study.images}', f'--out={out}']


def write(folder: Path) -> Study:
  """19 trials of 12 voxels: 7 training pictures once, 3 test pictures 4 times, in a drawn order."""
  rng = np.random.default_rng(5)
  (folder / 'pictures').mkdir(parents=True)
  names = [f'p{i:02d}.png' for i in range(NUM_TRAIN + NUM_TEST)]
  for name in names:
    Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(folder / 'pictures' / name)
  images = rng.permutation(names[:NUM_TRAIN] + REPETITIONS * names[NUM_TRAIN:])
  splits = np.where(np.isin(images, names[:NUM_TRAIN]), 'train', 'test')
  lines = [f'{2 * i}\t{image}\t{split}\n' for i, (image, split) in enumerate(zip(images, splits, strict=True))]
  (folder / 'events.tsv').write_text('onset\timage\tsplit\n' + ''.join(lines))
  fmri = rng.standard_normal((len(images), NUM_VOXELS)).astype(np.float32)
  np.save(folder / 'betas.npy', fmri)
  masks = {}
  for name, voxels in MASKS.items():
    masks[name] = folder / f'{name}.npy'
    np.save(masks[name], np.isin(np.arange(NUM_VOXELS), voxels))
  table = {'image': images, 'split': splits}
  return Study(folder / 'betas.npy', folder / 'events.tsv', folder / 'pictures', masks, fmri, table)


def as_nifti(study: Study) -> dict[str, Path]:
  """The betas and masks as volumes of 2 x 3 x 2 voxels."""
  import nibabel

  affine = np.diag([2.0, 2, 3, 1])
  out = {}
  for name, data in {'betas': study.fmri.T, **{k: np.load(v).astype(np.uint8) for k, v in study.masks.items()}}.items():
    out[name] = study.betas.with_name(f'{name}.nii.gz')
    nibabel.save(nibabel.Nifti1Image(data.reshape(2, 3, 2, *data.shape[1:]), affine), out[name])
  return out
