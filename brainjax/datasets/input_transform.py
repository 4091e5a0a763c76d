"""Turns a subject's responses into model input: ROI, padding, z-score, width.

Training fits it to its training rows. It is saved with the weights, so that sampling, scores and new sessions use the
same one (paper, section 3; the published code z-scores with one mean and one deviation for all voxels of a subject).
"""

import base64
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from brainjax.datasets import transforms
from brainjax.errors import UserError, as_user_error

ZSCORES = ('subject', 'voxel', 'voxel_session')
TEST_SCALES = ('train', 'single_trial', 'repetitions')
MIN_SESSION = 10  # trials that a new session needs, to be z-scored with its own statistics


@dataclasses.dataclass(frozen=True)
class InputTransform:
  """Responses `N V` of one subject -> model input `N W`.

  Attributes:
    data_set: such as 'god'.
    subject: such as 'sbj_3'.
    roi: name of the ROI, or several joined by '+'.
    mask: V bool, the voxels of the ROI among all stored voxels of the subject.
    patch_size: voxels per patch. Voxels are repeated from the start to fill the last patch.
    full_extra_patch: as released, a width that needs no padding gets a whole patch.
    mean, std: of the training rows. Scalars for all voxels (of the padded rows, as published), or one per ROI voxel.
    width: W, after repeating (or cutting) voxels to the width of the model.
    test_raw_scale: test rows and new sessions are not z-scored, as the release treats GOD (quirk B2).
    test_scale: of test rows and new sessions after the z-score. A mean over trials has less noise than the single trials
      that the model learned from, and so a smaller scale. 'train': nothing more is done. 'single_trial': each row is
      scaled to a root mean square of 1, that of training rows. 'repetitions': a mean over R trials is divided by its
      expected scale, sqrt(e + (1 - e) / R).
    explainable_variance: e, the share of a single trial's variance that the stimulus explains, over all voxels; measured
      on repeated training stimuli for 'repetitions', else None.
    by_session: responses are z-scored voxel by voxel within their session first, see `standardise_sessions`.
    sessions: name of each session of the training rows -> mean and deviation of the ROI's voxels in them, V each. Empty
      unless `by_session`, and in weights of versions that did not save them.
    grid: X Y Z of the volumes that the stored voxels come from; empty if they come from none, or that is not known.
    places: of the stored voxels in that grid, V flat indices; none without a grid.
  """

  data_set: str
  subject: str
  roi: str
  mask: np.ndarray
  patch_size: int
  full_extra_patch: bool
  mean: np.ndarray
  std: np.ndarray
  width: int
  test_raw_scale: bool = False
  test_scale: str = 'train'
  explainable_variance: float | None = None
  by_session: bool = False
  sessions: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)
  grid: tuple[int, ...] = ()
  places: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))

  @classmethod
  def fit(
    cls,
    responses: np.ndarray,
    *,
    data_set: str,
    subject: str,
    roi: str,
    mask: np.ndarray,
    patch_size: int,
    full_extra_patch: bool = False,
    zscore: str = 'subject',
    test_raw_scale: bool = False,
    test_scale: str = 'train',
    explained: np.ndarray | None = None,
    sessions: Mapping[str, tuple[np.ndarray, np.ndarray]] = MappingProxyType({}),
    grid: Sequence[int] = (),
    places: Sequence[int] = (),
    where: str = '',
  ) -> Self:
    """The transform of training rows.

    Args:
      responses: N V, the ROI's voxels of the training rows.
      data_set, subject, roi, mask, patch_size, full_extra_patch, test_raw_scale, test_scale, sessions, grid, places: see the class.
      zscore: 'subject': one mean and one deviation for all voxels; 'voxel': one of each per voxel; 'voxel_session': the
        same, of rows that `standardise_sessions` has z-scored. A voxel that never changes becomes 0.
      explained: V, the share of the training rows' variance that the stimulus explains; None without repeated stimuli.
      where: begins the message of an error.

    Raises:
      UserError: no rows, or rows without variance; the scale needs repeated stimuli and there are none.
    """
    is_joint = zscore == 'subject'
    rows = transforms.pad_to_patch_size(responses, patch_size, full_extra_patch) if is_joint else responses
    mean, std = (_moment(f, rows, is_joint) if len(rows) else np.zeros(()) for f in (np.mean, np.std))
    if not np.max(std) > 0:
      raise UserError(
        f'{where}: {len(responses)} training rows are left and the voxels of {roi} have no variance in them; '
        'hold fewer stimuli out, keep a larger share, or check the ROI'
      )
    width = transforms.padded_width(int(mask.sum()), patch_size, full_extra_patch)
    std = np.where(std > 0, std, 1.0)
    share = None
    if test_scale == 'repetitions':
      if explained is None:
        raise UserError(
          f'{where}: config.data.test_scale is repetitions, which needs training pictures that were shown more than once, '
          'and there are none; choose single_trial or train.'
        )
      variance = np.var(responses, axis=0, dtype=np.float64) / np.square(std)
      share = float(np.sum(explained * variance) / np.sum(variance))
    return cls(
      data_set, subject, roi, mask, patch_size, full_extra_patch, mean, std, width, test_raw_scale, test_scale, share,
      by_session=zscore == 'voxel_session', sessions=sessions, grid=tuple(grid), places=np.array(places, int),
    )  # fmt: skip

  @property
  def num_voxels(self) -> int:
    """Voxels of the ROI."""
    return int(self.mask.sum())

  def with_width(self, width: int) -> Self:
    """The same transform for a model of another width."""
    return dataclasses.replace(self, width=width)

  def select(self, responses: np.ndarray, where: str = 'responses') -> np.ndarray:
    """The ROI's voxels `N V`, out of all stored voxels of the subject or of the ROI's alone.

    Raises:
      UserError: another number of voxels.
    """
    if responses.shape[-1] == self.num_voxels:
      return responses
    if responses.shape[-1] != len(self.mask):
      raise UserError(
        f'{where} have {responses.shape[-1]} voxels; expected the {self.num_voxels} voxels of {self.roi} of '
        f'{self.data_set}/{self.subject}, or all its {len(self.mask)} voxels, in the order of the training data.'
      )
    return responses[..., self.mask]

  def with_test_scale(self, test_scale: str) -> Self:
    """The same transform with another scale of test rows, 'train' or 'single_trial'."""
    return dataclasses.replace(self, test_scale=test_scale)

  def __call__(self, responses: np.ndarray, is_test: bool = False, repetitions: np.ndarray | float = 1.0) -> np.ndarray:
    """Model input `N W` float32 of the ROI's responses `N V`.

    Args:
      responses: N V, see `select`.
      is_test: whether these are test rows or a new session.
      repetitions: of test rows, see `to_test_scale`.

    Raises:
      UserError: as `to_test_scale`.
    """
    if not (is_test and self.test_raw_scale):
      responses = transforms.normalize(responses, self.mean, self.std)
    rows = self.pad(responses)
    return self.to_test_scale(rows, repetitions) if is_test else rows

  def pad(self, rows: np.ndarray) -> np.ndarray:
    """The ROI's voxels `N V`, wrapped around to whole patches and to the width of the model: `N W`."""
    return transforms.fit_width(transforms.pad_to_patch_size(rows, self.patch_size, self.full_extra_patch), self.width)

  def to_raw_scale(self, rows: np.ndarray) -> np.ndarray:
    """Z-scored model input `N W` or `W`, back in the unit of the responses, as the release leaves its test rows (quirk B2)."""
    mean, std = (
      transforms.fit_width(
        transforms.pad_to_patch_size(x[None], self.patch_size, self.full_extra_patch), rows.shape[-1]
      )[0]
      for x in np.broadcast_arrays(self.mean, self.std, np.empty(self.num_voxels))[:2]
    )
    return rows * std + mean

  def to_test_scale(self, rows: np.ndarray, repetitions: np.ndarray | float = 1.0) -> np.ndarray:
    """Test rows `N W` at the scale of the training rows -> at the test scale.

    Args:
      rows: N W.
      repetitions: trials that each row is the mean of: N, or one number for all. Only the scale 'repetitions' uses it.

    Raises:
      UserError: fewer than one repetition, or neither one number nor one for each row.
    """
    counts = np.asarray(repetitions, np.float64).reshape(-1, 1)
    if len(counts) not in (1, len(rows)) or not (counts >= 1).all():
      raise UserError(
        f'repetitions is {repetitions}; expected 1 or more, one number or one for each of {len(rows)} rows.'
      )
    if self.test_scale == 'train':
      return rows
    if self.test_scale == 'single_trial':
      scale = np.sqrt(np.mean(np.square(rows, dtype=np.float64), axis=1, keepdims=True))
    else:
      noise = (1 - self.explainable_variance) / counts
      scale = np.sqrt(self.explainable_variance + noise)
    return (rows / np.where(scale > 0, scale, 1.0)).astype(np.float32)

  def to_json(self) -> dict[str, Any]:
    """As JSON stores it: masks as bits, arrays as bytes, both base64."""
    packed = np.packbits(self.mask).tobytes()
    plain = ('data_set', 'subject', 'roi', 'patch_size', 'full_extra_patch', 'width', 'test_raw_scale')
    return {
      **{name: getattr(self, name) for name in plain},
      'num_stored_voxels': len(self.mask),
      'mask': base64.b64encode(packed).decode(),
      'mean': _numbers_to_json(self.mean),
      'std': _numbers_to_json(self.std),
      **({'test_scale': self.test_scale} if self.test_scale != 'train' else {}),
      **({'explainable_variance': self.explainable_variance} if self.explainable_variance is not None else {}),
      **(
        {'by_session': True, 'sessions': {name: [*map(_numbers_to_json, both)] for name, both in self.sessions.items()}}
        if self.by_session
        else {}
      ),
      **({'grid': list(self.grid), 'places': self.places.tolist()} if self.grid else {}),
    }

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> Self:
    """The inverse of `to_json`.

    Raises:
      UserError: a part is missing or of another kind.
    """
    with as_user_error('the input transform in weights.json cannot be read', 'restore it from a copy.'):
      fields = dict(value)
      count = fields.pop('num_stored_voxels')
      bits = np.frombuffer(base64.b64decode(fields.pop('mask')), np.uint8)
      mask = np.unpackbits(bits, count=count).astype(bool)
      mean, std = (_numbers_from_json(fields.pop(name)) for name in ('mean', 'std'))
      sessions = {name: tuple(map(_numbers_from_json, both)) for name, both in fields.pop('sessions', {}).items()}
      grid, places = tuple(fields.pop('grid', ())), np.array(fields.pop('places', ()), int)
      return cls(**fields, mask=mask, mean=mean, std=std, sessions=sessions, grid=grid, places=places)


