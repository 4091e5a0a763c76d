"""The raw Generic Object Decoding folder (published .npz format): read, checked against itself, nothing changed.

Files: images_256.npz (train_images, test_images), sbj_k.npz (arr_0 training rows, arr_1 test trials picture by picture,
arr_2 their means, arr_3 picture of each training row, boolean voxel masks by ROI name), imagenet_class_index.json,
imagenet_training_label.csv, imagenet_testing_label.csv.
"""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np

from brainjax.datasets import paired, raw, store
from brainjax.errors import UserError
from brainjax.raw_layout import GOD_CLASS_INDEX as CLASS_INDEX
from brainjax.raw_layout import GOD_IMAGES as IMAGES
from brainjax.raw_layout import GOD_LABELS as LABELS

SUBJECT = re.compile(r'(sbj_|sub-)\d+')
ARRAYS = ('arr_0', 'arr_1', 'arr_2', 'arr_3')


@dataclasses.dataclass
class Stimuli:
  """Pictures and labels of both splits."""

  images: dict[str, np.ndarray]  # split -> N H W 3 uint8
  labels: dict[str, list[paired.Label]]  # split -> N


@dataclasses.dataclass
class Subject:
  """One subject's responses, on their raw scale."""

  train: np.ndarray  # N V float32
  train_stimulus: np.ndarray  # N
  test: np.ndarray  # K V, means over repetitions
  trials: np.ndarray  # K*R V, single test trials, in the file's order
  trial_stimulus: np.ndarray | None  # K*R, 0..K-1; None if the order is ambiguous
  rois: dict[str, np.ndarray]  # name -> V bool


def find_folder(path: str | os.PathLike) -> Path:
  """The folder with the .npz files: `path` or `path/npz`.

  Raises:
    UserError: neither has them.
  """
  return raw.find_folder(path, IMAGES, 'the GOD data set (images_256.npz, sbj_1.npz, ...)')


def subject_files(folder: Path) -> list[Path]:
  """Files of subjects, sbj_1.npz, ..., sub-01.npz, ... in numerical order."""
  files = [path for path in folder.glob('*.npz') if SUBJECT.fullmatch(path.stem)]
  return sorted(files, key=lambda path: (path.stem[:3], int(path.stem[4:])))


def subjects_in(folder: Path) -> list[str]:
  """Names of the subjects whose files are there, in numerical order. A gap in their numbers is reported.

  Raises:
    UserError: there are none.
  """
  names = [path.stem for path in subject_files(folder)]
  if not names:
    raise UserError(f'{folder}: no subject file sbj_1.npz, sbj_2.npz, ... there')
  published = {int(name[4:]) for name in names if name.startswith('sbj_')}
  if missing := sorted(set(range(1, max(published, default=0) + 1)) - published):
    print(
      f'{folder}: missing between the others: {", ".join(f"sbj_{number}.npz" for number in missing)}; only '
      f'{", ".join(names)} can be used. The published data have sbj_1 to sbj_5'
    )
  return names


def files_of(folder: Path, subject: str) -> dict[str, Path]:
  """The raw files that a subject's data depend on, by name.

  Raises:
    UserError: one is missing.
  """
  names = [IMAGES, f'{subject}.npz', CLASS_INDEX, *LABELS.values()]
  return {name: raw.check_file(folder / name) for name in names}


def read_class_index(path: Path) -> dict[str, paired.Label]:
  """WordNet id -> label, from {class index: [id, ..., description]}.

  Raises:
    UserError: the file cannot be read, or does not hold such a table.
  """
  table = raw.read_json(path)
  labels: dict[str, paired.Label] = {}
  try:
    for index, (*ids, name) in table.items():
      if not ids or not all(isinstance(text, str) for text in (*ids, name)):
        raise ValueError(index)
      labels.update({wordnet: paired.Label(int(index), wordnet, name) for wordnet in ids})
  except (ValueError, TypeError, AttributeError):
    raise UserError(
      f'{path}: expected {{"0": ["n01440764", "tench"], ...}}, one or more WordNet ids and a description for each '
      'class index; download it again'
    ) from None
  if not labels or not all(0 <= label.class_index < 2**31 for label in labels.values()):
    raise UserError(f'{path}: no classes, or a class index outside 0 .. 2**31 - 1; download it again')
  return labels


