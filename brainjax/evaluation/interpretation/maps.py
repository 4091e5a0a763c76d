"""Maps: one number per voxel of a subject, as a picture or as a file of neuroimaging programs."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from ml_collections import ConfigDict

from brainjax.datasets import brain_maps, checks, registry
from brainjax.datasets.arrays import select_mask
from brainjax.datasets.input_transform import InputTransform
from brainjax.datasets.store import Metadata
from brainjax.errors import UserError
from brainjax.evaluation.interpretation import results, truth
from brainjax.files import atomic_write
from brainjax.simulator import cortex

PICTURES = ('.png', '.svg', '.pdf')
CIFTI, GIFTI, NIFTI = '.dscalar.nii', '.func.gii', ('.nii', '.nii.gz')
COLOURS = 'cividis'  # the same to every eye
KINDS = ('noise_ceiling', 'encoding/FEATURES', 'saliency/TARGET/METHOD/LEVEL', 'lesion/KIND/SCORE')


def quantities(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], subject: str) -> list[str]:
  """What can be drawn, of the `KINDS`."""
  found = ['noise_ceiling']
  found += [name.replace(f'/{subject}/', '/') for name in arrays if name.startswith(f'encoding/{subject}/')]
  prefix = f'saliency/{subject}/'
  for name in arrays:
    if name.startswith(prefix):
      found += [f'saliency/{name.removeprefix(prefix)}/{level}' for level in range(len(arrays[name]))]
  for kind, areas in plain.get('lesion', {}).items():
    found += [f'lesion/{kind}/{score}' for score in next(iter(areas.values()))]
  return found


def quantity(
  name: str,
  plain: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
  subject: str,
  transform: InputTransform,
  facts: Metadata,
) -> np.ndarray:
  """One number per stored voxel: V float32; NaN where the quantity does not exist.

  Args:
    name: of `quantities`.
    plain, arrays: of an interpretation.
    subject: name.
    transform: of the subject.
    facts: metadata of its prepared data.

  Raises:
    UserError: there is no such quantity.
  """
  known = quantities(plain, arrays, subject)
  if name not in known:
    raise UserError(
      f'--map={name}: there is no such map of {subject}; those that exist: {", ".join(known)}; methods that run add theirs.'
    )
  kind, *rest = name.split('/')
  result = np.full(len(transform.mask), np.nan, np.float32)
  if kind == 'noise_ceiling':
    if 'explainable_variance' not in facts:
      raise UserError(f'--map={name}: {subject} has no repeated test pictures, so the noise ceiling is not known.')
    explainable = np.asarray(facts['explainable_variance'], np.float64)
    return checks.noise_ceiling(explainable, np.mean(facts['repetitions'])).astype(np.float32)
  if kind == 'encoding':
    result[transform.mask] = arrays[f'encoding/{subject}/{rest[0]}']
    return result
  if kind == 'saliency':
    target, method, level = rest
    result[transform.mask] = np.abs(arrays[f'saliency/{subject}/{target}/{method}'][int(level)]).mean(axis=0)
    return result
  how, score = rest
  areas = sorted(plain['lesion'][how], key=lambda area: -plain['areas'][subject][area])  # the smallest one is on top
  for area in areas:
    inside = select_mask(facts.masks, area, subject)
    result[inside & transform.mask] = plain['lesion'][how][area][score]['difference']
  return result


def write(
  values: np.ndarray, name: str, facts: Mapping[str, Any], path: Path, subject: cortex.Subject | None
) -> list[Path]:
  """Writes a map by the suffix of `path`; returns the files.

  Args:
    values: V, one per stored voxel.
    name: what they are.
    facts: metadata of the prepared data, which say where the voxels are.
    path: .png, .svg, .pdf; .nii, .nii.gz; .dscalar.nii or .func.gii.
    subject: the simulated cortex, if there is one.

  Raises:
    UserError: another suffix, or the data do not say where their voxels are.
  """
  text = path.name.lower()
  if 'vertices' in facts:  # some of HCP's grayordinates, as MOSAIC keeps them
    whole = np.full(brain_maps.NUM_GRAYORDINATES, np.nan, np.float32)
    whole[np.asarray(facts['vertices'])] = values
    values = whole
  grayordinates = len(values) in (brain_maps.NUM_CORTEX, brain_maps.NUM_GRAYORDINATES)
  if text.endswith(CIFTI):
    brain_maps.write_cifti(np.nan_to_num(values), path, name)
    return [path]
  if text.endswith(GIFTI):
    return brain_maps.write_gifti(np.nan_to_num(values), path, name)
  if text.endswith(NIFTI):
    if not facts.get('affine'):
      raise UserError(
        f'--out={path}: these data do not say where their voxels are in space; they must come from NIfTI masks, and be '
        'prepared again if they were prepared by an earlier version.'
      )
    brain_maps.write_nifti(np.nan_to_num(values), facts['places'], facts['grid'], facts['affine'], path)
    return [path]
  if not text.endswith(PICTURES):
    raise UserError(f'--out={path}: expected {", ".join((*PICTURES, *NIFTI, CIFTI, GIFTI))}.')
  if subject is not None:
    canvas = draw_simulated(values, subject, name)
  elif grayordinates:
    canvas = draw_surface(values, name)
  elif facts.get('grid'):
    canvas = draw_volume(values, facts['places'], facts['grid'], name)
  else:
    raise UserError(f'--out={path}: these data do not say where their voxels are, so there is no picture of them.')
  with atomic_write(path) as temporary:
    canvas.savefig(temporary, dpi=160)
  plt.close(canvas)
  return [path]


def _scale(values: np.ndarray) -> plt.Normalize:
  """From the 1st to the 99th percentile."""
  low, high = np.nanpercentile(values, (1, 99))
  return plt.Normalize(low, high if high > low else low + 1)


def draw_simulated(values: np.ndarray, subject: cortex.Subject, name: str) -> plt.Figure:
  """The simulated cortex: early areas by the place of their receptive fields, higher areas in the order of voxels.

  Args:
    values: V, all voxels of the subject.
    subject: whose fields are drawn; a circle is as large as a third of the field.
    name: of the values.
  """
  norm = _scale(values)
  early = [area for area in cortex.EARLY if area in subject.slices]
  higher = [area for area in cortex.HIGHER if area in subject.slices]
  canvas = plt.figure(figsize=(2.3 * len(early) + 0.7, 3.6), layout='constrained')
  grid = canvas.add_gridspec(2, len(early), height_ratios=(4, 1))
  for column, area in enumerate(early):
    axis = canvas.add_subplot(grid[0, column])
    x, y, size = subject.fields[subject.slices[area]].T
    shown = values[subject.slices[area]]
    order = np.argsort(np.nan_to_num(shown))  # the largest on top
    axis.scatter(x[order], y[order], s=160 * size[order], c=shown[order], cmap=COLOURS, norm=norm, linewidths=0)
    axis.add_patch(plt.Rectangle((-1, -1), 2, 2, fill=False, color='#808793', linewidth=0.8))
    axis.set(title=area, xlim=(-1.3, 1.3), ylim=(1.3, -1.3), xticks=[], yticks=[], aspect='equal')
  inner = grid[1, :].subgridspec(1, max(len(higher), 1))
  for column, area in enumerate(higher):
    axis = canvas.add_subplot(inner[0, column])
    axis.bar(range(len(values[subject.slices[area]])), values[subject.slices[area]], 1.0, color='#0072b2')
    axis.set(title=area, xticks=[], ylim=(min(0.0, norm.vmin), norm.vmax))
    axis.tick_params(labelsize=6)
  bar = canvas.colorbar(plt.cm.ScalarMappable(norm, COLOURS), ax=canvas.axes[: len(early)], shrink=0.8)
  bar.set_label(name, fontsize=7)
  canvas.suptitle('receptive fields of the early areas (square: the picture); voxels of the higher ones', fontsize=8)
  return canvas


def draw_surface(values: np.ndarray, name: str) -> plt.Figure:
  """HCP grayordinates on the flattened cortex, over its sulci in grey: 59412 or 91282 values."""
  points, triangles, sulci = brain_maps.flat_surface()
  shown = np.concatenate(brain_maps.on_vertices(values))
  canvas, axis = plt.subplots(figsize=(7.2, 3.2), layout='constrained')
  draw = partial(axis.tripcolor, *points.T, shading='gouraud', rasterized=True)
  draw(triangles, sulci, cmap='Greys', vmin=-1.5, vmax=5)  # light
  kept = triangles[np.isfinite(shown)[triangles].all(axis=1)]
  image = draw(kept, np.nan_to_num(shown), cmap=COLOURS, norm=_scale(shown))
  axis.set(aspect='equal')
  axis.set_axis_off()
  canvas.colorbar(image, ax=axis, shrink=0.7, label=name)
  return canvas


def draw_volume(values: np.ndarray, places: Any, grid: Any, name: str) -> plt.Figure:
  """Voxels of a volume, seen along its three axes: the largest value behind each point."""
  volume = np.full(int(np.prod(grid)), np.nan, np.float32)
  volume[np.asarray(places)] = values
  volume, norm = volume.reshape(grid), _scale(values)
  canvas, axes = plt.subplots(1, 3, figsize=(7.2, 2.6), layout='constrained')
  for i, axis in enumerate(axes):
    with np.errstate(all='ignore'):
      seen = np.where(np.isfinite(volume).any(axis=i), np.nanmax(np.nan_to_num(volume, nan=-np.inf), axis=i), np.nan)
    image = axis.imshow(seen.T, origin='lower', cmap=COLOURS, norm=norm, interpolation='nearest')
    axis.set(title=f'along axis {"XYZ"[i]}', xticks=[], yticks=[])
  canvas.colorbar(image, ax=axes, shrink=0.8, label=name)
  return canvas


def write_of_run(
  config: ConfigDict, workdir: Path, transforms: Mapping[str, InputTransform], name: str, subject: str, path: Path
) -> list[Path]:
  """Writes a map of a run, see `quantity` and `write`.

  Args:
    config: of the run.
    workdir: of the run.
    transforms: of its weights.
    name: of the quantity.
    subject: name.
    path: the file.

  Raises:
    UserError: as `quantity` and `write`, or another subject.
  """
  if subject not in transforms:
    raise UserError(f'--subject={subject}; expected one of {", ".join(transforms)}.')
  facts = registry.get(config.data.dataset).open(config.data.prepared, subject).info.metadata
  plain, arrays = results.read(workdir) or ({}, {})
  values = quantity(name, plain, arrays, subject, transforms[subject], facts)
  simulated = truth.cortex_of(config, subject) if registry.is_simulated(config) else None
  return write(values, name, facts, path, simulated)
