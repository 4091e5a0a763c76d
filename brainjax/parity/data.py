"""data.npz: the transforms of fMRI and pictures, the data sets read from raw files with its arrays, and the metrics."""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from brainjax.datasets import arrays, bold5000, god, god_raw, hcp, transforms
from brainjax.evaluation.scores import class_accuracy, identification, pixels
from brainjax.parity.golden import Golden

RELEASED = {'full_extra_patch': True}  # quirk B14
SPARSE_SHARE = 0.2


def check(golden: Golden) -> None:
  """Replays the file.

  Raises:
    UserError: the file lacks an array.
  """
  _check_transforms(golden)
  _check_pictures(golden)
  with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    god.prepare(_write_god(golden, root / 'god'), root / 'prepared')
    hcp.prepare(_write_hcp(golden, root / 'hcp'), root / 'prepared')
    _check_god(golden, root)
    _check_hcp(golden, root)
    _write_bold5000(golden, root / 'bold5000')
    _check_bold5000(golden, root)
  _check_scores(golden)
  _check_class_accuracy(golden)


# --- transforms ---------------------------------------------------------------------------------------------------


def _each(golden: Golden, pattern: str, function: Callable[[re.Match], np.ndarray]) -> None:
  """Compares every array whose name matches with the result of `function` on the match."""
  for name in golden.names:
    if match := re.fullmatch(pattern, name):
      golden.close(name, function(match))


def _check_transforms(golden: Golden) -> None:
  patch_size = golden.config['patch_size']
  _each(
    golden,
    r'pad_to_patch_size/out_(\d+)',
    lambda m: transforms.pad_to_patch_size(golden.input(f'pad_to_patch_size/in_{m[1]}'), patch_size, **RELEASED),
  )
  matrix = golden.input('normalize/in')
  golden.close('normalize/out', transforms.normalize(matrix))
  number = r'(-?[\d.]+)'
  _each(
    golden,
    rf'normalize/out_given_mean{number}_std{number}',
    lambda m: transforms.normalize(matrix, float(m[1]), float(m[2])),
  )
  items = golden.input('pad_to_length/in')  # N 1 V
  _each(golden, r'pad_to_length/out_(\d+)', lambda m: transforms.fit_width(items, int(m[1])))
  _each(golden, r'pad_to_length_dim2/out_(\d+)', lambda m: transforms.fit_width(items[:, 0], int(m[1])))

  def windows(match):
    seconds = float(match[1][1:]) if match[1].startswith('t') else 8
    series = golden.input(f'process_voxel_ts/in_{match[1]}')
    means = transforms.window_means(series, transforms.frames_per_window(seconds))
    return transforms.normalize(transforms.pad_to_patch_size(means, patch_size, **RELEASED))

  _each(golden, r'process_voxel_ts/out_([\w.]+)', windows)
  pair = golden.input('interpolate_voxels/x'), golden.input('interpolate_voxels/y')
  _each(golden, r'interpolate_voxels/z_ratio([\d.]+)', lambda m: transforms.interpolate_voxels(*pair, float(m[1])))

  def interpolated(match):
    rows = arrays.ArrayDataset({'fmri': golden.input('augmentation/in')})
    data = arrays.InterpolatedDataset(rows, golden.input(f'augmentation/pairs_times{match[1]}'))
    return data.gather(np.arange(len(data)))['fmri']

  _each(golden, r'augmentation/out_times([\w.]+)', interpolated)
  means, labels = transforms.mean_by_label(golden.input('remove_repeats/in'), golden.config['remove_repeats_labels_in'])
  golden.close('remove_repeats/out', means)
  golden.fact('remove_repeats labels', labels != golden.config['remove_repeats_labels_out'])

  # Quirk B3: the release sets a share of the rows to zero instead of the voxels. With one row it does nothing, which is
  # our pipeline without this transform. With several rows, their share must be our share of voxels.
  golden.equal('fmri_transform/out_1xV', golden.input('fmri_transform/in_1xV'))
  for name in golden.names:
    if re.fullmatch(r'fmri_transform/out_([2-9]|\d\d+)xV', name):
      zero = np.all(golden.peek(name) == 0, axis=1)
      ours = transforms.sparse(np.ones(len(zero), np.float32), np.random.default_rng(0), SPARSE_SHARE) == 0
      rows = golden.peek(name)
      if (source := name.replace('/out_', '/in_')) in golden:
        rows = np.where(zero[:, None], np.float32(0), golden.input(source))
      golden.equal(name, rows if zero.sum() == ours.sum() else np.nan, quantity=f'{name} (number of zero rows)')


