"""Saves and restores finished weights and the state of a run. The only importer of orbax."""

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from brainjax import files, hosts, locate
from brainjax.errors import UserError, as_user_error, disk_full_reason

WEIGHTS_FORMAT = 'brainjax-weights-1'
# Orbax writes times into these after everything else. Nothing is restored from them.
UNSUMMED = ('_CHECKPOINT_METADATA', 'commit_success.txt')
NUM_LATEST = 2  # newest checkpoints to keep, in addition to the best one

# A checkpoint is renamed into this folder before its files are deleted: a kill in between leaves nothing that looks like a
# checkpoint.
NO_LONGER_KEPT = 'no_longer_kept'


def save_weights(directory: str | os.PathLike, flat_params: Mapping[str, Any], info: Mapping[str, Any]) -> None:
  """Writes finished weights: an Orbax tree of `flat_params` ('/'-joined path -> array) and `weights.json` (`info`).

  The directory appears under its name only when it is complete. `SHA256SUMS` in it has the checksum of every file.

  Raises:
    UserError: the directory exists already, or the disk is full.
  """
  directory = Path(directory).absolute()
  if directory.exists():
    raise UserError(
      f'{directory} exists already; weights are never overwritten. Choose another folder or remove it first.'
    )
  with _writing(f'the weights {directory}'), files.atomic_folder(directory) as temporary:
    with _checkpointer() as checkpointer:
      checkpointer.save(temporary / 'params', dict(flat_params))
    with files.atomic_write(temporary / 'weights.json') as path:
      path.write_text(json.dumps({'format': WEIGHTS_FORMAT, **info}, indent=2))
    files.write_sums(temporary)


