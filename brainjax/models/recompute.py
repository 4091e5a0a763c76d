"""What the backward pass of a block computes again instead of keeping it (`config.remat`)."""

from collections.abc import Callable

import flax.linen as nn
import jax

# 'cheap': all but products with weights, which cost most of the time and few of the bytes.
CHOICES = ('nothing', 'cheap', 'everything')


def recomputed(target: Callable, remat: str, in_scan: bool = False) -> Callable:
  """A block (a module class, or the body of a scan) that keeps what `remat`, one of `CHOICES`, leaves.

  `in_scan`: the loop itself keeps the compiler from undoing it, which otherwise takes barriers.
  """
  if remat == 'nothing':
    return target
  policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == 'cheap' else None
  return nn.remat(target, prevent_cse=not in_scan, policy=policy)
