"""Scalars of a run: JSON lines, TensorBoard events, and a progress bar with the time left."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from brainjax.errors import UserError


class MetricWriter:
  """Writes scalars of one stage to `<directory>/metrics.jsonl` and TensorBoard, on the first host only.

  Lines after `first_step` that an interrupted run left behind are dropped, so that a resumed run has each step once.
  """

  def __init__(self, directory: Path, first_step: int = 0):
    self._active = jax.process_index() == 0
    if not self._active:
      return
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / 'metrics.jsonl'
    kept = [line for line in read_metrics(path) if line['step'] <= first_step] if path.exists() and first_step else []
    self._file = open(path, 'w', buffering=1)  # noqa: SIM115 - closed by close()
    for line in kept:
      self._file.write(json.dumps(line) + '\n')
    self._events = SummaryWriter(str(directory / 'events'), purge_step=first_step)

  def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
    """One line: `{"step": step, "split": split, ...}`."""
    if not self._active:
      return
    scalars = {name: float(value) for name, value in scalars.items()}
    # JSON has no NaN; a null shows that the number was not finite.
    clean = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
    self._file.write(json.dumps({'step': step, 'split': split, **clean}) + '\n')
    for name, value in scalars.items():
      self._events.add_scalar(f'{split}/{name}', value, step)

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._active:
      self._file.close()
      self._events.close()


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