def _check_pictures(golden: Golden) -> None:
  images = golden.input('image_processor/in_float01') * np.float32(255)
  # The published image processor truncates floats to integers. The intended input is a picture of integers.
  for name, pictures, released in (
    ('out_as_released', images.astype(np.uint8), True),
    ('out_uint8_input', np.round(images).astype(np.uint8), False),
  ):
    size = golden.peek(f'image_processor/{name}').shape[-1]
    resized = np.stack([transforms.resize_image(picture, size) for picture in pictures])
    ours = transforms.imagenet_normalise(resized * np.float32(1 / 255), released)
    golden.close(f'image_processor/{name}', np.moveaxis(ours, -1, 1))
  crop = np.moveaxis(golden.input('ldm_image/crop_in'), 0, -1)  # C H W -> H W C
  _each(golden, r'ldm_image/resize_(\d+)', lambda m: np.moveaxis(transforms.enlarge_image(crop, int(m[1])), -1, 0))


# --- GOD ----------------------------------------------------------------------------------------------------------


def _write_god(golden: Golden, folder: Path) -> Path:
  folder.mkdir(parents=True)
  pictures = {f'{part}_images': golden.input(f'god/{part}_images') for part in ('train', 'test')}
  np.savez(folder / god_raw.IMAGES, **pictures)
  (folder / god_raw.CLASS_INDEX).write_text(json.dumps(golden.config['god_class_index_json']))
  (folder / god_raw.LABELS['train']).write_text(golden.config['god_training_label_csv'])
  (folder / god_raw.LABELS['test']).write_text(golden.config['god_testing_label_csv'])
  for subject in golden.config['kam_subs']:
    raw = golden.inputs(f'god/{subject}')
    raw = {name: x if name.startswith('arr_') else x.astype(bool) for name, x in raw.items()}
    np.savez(folder / f'{subject}.npz', **raw)
  return folder


def _check_god(golden: Golden, root: Path) -> None:
  subjects, prepared = golden.config['kam_subs'], root / 'prepared'
  options = {'patch_size': golden.config['patch_size'], **RELEASED}
  for group in golden.groups('god'):
    if group in subjects:
      continue
    chosen = subjects if group.startswith('all') else subjects[:1]
    last = group.split('_')[-1]
    roi = last if f'god/{subjects[0]}/{last}' in golden else 'VC'
    train = god.load(prepared, chosen, roi, 'train', **options)
    test = god.load(prepared, chosen, roi, 'test', test_raw_scale=True, **options)  # quirk B2
    have = golden.names_in(f'god/{group}')
    golden.close(f'god/{group}/train_fmri', train.columns['fmri'])
    if 'test_fmri' in have and not group.endswith('nonavg'):
      golden.close(f'god/{group}/test_fmri', test.columns['fmri'])
      _check_god_clean(golden, prepared, group, chosen, roi)
    elif 'test_fmri' in have:  # means, then single trials (quirk B16 affects only their pictures)
      counts = [len(golden.peek(f'god/{part}_images')) for part in ('train', 'test')]
      raw = god_raw.read_subject(root / 'god', chosen[0], *counts)
      rows = np.concatenate([raw.test, raw.trials])[:, raw.rois[roi]]
      golden.close(f'god/{group}/test_fmri', transforms.pad_to_patch_size(rows, **options))
    for width in (name.removeprefix('fit_to_') for name in have if name.startswith('fit_to_')):
      other = god.load(prepared, chosen, roi, 'train', num_voxels=int(width), **options)
      golden.close(f'god/{group}/fit_to_{width}', other.columns['fmri'])
    if 'image_name_train' in have:  # WordNet numbers, in the order of the label file
      labels = god_raw.read_stimuli(root / 'god').labels['train']
      golden.equal(f'god/{group}/image_name_train', [int(label.wordnet_id[1:]) for label in labels])
    if 'train_image' in have:
      _check_god_items(golden, group, root / 'god', train, test)


