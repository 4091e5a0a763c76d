"""Writes scalars of a run (JSON lines, TensorBoard, Weights & Biases if asked)."""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from brainjax import hosts
from brainjax.errors import UserError
from brainjax.files import atomic_write


class MetricWriter:
  """Writes scalars of one stage to `<directory>/metrics.jsonl` and TensorBoard, on the first host only.

  Removes lines after `first_step`, which an interrupted run wrote, so that each step is there once.

  Args:
    directory: of the stage, <workdir>/<stage>.
    first_step: the step of the checkpoint that the stage resumes from.
    wandb_project: project of Weights & Biases to log to; empty: off.

  Raises:
    UserError: `wandb_project` is set and the package wandb is not installed.
  """

  def __init__(self, directory: Path, first_step: int = 0, wandb_project: str = ''):
    self._active = hosts.is_first()
    if not self._active:
      return
    self._wandb = _start_wandb(directory, wandb_project) if wandb_project else None
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / 'metrics.jsonl'
    kept = [line for line in read_metrics(path) if line['step'] <= first_step] if path.exists() and first_step else []
    with atomic_write(path) as temporary:
      temporary.write_text(''.join(json.dumps(line) + '\n' for line in kept))
    self._file = open(path, 'a', buffering=1)  # noqa: SIM115 - closed by close()
    (directory / 'events').mkdir(exist_ok=True)
    # Written in this thread: a full disk ends the thread of SummaryWriter, which then waits for it forever.
    self._events = EventsWriter(str(directory / 'events' / 'events'))
    # TensorBoard drops what an interrupted run wrote after this step, too.
    self._add_event(first_step, session_log=SessionLog(status=SessionLog.START))

  def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
    """Writes the scalars of one step, as the line `{"step": step, "split": split, ...}`."""
    if not self._active:
      return
    scalars = {name: float(value) for name, value in scalars.items()}
    # JSON has no NaN: null means that the number was not finite.
    clean = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
    self._file.write(json.dumps({'step': step, 'split': split, **clean}) + '\n')
    values = [Summary.Value(tag=f'{split}/{name}', simple_value=value) for name, value in scalars.items()]
    self._add_event(step, summary=Summary(value=values))
    if self._wandb:
      self._wandb.log({f'{split}/{name}': value for name, value in scalars.items()}, step=step)

  def _add_event(self, step: int, **fields: Any) -> None:
    self._events.write_event(Event(wall_time=time.time(), step=step, **fields))
    self._events.flush()

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._active:
      self._file.close()
      self._events.close()
      if self._wandb:
        self._wandb.finish()


def _start_wandb(directory: Path, project: str) -> Any:
  """Starts a run of Weights & Biases named by workdir and stage, or resumes the one of this stage."""
  try:
    import wandb  # optional
  except ImportError as error:
    raise UserError(
      f'config.wandb is {project!r}, but the package wandb is not installed; pip install wandb, or leave the field empty.'
    ) from error
  name = f'{directory.parent.name}-{directory.name}'
  identity = hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:16]
  directory.mkdir(parents=True, exist_ok=True)
  return wandb.init(project=project, name=name, id=identity, resume='allow', dir=str(directory))


def read_metrics(path: Path) -> list[dict]:
  """Reads a metrics file: a JSON object per line, with an integer "step", "split" and scalars.

  Skips an incomplete last line, which an interrupted run leaves.

  Raises:
    UserError: another line is not such an object.
  """
  lines = Path(path).read_text().splitlines()
  records = []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      record = json.loads(line)
      record['step'] = int(record['step'])
      record['split'] = str(record['split'])
    except (ValueError, KeyError, TypeError) as error:
      if number == len(lines):
        break
      sentence = f'{path}, line {number} is not a JSON object with "step" and "split"; delete the file or the line'
      raise UserError(sentence) from error
    records.append(record)
  return records