def save_safetensors(path: Path, flat_params: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
  """Writes weights as one .safetensors file, with `info` as JSON in its metadata.

  Raises:
    UserError: the file exists already.
  """
  import safetensors.numpy

  if path.exists():
    raise UserError(f'{path} exists already; move it away first.')
  arrays = {name: np.ascontiguousarray(x) for name, x in flat_params.items()}
  with files.atomic_write(path) as temporary:
    safetensors.numpy.save_file(arrays, temporary, metadata={'info': json.dumps(info)})


def load_weights(source: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """(path -> array, info) of what `save_weights` wrote, or of a .safetensors file with the same paths.

  A safetensors file carries `info` as JSON in its metadata field `info`. Half precision becomes float32.

  Raises:
    UserError: nothing there, not such weights, or damaged.
  """
  source = check_weights(source)
  if source.suffix == '.safetensors':
    return _load_safetensors(source)
  info_path = source / 'weights.json'
  try:
    info = json.loads(info_path.read_text())
    if info.pop('format', None) != WEIGHTS_FORMAT:
      raise UserError(f'{info_path} does not say format {WEIGHTS_FORMAT}; the folder was written by something else.')
    with _checkpointer() as checkpointer:
      tree = checkpointer.metadata(source / 'params').item_metadata.tree
      restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
      params = checkpointer.restore(source / 'params', restore_args=restore_args)
  except UserError:
    raise
  except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
    raise UserError(
      f'weights {source} are damaged ({type(error).__name__}); restore the folder from a copy or make it again.'
    ) from error
  return dict(params), info


def read_info(source: str | os.PathLike) -> dict[str, Any]:
  """The `info` of `load_weights`, without loading the arrays.

  Raises:
    UserError: nothing there, not such weights, or damaged.
  """
  source = check_weights(source)
  if source.suffix == '.safetensors':
    return _open_weights(source)[1]
  try:
    return dict(json.loads((source / 'weights.json').read_text()))
  except (OSError, ValueError, TypeError) as error:
    raise UserError(
      f'weights {source} are damaged (weights.json: {error}); restore the folder from a copy or make it again.'
    ) from error


def check_weights(source: str | os.PathLike) -> Path:
  """The absolute path of weights, without loading them. If they have checksums, every file is compared with its own.

  Raises:
    UserError: nothing there, not such weights, or damaged.
  """
  if not str(source):
    raise UserError('no weights are named; convert a release with brainjax convert and name the folder.')
  source = locate.weights(source)
  if not source.exists():
    raise UserError(
      f'the weights {source} do not exist; train that stage first or convert a release with brainjax convert.'
    )
  if source.suffix == '.safetensors':
    # A packed folder has checksums; a file alone is checked for its form.
    if source.name == locate.PACKED and (source.parent / files.SUMS).is_file():
      _refuse_damaged(source.parent)
    _open_weights(source)
    return source
  if not (source / 'weights.json').is_file():
    inside = sorted(
      path.parent for path in (*source.glob('weights/weights.json'), *source.glob('*/weights/weights.json'))
    )
    raise UserError(
      f'{source} holds no weights.json, so it is not a folder of brainjax weights; '
      + (f'name {" or ".join(map(str, inside))}.' if inside else 'convert a release with brainjax convert.')
    )
  # Weights from elsewhere may have no sums; these are not compared.
  if (source / files.SUMS).is_file():
    _refuse_damaged(source)
  return source


def _refuse_damaged(folder: Path) -> None:
  if fault := _damage(folder, files.signature(folder)):
    raise UserError(f'weights {folder} are damaged: {fault}; restore the folder from a copy or make it again.')


@functools.lru_cache(maxsize=64)
def _damage(folder: Path, signature: tuple) -> str:
  """`files.find_damage`. A folder is read once, and again when a file in it was written: a run asks for it several times."""
  del signature
  return files.find_damage(folder)


def weights_digest(flat: Mapping[str, np.ndarray]) -> str:
  """SHA-256 of weights, independent of how they are stored: over path, dtype, shape and bytes, in the order of paths."""
  digest = hashlib.sha256()
  for path in sorted(flat):
    array = np.ascontiguousarray(flat[path])
    digest.update(f'{path} {array.dtype.str} {array.shape}\n'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def _checkpointer() -> ocp.Checkpointer:
  """Reads and writes arrays in this process, without waiting for other hosts."""
  this = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=this, active_processes={this}, barrier_sync_key_prefix=f'host{this}'
  )
  return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def _load_safetensors(source: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  archive, info = _open_weights(source)
  params = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - not a mapping
  return {name: x.astype(np.float32) if x.dtype == np.float16 else x for name, x in params.items()}, info


def open_safetensors(source: Path, entry: str) -> tuple[Any, Any]:
  """A safetensors file, and the value of one entry of its metadata (JSON; None: there is no such entry).

  Raises:
    UserError: the file is not whole.
  """
  import safetensors

  kinds = (safetensors.SafetensorError, ValueError, OSError)
  with as_user_error(f'{source} is damaged or not a safetensors file', kinds=kinds):
    archive = safetensors.safe_open(source, framework='numpy')  # compares the header with the size of the file
    return archive, json.loads((archive.metadata() or {}).get(entry, 'null'))


def _open_weights(source: Path) -> tuple[Any, dict[str, Any]]:
  """A safetensors file of brainjax weights, and their `info`."""
  archive, info = open_safetensors(source, 'info')
  if info is None:
    raise UserError(
      f'{source} has no `info` in its metadata, so it is not brainjax weights; use brainjax convert on it.'
    )
  return archive, info


class RunCheckpoints:
  """The checkpoints of one stage of a run: asynchronous, atomic, checksummed; the two latest are kept, and the best one.

  A checkpoint appears under its step number when all its files and their `SHA256SUMS` are written. A damaged one is put
  aside and reported, and the one before is used.

  Args:
    directory: of the checkpoints; created if missing.
    best_metric: name of the validation score that chooses the best checkpoint (smaller is better), or None to keep only
      the latest.
  """

  def __init__(self, directory: str | os.PathLike, best_metric: str | None):
    policies = [ocp.checkpoint_managers.LatestN(NUM_LATEST)]
    if best_metric:
      policies.append(
        ocp.checkpoint_managers.BestN(
          get_metric_fn=lambda metrics: metrics[best_metric], reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
      )
    self._best_metric = best_metric
    self._directory = Path(directory).absolute()
    self._saving = 0  # the step that is being saved in the background
    self._delete_no_longer_kept()  # of a killed run
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
        best_fn=(lambda metrics: metrics[best_metric]) if best_metric else None,
        best_mode='min',
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,  # of a killed run
        todelete_subdir=NO_LONGER_KEPT,
        # Runs when all files are written and the folder still has its temporary name.
        async_options=ocp.options.AsyncOptions(post_finalization_callback=self._sum),
      ),
    )

  def _sum(self) -> None:
    for folder in self._directory.glob(f'{self._saving}.*tmp*'):
      files.write_sums(folder, without=UNSUMMED)

  def save(self, step: int, state: Any, notes: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
    """Saves a tree of arrays and JSON `notes` (config, data position) in the background.

    Raises:
      UserError: this save or the one before cannot be written.
    """
    with self._writing():
      self._settle()
      self._saving = step
      self._manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(dict(notes))),
        # A score that is not a number cannot be ranked.
        metrics=dict(metrics) if metrics and math.isfinite(metrics.get(self._best_metric, 0.0)) else None,
        force=True,
      )

  def latest(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """(step, state, notes) of the newest whole checkpoint, or None if there is none yet.

    Args:
      abstract_state: a tree of ShapeDtypeStructs that carry shardings.

    Raises:
      UserError: there are checkpoints, and every one is damaged.
    """
    return self._first_whole(sorted(self._manager.all_steps(), reverse=True), abstract_state)

  def best(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """As `latest`, of the checkpoint with the smallest validation score; the newest if there are no scores.

    Raises:
      UserError: as `latest`.
    """
    ranked = self._ranked()
    return self._first_whole(ranked, abstract_state) if ranked else self.latest(abstract_state)

  def _ranked(self) -> list[int]:
    """The steps that have a validation score, the best first."""
    scores = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
    scored = {step: metrics[self._best_metric] for step, metrics in scores.items() if self._best_metric and metrics}
    return sorted(scored, key=scored.get)

  def _first_whole(self, steps: Sequence[int], abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
    faults = {}
    for step in _as_first_host(steps):
      if not (fault := self._fault(step)):
        break
      faults[step] = fault
    else:
      if not faults:
        return None
      listed = '; '.join(f'{step}: {fault}' for step, fault in faults.items())
      raise UserError(
        f'every checkpoint in {self._directory} is damaged ({listed}); restore one from a copy, or move the folder away '
        'to train this stage from the beginning.'
      )
    for damaged, fault in faults.items():
      hosts.on_first(self._put_aside, damaged, fault, step)
    if faults:
      self._manager.reload()
    try:
      restored = self._manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), notes=ocp.args.JsonRestore())
      )
    except (ValueError, KeyError) as error:  # its files are whole, so it belongs to another model
      raise UserError(
        f'checkpoint {step} in {self._directory} holds other arrays than this config trains (the model, its sizes, the '
        'optimizer or brainjax changed); continue with the old config, or choose another --workdir.'
      ) from error
    return step, restored['state'], restored['notes']

  def _fault(self, step: int) -> str:
    """Describes a fault of a checkpoint, or ''. The first host checks; the others receive the result."""
    fault = files.find_damage(self._directory / str(step)) if hosts.is_first() else ''
    return (fault or 'the first host reports it') if hosts.from_first(bool(fault)) else ''

  def _put_aside(self, damaged: int, fault: str, used: int) -> None:
    aside = files.put_aside(self._directory / str(damaged))
    hosts.log(f'checkpoint {damaged} in {self._directory} is damaged: {fault}. It is now {aside.name}; {used} is used')

  def wait(self) -> None:
    """Waits until the save in the background is on disk and only the checkpoints to keep are left.

    Raises:
      UserError: it cannot be written.
    """
    with self._writing():
      self._settle()
      kept = {*sorted(self._manager.all_steps())[-NUM_LATEST:], *self._ranked()[:1]}
      hosts.on_first(self._remove, sorted(set(self._manager.all_steps()) - kept))
      self._manager.reload()

  def _remove(self, steps: Sequence[int]) -> None:
    """Deletes checkpoints. Orbax does so after each save, but not if a run was killed after its last save."""
    for step in steps:
      (self._directory / NO_LONGER_KEPT).mkdir(exist_ok=True)
      os.rename(self._directory / str(step), self._directory / NO_LONGER_KEPT / str(step))
    self._delete_no_longer_kept()

  def _settle(self) -> None:
    self._manager.wait_until_finished()
    self._delete_no_longer_kept()

  def _delete_no_longer_kept(self) -> None:
    if hosts.is_first():
      shutil.rmtree(self._directory / NO_LONGER_KEPT, ignore_errors=True)

  def close(self) -> None:
    """Waits for the save in the background and frees the manager.

    Raises:
      UserError: the save cannot be written.
    """
    with self._writing():
      self._settle()
      self._manager.close()

  def _writing(self) -> contextlib.AbstractContextManager[None]:
    return _writing(f'the checkpoint of step {self._saving} in {self._directory}')


def _as_first_host(steps: Sequence[int]) -> list[int]:
  """The steps that the first host lists: on a network file system other hosts may see an older list for a while."""
  count = hosts.from_first(len(steps))
  return [hosts.from_first(step) for step in [*steps, *[0] * count][:count]]


class _WithoutLateWrites:
  """Hides the tracebacks that tensorstore's threads print for writes that end after another of the same save failed."""

  def __init__(self, shown: Callable):
    self._shown = shown

  def __call__(self, unraisable: Any) -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
      self._shown(unraisable)


@contextlib.contextmanager
def _writing(what: str) -> Iterator[None]:
  if not isinstance(sys.unraisablehook, _WithoutLateWrites):
    sys.unraisablehook = _WithoutLateWrites(sys.unraisablehook)
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # orbax and tensorstore raise many kinds when a disk is full or gone
    # Other writes of the same save fail alike, and asyncio would print a traceback for each.
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    reason = ' '.join(str(error).split())
    raise UserError(
      f'{what} cannot be written ({disk_full_reason(reason) or reason[:300] or type(error).__name__}); earlier saves are '
      'intact. Make room on that disk, or choose a place that can be written; the same command continues.'
    ) from error
