"""Losses of the first steps of each stage at tiny size, to compare two devices.

JAX_PLATFORMS=cpu python -m benchmarks.first_losses --out=cpu.json
python -m benchmarks.first_losses --out=gpu.json --against=cpu.json [--dtype=bfloat16]
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import rows, rows_jax

STEPS = 20
# Largest difference from the other device's losses, relative: rounding in training, not another computation.
BOUNDS = {'float32': 1e-3, 'bfloat16': 3e-2}


def main(argv: list[str] | None = None) -> None:
  """Writes the losses, and fails if they are not those of the other file."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--against', type=Path)
  parser.add_argument('--dtype', default='float32', choices=BOUNDS)
  args = parser.parse_args(argv)
  losses = {stage: run(stage, args.dtype) for stage in ('contrast', 'attend', 'diffuse')}
  args.out.write_text(json.dumps(losses, indent=1) + '\n')
  if not args.against:
    return
  other = json.loads(args.against.read_text())
  far = {}
  for stage, ours in losses.items():
    difference = max(abs(a - b) / abs(b) for a, b in zip(ours, other[stage], strict=True))
    print(
      f'{stage}: losses of {STEPS} steps differ by {difference:.1e} at most (bound {BOUNDS[args.dtype]:.0e})',
      flush=True,
    )
    if difference > BOUNDS[args.dtype]:
      far[stage] = difference
  if far:
    raise SystemExit(f'error: the losses of {", ".join(far)} in {args.out} are not those in {args.against}.')


def run(name: str, dtype: str) -> list[float]:
  """Losses of the first steps of a stage, on one device and one batch."""
  settings = rows.config(quick=True)
  settings.dtype = dtype
  with jax.default_matmul_precision('highest'):
    pieces = rows_jax.training_step(rows.Row(name, 8, (), {}), settings, rows.QUICK_VOXELS)
    state, frozen, *rest = pieces.arguments()
    frozen = without_zeros(frozen)
    losses = []
    for _ in range(STEPS):
      state, metrics = pieces.step(state, frozen, *rest)
      losses.append(float(metrics['loss']))
  return losses


def without_zeros(frozen: Mapping[str, Any]) -> dict[str, Any]:
  """Random numbers for kernels that are 0 at the start: behind a frozen one no loss depends on what the network computes."""
  rng = np.random.default_rng(0)
  draw = lambda x: jax.device_put(rng.normal(0, 0.02, x.shape).astype(x.dtype), x.sharding)
  return {path: draw(x) if path.endswith('kernel') and not x.any() else x for path, x in sorted(frozen.items())}


if __name__ == '__main__':
  main()
