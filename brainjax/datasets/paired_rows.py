"""Rows of fMRI with the picture seen, ready for training: the same for every data set that `paired.Builder` writes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent import futures

import numpy as np

from brainjax.datasets import arrays, store, transforms
from brainjax.datasets.data_set import DataSet
from brainjax.errors import UserError

SPLITS = ('train', 'val', *arrays.TEST_SPLITS)
_DTYPES = {'fmri': np.float32, 'stimulus': np.int32, 'class_index': np.int32, 'name': str, 'wordnet_id': str}


@dataclasses.dataclass
class _Pictures:
  """PNG bytes by stimulus, collected while rows are read, and decoded once."""

  wanted: bool
  encoded: dict[int, bytes] = dataclasses.field(default_factory=dict)

  def table(self, stimulus: np.ndarray, size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of the different stimuli `P H W 3`, and each row's place among them `N`."""
    numbers, place = np.unique(stimulus, return_inverse=True)

    def decode(number: int) -> np.ndarray:
      image = store.decode_png(self.encoded[number])
      return image if size is None else transforms.resize_image(image, size)

    with futures.ThreadPoolExecutor() as pool:
      return np.stack(list(pool.map(decode, numbers.tolist()))), place


def val_stimuli(num_train_stimuli: int, num_val_stimuli: int, seed: int) -> np.ndarray:
  """The training stimuli held out for validation, the same for every subject: sorted, `num_val_stimuli`."""
  if not 0 <= num_val_stimuli < num_train_stimuli:
    raise UserError(f'num_val_stimuli is {num_val_stimuli}; expected 0 .. {num_train_stimuli - 1} training stimuli')
  return np.sort(np.random.default_rng((seed, 0x601D)).permutation(num_train_stimuli)[:num_val_stimuli])


