"""Writes simulated resting-state data as files of the preprocessed Human Connectome Project."""

import dataclasses
from pathlib import Path

import numpy as np

from brainjax import files
from brainjax.raw_layout import HCP_FILE
from brainjax.simulator import cortex

FRAMES = 1200  # of one resting run
# Padded to whole patches, the 4192 voxels of the published checkpoint (262 patches of 16).
NUM_VOXELS = 4186


def subject_file(number: int) -> Path:
  """Returns the path of subject 1, 2, ... in the `npz` folder; the name resembles that of a real subject."""
  return Path(f'{900_000 + number}') / HCP_FILE


def write_subject(folder: Path, number: int, config: cortex.CortexConfig, seed: int, frames: int = FRAMES) -> None:
  """Writes V1, V2, V3 and V4, each (frames, voxels of the area) float32, z-scored over time.

  `config.num_voxels` is divided between these four areas in the proportions of `config.roi_shares`. Where subjects share a
  sheet (`config.subject_jitter` below 1) it is divided between all areas, so that V1 to V4 have the vertices of the task.
  """
  if config.subject_jitter == 1:
    shares = tuple((roi, share) for roi, share in config.roi_shares if roi in cortex.EARLY)
    config = dataclasses.replace(config, roi_shares=shares)
  subject = cortex.Subject(config, seed, group=1, number=number)
  data = subject.rest(np.random.default_rng([seed, 5, number]), frames)
  with files.atomic_write(folder / subject_file(number)) as path:
    np.savez(path, **{roi: data[:, where] for roi, where in subject.slices.items() if roi in cortex.EARLY})
