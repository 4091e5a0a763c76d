"""Which picture each trial of the Natural Scenes Dataset showed, and which pictures all subjects share."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainjax.datasets import neuroimaging, raw
from brainjax.errors import UserError, as_user_error

MAX_BYTES = 64 << 20  # of nsd_expdesign.mat, which has 0.3 MB


class Design(NamedTuple):
  """Pictures by their 0-based number among the 73,000.

  Attributes:
    pictures: the picture of each trial, `N` int.
    shared: the pictures that all subjects share, sorted.
  """

  pictures: np.ndarray
  shared: np.ndarray


def read(files: dict[str, Path], subject: str, num_trials: int) -> Design:
  """The design of a subject, from each description of it that is there; they must agree.

  Args:
    files: any of 'expdesign' (nsd_expdesign.mat), 'indices' (COCO_73k_subj_indices.hdf5) with 'shared1000' (shared1000.npy), and
      'responses' (responses.tsv of this subject).
    subject: such as 'subj01'.
    num_trials: N, of the sessions that there are.

  Raises:
    UserError: a file is damaged or of another subject or size, or they do not agree.
  """
  found = {}
  if 'expdesign' in files:
    found[files['expdesign']] = _read_expdesign(files['expdesign'], subject, num_trials)
  if 'indices' in files and 'shared1000' in files:
    found[files['indices']] = _read_indices(files['indices'], files['shared1000'], subject, num_trials)
  (path, design), *others = found.items()
  for other, again in others:
    if not np.array_equal(design.shared, again.shared):
      raise UserError(f'{other}: other shared pictures than {path}; take all files from one release')
    _check_agree(path, other, design.pictures, again.pictures, subject)
  if 'responses' in files:
    _check_agree(path, files['responses'], design.pictures, _read_responses(files['responses'], subject), subject)
  is_test = np.isin(design.pictures, design.shared)
  if not is_test.any() or is_test.all():
    raise UserError(
      f'{path}: {is_test.sum()} of the {num_trials} trials of {subject} show a shared picture; expected some, which are the '
      'test set, and others to train on'
    )
  return design


def _check_agree(path: Path, other: Path, pictures: np.ndarray, again: np.ndarray, subject: str) -> None:
  count = min(len(pictures), len(again))
  wrong = np.flatnonzero(pictures[:count] != again[:count])
  if len(wrong):
    trial = wrong[0]
    raise UserError(
      f'{other}: {len(wrong)} of {count} trials of {subject} show another picture than in {path}, the first is trial '
      f'{trial + 1} (picture {again[trial]}, not {pictures[trial]}, counted from 0); one of the two is of another subject or '
      'release'
    )


def _read_expdesign(path: Path, subject: str, num_trials: int) -> Design:
  order, images, shared = (_whole(path, name, value) for name, value in _read_mat(path).items())
  number = int(subject[-2:])
  if images.ndim != 2 or not 1 <= number <= len(images):
    raise UserError(
      f'{path}: subjectim has shape {images.shape}; expected a row for each subject, up to that of {subject}'
    )
  order, shared = order.ravel(), shared.ravel()
  if len(order) < num_trials or order.min() < 1 or order.max() > images.shape[1]:
    raise UserError(
      f'{path}: masterordering has {len(order)} values from {order.min()} to {order.max()}; expected one for each of the '
      f'{num_trials} trials of {subject}, from 1 to {images.shape[1]}, the columns of subjectim'
    )
  if images.min() < 1 or not len(shared) or not np.isin(shared, images[number - 1]).all():
    raise UserError(
      f'{path}: {np.isin(shared, images[number - 1]).sum()} of the {len(shared)} shared pictures (sharedix) are among those of '
      f'{subject} (subjectim); expected all, so this is not the design of NSD'
    )
  return Design(images[number - 1][order[:num_trials] - 1] - 1, np.unique(shared) - 1)


def _read_mat(path: Path) -> dict[str, Any]:
  """The three arrays of nsd_expdesign.mat, MATLAB version 5 (as published) or 7.3."""
  names = ('masterordering', 'subjectim', 'sharedix')
  raw.check_file(path)
  if path.stat().st_size > MAX_BYTES:
    raise UserError(f'{path}: {path.stat().st_size} bytes; at most 64 MiB are accepted')
  h5py = neuroimaging.need('h5py')
  if h5py.is_hdf5(path):
    values = {}
    for name in names:
      values[name] = neuroimaging.read_hdf5(path, (name,))[1].T  # MATLAB reverses the axes
    return values
  from scipy.io import loadmat  # takes half a second

  with as_user_error(f'{path}: damaged or not a MATLAB file', raw.AGAIN):
    values = loadmat(path, variable_names=names)
  if missing := [name for name in names if name not in values]:
    raise UserError(f'{path}: holds no {", ".join(missing)}; expected nsd_expdesign.mat of NSD')
  return {name: values[name] for name in names}


def _whole(path: Path, name: str, values: np.ndarray) -> np.ndarray:
  if values.dtype.kind not in 'fiu' or not values.size or not np.array_equal(values, np.round(values)):
    raise UserError(f'{path}: {name} is {values.dtype} of shape {values.shape}; expected whole numbers')
  return values.astype(np.int64)


def _read_indices(path: Path, shared_path: Path, subject: str, num_trials: int) -> Design:
  pictures = _whole(path, subject, neuroimaging.read_hdf5(path, (subject,))[1]).ravel()
  is_shared = raw.read_npy(shared_path, ndim=1, kinds='biu')
  if len(pictures) < num_trials:
    raise UserError(f'{path}: {subject} has {len(pictures)} trials, but there are responses to {num_trials}')
  if not np.isin(is_shared, (0, 1)).all() or pictures.min() < 0 or pictures.max() >= len(is_shared):
    raise UserError(
      f'{shared_path}: {len(is_shared)} values from {is_shared.min()} to {is_shared.max()}; expected true or false for each '
      f'picture that {path.name} names, {pictures.min()} to {pictures.max()}'
    )
  return Design(pictures[:num_trials], np.flatnonzero(is_shared))


def _read_responses(path: Path, subject: str) -> np.ndarray:
  """The picture of each trial in a subject's table of responses."""
  with as_user_error(f'{path}: not a table of responses of NSD', raw.AGAIN):
    rows = list(csv.DictReader(raw.read_text(path).splitlines(), delimiter='\t'))
    pictures = np.array([int(float(row['73KID'])) - 1 for row in rows])
    numbers = sorted({int(float(row['SUBJECT'])) for row in rows})
  if numbers != [int(subject[-2:])]:
    raise UserError(
      f'{path}: holds trials of subject {", ".join(map(str, numbers)) or "(none)"}; expected those of {subject}'
    )
  return pictures