def kept_stimuli(num_train_stimuli: int, held_out: np.ndarray, share: float, seed: int) -> np.ndarray:
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
  train_proportion: Mapping[str, float] | None = None,
  full_extra_patch: bool = False,
  test_raw_scale: bool = False,
) -> arrays.ArrayDataset:
  """Rows of one split, in memory.

  fMRI: ROI, wrap-padding to whole patches, one z-score a subject with the statistics of its TRAINING rows (after the
  validation stimuli are taken out), wrap-padding to the widest subject.

  Args:
    data_set: whose.
    prepared_dir: the `--out` of prepare.
    subjects: such as ['sbj_3'].
    roi: a mask's name, a list of names, or 'V1+V2' (union).
    split: 'train', 'val' (training stimuli held out), 'test' (means over repetitions) or 'test_trials'.
    image_size: side of the pictures; None: as stored; 0: no pictures.
    signed_unit: pictures as float32 in [-1, 1] instead of uint8.
    num_val_stimuli: training stimuli held out; 0 is the paper's protocol.
    val_seed: decides which.
    patch_size: voxels in a patch.
    num_voxels: wrap or truncate to this width instead of the widest subject's.
    train_proportion: subject -> share of its training stimuli to keep (`target_sub_train_proportion`).
    full_extra_patch: as released, a divisible width gains a whole patch.
    test_raw_scale: as released, test rows are not normalised.

  Returns:
    Columns fmri `N V` float32; stimulus, class_index, subject (place in `subjects`) `N` int32; and the pictures.
    `info`: subjects, roi, statistics, num_voxels and mask by subject; names, wordnet_ids and class_indices by stimulus;
    picture_stimulus, the stimulus of each picture.
  """
  arrays.check_split(split, SPLITS)
  if split == 'val' and not num_val_stimuli:
    raise UserError('num_val_stimuli is 0, so there is no validation split; hold some training stimuli out')
  if not subjects or len(set(subjects)) != len(subjects):
    raise UserError(f'subjects is {list(subjects)}; expected one or more different subjects, such as sbj_3')
  shares = dict(train_proportion or {})
  for name, share in shares.items():
    if name not in subjects or not 0 < share <= 1:
      raise UserError(f'train_proportion of {name} is {share}; expected a share in (0, 1] of one of {list(subjects)}')

  is_test = split in arrays.TEST_SPLITS
  pictures = _Pictures(image_size != 0)
  info: dict = {'subjects': list(subjects), 'roi': roi, 'statistics': {}, 'num_voxels': {}, 'mask': {}}
  parts, names, wordnet_ids, class_indices, first_stimuli = [], {}, {}, {}, None
  for place, subject in enumerate(subjects):
    source = data_set.open(prepared_dir, subject)
    facts = source.info.metadata
    first_stimuli = first_stimuli or facts['stimuli_sha256']
    if facts['stimuli_sha256'] != first_stimuli:
      raise UserError(f'{source.data_dir}: other pictures than those of {subjects[0]}; prepare both again')
    masks = {key.removeprefix('roi/'): value for key, value in facts.items() if key.startswith('roi/')}
    mask = arrays.roi_mask(masks, roi, str(source.data_dir))
    if is_test and split not in source.info.splits:
      raise UserError(f'{source.data_dir}: no {split} split; it holds {", ".join(source.info.splits)}')

    def padded(part: str, pictures: _Pictures, source=source, mask=mask) -> dict[str, np.ndarray]:
      rows = _read(source, part, mask, pictures)
      rows['fmri'] = transforms.pad_to_patch_size(rows['fmri'], patch_size, full_extra_patch)
      return rows

    train = padded('train', _Pictures(False) if is_test else pictures)
    held_out = val_stimuli(facts['num_train_stimuli'], num_val_stimuli, val_seed)
    kept = kept_stimuli(facts['num_train_stimuli'], held_out, shares.get(subject, 1.0), val_seed)
    is_kept = np.isin(train['stimulus'], kept)
    mean, std = transforms.statistics(train['fmri'][is_kept]) if is_kept.any() else (0.0, 0.0)
    if not std > 0:
      raise UserError(
        f'{source.data_dir}: {is_kept.sum()} training rows are left and the voxels of {roi} have no variance in them; '
        'hold fewer stimuli out, keep a larger share, or check the ROI'
      )
    if is_test:
      part = padded(split, pictures)
    else:
      chosen = is_kept if split == 'train' else np.isin(train['stimulus'], held_out)
      part = {key: values[chosen] for key, values in train.items()}
    if not (is_test and test_raw_scale):
      part['fmri'] = transforms.normalize(part['fmri'], mean, std)
    names.update(zip(part['stimulus'].tolist(), part.pop('name').tolist(), strict=True))
    wordnet_ids.update(zip(part['stimulus'].tolist(), part.pop('wordnet_id').tolist(), strict=True))
    class_indices.update(zip(part['stimulus'].tolist(), part['class_index'].tolist(), strict=True))
    part['subject'] = np.full(len(part['fmri']), place, np.int32)
    parts.append(part)
    info['statistics'][subject] = (mean, std)
    info['num_voxels'][subject] = int(mask.sum())
    info['mask'][subject] = mask

  width = num_voxels or max(part['fmri'].shape[1] for part in parts)
  for part in parts:
    part['fmri'] = transforms.fit_width(part['fmri'], width)
  columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
  info |= {'names': names, 'wordnet_ids': wordnet_ids, 'class_indices': class_indices}
  info['picture_stimulus'] = np.unique(columns['stimulus'])  # of each row of the table
  table, place_of_row = pictures.table(columns['stimulus'], image_size) if pictures.wanted else (None, None)
  return arrays.ArrayDataset(columns, table, place_of_row, signed_unit, info=info)


def _read(source: store.Builder, split: str, mask: np.ndarray, pictures: _Pictures) -> dict[str, np.ndarray]:
  """A split's columns with the voxels of `mask`; PNG bytes of stimuli not seen before go to `pictures`."""
  columns: dict[str, list] = {key: [] for key in _DTYPES}
  try:
    for row in store.rows_of(store.undecoded(source, split)):
      columns['fmri'].append(row['fmri'][mask])
      columns['stimulus'].append(row['stimulus'])
      columns['class_index'].append(row['class_index'])
      columns['name'].append(row['name'].decode())
      columns['wordnet_id'].append(row['wordnet_id'].decode())
      if pictures.wanted:
        pictures.encoded.setdefault(int(row['stimulus']), row['image'])
  except Exception as error:  # whatever ArrayRecord and the parser of records say of broken files
    raise UserError(
      f'{source.data_dir}: the {split} split cannot be read ({type(error).__name__}); delete this folder and '
      'prepare again'
    ) from error
  return {key: np.array(values, _DTYPES[key]) for key, values in columns.items()}