def read_labels(path: Path, classes: dict[str, paired.Label], count: int) -> list[paired.Label]:
  """One label a row. The integer before the first dot is the WordNet id. An unknown id is refused, never skipped.

  Raises:
    UserError: a row or a WordNet id is unknown, or there are not `count` rows.
  """
  rows = [row.strip().strip('"') for row in raw.read_text(path).splitlines()]
  while rows and not rows[-1]:
    rows.pop()
  labels = []
  for number, row in enumerate(rows, 1):
    head = row.split('.')[0]
    if not re.fullmatch(r'[0-9]{1,8}', head):
      raise UserError(f'{path}: row {number} is {row[:40]!r}; expected one file name per row, such as 1518878.004958')
    wordnet = f'n{int(head):08d}'
    if wordnet not in classes:
      raise UserError(
        f'{path}: row {number} names WordNet id {wordnet} ({row[:40]}), which {CLASS_INDEX} does not hold; every later '
        'label would shift, so correct the row or the class index'
      )
    labels.append(classes[wordnet])
  if len(labels) != count:
    raise UserError(f'{path}: {len(labels)} labels for {count} pictures in {IMAGES}; expected one for each picture')
  return labels


def read_stimuli(folder: Path) -> Stimuli:
  """Pictures and labels of both splits.

  Raises:
    UserError: a file is missing or damaged, or pictures and labels do not fit.
  """
  classes = read_class_index(folder / CLASS_INDEX)
  images, labels = {}, {}
  with raw.NpzReader(folder / IMAGES) as archive:
    for split, file in LABELS.items():
      pictures = archive.read(f'{split}_images', ndim=4, kinds='u')
      if (
        pictures.dtype != np.uint8
        or pictures.shape[3] != 3
        or pictures.shape[1] != pictures.shape[2]
        or not pictures.size
      ):
        raise UserError(
          f'{archive.path}: {split}_images is {pictures.dtype} of shape {pictures.shape}; '
          'expected uint8 (N, 256, 256, 3)'
        )
      images[split] = pictures
      labels[split] = read_labels(folder / file, classes, len(pictures))
  return Stimuli(images, labels)


def read_subject(folder: Path, subject: str, num_train: int, num_test: int) -> Subject:
  """A subject's arrays, checked against the numbers of training and test pictures.

  Raises:
    UserError: the file is missing or damaged, or its arrays do not fit each other or the pictures.
  """
  with raw.NpzReader(folder / f'{subject}.npz') as archive:
    where = archive.path
    missing = [name for name in ARRAYS if name not in archive.names]
    if missing:
      raise UserError(
        f'{where}: {", ".join(missing)} missing; expected arr_0 .. arr_3 and ROI masks, found {archive.names}'
      )
    train = archive.read_fmri('arr_0')
    num_voxels = train.shape[1]
    test = archive.read_fmri('arr_2', num_voxels)
    trials = archive.read_fmri('arr_1', num_voxels)
    order = archive.read('arr_3', ndim=1)
    rois = {name: _mask(archive, name, num_voxels) for name in archive.names if name not in ARRAYS}
  if len(order) != len(train):
    raise UserError(f'{where}: arr_3 names a picture for {len(order)} rows but arr_0 has {len(train)} rows')
  is_picture = (order >= 0) & (order < num_train) & (order == np.round(order))
  if not is_picture.all():
    bad = int(np.argmin(is_picture))
    raise UserError(
      f'{where}: arr_3 row {bad} is {order[bad]}; expected the number of a training picture, 0 .. {num_train - 1} '
      f'({IMAGES} holds {num_train})'
    )
  if len(test) != num_test:
    raise UserError(f'{where}: arr_2 has {len(test)} rows but {IMAGES} holds {num_test} test pictures; they must agree')
  if len(trials) % num_test:
    raise UserError(
      f'{where}: arr_1 has {len(trials)} rows, not a multiple of the {num_test} test pictures; expected all repetitions'
    )
  if not rois:
    raise UserError(f'{where}: no ROI mask found; expected boolean arrays such as VC, V1, V2 with {num_voxels} entries')
  return Subject(train, order.astype(np.int32), test, trials, find_trial_order(trials, test), rois)


