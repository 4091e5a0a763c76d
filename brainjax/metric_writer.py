"""Scalars of a run: JSON lines, TensorBoard events, Weights & Biases if asked, and a progress bar with the time left."""

import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from brainjax.errors import UserError
from brainjax.files import atomic_write


class MetricWriter:
  """Writes scalars of one stage to `<directory>/metrics.jsonl` and TensorBoard, on the first host only.

  Lines after `first_step` that an interrupted run left behind are dropped, so that a resumed run has each step once.

  Args:
    directory: of the stage, <workdir>/<stage>.
    first_step: the step of the checkpoint that the stage goes on from.
    wandb_project: of Weights & Biases, to log to it as well; empty: off.

  Raises:
    UserError: Weights & Biases is asked for and not installed.
  """

  def __init__(self, directory: Path, first_step: int = 0, wandb_project: str = ''):
    self._active = jax.process_index() == 0
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
    # In this thread: SummaryWriter has one of its own, which a full disk ends, and then waits for it without end.
    self._events = EventsWriter(str(directory / 'events' / 'events'))
    # TensorBoard, too, drops what came after.
    self._add_event(first_step, session_log=SessionLog(status=SessionLog.START))

  def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
    """One line: `{"step": step, "split": split, ...}`."""
    if not self._active:
      return
    scalars = {name: float(value) for name, value in scalars.items()}
    # JSON has no NaN; a null shows that the number was not finite.
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
  """A run of Weights & Biases named by workdir and stage; a stage that is resumed goes on in its run."""
  try:
    import wandb  # an option, so that nobody needs the package who does not use it
  except ImportError as error:
    raise UserError(
      f'config.wandb is {project!r}, but the package wandb is not installed; pip install wandb, or leave the field empty.'
    ) from error
  name = f'{directory.parent.name}-{directory.name}'
  identity = hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:16]
  directory.mkdir(parents=True, exist_ok=True)
  return wandb.init(project=project, name=name, id=identity, resume='allow', dir=str(directory))


def read_metrics(path: Path) -> list[dict]:
  """Reads a metrics JSONL file: one object per line with an integer "step", "split" and scalars.

  A last line cut short by a kill is left out; any other damage is a `UserError`.
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


def progress(total: int, name: str, initial: int = 0) -> tqdm:
  """A progress bar with the time left; where nobody watches (no terminal) a line every ten seconds, on the first host only."""
  watched = sys.stderr.isatty()
  return tqdm(
    total=total,
    initial=initial,
    desc=name,
    unit='step',
    disable=jax.process_index() != 0,
    mininterval=0.5 if watched else 10.0,
    maxinterval=10.0 if watched else 60.0,
    ascii=not watched,
    dynamic_ncols=watched,
    bar_format='{desc:<12} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} {rate_fmt}, {remaining} left{postfix}',
  )
