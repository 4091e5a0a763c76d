"""What the backward pass of a block computes again instead of keeping it (`config.remat`)."""

import contextlib
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax

# 'cheap': everything except products with weights, which cost most of the time and few of the bytes.
_POLICIES = {'cheap': jax.checkpoint_policies.dots_with_no_batch_dims_saveable, 'everything': None}
CHOICES = ('auto', 'nothing', *_POLICIES)

_auto = 'everything'


@contextlib.contextmanager
def auto_means(choice: str) -> Iterator[None]:
  """Sets which of the other `CHOICES` 'auto' stands for in what is traced inside."""
  global _auto
  before, _auto = _auto, choice
  try:
    yield
  finally:
    _auto = before


def recomputed(target: Callable, remat: str, in_scan: bool = False) -> Callable:
  """Wraps a block so that its backward pass recomputes what `remat` says.

  Args:
    target: a module class, or the body of a scan.
    remat: one of `CHOICES`.
    in_scan: the target is the body of a scan. Outside one, barriers keep the compiler from undoing the recomputation.
  """
  choice = _auto if remat == 'auto' else remat
  if choice == 'nothing':
    return target
  return nn.remat(target, prevent_cse=not in_scan, policy=_POLICIES[choice])
