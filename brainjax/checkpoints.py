"""Saves and restores: finished weights, and the state of a run. The only importer of orbax."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from brainjax.errors import UserError
from brainjax.files import atomic_write

WEIGHTS_FORMAT = 'brainjax-weights-1'


def save_weights(directory: str | os.PathLike, flat_params: Mapping[str, Any], info: Mapping[str, Any]) -> None:
  """Writes finished weights: an Orbax tree of `flat_params` ('/'-joined path -> array) and `weights.json` (`info`).

  The directory appears under its name only when it is complete.

  Raises:
    UserError: the directory exists already.
  """
  directory = Path(directory).absolute()
  if directory.exists():
    raise UserError(
      f'{directory} exists already; weights are never overwritten. Choose another folder or remove it first.'
    )
  directory.parent.mkdir(parents=True, exist_ok=True)
  temporary = directory.with_name(f'.{directory.name}.tmp{os.getpid()}')
  shutil.rmtree(temporary, ignore_errors=True)
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      checkpointer.save(temporary / 'params', dict(flat_params))
    with atomic_write(temporary / 'weights.json') as path:
      path.write_text(json.dumps({'format': WEIGHTS_FORMAT, **info}, indent=2))
    os.replace(temporary, directory)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def load_weights(source: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads what `save_weights` wrote, or a .safetensors file of the same paths: (path -> array, info).

  A safetensors file carries `info` as JSON in its metadata field `info`. Arrays of half precision come back as float32.

  Raises:
    UserError: nothing there, not such weights, or damaged.
  """
  source = Path(source).absolute()
  if source.suffix == '.safetensors':
    return _load_safetensors(source)
  if not source.exists():
    raise UserError(
      f'weights {source} do not exist; train that stage first or convert a release with python -m brainjax.convert.'
    )
  info_path = source / 'weights.json'
  if not info_path.is_file():
    raise UserError(
      f'{source} holds no weights.json, so it is not a folder of brainjax weights; convert a release with python -m brainjax.convert.'
    )
  try:
    info = json.loads(info_path.read_text())
    if info.pop('format', None) != WEIGHTS_FORMAT:
      raise UserError(f'{info_path} does not say format {WEIGHTS_FORMAT}; the folder was written by something else.')
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
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


def _load_safetensors(source: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  import safetensors

  if not source.is_file():
    raise UserError(f'weights {source} do not exist.')
  try:
    with safetensors.safe_open(source, framework='numpy') as archive:
      info = json.loads((archive.metadata() or {}).get('info', 'null'))
      if info is None:
        raise UserError(
          f'{source} has no `info` in its metadata, so it is not brainjax weights; use python -m brainjax.convert on it.'
        )
      params = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - not a mapping
  except (safetensors.SafetensorError, json.JSONDecodeError) as error:
    raise UserError(f'weights {source} are damaged ({error}).') from error
  return {name: x.astype(np.float32) if x.dtype == np.float16 else x for name, x in params.items()}, info


class RunCheckpoints:
  """The checkpoints of one stage of a run: asynchronous, atomic; the two latest are kept, and the best one.

  Args:
    directory: where; made when missing.
    best_metric: name of the validation score that chooses the best (smaller is better), or None to keep the latest only.
  """

  def __init__(self, directory: str | os.PathLike, best_metric: str | None):
    policies = [ocp.checkpoint_managers.LatestN(2)]
    if best_metric:
      policies.append(
        ocp.checkpoint_managers.BestN(
          get_metric_fn=lambda metrics: metrics[best_metric], reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
      )
    self._best_metric = best_metric
    self._manager = ocp.CheckpointManager(
      Path(directory).absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
        best_fn=(lambda metrics: metrics[best_metric]) if best_metric else None,
        best_mode='min',
        enable_async_checkpointing=True,
      ),
    )

  def latest_step(self) -> int | None:
    """Step of the newest whole checkpoint."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Step of the checkpoint with the smallest validation score; the newest where nothing is scored."""
    return self._manager.best_step() if self._best_metric else self._manager.latest_step()

  def save(self, step: int, state: Any, notes: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
    """Saves a tree of arrays and JSON `notes` (config, data position) in the background."""
    self._manager.save(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(dict(notes))),
      metrics=dict(metrics) if metrics else None,
      force=True,
    )

  def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
    """(state, notes) of a step; `abstract_state` is a tree of ShapeDtypeStructs that carry shardings."""
    restored = self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), notes=ocp.args.JsonRestore())
    )
    return restored['state'], restored['notes']

  def wait(self) -> None:
    """Until the save in the background is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the save in the background and frees the manager."""
    self._manager.close()
