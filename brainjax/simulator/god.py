"""Writes a simulated GOD (Kamitani) data set, with the files and the order of the published one."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from brainjax import files
from brainjax.raw_layout import GOD_CLASS_INDEX, GOD_IMAGES, GOD_LABELS
from brainjax.simulator import cortex, stimuli, vision

IMAGES_PER_CATEGORY = 8
REPEATS = 35  # presentations of every test image
SESSIONS = {'train': 3, 'test': 4}  # between which the baselines drift
# Voxels of the visual cortex of the five real subjects.
SUBJECT_VOXELS = (4466, 4404, 4643, 4133, 4370)

# Seeds of the pictures start here; those of prior and classifier training are smaller, or come from generators.
_FIRST_IMAGE_SEED = 1_000_000_000
_CHUNK = 50


@dataclasses.dataclass(frozen=True)
class Pictures:
  """The stimuli: 1200 training pictures (category after category) then 50 test pictures."""

  images: np.ndarray  # uint8 (1250, S, S, 3)
  scenes: stimuli.Scenes
  class_index: np.ndarray  # (1250,) row of `stimuli.categories()`
  instance: np.ndarray  # (1250,) number of the picture within its category
  num_train: int

  def features(self) -> vision.Features:
    """Extracts what every subject's cortex sees."""
    return vision.extract_features(self.images, self.scenes)


def subject_file(number: int) -> str:
  """Returns the file name of subject 1, 2, ..."""
  return f'sbj_{number}.npz'


def pictures(seed: int, size: int = 256, progress: Callable[[int], object] = lambda count: None) -> Pictures:
  """Renders the stimuli.

  The categories are the same for every seed: a prior that has not seen the test categories of one seed has seen those of no seed.

  Args:
    seed: of the instances.
    size: side of the pictures, in pixels.
    progress: called with the number of pictures that were added.
  """
  categories = stimuli.categories()
  class_index = np.concatenate([np.repeat(categories.train, IMAGES_PER_CATEGORY), categories.test])
  num_train = IMAGES_PER_CATEGORY * len(categories.train)
  instance = np.concatenate([np.arange(num_train) % IMAGES_PER_CATEGORY, np.zeros(len(categories.test), int)])
  seeds = _FIRST_IMAGE_SEED + seed * len(class_index) + np.arange(len(class_index))
  scenes = stimuli.sample_scenes(categories.attributes[class_index], seeds)
  images = np.empty((len(scenes), size, size, 3), np.uint8)
  for start in range(0, len(scenes), _CHUNK):
    rows = slice(start, start + _CHUNK)
    images[rows] = stimuli.draw(scenes[rows], size)
    progress(len(images[rows]))
  return Pictures(images, scenes, class_index, instance, num_train)


def write_pictures(folder: Path, shown: Pictures) -> None:
  """Writes the pictures, the class index and the two label files."""
  categories = stimuli.categories()
  with files.atomic_write(folder / GOD_CLASS_INDEX) as path:
    entries = zip(categories.wordnet_ids, categories.names, strict=True)
    path.write_text(json.dumps({str(i): entry for i, entry in enumerate(entries)}, indent=1))
  for split, rows in {'train': slice(shown.num_train), 'test': slice(shown.num_train, None)}.items():
    with files.atomic_write(folder / GOD_LABELS[split]) as path, open(path, 'w', newline='') as handle:
      writer = csv.writer(handle, lineterminator='\n')
      for index, instance in zip(shown.class_index[rows], shown.instance[rows], strict=True):
        writer.writerow([f'{categories.ids[index]}.{instance:06d}'])
  with files.atomic_write(folder / GOD_IMAGES) as path:
    train, test = shown.images[: shown.num_train], shown.images[shown.num_train :]
    np.savez_compressed(path, train_images=train, test_images=test)


def write_subject(
  folder: Path, number: int, config: cortex.CortexConfig, seed: int, features: vision.Features, num_train: int
) -> None:
  """Writes `sbj_<number>.npz`.

  arr_0 (1200, V) single training trials in order of presentation; arr_1 (50 * 35, V) test trials, picture by picture,
  those of a picture in the order of runs (row 35 * picture + run); arr_2 (50, V) their mean over runs; arr_3 (1200,) the
  picture of each training row; and the boolean masks (V,) of the areas.
  """
  subject = cortex.Subject(config, seed, group=0, number=number)
  rng = np.random.default_rng([seed, 4, number])
  signal = subject.signal(features)
  order = rng.permutation(num_train)
  training = signal[:num_train][order] + subject.noise(rng, num_train)
  test_signal = signal[num_train:]
  trials = subject.noise(rng, REPEATS * len(test_signal)).reshape(REPEATS, *test_signal.shape) + test_signal
  if config.session_drift:
    drift = np.random.default_rng([seed, 8, number])
    training += _baselines(drift, SESSIONS['train'], num_train, config)
    trials += _baselines(drift, SESSIONS['test'], REPEATS, config)[:, None]
  with files.atomic_write(folder / subject_file(number)) as path:
    np.savez(
      path,
      arr_0=training,
      arr_1=trials.swapaxes(0, 1).reshape(-1, config.num_voxels),  # run, picture, voxel -> picture * run, voxel
      arr_2=trials.mean(0),
      arr_3=order,
      **subject.masks(),
    )


def _baselines(rng: np.random.Generator, sessions: int, count: int, config: cortex.CortexConfig) -> np.ndarray:
  """The baseline of each voxel in each of `count` trials or runs, which follow each other in so many sessions: count V."""
  drawn = config.session_drift * rng.standard_normal((sessions, config.num_voxels), np.float32)
  return drawn[np.arange(count) * sessions // count]
