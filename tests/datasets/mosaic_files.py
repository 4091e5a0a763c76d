"""Writes small data in the format of MOSAIC with h5py alone: every grayordinate of a trial is a known number."""

import json
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

NUM = 91282
TRAIN = [f'n0151887{i}_{i}.JPEG' for i in range(7)] + ['clip_a.mp4']
TEST = ['000000000123.jpg', 'shape-x_y.png']
SUBJECTS = ('sub-01_GOD', 'sub-02_GOD', 'sub-01_NOD')
SEEN = {'sub-01_GOD': TRAIN, 'sub-02_GOD': TRAIN[:4], 'sub-01_NOD': TRAIN[2:]}
REPETITIONS = 3  # of test stimuli


def keys(subject: str) -> dict[str, tuple[str, str, int]]:
  """Key of each trial -> stimulus, phase, repetition; test trials first, as MOSAIC writes them."""
  shown = [(name, 'test', k) for name in TEST for k in range(REPETITIONS)] + [
    (name, 'train', 0) for name in SEEN[subject]
  ]
  return {f'{subject}_stimulus-{Path(name).stem}_phase-{phase}_rep-{k}': (name, phase, k) for name, phase, k in shown}


def beta(subject: str, key: str) -> np.ndarray:
  """The 91,282 float64 values of a trial."""
  seed = SUBJECTS.index(subject), list(keys(subject)).index(key)
  return np.random.default_rng(seed).standard_normal(NUM) + seed[1]


def write_betas(path: Path, subject: str, change=lambda key, values: values) -> Path:
  """The HDF5 file of a subject; `change` gives the values that are stored, None for no such trial."""
  with h5py.File(path, 'w') as file:
    file.attrs['subjectID'], file.attrs['dataset_name'] = subject.split('_')[0], 'GenericObjectDecoding'
    group = file.create_group('betas', track_order=True)
    for key, (name, phase, repetition) in keys(subject).items():
      values = change(key, beta(subject, key))
      if values is None:
        continue
      item = group.create_dataset(key, data=values)
      item.attrs['nan_indices'] = np.flatnonzero(~np.isfinite(values))[:8000]  # HDF5 takes 64 kB
      item.attrs['phase'], item.attrs['repetition'] = phase, repetition
      item.attrs['presented_stimulus_filename'] = name
    file.create_group('noiseceilings')
  return path


def split(kind: str) -> dict[str, object]:
  """Content of the two files of the split: 'nested' or 'flat', the forms that were published."""
  parts = {}
  for part, names in (('train', TRAIN), ('test', TEST)):
    nested, flat = {}, []
    for name in names:
      for subject in SUBJECTS:
        shown = [f'{key}.npz' for key, (other, *_) in keys(subject).items() if other == name]
        if shown:
          nested.setdefault(name, {}).setdefault(subject.split('_')[1], {})[subject] = shown
          flat.append({f'{subject}_stimulus-{name}': shown})
    parts[part] = nested if kind == 'nested' else flat
  return parts


def stiminfo(data_set: str) -> str:
  """The table of one data set."""
  people = [subject for subject in SUBJECTS if subject.endswith(data_set)]
  lines = ['\t'.join(['filename', 'alias', 'source', 'test_train', *(f'{each.split("_")[0]}_reps' for each in people)])]
  for part, names in (('train', TRAIN), ('test', TEST)):
    for name in names:
      counts = [str(sum(other == name for other, *_ in keys(each).values())) for each in people]
      lines.append('\t'.join([name, '1', 'ImageNet', part, *counts]))
  return '\n'.join(lines) + '\n'


def picture(name: str) -> np.ndarray:
  """48 48 3 uint8, a colour of each stimulus."""
  number = (TRAIN + TEST).index(name)
  return np.full((48, 48, 3), (20 * number, 255 - 20 * number, 7), np.uint8)


def write(root: Path, kind: str = 'flat', subjects=SUBJECTS) -> Path:
  """A whole folder, its files at different depths."""
  betas, lists, stimuli = root / 'hdf5_files' / 'single_subject', root / 'lists', root / 'stimuli'
  for folder in (betas, lists / 'datasets_stiminfo', stimuli / 'raw', stimuli / 'frames_middle'):
    folder.mkdir(parents=True)
  for number, subject in enumerate(subjects):
    write_betas(betas / f'{subject}{"_crc32-1a2b3c4d" * (number == 0)}.hdf5', subject)
  ending = '' if kind == 'nested' else '_naturalistic'
  for part, content in split(kind).items():
    (lists / f'{part}{ending}.json').write_text(json.dumps(content))
  for data_set in ('GOD', 'NOD'):
    (lists / 'datasets_stiminfo' / f'{data_set.lower()}_stiminfo.tsv').write_text(stiminfo(data_set))
  for name in TRAIN + TEST:
    place = stimuli / 'frames_middle' / f'{Path(name).stem}.jpg' if name.endswith('.mp4') else stimuli / 'raw' / name
    Image.fromarray(picture(name)).save(place, format='PNG')
  return root
