"""Writes a golden file of the data preparation and the metrics at any size, by plain NumPy loops and the usual packages."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from skimage.metrics import structural_similarity

from brainjax.trees import add_prefix
from tests.parity.write_autoencoders import save

AREAS = ('V1', 'V2', 'V3', 'V4')


def pad(x, patch):
  """Whole patches, and one more where they are whole already (B14)."""
  width = x.shape[-1] + patch - x.shape[-1] % patch
  return widen(x, width)


def widen(x, width):
  return x[..., [i % x.shape[-1] for i in range(width)]] if width > x.shape[-1] else x[..., :width]


def standard(x):
  x = x.astype(np.float64)
  return (x - x.mean()) / x.std()


def windows(series, patch, frames):
  parts = np.array_split(series, len(series) // frames)
  return standard(pad(np.stack([part.mean(0) for part in parts]), patch))


def data(path, seed=0, patch=9, god_sizes=((44, 31), (52, 45)), train=7, test=3, repeats=4, pixels=12, hcp_frames=47,
         hcp_areas=(8, 13, 6, 9), hcp_subjects=2, godly=('sbj_2', 'sbj_5')):  # fmt: skip
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  arrays, config = _helpers(rng, normal, patch), {'seed': seed, 'patch_size': patch, 'kam_subs': godly}
  config |= {'remove_repeats_labels_in': ['x', 'z', 'x'], 'remove_repeats_labels_out': ['x', 'z']}

  # GOD
  pictures = {
    part: rng.integers(0, 256, (n, pixels, pixels, 3), np.uint8) for part, n in (('train', train), ('test', test))
  }
  classes = {str(i): [f'n{2000 + i:08d}', f'n{3000 + i:08d}', f'name {i}'] for i in range(9)}
  of = {part: rng.integers(0, 9, n) for part, n in (('train', train), ('test', test))}
  numbers = {part: [2000 + 1000 * (i % 2) + int(c) for i, c in enumerate(chosen)] for part, chosen in of.items()}
  config['god_class_index_json'] = classes
  for part, name in (('train', 'training'), ('test', 'testing')):
    config[f'god_{name}_label_csv'] = ''.join(f'{n}.{i:06d}\n' for i, n in enumerate(numbers[part]))
    arrays[f'god/{part}_images'] = pictures[part]
  raw = {}
  for subject, (voxels, inside) in zip(godly, god_sizes, strict=True):
    raw[subject] = {
      'arr_0': normal(train, voxels) * 2 + 1, 'arr_1': normal(test * repeats, voxels), 'arr_2': normal(test, voxels),
      'arr_3': rng.permutation(train), 'VC': rng.permutation(np.arange(voxels) < inside).astype(np.uint8),
      'V3': rng.permutation(np.arange(voxels) < 18).astype(np.uint8),
    }  # fmt: skip
    arrays |= add_prefix(f'god/{subject}', raw[subject])

  def rows(subjects, name, roi='VC', scaled=True):
    values = [pad(raw[s][name][:, raw[s][roi] == 1], patch) for s in subjects]
    values = [standard(x) if scaled else x for x in values]
    return np.concatenate([widen(x, max(y.shape[1] for y in values)) for x in values])

  one = godly[:1]
  order = raw[godly[0]]['arr_3']
  for group, subjects, roi in (
    ('single', one, 'VC'),
    ('all', godly, 'VC'),
    ('single_V3', one, 'V3'),
    ('distill', one, 'VC'),
  ):
    arrays[f'god/{group}/train_fmri'] = rows(subjects, 'arr_0', roi)
    if group != 'distill':
      arrays[f'god/{group}/test_fmri'] = rows(subjects, 'arr_2', roi, scaled=False)
  distill = arrays['god/distill/train_fmri']
  arrays |= {f'god/distill/fit_to_{n}': widen(distill, n) for n in (20, 57)}
  arrays['god/distill/image_name_train'] = numbers['train']
  arrays['god/single_nonavg/train_fmri'] = arrays['god/single/train_fmri']
  both = [rows(one, name, scaled=False) for name in ('arr_2', 'arr_1')]
  arrays['god/single_nonavg/test_fmri'] = np.concatenate(both)
  names = {part: [f'name {c}' for c in chosen] for part, chosen in of.items()}
  seen = list(dict.fromkeys(names['train'] + names['test']))
  arrays |= add_prefix('god/single', {
    'train_image': pictures['train'][order], 'sample0_image': pictures['train'][order[0]] / 255,
    'sample0_fmri': arrays['god/single/train_fmri'][:1], 'train_img_class': of['train'][order],
    'test_img_class': of['test'], 'train_naive_label': [seen.index(names['train'][i]) for i in order],
    'test_naive_label': [seen.index(name) for name in names['test']],
  })  # fmt: skip

  # HCP
  frames = int(8 // 0.75)
  subjects = {
    f'{100500 + 7 * i}': {a: normal(hcp_frames, n) for a, n in zip(AREAS, hcp_areas, strict=True)}
    for i in range(hcp_subjects)
  }
  for subject, areas in subjects.items():
    arrays |= add_prefix(f'hcp/{subject}', areas)
  whole = [np.concatenate([areas[a] for a in AREAS], 1) for areas in subjects.values()]
  rest = np.concatenate([windows(x, patch, frames) for x in whole])
  god = rows(godly, 'arr_0')
  width = max(rest.shape[1], god.shape[1])
  drawn = np.random.RandomState(seed + 1)
  pairs = [drawn.choice(len(rest), 2) for _ in range(int(1.5 * len(rest)))]
  arrays |= {f'hcp/{group}/data': x[:, None] for group, x in {
    'hcp_only': rest, 'hcp_kam': np.concatenate([widen(rest, width), widen(god, width)]),
    'hcp_limit0': windows(whole[0], patch, frames), 'hcp_aug2.5': np.concatenate([rest, [(rest[i] + rest[j]) / 2 for i, j in pairs]]),
    'hcp_V3': np.concatenate([windows(areas['V3'], patch, frames) for areas in subjects.values()]),
  }.items()}  # fmt: skip
  _bold5000(rng, normal, patch, arrays, config)
  return save(path, arrays | _scores(rng), config)


def _helpers(rng, normal, patch):
  arrays = {}
  for n in (patch * 3, patch * 2 + 1):
    arrays[f'pad_to_patch_size/in_{n}'] = normal(2, n)
    arrays[f'pad_to_patch_size/out_{n}'] = pad(arrays[f'pad_to_patch_size/in_{n}'], patch)
  x = arrays['normalize/in'] = normal(3, 8) * 3 + 2
  arrays |= {'normalize/out': standard(x), 'normalize/out_given_mean-1.5_std4': (x + 1.5) / 4}
  x = arrays['pad_to_length/in'] = normal(3, 1, 6)
  arrays |= {'pad_to_length/out_15': widen(x, 15), 'pad_to_length_dim2/out_11': widen(x[:, 0], 11)}
  for name, frames, each in (('T75', 75, 10), ('t16', 64, 21)):
    x = arrays[f'process_voxel_ts/in_{name}'] = normal(frames, 23)
    arrays[f'process_voxel_ts/out_{name}'] = windows(x, patch, each)
  a, b = normal(10), normal(10)
  arrays |= {'interpolate_voxels/x': a, 'interpolate_voxels/y': b}
  arrays['interpolate_voxels/z_ratio0.25'] = 0.75 * a + 0.25 * b
  x = arrays['augmentation/in'] = normal(6, 7)
  for times in ('1', '2.5'):
    pairs = arrays[f'augmentation/pairs_times{times}'] = rng.integers(0, 6, (int((float(times) - 1) * 6), 2))
    arrays[f'augmentation/out_times{times}'] = np.concatenate([x, *[(x[[i]] + x[[j]]) / 2 for i, j in pairs]])
  x = arrays['remove_repeats/in'] = normal(3, 4)
  arrays['remove_repeats/out'] = np.stack([(x[0] + x[2]) / 2, x[1]])
  x = arrays['fmri_transform/in_1xV'] = arrays['fmri_transform/out_1xV'] = normal(1, 8)
  x = arrays['fmri_transform/in_10xV'] = normal(10, 8)
  arrays['fmri_transform/out_10xV'] = np.where(np.isin(np.arange(10), [3, 8])[:, None], 0, x)

  x = arrays['image_processor/in_float01'] = rng.random((2, 30, 30, 3), np.float32)
  processor = transformers.ViTImageProcessor(
    size={'height': 21, 'width': 21}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
  )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for name, pictures in (('as_released', x), ('uint8_input', (x * 255).round().astype(np.uint8))):
      arrays[f'image_processor/out_{name}'] = processor(list(pictures), return_tensors='np')['pixel_values']
  x = arrays['ldm_image/crop_in'] = rng.random((3, 13, 13), np.float32)
  arrays['ldm_image/resize_19'] = F.interpolate(torch.from_numpy(x)[None], size=19, mode='bilinear')[0]
  return arrays


def _bold5000(rng, normal, patch, arrays, config):
  """Two subjects that saw different pictures; single trials, normalised or not."""
  shown = {
    'CSI3': [['rep_p2.jpg', 'p1.jpg', 'p2.jpg'], ['p5.jpg', 'p3.jpg', 'p4.jpg', 'p2.jpg'], ['rep_p5.jpg']],
    'CSI4': [['p8.jpg', 'p5.jpg'], ['p7.jpg', 'rep_p5.jpg', 'p1.jpg']],
  }
  repeated = ['p5.jpg', 'p9.jpg', 'p2.jpg']
  pictures = {f'p{i}.jpg': rng.integers(0, 256, (10, 10, 3), np.uint8) for i in range(1, 10)}
  config |= {'bold_presentation': shown, 'bold_repeated_list': repeated, 'bold_names': {}}
  for number, (subject, runs) in enumerate(shown.items()):
    names = [name.removeprefix('rep_') for run in runs for name in run]
    parts = []
    for width, roi in enumerate(('EarlyVis', 'LOC', 'OPA', 'PPA', 'RSC'), 2 + number):
      for side in ('LH', 'RH'):
        parts.append(normal(len(names), width))
        name = f'{subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{side}{roi}'
        arrays[f'bold5000/raw/{name}'] = parts[-1]
    fmri = np.concatenate(parts, 1)
    train = [i for i, name in enumerate(names) if name not in repeated]
    trials = {name: [i for i, other in enumerate(names) if other == name] for name in repeated if name in names}
    for group, whole, single in (('create', True, False), ('classify', False, False), ('create_nonavg', True, True)):
      kind, *rest = group.split('_')
      values = standard(pad(fmri, patch)) if whole else fmri
      means = [values[rows].mean(0) for rows in trials.values()]
      singles = [i for rows in trials.values() for i in rows] if single else []
      order = [*trials, *(names[i] for i in singles)]
      where = 'bold5000/' + '_'.join([kind, subject, *rest])
      arrays |= add_prefix(where, {
        'train_fmri': values[train], 'test_fmri': np.stack([*means, *values[singles]]),
        'train_image': np.stack([pictures[names[i]] for i in train]), 'test_image': np.stack([pictures[n] for n in order]),
      })  # fmt: skip
      if kind == 'classify' and not number:
        config['bold_names'][f'classify_{subject}'] = [[names[i] for i in train], order]


def _scores(rng):
  n, trials = 5, 9
  true, pred = (rng.integers(0, 256, (n, 11, 11, 3), np.uint8) for _ in range(2))
  pred = np.where(rng.random(pred.shape) < 0.5, true, pred)
  arrays = {'metrics/gt_u8': true, 'metrics/pred_u8': pred}
  for ways in (3, 5):
    arrays[f'metrics/n_way{ways}_picks'] = np.stack(
      [[rng.choice(n - 1, ways - 1, replace=False) for _ in range(trials)] for _ in range(n)]
    )

  def mse(kind, a, b):
    a, b = (a, b) if kind == 'u8' else (a.astype(np.float64), b.astype(np.float64))
    return np.mean((a - b) ** 2)  # of uint8, modulo 256 (B10)

  functions = {
    'mse': mse, 'pcc': lambda _, a, b: np.corrcoef(a.ravel(), b.ravel())[0, 1],
    'ssim': lambda _, a, b: structural_similarity(a, b, data_range=255, channel_axis=-1),
  }  # fmt: skip
  for kind in ('u8', 'float'):
    for score, function in functions.items():
      table = np.array([[function(kind, p, t) for t in true] for p in pred])
      better = table.diagonal()[:, None] < table if score == 'mse' else table.diagonal()[:, None] > table
      others = np.stack([np.delete(better[i], i) for i in range(n)])
      values = {score: table.diagonal(), f'pair_wise_{score}': others.mean(1)}
      for ways in (3, 5):
        picks = arrays[f'metrics/n_way{ways}_picks']
        values[f'n_way{ways}_{score}'] = [np.mean([others[i][chosen].all() for chosen in picks[i]]) for i in range(n)]
      arrays |= add_prefix(f'metrics/{kind}', values)
  probabilities = rng.dirichlet(np.ones(23), 4).astype(np.float32)
  true_class = rng.integers(0, 23, 4)
  arrays |= {'topk/probs': probabilities, 'topk/class_id': true_class}
  for ways, k in ((4, 1), (12, 3)):
    picks = np.stack(
      [[rng.choice(np.delete(np.arange(23), c), ways - 1, replace=False) for _ in range(8)] for c in true_class]
    )
    hits = np.array(
      [
        [(p[chosen] >= p[c]).sum() < k for chosen in of]
        for p, c, of in zip(probabilities, true_class, picks, strict=True)
      ]
    )
    arrays |= add_prefix(f'topk/way{ways}_top{k}', {'picks': picks, 'acc': hits.mean(1), 'std': hits.std(1)})
  return arrays
