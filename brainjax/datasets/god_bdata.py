"""Generic Object Decoding as the Kamitani lab published it (BData files and stimulus pictures) -> the .npz format.

Either SubjectN.h5, all trials of a subject: columns VoxelData (with flags ROI_V1, ROI_VC, ...), DataType (1 training,
2 test, 3 imagery) and stimulus_id, where 1518878.005958 is picture 5958 of WordNet id n01518878 (file
n01518878_5958.JPEG). Or two files a subject of the later release that fMRIPrep made (other participants, the same pictures):
sub-01_ImageNetTraining_fmriprep_volume_native.h5 and sub-01_ImageNetTest_..., whose column stimulus_name names the picture
of each trial. Pictures are numbered by WordNet id, then by their own number. Imagery trials have no picture and are left
out.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brainjax.datasets import bdata, god_raw, paired, pictures, raw, store, transforms
from brainjax.errors import UserError
from brainjax.files import atomic_write
from brainjax.progress import progress

SUBJECT = re.compile(r'Subject(\d+)\.(h5|mat)')
PART = re.compile(r'(sub-\d+)_ImageNet(Training|Test)_\w+\.h5')
PICTURE = re.compile(r'n(\d{8})_(\d+)(?:\.(?:jpe?g|png|tiff?|bmp))?', re.IGNORECASE)
ROI = re.compile(r'ROI_([\w.-]+)')
IMAGE_SIZE = 256
TRAINING, TEST = 1, 2  # DataType
SOURCE = 'source_{}.json'  # beside the .npz files: what each was made from
DESCRIPTION = 'imagenet_class_index.json'


def has_files(folder: Path) -> bool:
  """Whether there are fMRI files of the Kamitani lab in `folder` or `folder`/data."""
  return bool(_fmri_files(folder))


def _fmri_files(folder: Path) -> list[Path]:
  places = [place for place in (folder, folder / 'data') if place.is_dir()]
  return [
    path
    for place in places
    for path in sorted(place.iterdir())
    if SUBJECT.fullmatch(path.name) or PART.fullmatch(path.name)
  ]


def subjects_in(folder: Path) -> dict[str, dict[str, Path]]:
  """sbj_k (of SubjectK.h5) or sub-k -> its files by name, those of `folder` before those of `folder`/data.

  Raises:
    UserError: only one of the two files of a subject, only files for Matlab, or none at all.
  """
  by_subject: dict[str, dict[str, Path]] = {}
  only_matlab: dict[str, Path] = {}
  for path in _fmri_files(folder):
    if part := PART.fullmatch(path.name):
      files = by_subject.setdefault(part[1], {})
      if any(PART.fullmatch(name)[2] == part[2] for name in files):
        raise UserError(f'{path}: {", ".join(files)} is of the same subject and part; keep one of them')
      files[path.name] = path
    else:
      match = SUBJECT.fullmatch(path.name)
      name = f'sbj_{int(match[1])}'
      if match[2] == 'h5':
        by_subject.setdefault(name, {path.name: path})
      else:
        only_matlab[name] = path
  for name, files in by_subject.items():
    if name.startswith('sub-') and len(files) == 1:
      there = PART.fullmatch(next(iter(files)))[2]
      other = 'Test' if there == 'Training' else 'Training'
      raise UserError(f'{folder} holds {next(iter(files))}, but no {name}_ImageNet{other}_...; download both')
  if missing := [path for name, path in only_matlab.items() if name not in by_subject]:
    raise UserError(
      f'{missing[0]}: this file is for Matlab and is not read here; download {missing[0].stem}.h5 of the same release '
      '(figshare 7387130) into this folder'
    )
  return dict(sorted(by_subject.items(), key=lambda item: (item[0][:3], int(re.sub(r'\D', '', item[0])))))


def pictures_in(folder: Path) -> dict[int, Path]:
  """Stimulus -> file, wherever below `folder`. A stimulus is numbered WordNet id * 10**6 + picture.

  Raises:
    UserError: no such folder, or two different files for one stimulus.
  """
  if not folder.is_dir():
    raise UserError(f'{folder}: no such folder; give that of the stimulus pictures with --images')
  by_stimulus: dict[int, Path] = {}
  for place, names in raw.walk(folder):
    for name in names:
      if '.' in name and (stimulus := _stimulus(name)):
        path = place / name
        other = by_stimulus.setdefault(stimulus, path)
        if other != path and store.file_digest(other) != store.file_digest(path):
          raise UserError(f'{path}: another picture than {other}, of the same name; keep the one that was shown')
  return by_stimulus


def _stimulus(name: str) -> int | None:
  match = PICTURE.fullmatch(name)
  return int(match[1]) * 10**6 + int(match[2]) if match else None


def file_name(stimulus: int) -> str:
  """As ImageNet names it, without the ending."""
  return f'n{stimulus // 10**6:08d}_{stimulus % 10**6}'


Rows = dict[int, np.ndarray]  # DataType -> rows


def read_subject(files: dict[str, Path]) -> tuple[Rows, Rows, dict[str, np.ndarray]]:
  """fMRI `N V` float32 and stimulus of each row `N` int64 by data type, and ROI masks `V` bool.

  Voxels that are in no ROI are left out.

  Raises:
    UserError: a column is missing, or has values that cannot be.
  """
  fmri, shown, masks = {}, {}, {}
  for path in files.values():
    with bdata.BDataFile(path) as file:
      is_voxel = file.is_flagged('VoxelData')
      file_masks = _masks(file, is_voxel)
      masks = masks or file_masks
      if masks.keys() != file_masks.keys() or not all(
        np.array_equal(mask, file_masks[name]) for name, mask in masks.items()
      ):
        raise UserError(f'{path}: other ROIs or voxels than in {next(iter(files))}; download both files again')
      inside = np.logical_or.reduce(list(masks.values()))
      is_column = is_voxel.copy()
      is_column[is_voxel] = inside
      for value, rows in _rows(file).items():
        shown[value] = _shown(file, rows)
        fmri[value] = raw.check_fmri(file.read(rows, is_column), f'{path}: VoxelData of DataType {value}')
  return fmri, shown, {name: mask[inside] for name, mask in masks.items()}


def _masks(file: bdata.BDataFile, is_voxel: np.ndarray) -> dict[str, np.ndarray]:
  """ROI -> whether each voxel (column flagged VoxelData) is in it."""
  if not is_voxel.any():
    raise UserError(
      f'{file.path}: no columns are flagged VoxelData; its flags are {", ".join(sorted(file.flags)[:20])}'
    )
  masks = {match[1]: file.is_flagged(match[0])[is_voxel] for match in map(ROI.fullmatch, file.flags) if match}
  masks = {name: mask for name, mask in masks.items() if mask.any()}
  if not masks:
    raise UserError(f'{file.path}: no flags ROI_VC, ROI_V1, ... with voxels; download the file again')
  return masks


def _rows(file: bdata.BDataFile) -> Rows:
  """Rows of training and of test trials."""
  if part := PART.fullmatch(file.path.name):
    return {TRAINING if part[2] == 'Training' else TEST: np.arange(file.num_rows)}
  kind = file.column('DataType')
  for value in (TRAINING, TEST):
    if not (kind == value).any():
      raise UserError(f'{file.path}: no row has DataType {value}; expected 1 (training), 2 (test) and 3 (imagery)')
  return {value: np.flatnonzero(kind == value) for value in (TRAINING, TEST)}


def _shown(file: bdata.BDataFile, rows: np.ndarray) -> np.ndarray:
  """The stimulus of each of these rows: `N` int64."""
  if names := file.value_names.get('stimulus_name'):
    texts = [names.get(value, 'nothing') for value in file.column('stimulus_name')[rows].tolist()]
    stimuli = [_stimulus(text) for text in texts]
    if None in stimuli:
      bad = stimuli.index(None)
      raise UserError(
        f'{file.path}: stimulus_name of row {rows[bad]} is {texts[bad][:60]!r}; expected an ImageNet picture such as '
        'n01518878_5958. Of this release ImageNetTraining and ImageNetTest can be used'
      )
    return np.array(stimuli, np.int64)
  name = 'stimulus_id' if 'stimulus_id' in file.flags else 'Label'  # an earlier version
  stimulus = file.column(name)[rows]
  if not np.isfinite(stimulus).all() or stimulus.min() < 1 or stimulus.max() >= 10**8:
    raise UserError(f'{file.path}: {name} is not always a number such as 1518878.005958; download the file again')
  return np.round(stimulus * 1e6).astype(np.int64)


def prepare(source: Path, images: Path, out: Path, subjects: Sequence[str] | None = None) -> list[str]:
  """Writes images_256.npz, label files, class index and sbj_k.npz into `out`; files that are up to date are kept.

  Args:
    source: folder with the BData files, and imagenet_class_index.json if you have it: WordNet ids it lacks are added.
    images: folder with the stimulus pictures, named n01518878_5958.JPEG, in any subfolders.
    out: folder for the .npz files.
    subjects: such as ['sbj_3']; default: all in `source`.

  Returns:
    Names of the files written.

  Raises:
    UserError: a subject is unknown, a file cannot be read, or the files of subjects do not fit each other.
  """
  known = subjects_in(source)
  names = paired.select_subjects(known, subjects, source)
  first = {name: next(iter(known[name].values())) for name in names}
  table = pictures_in(images)
  described = source / DESCRIPTION
  read, sets = {}, {}
  todo = [name for name in names if not _is_current(out, name, known[name])]
  if not todo and not _is_current(out, 'images', _picture_files(out, table, described)):
    todo = names  # other pictures may have other numbers
  for name in progress(len(todo), 'god: reading', steps=todo, unit='subjects', is_brief=True):
    read[name] = read_subject(known[name])
    shown = {value: tuple(np.unique(stimuli).tolist()) for value, stimuli in read[name][1].items()}
    if set(shown[TRAINING]) & set(shown[TEST]):
      both = file_name(min(set(shown[TRAINING]) & set(shown[TEST])))
      raise UserError(f'{first[name]}: picture {both} is both a training and a test picture; download the file again')
    if sets and shown != sets:
      raise UserError(f'{first[name]}: other pictures than {todo[0]} saw; prepare them into different folders')
    sets = shown
  if not todo:
    return []
  _refuse_other_pictures(out, todo, sets)
  done = _write_pictures(out, table, images, described, sets)
  for name, (fmri, shown, masks) in read.items():
    arrays = _arrays(first[name], fmri, shown, sets)
    _note(out, name).unlink(missing_ok=True)
    with atomic_write(out / f'{name}.npz') as path:
      np.savez(path, **arrays, **masks)
    _write_note(out, name, known[name])
    done.append(f'{name}.npz')
  return done


def _refuse_other_pictures(out: Path, todo: Sequence[str], sets: dict[int, tuple[int, ...]]) -> None:
  """Subjects written before keep their numbers of pictures only if the pictures are the same."""
  others = [path.stem for path in god_raw.subject_files(out) if path.stem not in todo]
  stimuli = {file_name(stimulus) for part in sets.values() for stimulus in part}
  if others and stimuli != set(store.read_note(_note(out, 'images'))) - {DESCRIPTION}:
    raise UserError(
      f'{out} already holds {", ".join(others)}, who saw other pictures than {", ".join(todo)}; choose another --out'
    )


def _arrays(path: Path, fmri: dict, shown: dict, sets: dict[int, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """arr_0 .. arr_3; test trials picture by picture, those of a picture in the order of presentation."""
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
  for doubt in pictures.find_doubts(pictures.survey([used[s] for s in stimuli])['picture_kinds']):
    print(f'look at this: {images}: {doubt}')
  read = progress(len(used), 'god: pictures', steps=used, unit='pictures', is_brief=True)
  by_stimulus = {stimulus: _picture(used[stimulus]) for stimulus in read}
  stacked = {split: np.stack([by_stimulus[stimulus] for stimulus in part]) for split, part in rows.items()}
  _note(out, 'images').unlink(missing_ok=True)
  with atomic_write(out / god_raw.CLASS_INDEX) as path:
    path.write_text(json.dumps(index, indent=1) + '\n')
  for split, name in god_raw.LABELS.items():
    with atomic_write(out / name) as path:
      path.write_text(labels[split])
  with atomic_write(out / god_raw.IMAGES) as path:
    np.savez_compressed(path, train_images=stacked['train'], test_images=stacked['test'])
  _write_note(out, 'images', files)
  return [god_raw.IMAGES]


def _picture(path: Path) -> np.ndarray:
  """256 256 3; smaller pictures are enlarged, so that all agree."""
  picture = pictures.read_square(path, None, str(path))
  return transforms.resize_image(picture, IMAGE_SIZE)


def _class_index(described: Path, stimuli: Sequence[int]) -> dict[str, list[str]]:
  """{class index: [WordNet ids, name]}: that of `described`, and after it each WordNet id that it lacks."""
  known = god_raw.read_class_index(described) if described.is_file() else {}
  index: dict[str, list[str]] = raw.read_json(described) if known else {}
  following = 1 + max(map(int, index), default=-1)
  lacking = sorted({f'n{stimulus // 10**6:08d}' for stimulus in stimuli} - known.keys())
  return index | {str(following + i): [wordnet, wordnet] for i, wordnet in enumerate(lacking)}


def _used_files(used: dict[int, Path], described: Path) -> dict[str, Path]:
  files = {file_name(stimulus): path for stimulus, path in used.items()}
  return files | ({DESCRIPTION: described} if described.is_file() else {})


def _picture_files(out: Path, table: dict[int, Path], described: Path) -> dict[str, Path]:
  """The files behind the pictures written before, as far as they are still there."""
  names = store.read_note(_note(out, 'images'))
  return _used_files({s: path for s, path in table.items() if file_name(s) in names}, described)


def _note(out: Path, name: str) -> Path:
  return out / SOURCE.format(name)


def _is_current(out: Path, name: str, files: dict[str, Path]) -> bool:
  target = out / (god_raw.IMAGES if name == 'images' else f'{name}.npz')
  note = store.read_note(_note(out, name))
  try:
    return target.is_file() and bool(note) and not store.find_changed(note, files)
  except (KeyError, TypeError):
    return False


def _write_note(out: Path, name: str, files: dict[str, Path]) -> None:
  with atomic_write(_note(out, name)) as path:
    path.write_text(json.dumps(store.fingerprint(files)) + '\n')