def _check_god_clean(golden: Golden, prepared: Path, group: str, subjects, roi: str) -> None:
  """Compares test rows on the scale of the training rows with the raw arrays."""
  patch_size = golden.config['patch_size']
  test = god.load(prepared, subjects, roi, 'test', patch_size=patch_size)
  expected = []
  for subject in subjects:
    mask = golden.peek(f'god/{subject}/{roi}').astype(bool)
    train, rows = (golden.peek(f'god/{subject}/{name}')[:, mask].astype(np.float64) for name in ('arr_0', 'arr_2'))
    rows = _zscored(train, rows, patch_size)
    expected.append(rows[:, np.arange(test.num_voxels) % rows.shape[1]])
  difference = np.abs(test.columns['fmri'] - np.concatenate(expected)).max()
  golden.fact(
    f'god/{group}/test_fmri, clean (statistics of training rows)', difference / np.abs(expected[0]).max(), 1e-4
  )


def _zscored(train: np.ndarray, rows: np.ndarray, patch_size: int) -> np.ndarray:
  """Rows, padded to whole patches, on the scale of the padded training rows; by hand."""
  place = np.arange(-(-train.shape[1] // patch_size) * patch_size) % train.shape[1]
  return (rows[:, place] - train[:, place].mean()) / train[:, place].std()


def _check_god_items(
  golden: Golden, group: str, raw: Path, train: arrays.ArrayDataset, test: arrays.ArrayDataset
) -> None:
  batch = train.gather(np.arange(len(train)))
  golden.equal(f'god/{group}/train_image', batch['image'])
  golden.close(f'god/{group}/sample0_image', (transforms.to_signed_unit(batch['image'][0]) + 1) / 2)
  golden.close(f'god/{group}/sample0_fmri', batch['fmri'][:1])
  # The release numbers classes in the order of the label files, training first; our class index has the same classes.
  labels = god_raw.read_stimuli(raw).labels
  numbers: dict[str, int] = {}
  running = np.array([numbers.setdefault(label.name, len(numbers)) for part in labels.values() for label in part])
  for part, data in (('train', train), ('test', test)):
    golden.equal(f'god/{group}/{part}_img_class', data.columns['class_index'])
    golden.equal(f'god/{group}/{part}_naive_label', running[data.columns['stimulus']])


# --- HCP ----------------------------------------------------------------------------------------------------------


def _write_hcp(golden: Golden, folder: Path) -> Path:
  for subject in golden.groups('hcp'):
    if f'hcp/{subject}/data' not in golden:
      (folder / 'npz' / subject).mkdir(parents=True)
      np.savez(folder / 'npz' / subject / hcp.FILE, **golden.inputs(f'hcp/{subject}'))
  return folder


def _check_hcp(golden: Golden, root: Path) -> None:
  prepared, patch_size = root / 'prepared', golden.config['patch_size']
  options = {'patch_size': patch_size, **RELEASED}
  for group in golden.groups('hcp'):
    name = f'hcp/{group}/data'
    if name not in golden:
      continue
    limit, times, area = (re.search(pattern, group) for pattern in (r'limit(\d+)', r'aug([\d.]+)', r'_(V\d)$'))
    # Quirk B13: a limit of n keeps n + 1 subjects.
    data = hcp.load(prepared, area[1] if area else 'VC', max_subjects=int(limit[1]) + 1 if limit else None, **options)
    if times:
      count = int((float(times[1]) - 1) * len(data))
      drawn = np.random.RandomState(golden.config['seed'] + 1)  # as the file drew them
      data = arrays.InterpolatedDataset(data, drawn.choice(len(data), size=(count, 2), replace=True))
    if group.endswith('kam'):
      rows = god.load(prepared, golden.config['kam_subs'], image_size=0, **options)
      data = arrays.JoinedDataset([data, rows])
    golden.close(name, data.gather(np.arange(len(data)))['fmri'][:, None])


# --- BOLD5000 -----------------------------------------------------------------------------------------------------


def _bold_groups(golden: Golden) -> dict[str, str]:
  """Group -> subject."""
  groups = (group for group in golden.groups('bold5000') if group != 'raw')
  subjects = golden.config['bold_presentation']
  return {group: subject for group in groups for subject in subjects if subject in group.split('_')}


def _write_bold5000(golden: Golden, folder: Path) -> None:
  betas = folder / bold5000.BETAS
  betas.mkdir(parents=True)
  for name, array in golden.inputs('bold5000/raw').items():
    np.save(betas / f'{name}.npy', array)
  for subject, runs in golden.config['bold_presentation'].items():
    lists = folder / bold5000.LISTS / subject / 'session'
    lists.mkdir(parents=True)
    for number, names in enumerate(runs):
      (lists / f'run{number:03}.txt').write_text('\n'.join(names) + '\n')
  presented = folder / bold5000.SCENES / 'Presented_Stimuli'
  presented.mkdir(parents=True)
  repeated = '\n'.join(golden.config['bold_repeated_list']) + '\n'
  (presented.parent / 'repeated_stimuli_113_list.txt').write_text(repeated)
  # The file has pictures of the loaded data only. Names recorded for a group are more reliable: they are written last.
  names = {group: _bold_names(golden, subject) for group, subject in _bold_groups(golden).items()}
  for group, shown in [*names.items(), *golden.config['bold_names'].items()]:
    for part, of_part in zip(('train', 'test'), shown, strict=True):
      # Single trials come after the means.
      for name, picture in zip(of_part, golden.peek(f'bold5000/{group}/{part}_image'), strict=False):
        Image.fromarray(picture).save(presented / name, format='PNG')


def _bold_names(golden: Golden, subject: str) -> tuple[list[str], list[str]]:
  """Names of a subject's training pictures in the order of presentation, and of its test pictures in that of the list."""
  shown = [name.removeprefix('rep_') for run in golden.config['bold_presentation'][subject] for name in run]
  repeated = list(dict.fromkeys(golden.config['bold_repeated_list']))
  return [name for name in shown if name not in repeated], [name for name in repeated if name in shown]


def _check_bold5000(golden: Golden, root: Path) -> None:
  patch_size, folder = golden.config['patch_size'], root / 'bold5000'
  for group, subject in _bold_groups(golden).items():
    data = bold5000.read_subject(folder, subject)
    stimuli, names = bold5000.read_stimuli(folder, data), np.array(data.names)
    is_test = np.isin(names, stimuli.test)
    # Test pictures in the order of the list: means over all presentations, then single trials if the group has them.
    rows = np.concatenate([np.flatnonzero(names == name) for name in stimuli.test])
    fmri = data.fmri
    if fmri.shape[1] != golden.peek(f'bold5000/{group}/train_fmri').shape[1]:
      # As released: padded, and normalised with the statistics of all presentations, test pictures included.
      fmri = transforms.normalize(transforms.pad_to_patch_size(fmri, patch_size, **RELEASED))
    train, trials = fmri[~is_test], fmri[rows]
    test, shown = transforms.mean_by_label(trials, names[rows].tolist())
    if len(golden.peek(f'bold5000/{group}/test_fmri')) > len(test):
      test, shown = np.concatenate([test, trials]), shown + names[rows].tolist()
    for part, values, order in (('train', train, names[~is_test].tolist()), ('test', test, shown)):
      golden.close(f'bold5000/{group}/{part}_fmri', values)
      golden.equal(f'bold5000/{group}/{part}_image', np.stack([stimuli.picture(name) for name in order]))
  _check_bold5000_clean(golden, root)


def _check_bold5000_clean(golden: Golden, root: Path) -> None:
  """Compares rows prepared with TFDS, on the scale of the training rows, with rows that are only averaged."""
  plain = [
    (group, subject)
    for group, subject in _bold_groups(golden).items()
    if golden.peek(f'bold5000/{group}/train_fmri').shape[1]
    == sum(
      golden.peek(f'bold5000/raw/{name}').shape[1]
      for name in golden.names_in('bold5000/raw')
      if name.startswith(subject)
    )
  ]
  patch_size = golden.config['patch_size']
  for group, subject in plain[:1]:
    bold5000.prepare(root / 'bold5000', root / 'prepared', [subject])
    train, test = (golden.peek(f'bold5000/{group}/{part}_fmri').astype(np.float64) for part in ('train', 'test'))
    for split, rows in (('train', train), ('test', test)):
      data = bold5000.load(root / 'prepared', [subject], split=split, patch_size=patch_size, image_size=0)
      ours = data.columns['fmri']
      expected = _zscored(train, rows, patch_size)
      error = np.abs(ours - expected).max() / np.abs(expected).max() if ours.shape == expected.shape else np.inf
      golden.fact(f'bold5000/{group}/{split}_fmri, clean (statistics of training rows)', error, 1e-4)


# --- metrics ------------------------------------------------------------------------------------------------------


def _check_scores(golden: Golden) -> None:
  gt, pred = golden.input('metrics/gt_u8'), golden.input('metrics/pred_u8')
  own = np.arange(len(gt))
  for kind in golden.groups('metrics'):
    for score, higher in pixels.HIGHER_IS_BETTER.items():
      if kind == 'u8' and score == 'mse':  # quirk B10
        table = np.stack([pixels.released_mse_u8(pred, np.broadcast_to(image, pred.shape)) for image in gt], axis=1)
        table = table[:, None]
      else:
        table = pixels.table(score, pred[:, None], gt)  # N 1 U
      golden.close(f'metrics/{kind}/{score}', table[own, 0, own])
      pairwise = identification.expected_n_way(identification.num_rivals(table, higher), 2)
      golden.close(f'metrics/{kind}/pair_wise_{score}', pairwise[own, 0, own])
      for name in golden.names_in(f'metrics/{kind}'):
        if match := re.fullmatch(rf'n_way(\d+)_{score}', name):
          picks = golden.input(f'metrics/n_way{match[1]}_picks')
          success = sampled_n_way(table[:, 0], own, picks, higher)
          golden.close(f'metrics/{kind}/{name}', success.mean(axis=1))


def sampled_n_way(scores: np.ndarray, own: np.ndarray, picks: np.ndarray, higher_is_better: bool) -> np.ndarray:
  """Scores N-way identification with given draws, as the release does.

  Args:
    scores: N U of one sample per item against every stimulus.
    own: N, position of the true stimulus.
    picks: N T n-1, positions among the other stimuli, as the release draws them.
    higher_is_better: whether a higher score is better.

  Returns:
    N T bool, whether each trial succeeds.
  """
  signed = scores if higher_is_better else -scores
  positions = picks + (picks >= own[:, None, None])
  rivals = np.take_along_axis(signed[:, None, :], positions, axis=2)  # N T n-1
  return np.all(np.take_along_axis(signed, own[:, None], axis=1)[:, :, None] > rivals, axis=2)


def _check_class_accuracy(golden: Golden) -> None:
  probabilities, class_id = golden.input('topk/probs'), golden.input('topk/class_id')
  for name in golden.groups('topk'):
    if match := re.fullmatch(r'way(\d+)_top(\d+)', name):
      picks = golden.input(f'topk/{name}/picks')
      success = class_accuracy.sampled_top_k(probabilities, class_id, picks, int(match[2]))
      golden.close(f'topk/{name}/acc', success.mean(axis=1))
      golden.close(f'topk/{name}/std', success.std(axis=1))
