"""The loader's row: batches of resting-state fMRI from disk, ours and PyTorch's DataLoader."""

import time
from pathlib import Path

import numpy as np

from benchmarks.rows import Row
from benchmarks.work import Work

NUM_BATCHES = 40  # in one repetition


def make_data(folder: Path, subjects: int, num_voxels: int) -> None:
  """Simulates and prepares HCP files, unless they exist."""
  from benchmarks import loader

  loader.simulate(folder, subjects, num_voxels)
  loader.prepare(folder)


def build(row: Row, way: str, folder: str) -> Work:
  """Builds the work that loads batches of shuffled epochs; its time is that of one batch."""
  from brainjax.datasets import hcp, loader

  rows = hcp.load(Path(folder) / 'prepared')
  if way == 'ours':
    batches = loader.make_loader(rows, row.batch)

    def seconds() -> float:
      start = time.perf_counter()
      for _ in range(NUM_BATCHES):
        next(batches)
      return (time.perf_counter() - start) / NUM_BATCHES

    return Work(timed=seconds)

  import torch

  # As the published code does: everything in memory, one row at a time.
  values = rows.gather(np.arange(len(rows)))['fmri']
  loaded = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(torch.from_numpy(values)), row.batch, shuffle=True, drop_last=True
  )

  def seconds() -> float:
    start = time.perf_counter()
    done = 0
    while done < NUM_BATCHES:
      done += sum(1 for _ in loaded)  # an epoch
    return (time.perf_counter() - start) / done

  return Work(timed=seconds)
