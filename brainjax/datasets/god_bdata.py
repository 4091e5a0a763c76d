"""Generic Object Decoding as the Kamitani lab published it (SubjectN.h5 and stimulus pictures) -> the .npz format.

A row of SubjectN.h5 is one trial: columns VoxelData (with flags ROI_V1, ROI_VC, ...), DataType (1 training, 2 test,
3 imagery) and stimulus_id, where 1518878.005958 is picture 5958 of WordNet id n01518878 (file n01518878_5958.JPEG).
Pictures are numbered by stimulus_id. Imagery trials have no picture and are left out.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from brainjax.datasets import god_raw, neuroimaging, pictures, raw, store, transforms
from brainjax.errors import UserError
from brainjax.files import atomic_write

SUBJECT = re.compile(r'Subject(\d+)\.h5')
PICTURE = re.compile(r'n(\d{8})_(\d+)\.(?:jpe?g|png|tiff?|bmp)', re.IGNORECASE)
ROI = re.compile(r'ROI_([\w.-]+)')
IMAGE_SIZE = 256
TRAINING, TEST = 1, 2  # DataType
SOURCE = 'source_{}.json'  # beside the .npz files: what each was made from
DESCRIPTION = 'imagenet_class_index.json'


def subjects_in(folder: Path) -> dict[str, Path]:
  """sbj_k -> SubjectK.h5, in `folder` or `folder`/data, in numerical order; empty if there are none."""
  found = {}
  for place in (folder, folder / 'data'):
    for path in place.glob('Subject*.h5') if place.is_dir() else ():
      if match := SUBJECT.fullmatch(path.name):
        found.setdefault(int(match[1]), path)
  return {f'sbj_{number}': found[number] for number in sorted(found)}


def pictures_in(folder: Path) -> dict[int, Path]:
  """Stimulus -> file, wherever below `folder`. A stimulus is numbered WordNet id * 10**6 + picture."""
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; give that of the stimulus pictures with --images')
  found = {}
  for place, names in raw.walk(folder):
    for name in names:
      if match := PICTURE.fullmatch(name):
        found.setdefault(int(match[1]) * 10**6 + int(match[2]), place / name)
  return found


def file_name(stimulus: int) -> str:
  """As ImageNet names it, without the ending."""
  return f'n{stimulus // 10**6:08d}_{stimulus % 10**6}'


def read_subject(path: Path) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray], dict[str, np.ndarray]]:
  """fMRI by data type `N V` float32, stimulus of each row `N` int64, and ROI masks `V` bool."""
  table, flags = neuroimaging.read_bdata(path)
  is_voxel = flags.get('VoxelData', np.zeros(table.shape[1])) == 1
  if not is_voxel.any():
    raise UserError(f'{path}: no columns are flagged VoxelData; its flags are {", ".join(sorted(flags)[:20])}')
  kind = _column(path, table, flags, 'DataType')
  name = 'stimulus_id' if 'stimulus_id' in flags else 'Label'  # an earlier version
  stimulus = _column(path, table, flags, name)
  fmri, shown = {}, {}
  for value in (TRAINING, TEST):
    rows = np.flatnonzero(kind == value)
    if not len(rows):
      raise UserError(f'{path}: no row has DataType {value}; expected 1 (training), 2 (test) and 3 (imagery)')
    if not np.isfinite(stimulus[rows]).all() or stimulus[rows].min() < 1 or stimulus[rows].max() >= 10**8:
      raise UserError(f'{path}: {name} is not always a number such as 1518878.005958; download the file again')
    fmri[value] = raw.check_fmri(table[np.ix_(rows, is_voxel)], f'{path}: VoxelData of DataType {value}')
    shown[value] = np.round(stimulus[rows] * 1e6).astype(np.int64)
  masks = {}
  for key, flag in flags.items():
    match = ROI.fullmatch(key)
    if match and (flag[is_voxel] == 1).any():
      masks[match[1]] = flag[is_voxel] == 1
  if not masks:
    raise UserError(f'{path}: no flags ROI_VC, ROI_V1, ... with voxels; download the file again')
  return fmri, shown, masks


def _column(path: Path, table: np.ndarray, flags: dict[str, np.ndarray], name: str) -> np.ndarray:
  place = np.flatnonzero(flags.get(name, np.zeros(0)) == 1)
  if len(place) != 1:
    raise UserError(f'{path}: {len(place)} columns are flagged {name}; expected one')
  return table[:, place[0]]


def prepare(source: Path, images: Path, out: Path, subjects: Sequence[str] | None = None) -> list[str]:
  """Writes images_256.npz, label files, class index and sbj_k.npz into `out`; what is there and unchanged is kept.

  Args:
    source: folder with SubjectN.h5, and imagenet_class_index.json if you have it: WordNet ids it lacks are added.
    images: folder with the stimulus pictures, named n01518878_5958.JPEG, in any subfolders.
    out: folder for the .npz files.
    subjects: such as ['sbj_3']; default: all that are there.

  Returns:
    What was written.
  """
  known = subjects_in(source)
  unknown = [name for name in subjects or [] if name not in known]
  if unknown:
    raise UserError(f'{source}: no file of subject {", ".join(unknown)}; those that exist: {", ".join(known)}')
  names = list(subjects or known)
  table = pictures_in(images)
  described = source / DESCRIPTION
  read, sets = {}, {}
  todo = [name for name in names if not _is_current(out, name, {known[name].name: known[name]})]
  if not todo and not _is_current(out, 'images', _picture_files(out, table, described)):
    todo = names  # pictures changed: their numbers may have
  for name in tqdm(todo, 'god: reading', unit=' subjects', disable=None):
    read[name] = read_subject(known[name])
    shown = {value: tuple(np.unique(stimuli).tolist()) for value, stimuli in read[name][1].items()}
    if set(shown[TRAINING]) & set(shown[TEST]):
      both = file_name(min(set(shown[TRAINING]) & set(shown[TEST])))
      raise UserError(f'{known[name]}: picture {both} is both a training and a test picture; download the file again')
    if sets and shown != sets:
      raise UserError(f'{known[name]}: other pictures than {todo[0]} saw; prepare them into different folders')
    sets = shown
  if not todo:
    return []
  _refuse_other_pictures(out, todo, sets)
  done = _write_pictures(out, table, images, described, sets)
  for name, (fmri, shown, masks) in read.items():
    arrays = _arrays(known[name], fmri, shown, sets)
    _note(out, name).unlink(missing_ok=True)
    with atomic_write(out / f'{name}.npz') as path:
      np.savez(path, **arrays, **masks)
    _write_note(out, name, {known[name].name: known[name]})
    done.append(f'{name}.npz')
  return done


def _refuse_other_pictures(out: Path, todo: Sequence[str], sets: dict[int, tuple[int, ...]]) -> None:
  """Subjects written before keep their numbers of pictures only if the pictures are the same."""
  others = [path.stem for path in out.glob('sbj_*.npz') if path.stem not in todo]
  stimuli = {file_name(stimulus) for part in sets.values() for stimulus in part}
  if others and stimuli != set(_read_note(out, 'images')) - {DESCRIPTION}:
    raise UserError(f'{out}: {", ".join(others)} there saw other pictures than {", ".join(todo)}; choose another --out')


def _arrays(path: Path, fmri: dict, shown: dict, sets: dict[int, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """arr_0 .. arr_3; test trials stand picture by picture, in order of presentation."""
  train_place, test_place = (np.searchsorted(sets[value], shown[value]) for value in (TRAINING, TEST))
  counts = np.bincount(test_place)
  if counts.min() != counts.max():
    raise UserError(f'{path}: test pictures were shown {counts.min()} to {counts.max()} times; expected equally often')
  order = np.argsort(test_place, kind='stable')
  trials = fmri[TEST][order]
  # picture * repetition V -> picture repetition V
  means = trials.reshape(len(counts), counts[0], -1).mean(axis=1, dtype=np.float64).astype(np.float32)
  return {'arr_0': fmri[TRAINING], 'arr_1': trials, 'arr_2': means, 'arr_3': train_place}


def _write_pictures(out: Path, table: dict[int, Path], images: Path, described: Path, sets: dict) -> list[str]:
  stimuli = [*sets[TRAINING], *sets[TEST]]
  missing = [file_name(stimulus) for stimulus in stimuli if stimulus not in table]
  if missing:
    raise UserError(
      f'{images}: {len(missing)} of {len(stimuli)} stimulus pictures are missing, the first is {missing[0]}.JPEG'
    )
  used = {stimulus: table[stimulus] for stimulus in stimuli}
  rows = {'train': sets[TRAINING], 'test': sets[TEST]}
  labels = {
    split: ''.join(f'{s // 10**6}.{s % 10**6:06d},"{file_name(s)}.JPEG"\n' for s in part)
    for split, part in rows.items()
  }
  files = _used_files(used, described)
  same = all((out / name).is_file() and (out / name).read_text() == labels[k] for k, name in god_raw.LABELS.items())
  if same and _is_current(out, 'images', files):
    return []
  index = _class_index(described, stimuli)
  pictures = {split: np.stack([_picture(used[s]) for s in part]) for split, part in rows.items()}
  _note(out, 'images').unlink(missing_ok=True)
  with atomic_write(out / god_raw.CLASS_INDEX) as path:
    path.write_text(json.dumps(index, indent=1) + '\n')
  for split, name in god_raw.LABELS.items():
    with atomic_write(out / name) as path:
      path.write_text(labels[split])
  with atomic_write(out / god_raw.IMAGES) as path:
    np.savez_compressed(path, train_images=pictures['train'], test_images=pictures['test'])
  _write_note(out, 'images', files)
  return [god_raw.IMAGES]


def _picture(path: Path) -> np.ndarray:
  """256 256 3; smaller pictures are enlarged, so that all agree."""
  picture = pictures.square_picture(path, None, str(path))
  return transforms.resize_image(picture, IMAGE_SIZE)


def _class_index(described: Path, stimuli: Sequence[int]) -> dict[str, list[str]]:
  """{class index: [WordNet ids, name]}: that of `described`, and after it each WordNet id that it lacks."""
  index: dict[str, list[str]] = {}
  known = set()
  if described.is_file():
    classes = god_raw.read_class_index(described)
    index = raw.read_json(described)
    known = set(classes)
  following = 1 + max((int(number) for number in index), default=-1)
  lacking = sorted({f'n{stimulus // 10**6:08d}' for stimulus in stimuli} - known)
  return index | {str(following + i): [wordnet, wordnet] for i, wordnet in enumerate(lacking)}


def _used_files(used: dict[int, Path], described: Path) -> dict[str, Path]:
  files = {file_name(stimulus): path for stimulus, path in used.items()}
  return files | ({DESCRIPTION: described} if described.is_file() else {})


def _picture_files(out: Path, table: dict[int, Path], described: Path) -> dict[str, Path]:
  """The files behind the pictures written before, as far as they are still there."""
  names = _read_note(out, 'images')
  return _used_files({s: path for s, path in table.items() if file_name(s) in names}, described)


def _note(out: Path, name: str) -> Path:
  return out / SOURCE.format(name)


def _read_note(out: Path, name: str) -> dict:
  try:
    note = json.loads(_note(out, name).read_text())
    return note if isinstance(note, dict) else {}
  except (OSError, ValueError):
    return {}


def _is_current(out: Path, name: str, files: dict[str, Path]) -> bool:
  target = out / (god_raw.IMAGES if name == 'images' else f'{name}.npz')
  note = _read_note(out, name)
  try:
    return target.is_file() and bool(note) and not store.changed_files(note, files)
  except (KeyError, TypeError):
    return False


def _write_note(out: Path, name: str, files: dict[str, Path]) -> None:
  with atomic_write(_note(out, name)) as path:
    path.write_text(json.dumps(store.fingerprint(files)) + '\n')