def _moment(function: Callable, rows: np.ndarray, is_joint: bool) -> np.ndarray:
  """Mean or deviation of all values, or of each column; columns are taken in parts, as NumPy makes a float64 copy."""
  if is_joint:
    return np.asarray(function(rows, dtype=np.float64))
  parts = (rows[:, start : start + 1024] for start in range(0, rows.shape[1], 1024))
  return np.concatenate([function(part, axis=0, dtype=np.float64) for part in parts])


def session_statistics(
  train: np.ndarray, sessions: np.ndarray, kept: np.ndarray | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Mean and deviation of each voxel in each session that has two or more training rows: name -> V, V.

  A voxel that never changes in a session has the deviation 1 there, and so becomes 0.

  Args:
    train: M V, training rows.
    sessions: M, the session of each row.
    kept: M bool, the rows to use; None: all.
  """
  kept = np.ones(len(train), bool) if kept is None else kept
  names, counts = np.unique(sessions[kept], return_counts=True)
  statistics = {}
  for name in names[counts > 1].tolist():
    rows = train[(sessions == name) & kept].astype(np.float64)
    std = rows.std(axis=0)
    statistics[name] = rows.mean(axis=0), np.where(std > 0, std, 1.0)
  return statistics


def standardise_sessions(
  responses: np.ndarray,
  sessions: np.ndarray,
  statistics: Mapping[str, tuple[np.ndarray, np.ndarray]],
  where: str = 'responses',
  out: np.ndarray | None = None,
) -> np.ndarray:
  """z-scores each voxel within each session: N V float32.

  Args:
    responses: N V.
    sessions: N, the session of each row.
    statistics: see `session_statistics`.
    where: begins the message of an error.
    out: gets the result, and may be `responses`; None: a new array.

  Raises:
    UserError: a session has no statistics, as it had fewer than two training rows.
  """
  result = np.empty(responses.shape, np.float32) if out is None else out
  for session in np.unique(sessions).tolist():
    if session not in statistics:
      raise UserError(
        f'{where}: session {session} has fewer than 2 training rows, too few to z-score it with; choose '
        '--config.data.zscore=voxel, or leave its trials out'
      )
    mean, std = statistics[session]
    result[sessions == session] = (responses[sessions == session] - mean) / std
  return result


def _numbers_to_json(array: np.ndarray) -> float | str:
  return base64.b64encode(array.astype('<f8').tobytes()).decode() if array.ndim else float(array)


def _numbers_from_json(value: float | str) -> np.ndarray:
  return np.frombuffer(base64.b64decode(value), '<f8') if isinstance(value, str) else np.array(float(value))
