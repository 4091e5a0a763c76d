"""Optimizers: the optax chain, learning-rate schedule, and masks by parameter path."""

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
import optax.contrib

# 1-D parameters and biases are not decayed (REFERENCE: timm's rule). By path, because scanned layers add an axis.
NO_DECAY = re.compile(r'(^|/)(bias|scale)\Z')


def warmup_cosine(
  peak: float, warmup_epochs: float, num_epochs: float, steps_per_epoch: int, end: float = 0.0
) -> optax.Schedule:
  """Per-step rate from the fractional epoch `e = step / steps_per_epoch`: linear to `peak`, then half a cosine to `end`."""

  def schedule(step):
    epoch = step / steps_per_epoch
    warmup = peak * epoch / max(warmup_epochs, 1e-9)
    progress = (epoch - warmup_epochs) / max(num_epochs - warmup_epochs, 1e-9)
    cosine = end + (peak - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
    return jnp.where(epoch < warmup_epochs, warmup, cosine)

  return schedule


def clip_by_group_norm(max_norm: float, groups: tuple[str, ...] = ('',)) -> optax.GradientTransformation:
  """Scales each group of gradients to a norm of at most `max_norm`; a group is the paths (keys) with one of `groups` as prefix."""

  def update(updates: Mapping[str, jax.Array], state, params=None):
    del params
    clipped = dict(updates)
    for prefix in groups:
      members = {path: g for path, g in updates.items() if path.startswith(prefix)}
      norm = optax.global_norm(members)
      # The reference's 1e-6 (torch.nn.utils.clip_grad_norm_).
      scale = jnp.minimum(1.0, max_norm / (norm + 1e-6))
      clipped |= {path: g * scale.astype(g.dtype) for path, g in members.items()}
    return clipped, state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make(
  name: str,
  learning_rate: optax.ScalarOrSchedule,
  *,
  betas: tuple[float, float],
  weight_decay: float,
  decay_all: bool,
  clip_norm: float,
  clip_groups: tuple[str, ...] = ('',),
) -> optax.GradientTransformation:
  """Clip, then the optimizer, on a flat mapping of paths to arrays.

  Args:
    name: 'adamw' (eps 1e-8; the paper's), or 'muon' (Jordan et al. 2024: the update of each matrix orthogonalised;
      AdamW with Nesterov's momentum for all else), which needs several times fewer steps from random weights.
    learning_rate: rate, or schedule of the step. Muon's updates are scaled to this root mean square, as AdamW's are.
    betas: decay of the first and second moment (of AdamW; Muon's momentum is 0.95).
    weight_decay: decoupled decay.
    decay_all: decay every parameter (phase 3); otherwise biases and normalisation weights are not decayed.
    clip_norm: largest gradient norm of each of `clip_groups`.
    clip_groups: path prefixes that are clipped on their own.
  """
  mask: Callable = lambda params: {path: decay_all or not NO_DECAY.search(path) for path in params}
  if name == 'muon':
    update = optax.contrib.muon(
      learning_rate,
      consistent_rms=1.0,
      weight_decay=weight_decay,
      weight_decay_mask=mask,
      adam_b1=betas[0],
      adam_b2=betas[1],
      adam_weight_decay=weight_decay if decay_all else 0.0,
      muon_weight_dimension_numbers=_matrices,
    )
  else:
    update = optax.adamw(learning_rate, b1=betas[0], b2=betas[1], eps=1e-8, weight_decay=weight_decay, mask=mask)
  return optax.chain(clip_by_group_norm(clip_norm, clip_groups), update)


def _matrices(params: Mapping[str, jax.Array]) -> dict[str, optax.contrib.MuonDimensionNumbers | None]:
  """How Muon sees each array: a kernel as a matrix of outputs by all else, one per layer of a scanned stack."""

  def matrix(path: str, x: jax.Array | optax.MaskedNode):
    if not path.endswith('kernel') or isinstance(x, optax.MaskedNode):  # a masked node: optax left it to AdamW
      return None
    first = 1 if '/blocks/' in path else 0
    return optax.contrib.MuonDimensionNumbers(tuple(range(first, x.ndim - 1)), (x.ndim - 1,))

  return {path: matrix(path, x) for path, x in params.items()}
