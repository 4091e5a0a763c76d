"""A user's responses -> model input, by the transforms that weights carry. What does not fit is refused in one sentence."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainjax import hosts
from brainjax.datasets import masks, neuroimaging, own_betas, raw
from brainjax.datasets.input_transform import MIN_SESSION, InputTransform, session_statistics, standardise_sessions
from brainjax.errors import UserError

LIKELY_SCALE = 0.1, 5  # least and largest root mean square of model input that is z-scored

Betas = np.ndarray | str | os.PathLike
Sessions = str | Sequence[str] | None
MaskOf = np.ndarray | str | os.PathLike | Sequence[masks.Mask] | None


class Responses:
  """Turns responses into the input of a model.

  Attributes:
    num_voxels: width W of the model input.
    transforms: subject -> `InputTransform`, its way from responses to model input. Empty for converted weights.
  """

  def __init__(self, info: Mapping[str, Any], num_voxels: int):
    """`info`: what was saved with the weights. `num_voxels`: W."""
    self.num_voxels = num_voxels
    self.transforms = {t.subject: t for t in map(InputTransform.from_json, info.get('input', []))}

  def model_input(
    self,
    fmri: np.ndarray,
    subject: str = '',
    normalised: bool = False,
    repetitions: int = 1,
    session: Sessions = None,
  ) -> np.ndarray:
    """Model input N W float32.

    Args:
      fmri: responses of a subject, N V or V: the voxels of the ROI, or all voxels of the subject, in the order and the
        unit of its training data.
      subject: whose responses these are; empty where the weights know one subject.
      normalised: `fmri` is z-scored as in training already: N V, the voxels of the ROI, which are then padded as in training;
        or N W, padded too (converted weights know W alone).
      repetitions: trials that each row is the mean of; matters to weights whose test scale is 'repetitions'.
      session: name of the session of all rows, or of each; matters to weights trained with data.zscore = 'voxel_session'. A
        session of the training data is z-scored with its training rows. Any other, and None, is a new session, which is
        z-scored by its own trials, at least 10.

    Raises:
      UserError: another width, whole numbers, values that are not finite, an unknown subject; too few trials of a new session; responses in
        another unit than those of training; raw responses where the weights carry no input transform.
    """
    own_betas.check_scale(np.asarray(fmri), None, 'fMRI')
    transform = None if normalised else self._transform_of(subject)
    if normalised:
      fmri = self._pad(fmri, subject)
    fmri = self._at_training_scale(fmri, transform, session)
    if transform is not None:
      _refuse_unlikely(fmri, transform, 'fMRI')
      return transform.to_test_scale(fmri, repetitions)
    if not _is_likely(fmri):
      hosts.log(
        f'model input has a root mean square of {_scale(fmri):.3g}, where z-scored voxels have about 1: was it z-scored as in '
        'training?'
      )
    return fmri

  def _pad(self, fmri: np.ndarray, subject: str) -> np.ndarray:
    """Z-scored voxels of a ROI N V or V, padded as in training; rows of another width unchanged."""
    known = self.transforms.values() if not subject else [self._transform_of(subject)]
    width = np.shape(fmri)[-1:]
    fits = [transform for transform in known if (transform.num_voxels,) == width != (self.num_voxels,)]
    return fits[0].pad(np.atleast_2d(fmri)) if fits else fmri

  def _at_training_scale(
    self, fmri: np.ndarray, transform: InputTransform | None, session: Sessions = None
  ) -> np.ndarray:
    """Rows, checked and z-scored as in training, before the test scale hides a wrong unit: N W float32."""
    fmri = np.asarray(fmri)
    if fmri.ndim == 1:
      fmri = fmri[None]
    width = self.num_voxels if transform is None else transform.num_voxels
    widths = {width} if transform is None else {width, len(transform.mask)}
    if fmri.ndim != 2 or fmri.shape[1] not in widths or fmri.dtype.kind not in 'fiu' or not len(fmri):
      what = (
        self._normalised_widths()
        if transform is None
        else f'the voxels of {transform.roi} of {transform.data_set}/{transform.subject}, or all {len(transform.mask)} of '
        'its voxels, as in the training data; normalised=True if they are z-scored already'
      )
      raise UserError(
        f'fMRI is {fmri.dtype} {fmri.shape}; these weights expect numbers of shape (trials, {width}): {what}.'
      )
    with np.errstate(over='ignore'):  # reported below
      fmri = fmri.astype(np.float32)
    bad = np.argwhere(~np.isfinite(fmri))
    if len(bad):
      raise UserError(
        f'fMRI has {len(bad)} values that are not finite, the first in trial {bad[0, 0]}, voxel {bad[0, 1]}.'
      )
    if transform is not None:
      rows = _in_session(transform, transform.select(fmri), session)
      fmri = transform.with_test_scale('train')(rows, is_test=True)
    return fmri

  def from_betas(
    self,
    betas: Betas,
    mask: MaskOf = None,
    subject: str = '',
    scale: float | None = None,
    repetitions: int = 1,
    session: Sessions = None,
  ) -> np.ndarray:
    """Model input N W float32 of responses in arrays or files.

    Args:
      betas: an array or a file. N V or V: the voxels of the ROI, or all voxels of the subject, in the order of the training
        data. Volumes N X Y Z or X Y Z N (NIfTI: X Y Z N): with `mask`.
      mask: chooses voxels: an array (V or X Y Z, of 0 and 1), a file, or several as `--mask` of `brainjax prepare own`.
      subject: whose responses these are; empty where the weights know one subject.
      scale: the numbers are betas times this. Whole numbers need it.
      repetitions, session: see `model_input`.

    Raises:
      UserError: a file cannot be read, or betas, mask and weights do not fit together.
    """
    transform = self._transform_of(subject)
    values, name, image = _read(betas)
    shape = values.shape if image is None else image.shape
    own_betas.check_scale(values, scale, name)
    if mask is None:
      if values.ndim > 2:
        raise UserError(f'{name} holds volumes of shape {shape}; name the masks of the training data (mask).')
      rows = values
    else:
      rows = _masked(values, mask, name, image, transform)
    rows = rows if scale is None else own_betas.to_float32(rows, scale)
    fmri = self._at_training_scale(rows, transform, session)
    _refuse_unlikely(fmri, transform, name)
    return transform.to_test_scale(fmri, repetitions)

  def _normalised_widths(self) -> str:
    rois = [f'{each.num_voxels} of {each.roi} of {each.data_set}/{each.subject}' for each in self.transforms.values()]
    unpadded = f', or the voxels without padding ({", ".join(rois)})' if rois else ''
    return f'z-scored and wrap-padded as in training{unpadded}'

  def _transform_of(self, subject: str) -> InputTransform:
    known = ', '.join(self.transforms)
    if not known:
      raise UserError(
        'these weights do not say how responses become model input: they were converted, or made by an earlier version. '
        'Pad and z-score the responses as in their training, and pass normalised=True (command line: --fmri).'
      )
    if subject and subject not in self.transforms:
      raise UserError(f'subject is {subject!r}; these weights know {known}.')
    if not subject and len(self.transforms) > 1:
      raise UserError(f'these weights know the subjects {known}; name the one whose responses these are (subject).')
    return self.transforms[subject or known]


def _in_session(transform: InputTransform, rows: np.ndarray, session: Sessions) -> np.ndarray:
  """Rows z-scored within their sessions, where the training rows were; see `Responses.model_input`."""
  if not transform.by_session:
    return rows
  given = [''] if session is None else [session] if isinstance(session, str) else list(session)
  if len(given) not in (1, len(rows)):
    raise UserError(f'session has {len(given)} names; expected one, or one for each of {len(rows)} rows.')
  names = np.broadcast_to(np.array(given, str), len(rows))
  statistics = {} if session is None else dict(transform.sessions)
  for name in set(names.tolist()) - statistics.keys():
    own = names == name
    if own.sum() < MIN_SESSION:
      of_session = f' of session {name}' if name else ''
      known = f', or a session of the training data ({", ".join(transform.sessions)})' if transform.sessions else ''
      raise UserError(
        'these weights were trained on responses z-scored within each session (data.zscore = voxel_session); found '
        f'{own.sum()} trials{of_session}, expected all trials of one session, at least {MIN_SESSION}{known}.'
      )
    if name:
      hosts.log(f'session {name} is not one of the training data: its {own.sum()} trials are z-scored by themselves.')
    statistics |= session_statistics(rows[own], names[own])
  return standardise_sessions(rows, names, statistics)


def _scale(fmri: np.ndarray) -> float:
  return float(np.sqrt(np.mean(np.square(fmri, dtype=np.float64))))


def _refuse_unlikely(fmri: np.ndarray, transform: InputTransform, name: str) -> None:
  """Refuses responses whose scale after the z-score says that they are not like those of training."""
  if not transform.test_raw_scale and not _is_likely(fmri):
    raise UserError(
      f'{name}: after the z-score of the training data the responses have a root mean square of {_scale(fmri):.3g}; '
      f'expected about 1, as in {transform.data_set}/{transform.subject}. Their unit, their GLM or the order of their '
      'voxels is another one; a picture made from them would mean nothing. If they are z-scored already, pass '
      'normalised=True (command line: --fmri).'
    )


def _is_likely(fmri: np.ndarray) -> bool:
  return LIKELY_SCALE[0] <= _scale(fmri) <= LIKELY_SCALE[1]


def _read(betas: Betas) -> tuple[np.ndarray, str, Any]:
  """Values, their name for messages, and the nibabel image of a NIfTI file."""
  if isinstance(betas, str | os.PathLike):
    path = Path(betas)
    if masks.suffix_of(path) in own_betas.NIFTI:
      values, image = neuroimaging.read_volumes(path)
      return np.moveaxis(values, -1, 0), str(path), image
    return raw.read_npy(path, ndim=(1, 2, 4), kinds='fiu'), str(path), None
  values = np.asarray(betas)
  if values.dtype.kind not in 'fiu' or values.ndim not in (1, 2, 3, 4):
    raise UserError(f'betas are {values.dtype} {values.shape}; expected numbers of shape (trials, voxels) or volumes.')
  return values, 'betas', None


def _read_mask(mask: MaskOf, name: str, grid: tuple[int, ...], image: Any) -> np.ndarray:
  """Which voxels the masks choose: bool, V or X Y Z. `grid` and `image` are those of NIfTI betas."""
  if isinstance(mask, np.ndarray):
    if mask.dtype.kind not in 'biuf' or not np.isin(mask, (0, 1)).all() or not mask.any():
      raise UserError(f'mask is {mask.dtype} {mask.shape}; expected 0 and 1, and some 1.')
    return mask.astype(bool)
  named = masks.parse_masks(os.fspath(mask)) if isinstance(mask, str | os.PathLike) else tuple(mask)
  is_nifti = {masks.suffix_of(each.path) in own_betas.NIFTI for each in named}
  if is_nifti != {image is not None}:
    raise UserError(f'{name}: expected .npy betas with .npy masks, or NIfTI betas with NIfTI masks.')
  values = [
    raw.read_npy(each.path, ndim=(1, 3), kinds='biuf')
    if image is None
    else neuroimaging.read_mask(each.path, grid, image, Path(name))
    for each in named
  ]
  if len({part.shape for part in values}) > 1:
    raise UserError(f'the masks have shapes {", ".join(str(part.shape) for part in values)}; expected one shape.')
  return np.logical_or.reduce([each.select(part) for each, part in zip(named, values, strict=True)])


def _masked(values: np.ndarray, mask: MaskOf, name: str, image: Any, transform: InputTransform) -> np.ndarray:
  """The voxels of the masks, N V, in the order in which `prepare own` stores them."""
  union = _read_mask(mask, name, values.shape[1:], image)
  if values.shape == union.shape:  # one trial
    values = values[None]
  if values.shape[:-1] == union.shape and values.shape[1:] != union.shape:
    values = np.moveaxis(values, -1, 0)
  if values.shape[1:] != union.shape:
    raise UserError(
      f'{name} has shape {values.shape}; the mask has {union.shape}; expected this shape after an axis of trials.'
    )
  places, there = np.flatnonzero(union), transform.places
  if len(there) and not (
    transform.grid == union.shape and any(np.array_equal(places, part) for part in (there, there[transform.mask]))
  ):
    common = len(np.intersect1d(places, there)) if transform.grid == union.shape else 0
    raise UserError(
      f'{name}: the mask chooses {len(places)} voxels of a grid {union.shape}. {common} of them are among the {len(there)} '
      f'voxels of a grid {transform.grid} that {transform.data_set}/{transform.subject} was trained on; name the masks of '
      'its training data.'
    )
  return values[:, union]