def read(folder: Path, subject: str) -> paired.Trials:
  """All of a subject. Single test trials are left out, with a message, where `find_trial_order` finds no order.

  Raises:
    UserError: as `read_stimuli` and `read_subject`.
  """
  stimuli = read_stimuli(folder)
  counts = {split: len(pictures) for split, pictures in stimuli.images.items()}
  arrays = read_subject(folder, subject, counts['train'], counts['test'])
  # The format has no names of pictures; they are named by their places: train/0, ...
  names = {split: [f'{split}/{i}' for i in range(count)] for split, count in counts.items()}
  images, labels = (
    {name: value for split in names for name, value in zip(names[split], values[split], strict=True)}
    for values in (stimuli.images, stimuli.labels)
  )
  fmri, shown = arrays.train, [names['train'][i] for i in arrays.train_stimulus]
  if arrays.trial_stimulus is None:
    print(
      f'{folder / subject}.npz: the single test trials arr_1 do not average to arr_2, neither picture by picture nor run '
      'by run, so the picture of each trial is unknown. Only arr_2 is used; there will be no single test '
      'trials and no noise ceilings'
    )
  else:
    fmri = np.concatenate([fmri, arrays.trials])
    shown += [names['test'][i] for i in arrays.trial_stimulus]

  facts = {
    'stimuli_sha256': store.file_digest(folder / IMAGES),
    'image_size': stimuli.images['train'].shape[1],
    'repetitions': len(arrays.trials) // counts['test'],
    'trial_order': 'unknown: trials do not average to arr_2' if arrays.trial_stimulus is None else 'known',
  }
  return paired.Trials(
    fmri,
    shown,
    arrays.rois,
    names['train'],
    names['test'],
    images.__getitem__,
    labels.__getitem__,
    test_means=arrays.test,
    facts=facts,
  )


def _mask(archive: raw.NpzReader, name: str, num_voxels: int) -> np.ndarray:
  mask = archive.read(name, ndim=1, kinds='biu')
  if len(mask) != num_voxels or not np.isin(mask, (0, 1)).all():
    raise UserError(
      f'{archive.path}: ROI mask {name!r} is {mask.dtype} of length {len(mask)}; expected {num_voxels} booleans'
    )
  if not mask.any():
    raise UserError(f'{archive.path}: ROI mask {name!r} selects no voxel; leave it out or correct it')
  return mask.astype(bool)


def find_trial_order(trials: np.ndarray, means: np.ndarray, tolerance: float = 0.01) -> np.ndarray | None:
  """The stimulus of each trial: `K*R`, or None.

  The format has the trials of a picture together (row R * picture + repetition). Some files have run after run (row
  K * run + picture). The order is the one whose averages are the published means, to `tolerance` of their deviation.

  Args:
    trials: `K*R V`.
    means: `K V`.
    tolerance: mean absolute difference that is accepted, in deviations of the means.
  """
  count = len(means)
  repetitions = len(trials) // count
  for stimulus in (np.repeat(np.arange(count), repetitions), np.tile(np.arange(count), repetitions)):
    sums = np.zeros(means.shape, np.float64)
    np.add.at(sums, stimulus, trials)
    if np.abs(sums / repetitions - means).mean() <= tolerance * means.std():
      return stimulus
  return None
