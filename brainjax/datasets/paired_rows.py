"""Rows of fMRI with the picture seen, ready for training: the same for every data set that `paired.Builder` writes."""

import os
from collections.abc import Mapping, Sequence
from concurrent import futures

import numpy as np

from brainjax.datasets import arrays, store, transforms
from brainjax.datasets.data_set import DataSet
from brainjax.datasets.input_transform import InputTransform, session_statistics, standardise_sessions
from brainjax.datasets.paired import explainable_variance
from brainjax.errors import UserError

SPLITS = ('train', 'val', *arrays.TEST_SPLITS)
BLOCK = 1024  # rows that are transformed at a time
_DTYPES = {'fmri': np.float32, 'stimulus': np.int32, 'class_index': np.int32, 'name': str, 'wordnet_id': str}


def draw_val_stimuli(num_train_stimuli: int, num_val_stimuli: int, seed: int) -> np.ndarray:
  """The training stimuli held out for validation, the same for every subject: sorted, `num_val_stimuli`.

  Raises:
    UserError: `num_val_stimuli` leaves no stimulus to train on.
  """
  if num_val_stimuli >= num_train_stimuli:
    raise UserError(f'num_val_stimuli is {num_val_stimuli}; expected 0 .. {num_train_stimuli - 1} training stimuli')
  return np.sort(np.random.default_rng((seed, 0x601D)).permutation(num_train_stimuli)[:num_val_stimuli])


def draw_train_stimuli(num_train_stimuli: int, held_out: np.ndarray, share: float, seed: int) -> np.ndarray:
  """A drawn share (at least one) of the training stimuli not held out; smaller shares lie within larger ones."""
  order = np.random.default_rng((seed, 0x7247)).permutation(num_train_stimuli)
  order = order[~np.isin(order, held_out)]
  return order[: max(1, round(share * len(order)))]


