"""Human Connectome Project resting-state data (phase 1): TFDS builder, and the loader that streams windows from disk.

hcp.prepare('data/HCP', 'data/prepared')                        # or: brainjax prepare hcp --raw=... --out=...
rest = hcp.load('data/prepared', roi='VC', patch_size=16)
batches = loader.make_loader(rest, batch_size=250, seed=0)
next(batches)                                                   # {'fmri': 250 V float32, 'subject': 250, 'weight': 250}
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from brainjax.datasets import arrays, checks, data_set, hcp_cifti, raw, store, transforms
from brainjax.datasets.hcp_cifti import AREAS, FILE
from brainjax.errors import UserError
from brainjax.rules import NAMES, NOT_NEGATIVE, Rule

SPLITS = ('train', 'val')
WINDOW_SECONDS = 8
MAX_MEAN = 5  # of a voxel over time, in its deviations: near 0 in z-scored series, 100 in raw ones


class Hcp(store.Builder):
  """TFDS data set `hcp`: one split, train; record = one window's mean of one subject, subjects in sorted order."""

  VERSION = tfds.core.Version('1.0.0')
  DESCRIPTION = (
    'Resting-state fMRI of the visual areas V1 to V4 (Glasser parcels), means over windows of 10 frames, as '
    'z-scored by the pre-processing; the per-subject normalisation of the paper is applied on loading.'
  )
  HOMEPAGE = 'https://www.humanconnectome.org'
  LICENSE = 'HCP Open Access Data Use Terms'
  CITATION = """@article{vanessen2013wu,
  title = {The {WU-Minn} {Human Connectome Project}: an overview},
  author = {Van Essen, David C. and Smith, Stephen M. and Barch, Deanna M. and others},
  journal = {NeuroImage}, volume = {80}, pages = {62--79}, year = {2013}
}"""

  def _info(self):
    return self.about(
      tfds.features.FeaturesDict(
        {
          'fmri': tfds.features.Tensor(shape=(None,), dtype=np.float32, encoding='bytes'),
          'subject': tfds.features.Text(),
          'window': tfds.features.Scalar(np.int32),
        }
      )
    )

  def raw_files(self, raw_dir):
    """One file a subject."""
    return files_of(raw_dir)

  def _split_generators(self, dl_manager):
    files = files_of(Path(dl_manager.manual_dir))
    frames = transforms.frames_per_window(WINDOW_SECONDS)
    shapes = _check_shapes(files, frames)
    areas = {area: num_voxels for area, (_, num_voxels) in next(iter(shapes.values())).items()}
    windows = {name: arrays['V1'][0] // frames for name, arrays in shapes.items()}
    owner = np.repeat(AREAS, list(areas.values()))
    masks = {area: owner == area for area in AREAS} | {'VC': np.ones(len(owner), bool)}
    self.info.metadata.update(
      subjects=list(files),
      windows=list(windows.values()),
      frames_per_window=frames,
      num_voxels=len(owner),
      rois={area: int(mask.sum()) for area, mask in masks.items()},
      **{f'roi/{area}': mask for area, mask in masks.items()},
      # Of each subject and voxel, over its windows: the scalar statistics of any ROI follow from these. S V
      voxel_mean=np.zeros((len(files), len(owner)), np.float32),
      voxel_variance=np.zeros((len(files), len(owner)), np.float32),
    )
    return {'train': (sum(windows.values()), self._windows(files, areas, frames))}

  def _windows(self, files: dict[str, Path], areas: dict[str, int], frames: int) -> Iterator[dict[str, Any]]:
    for place, (name, path) in enumerate(files.items()):
      parts, deviations = [], []
      with raw.NpzReader(path) as archive:
        for area in AREAS:  # one by one, so that never a whole file is in memory
          series = archive.read_fmri(area, areas[area])
          parts.append(transforms.window_means(series, frames))
          deviations.append(series.std(axis=0))
      means = np.concatenate(parts, axis=1)
      self.info.metadata['voxel_mean'][place] = means.mean(axis=0, dtype=np.float64)
      self.info.metadata['voxel_variance'][place] = means.var(axis=0, dtype=np.float64)
      level, deviation = np.median(np.abs(means.mean(axis=0))), np.median(np.concatenate(deviations))
      if level > MAX_MEAN * deviation:
        raise UserError(
          f'{path}: the mean of a voxel over time is {level:.3g}, its deviation {deviation:.3g} (medians over voxels); '
          'expected series that were z-scored over time, voxel by voxel'
        )
      for window, fmri in enumerate(means):
        yield {'fmri': fmri, 'subject': name, 'window': window}


def _check_shapes(files: dict[str, Path], frames: int) -> dict[str, dict[str, tuple[int, int]]]:
  """Subject -> area -> (frames, voxels). All subjects must have the same voxels, and one window of `frames` or more."""
  shapes = {}
  for name, path in files.items():
    with raw.NpzReader(path) as archive:
      shapes[name] = {area: archive.header(area)[0] for area in AREAS}
    for area, shape in shapes[name].items():
      if len(shape) != 2 or shape[0] != shapes[name]['V1'][0]:
        raise UserError(
          f'{path}: array {area!r} has shape {shape}; expected (frames, voxels) with as many frames as V1'
        )
    if shapes[name]['V1'][0] < frames:
      raise UserError(f'{path}: fewer than {frames} frames; expected a whole resting-state run (1200 frames)')
    first = next(iter(shapes))
    here, there = ({area: shape[1] for area, shape in shapes[subject].items()} for subject in (name, first))
    if here != there:
      raise UserError(
        f'{path}: {sum(here.values())} voxels {here}, but subject {first} has {sum(there.values())} {there}; all '
        'subjects need the same voxels, so prepare them in the same way'
      )
  return shapes


def find_folder(path: str | os.PathLike) -> Path:
  """The folder of the subjects' folders: `path` or `path/npz`.

  Raises:
    UserError: neither has them.
  """
  return raw.find_folder(path, f'*/{FILE}', f'the HCP subjects (<subject>/{FILE})')


def files_of(folder: Path) -> dict[str, Path]:
  """Subject -> file, subjects in sorted order."""
  return {path.parent.name: path for path in sorted(folder.glob(f'*/{FILE}'))}


def prepare(
  raw: str | os.PathLike,
  out: str | os.PathLike,
  runs: Sequence[str] = hcp_cifti.RUNS,
  workers: int | None = None,
) -> store.States:
  """Prepares all subjects, from .npz files or from CIFTI files (their `runs`, by so many processes).

  Raises:
    UserError: files are missing or do not fit.
  """
  raw, out = Path(raw), Path(out)
  hcp_cifti.check_runs(runs)
  if workers is not None and workers < 1:
    raise UserError(f'--workers={workers}; expected 1 or more')
  folder = raw
  if hcp_cifti.has_files(raw):
    folder = out / store.NPZ
    print('\n'.join(hcp_cifti.prepare(raw, folder, runs, workers).lines()))
  elif not _has_npz(raw):
    hcp_cifti.refuse_volumes(raw)
  return {'hcp': store.prepare(Hcp.of, find_folder(folder), out)}


def _has_npz(folder: Path) -> bool:
  return any(any(folder.glob(f'{place}*/{FILE}')) for place in ('', 'npz/'))


def _has_raw(folder: Path) -> bool:
  return _has_npz(folder) or hcp_cifti.has_files(folder)


class HcpDataset(arrays.Dataset):
  """Windows read from disk when asked for: ROI, wrap-padding, and each subject's own scalar z-score."""

  def __init__(
    self, source: Any, rows: np.ndarray, subject: np.ndarray, columns: np.ndarray, mean: np.ndarray, std: np.ndarray
  ):
    self._source, self._rows, self._subject = source, rows, subject
    self._columns, self._mean, self._std = columns, mean, std
    self.num_voxels = len(columns)
    self.info: dict[str, Any] = {}

  def __len__(self) -> int:
    return len(self._rows)

  def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
    """`{'fmri': B V, 'subject': B}`."""
    records = self._rows[np.asarray(rows)]
    subject = self._subject[records]
    fmri = np.stack([item['fmri'] for item in self._source.__getitems__(records.tolist())])[:, self._columns]
    fmri -= self._mean[subject, None]
    fmri /= self._std[subject, None]
    return {'fmri': fmri, 'subject': subject}


def load(
  prepared_dir: str | os.PathLike,
  roi: str | Sequence[str] = 'VC',
  split: str = 'train',
  *,
  max_subjects: int | None = None,
  num_val_subjects: int = 0,
  val_seed: int = 0,
  patch_size: int = 16,
  num_voxels: int | None = None,
  augmentation_times: float = 1.0,
  augmentation_seed: int = 0,
  full_extra_patch: bool = False,
) -> arrays.Dataset:
  """Windows of resting-state data, normalised per subject over its windows and (padded) voxels as in the paper's code.

  Args:
    prepared_dir: the `--out` of prepare.
    roi: 'VC', an area, a list, or 'V1+V2'.
    split: 'train', or 'val' (held-out subjects).
    max_subjects: only the first ones in sorted order.
    num_val_subjects: subjects held out, drawn by `val_seed`.
    val_seed: decides which.
    patch_size: voxels in a patch.
    num_voxels: wrap or truncate (after normalising) to this width.
    augmentation_times: rows grow to this multiple by interpolating drawn pairs (published default 1: none).
    augmentation_seed: draws the pairs.
    full_extra_patch: as released, a divisible width gains a whole patch.

  Raises:
    UserError: the data are not prepared, or a ROI, split, width or number of subjects does not fit them.
  """
  arrays.check_split(split, SPLITS)
  opened = DATA_SET.open(prepared_dir)
  metadata = opened.info.metadata
  mask = arrays.select_mask(metadata.masks, roi, f'hcp in {prepared_dir}')
  columns = np.flatnonzero(mask)
  columns = transforms.pad_to_patch_size(columns, patch_size, full_extra_patch)

  names = metadata['subjects'][:max_subjects]
  if not 0 <= num_val_subjects < len(names):
    raise UserError(f'num_val_subjects is {num_val_subjects}; expected 0 .. {len(names) - 1} of the subjects')
  if split == 'val' and not num_val_subjects:
    raise UserError('num_val_subjects is 0, so there is no validation split; hold some subjects out')
  held_out = np.random.default_rng((val_seed, 0x4C9)).permutation(len(names))[:num_val_subjects]
  subject = np.repeat(np.arange(len(metadata['windows']), dtype=np.int32), metadata['windows'])
  wanted = np.isin(subject, held_out) if split == 'val' else ~np.isin(subject, held_out)
  rows = np.flatnonzero(wanted & (subject < len(names)))

  # Mean and variance of the whole padded matrix of a subject, from those of its voxels.
  voxel_mean = metadata['voxel_mean'][:, columns].astype(np.float64)
  mean = voxel_mean.mean(axis=1)
  variance = metadata['voxel_variance'][:, columns].mean(axis=1, dtype=np.float64) + voxel_mean.var(axis=1)
  std = np.sqrt(variance)
  for place in np.flatnonzero(~(std[: len(names)] > 0))[:1]:
    raise UserError(f'subject {names[place]} of hcp in {prepared_dir}: the voxels of {roi} never change; leave it out')
  if num_voxels is not None:
    columns = transforms.fit_width(columns, num_voxels)

  data: Any = HcpDataset(
    opened.as_data_source('train'), rows, subject, columns, mean.astype(np.float32), std.astype(np.float32)
  )
  data.info = {
    'subjects': names,
    'roi': roi,
    'num_voxels': int(mask.sum()),
    'held_out': [names[i] for i in sorted(held_out)],
  }
  if augmentation_times > 1:
    pairs = transforms.draw_pairs(len(data), augmentation_times, np.random.default_rng(augmentation_seed))
    data = arrays.InterpolatedDataset(data, pairs)
  return data


def load_unpaired(
  prepared_dir: str | os.PathLike,
  split: str = 'train',
  *,
  patch_size: int,
  full_extra_patch: bool,
  seed: int,
  hcp_rois: Sequence[str],
  hcp_subject_limit: int,
  hcp_val_subjects: int,
  hcp_augmentation: float,
) -> arrays.Dataset | None:
  """`load`, from the fields of `config.data`; see configs/base.py. None where nothing is held out for the split 'val'.

  Raises:
    UserError: as `load`.
  """
  if split == 'val' and not hcp_val_subjects:
    return None
  return load(
    prepared_dir,
    hcp_rois,
    split,
    max_subjects=hcp_subject_limit or None,
    num_val_subjects=hcp_val_subjects,
    val_seed=seed,
    patch_size=patch_size,
    augmentation_times=hcp_augmentation if split == 'train' else 1.0,
    augmentation_seed=seed,
    full_extra_patch=full_extra_patch,
  )


def check(source: Any) -> list[checks.Subject]:
  """What `prepare check` reports of each subject; reads every window once.

  Raises:
    UserError: the prepared data are damaged.
  """
  facts = store.read_metadata(Path(source.data_dir))
  rois, start, subjects = facts.masks, 0, []
  for place, (name, count) in enumerate(zip(facts['subjects'], facts['windows'], strict=True)):
    subject = checks.Subject(
      name, [f'{count} windows of {facts["num_voxels"]} voxels; ROIs {checks.format_counts(facts["rois"])}'], rois=rois
    )
    statistics = checks.Statistics()
    for row in store.read_rows(source, 'train', range(start, start + count)):
      statistics.add(row['fmri'])
    subject.doubts += statistics.find_doubts('train')
    subject.rows = statistics.standardise() if place < checks.MAX_SUBJECTS else {}
    deviation = np.sqrt(facts['voxel_variance'][place])
    subject.values = {roi: deviation[mask] for roi, mask in rois.items() if roi != 'VC'}
    start += count
    subjects.append(subject)
  return subjects


DATA_SET = data_set.DataSet(
  name='hcp',
  title='HCP resting state: .dtseries.nii files, or one .npz a subject',
  builder=Hcp,
  has_raw=_has_raw,
  prepare=prepare,
  arguments=(
    data_set.RAW,
    data_set.Argument('runs', 'of the CIFTI files; the paper used REST1_LR', 'RUNS', data_set.split_names),
    data_set.Argument('workers', 'processes that read CIFTI files; each needs about 1 GB', 'N', int),
  ),
  rois=('VC', *AREAS),
  has_pictures=False,
  check=check,
  unpaired=load_unpaired,
  fields={
    'hcp_rois': Rule(lambda x: len(x) > 0 and NAMES.holds(x) and set(x) <= set(AREAS), f'some of {", ".join(AREAS)}'),
    'hcp_subject_limit': NOT_NEGATIVE,
    'hcp_val_subjects': NOT_NEGATIVE,
    'hcp_augmentation': Rule(lambda x: 1 <= x <= 100, 'between 1 and 100'),
  },
  raw_field='hcp',
  origin='https://db.humanconnectome.org/data/projects/HCP_1200 (needs an account, and its terms accepted)',
  needs_command=hcp_cifti.has_files,  # --runs
)
