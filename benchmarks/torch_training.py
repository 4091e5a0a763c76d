"""The training loop of the method in PyTorch: clipping of each module by its own norm, AdamW, the schedule."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn


def torch_steps(modules, loss, batches, rate, betas, decay, clip, decay_all) -> Iterator[tuple[float, list[float]]]:
  """Trains; yields the loss of each step, and the gradient norm of each module before it is clipped by that norm."""
  groups = [[p for p in module.parameters() if p.requires_grad] for module in modules]
  everything = [p for group in groups for p in group]
  decayed = [p for p in everything if decay_all or p.ndim > 1]
  plain = [p for p in everything if not (decay_all or p.ndim > 1)]
  optimizer = torch.optim.AdamW(
    [{'params': decayed, 'weight_decay': decay}, {'params': plain, 'weight_decay': 0.0}], lr=0.0, betas=betas, eps=1e-8
  )
  for number, batch in enumerate(batches):
    for group in optimizer.param_groups:
      group['lr'] = float(rate(number))
    value = loss({name: torch.from_numpy(np.array(x)) for name, x in batch.items()})
    optimizer.zero_grad()
    value.backward()
    norms = [nn.utils.clip_grad_norm_(group, clip).item() for group in groups]
    optimizer.step()
    yield value.item(), norms


def fill(module: nn.Module, state: dict[str, np.ndarray]) -> nn.Module:
  """Loads a state dict, which must have all names."""
  module.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in state.items()})
  return module


def cosine(epoch_steps: int, peak: float, warmup: float, epochs: float, first_epoch: int = 0):
  """Returns a schedule of the step: linear warm-up and half a cosine, by the fractional epoch."""

  def rate(step: int) -> float:
    epoch = first_epoch + step / epoch_steps
    if epoch < warmup:
      return peak * epoch / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))

  return rate