def load(
  data_set: DataSet,
  prepared_dir: str | os.PathLike,
  subjects: Sequence[str],
  roi: str | Sequence[str] = 'VC',
  split: str = 'train',
  *,
  image_size: int | None = None,
  signed_unit: bool = False,
  num_val_stimuli: int = 0,
  val_seed: int = 0,
  patch_size: int = 16,
  num_voxels: int | None = None,
  zscore: str = 'subject',
  train_proportion: Mapping[str, float] | None = None,
  train_sessions: int = 0,
  full_extra_patch: bool = False,
  test_raw_scale: bool = False,
  test_scale: str = 'train',
  fitted: Mapping[str, InputTransform] | None = None,
) -> arrays.ArrayDataset:
  """Rows of one split, in memory.

  fMRI goes through one `InputTransform` per subject: ROI, z-score with the statistics of its TRAINING rows (without
  validation stimuli), voxels repeated to whole patches and to the width of the widest subject.

  Args:
    data_set: whose.
    prepared_dir: the `--out` of prepare.
    subjects: one or more different ones, such as ['sbj_3'].
    roi: a mask's name, a list of names, or 'V1+V2' (union).
    split: 'train', 'val' (training stimuli held out), 'test' (means over repetitions) or 'test_trials'.
    image_size: side of the pictures; None: as stored; 0: no pictures.
    signed_unit: pictures as float32 in [-1, 1] instead of uint8.
    num_val_stimuli: training stimuli held out; 0 is the paper's protocol.
    val_seed: decides which.
    patch_size: voxels per patch.
    num_voxels: repeat or cut voxels to this width instead of the widest subject's.
    zscore: see `InputTransform.fit`.
    train_proportion: subject -> share of its training stimuli to keep, more than 0 and at most 1 (`target_sub_train_proportion`).
    train_sessions: keep the training rows of only so many sessions of each subject, the first ones; 0: of all. A later session
      is z-scored by session with all its training rows, which nothing learns from.
    full_extra_patch: as released, a divisible width gains a whole patch.
    test_raw_scale, test_scale: see `InputTransform`.
    fitted: subject -> the transform that its weights carry. Then `roi`, `patch_size`, `num_voxels`, `zscore`,
      `full_extra_patch`, `test_raw_scale` and `test_scale` are those of the transform. Test splits then read no training
      rows, unless earlier versions made the weights `by_session`: these lack the statistics of each session.

  Returns:
    Columns fmri `N W` float32; stimulus, class_index, subject (place in `subjects`) `N` int32; and the pictures.
    `info`: subjects; transforms, by subject; names, wordnet_ids and class_indices by stimulus; picture_stimulus, the
    stimulus of each picture.

  Raises:
    UserError: data that are not prepared or cannot be read; an unknown subject, ROI or split; nothing left to train on.
  """
  arrays.check_split(split, SPLITS)
  if split == 'val' and not num_val_stimuli:
    raise UserError('num_val_stimuli is 0, so there is no validation split; hold some training stimuli out')
  shares, fitted = dict(train_proportion or {}), fitted or {}
  for name in shares.keys() - set(subjects):
    raise UserError(f'train_proportion of {name} is {shares[name]}; expected some of the subjects {list(subjects)}')

  is_test = split in arrays.TEST_SPLITS
  pictures: dict[int, bytes] | None = None if image_size == 0 else {}  # stimulus -> PNG
  used: dict[str, InputTransform] = {}
  parts, first_stimuli, first_vertices = [], None, None
  for place, subject in enumerate(subjects):
    source = data_set.open(prepared_dir, subject)
    facts = source.info.metadata
    first_stimuli = first_stimuli or facts['stimuli_sha256']
    if facts['stimuli_sha256'] != first_stimuli:
      raise UserError(f'{source.data_dir}: other pictures than those of {subjects[0]}; prepare both again')
    if is_test and split not in source.info.splits:
      raise UserError(f'{source.data_dir}: no {split} split; it holds {", ".join(source.info.splits)}')
    transform = fitted.get(subject)
    if transform:
      _check_same_voxels(transform, facts, source)
    mask = transform.mask if transform else arrays.select_mask(facts.masks, roi, str(source.data_dir))
    width = transform.width if transform else transforms.padded_width(int(mask.sum()), patch_size, full_extra_patch)
    if 'vertices' in facts:  # on one surface for all subjects
      vertices = np.asarray(facts['vertices'])[mask]
      if not np.array_equal(vertices, first_vertices := vertices if first_vertices is None else first_vertices):
        raise UserError(
          f'{source.data_dir}: {len(vertices)} vertices of {roi}, but other ones than the {len(first_vertices)} of {subjects[0]}; '
          'prepare all subjects with the same --rois, or choose areas that all have'
        )
    by_session = transform.by_session if transform else zscore == 'voxel_session'
    sessions = _sessions_of_rows(source) if by_session or train_sessions else {}
    statistics = transform.sessions if transform else {}
    if not is_test or not transform or by_session and not statistics:
      train = _read(source, 'train', mask, None if is_test else pictures, width)
      held_out = draw_val_stimuli(facts['num_train_stimuli'], num_val_stimuli, val_seed)
      kept = draw_train_stimuli(facts['num_train_stimuli'], held_out, shares.get(subject, 1.0), val_seed)
      is_early = (
        _is_early(sessions['train'], train_sessions, source) if train_sessions else np.ones(len(train['fmri']), bool)
      )
      is_kept = np.isin(train['stimulus'], kept) & is_early
      if by_session:
        statistics = statistics or session_statistics(train['fmri'], sessions['train'], is_kept | ~is_early)
        standardise_sessions(train['fmri'], sessions['train'], statistics, str(source.data_dir), out=train['fmri'])
    if not transform:
      explained = None
      if test_scale == 'repetitions':
        explained = explainable_variance(_select(train, is_kept)['fmri'], train['stimulus'][is_kept])
      transform = InputTransform.fit(
        _select(train, is_kept)['fmri'],
        data_set=data_set.name,
        subject=subject,
        roi=roi if isinstance(roi, str) else '+'.join(roi),
        mask=mask,
        patch_size=patch_size,
        full_extra_patch=full_extra_patch,
        zscore=zscore,
        test_raw_scale=test_raw_scale,
        test_scale=test_scale,
        explained=explained,
        sessions=statistics,
        grid=facts.get('grid', ()),
        places=facts.get('places', ()),
        where=str(source.data_dir),
      )
    if not is_test:
      part = _select(train, is_kept if split == 'train' else np.isin(train['stimulus'], held_out) & is_early)
      del train
    elif by_session:
      trials = _read(source, 'test_trials', mask, pictures, width)
      standardise_sessions(
        trials['fmri'], sessions['test_trials'], statistics, str(source.data_dir), out=trials['fmri']
      )
      part = trials if split == 'test_trials' else _means(trials)
    else:
      part = _read(source, split, mask, pictures, width)
    repetitions = 1.0
    if split == 'test' and transform.test_scale == 'repetitions':
      repetitions = _repetitions(facts, part['stimulus'], source)
    part['fmri'] = _apply(transform, part['fmri'], is_test, repetitions)
    part['subject'] = np.full(len(part['fmri']), place, np.int32)
    parts.append(part)
    used[subject] = transform

  width = num_voxels if num_voxels and not fitted else max(part['fmri'].shape[1] for part in parts)
  for part in parts:
    part['fmri'] = transforms.fit_width(part['fmri'], width)
  columns = parts[0] if len(parts) == 1 else {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
  stimulus = columns['stimulus'].tolist()
  by_stimulus = {
    key: dict(zip(stimulus, columns[key].tolist(), strict=True)) for key in ('name', 'wordnet_id', 'class_index')
  }
  del columns['name'], columns['wordnet_id']
  numbers, picture_row = np.unique(stimulus, return_inverse=True)
  info = {
    'subjects': list(subjects),
    'transforms': {subject: transform.with_width(width) for subject, transform in used.items()},
    'names': by_stimulus['name'],
    'wordnet_ids': by_stimulus['wordnet_id'],
    'class_indices': by_stimulus['class_index'],
    'picture_stimulus': numbers,  # of each row of the table
  }
  if pictures is None:
    return arrays.ArrayDataset(columns, info=info)

  def decode(number: int) -> np.ndarray:
    image = store.decode_png(pictures.pop(number))
    return image if image_size is None else transforms.resize_image(image, image_size)

  table = np.zeros(0, np.uint8)
  with futures.ThreadPoolExecutor() as pool:  # each picture is decoded once
    for place, image in enumerate(pool.map(decode, numbers.tolist())):
      if not place:
        table = np.empty((len(numbers), *image.shape), np.uint8)
      table[place] = image
  return arrays.ArrayDataset(columns, table, picture_row, signed_unit, info=info)


def _sessions_of_rows(source: store.Builder) -> dict[str, np.ndarray]:
  """Name of the session of each row of the splits 'train' and 'test_trials': N each."""
  names = source.info.metadata.get('sessions', {})
  if not names or 'test_trials' not in source.info.splits:
    raise UserError(
      f'{source.data_dir}: the session of each trial is not known, so config.data.zscore cannot be voxel_session, nor '
      'config.data.train_sessions be above 0; give the events a column session (or run) and prepare again, or choose voxel'
    )
  return {split: np.array(of_rows) for split, of_rows in names.items()}


def _is_early(session: np.ndarray, count: int, source: store.Builder) -> np.ndarray:
  """Which training rows are of the first `count` sessions, in the order of the rows: N bool.

  Raises:
    UserError: there are fewer sessions.
  """
  names = list(dict.fromkeys(session.tolist()))
  if count > len(names):
    raise UserError(
      f'{source.data_dir}: {len(names)} sessions, but config.data.train_sessions is {count}; choose at most {len(names)}'
    )
  return np.isin(session, names[:count])


def _select(columns: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
  """The chosen rows; not a copy if that is all, because the rows of a subject can take 2 GiB."""
  return columns if chosen.all() else {key: values[chosen] for key, values in columns.items()}


def _apply(transform: InputTransform, fmri: np.ndarray, is_test: bool, repetitions: np.ndarray | float) -> np.ndarray:
  """`transform` of the rows `N V` -> `N W`, a block at a time, in the memory that `_read` took."""
  room = fmri.base
  if room is None or room.shape != (len(fmri), transform.width):
    room = np.empty((len(fmri), transform.width), np.float32)
  counts = np.broadcast_to(np.asarray(repetitions, np.float64).ravel(), len(fmri))
  for start in range(0, len(fmri), BLOCK):
    rows = slice(start, start + BLOCK)
    room[rows] = transform(fmri[rows], is_test, counts[rows])
  return room


def _means(trials: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The mean over the trials of each stimulus, and its other columns."""
  stimulus, first, place = np.unique(trials['stimulus'], return_index=True, return_inverse=True)
  sums = np.zeros((len(stimulus), trials['fmri'].shape[1]), np.float64)
  np.add.at(sums, place, trials['fmri'])
  means = (sums / np.bincount(place)[:, None]).astype(np.float32)
  return {key: values[first] for key, values in trials.items()} | {'fmri': means}


def _repetitions(facts: store.Metadata, stimulus: np.ndarray, source: store.Builder) -> np.ndarray:
  """Trials that the mean response to each test stimulus was made of: N."""
  counts = np.array(facts['repetitions'])
  seen, place = np.unique(stimulus, return_inverse=True)  # a subject may not have seen all test stimuli
  if len(seen) != counts.size:
    raise UserError(
      f'{source.data_dir}: the single trials behind the mean test responses are not known, but the test scale repetitions '
      'needs their number; choose config.data.test_scale=single_trial or train.'
    )
  return counts[place]


def _check_same_voxels(transform: InputTransform, facts: store.Metadata, source: store.Builder) -> None:
  stored = len(next(iter(facts.masks.values())))
  if len(transform.mask) != stored:
    raise UserError(
      f'{source.data_dir} has {stored} voxels, but the weights were trained on {len(transform.mask)} voxels of '
      f'{transform.data_set}/{transform.subject}; use the data of that training.'
    )


def _read(
  source: store.Builder, split: str, mask: np.ndarray, pictures: dict[int, bytes] | None, width: int
) -> dict[str, np.ndarray]:
  """A split's columns with the voxels of `mask`; PNG bytes of stimuli not seen before go to `pictures`.

  The rows have room for `width` voxels, to which `_apply` pads them without a second copy, which can take 2 GiB.
  """
  columns: dict[str, list] = {key: [] for key in _DTYPES if key != 'fmri'}
  num_rows, num_voxels = source.info.splits[split].num_examples, int(mask.sum())
  room = np.empty((num_rows, max(width, num_voxels)), np.float32)
  with store.as_damaged(source.data_dir, f'the {split} split cannot be read'):
    for number, row in enumerate(store.read_rows(source, split)):
      room[number, :num_voxels] = row['fmri'][mask]
      columns['stimulus'].append(row['stimulus'])
      columns['class_index'].append(row['class_index'])
      columns['name'].append(row['name'].decode())
      columns['wordnet_id'].append(row['wordnet_id'].decode())
      if pictures is not None:
        pictures.setdefault(int(row['stimulus']), row['image'])
  return {'fmri': room[:, :num_voxels]} | {key: np.array(values, _DTYPES[key]) for key, values in columns.items()}
