"""Writes small raw data folders in the published formats, from the golden arrays."""

import json
from pathlib import Path

import numpy as np

from tests import golden_files

GOD_SUBJECTS = ('sbj_1', 'sbj_3')
HCP_SUBJECTS = ('100206', '100307', '100408')


def god_arrays(subject: str) -> dict[str, np.ndarray]:
  """arr_0..3 and boolean masks of a subject."""
  group = golden_files.group(golden_files.load('data')[0], f'god/{subject}')
  return {name: array.astype(bool) if array.dtype == np.uint8 else array for name, array in group.items()}


def write_god(folder: Path) -> Path:
  """A whole GOD folder with 14 training and 4 test pictures of 8 pixels."""
  arrays, config = golden_files.load('data')
  folder.mkdir(parents=True, exist_ok=True)
  np.savez(folder / 'images_256.npz', train_images=arrays['god/train_images'], test_images=arrays['god/test_images'])
  (folder / 'imagenet_class_index.json').write_text(json.dumps(config['god_class_index_json']))
  (folder / 'imagenet_training_label.csv').write_text(config['god_training_label_csv'])
  (folder / 'imagenet_testing_label.csv').write_text(config['god_testing_label_csv'])
  for subject in GOD_SUBJECTS:
    np.savez(folder / f'{subject}.npz', **god_arrays(subject))
  return folder


def change_subject(folder: Path, subject: str = 'sbj_1', **changes) -> None:
  """Rewrites a subject's file with some arrays changed (None: left out)."""
  arrays = god_arrays(subject) | changes
  np.savez(folder / f'{subject}.npz', **{name: array for name, array in arrays.items() if array is not None})


def write_hcp(folder: Path) -> Path:
  """Three subjects of 60 frames and 66 voxels, below npz/ as published."""
  arrays, _ = golden_files.load('data')
  for subject in HCP_SUBJECTS:
    (folder / 'npz' / subject).mkdir(parents=True, exist_ok=True)
    np.savez(folder / 'npz' / subject / 'HCP_visual_voxel.npz', **golden_files.group(arrays, f'hcp/{subject}'))
  return folder
