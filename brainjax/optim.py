"""Optimizers: the optax chain, learning-rate schedules, and which parameters decay, by path."""

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
import optax.contrib

# Biases and 1-D parameters do not decay (timm's rule). Selected by path, because scanned layers add an axis.
NO_DECAY = re.compile(r'(^|/)(bias|scale)\Z')


def warmup_cosine(peak: float, warmup_epochs: float, num_epochs: float, steps_per_epoch: int) -> optax.Schedule:
  """Returns a schedule: linear from 0 to `peak`, then half a cosine to 0, by the fractional epoch.

  Args:
    peak: learning rate after the warm-up.
    warmup_epochs: length of the warm-up; 0: none.
    num_epochs: length of warm-up and cosine; afterwards the rate stays at 0.
    steps_per_epoch: steps in an epoch.
  """

  def schedule(step):
    epoch = step / steps_per_epoch
    warmup = peak * epoch / max(warmup_epochs, 1e-9)
    progress = (epoch - warmup_epochs) / max(num_epochs - warmup_epochs, 1e-9)
    cosine = peak * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
    return jnp.where(epoch < warmup_epochs, warmup, cosine)

  return schedule


def warmup_constant(peak: float, warmup_epochs: float, steps_per_epoch: int) -> optax.Schedule:
  """Returns a schedule: linear from 0 to `peak`, then constant. The warm-up is rounded to whole steps, or to none."""
  warmup = round(warmup_epochs * steps_per_epoch)
  # With a warm-up of 0 steps, the rate of optax's linear schedule stays 0.
  return optax.linear_schedule(0.0, peak, warmup) if warmup else optax.constant_schedule(peak)


def clip_by_group_norm(max_norm: float, groups: tuple[str, ...] = ('',)) -> optax.GradientTransformation:
  """Scales each group of gradients to a norm of at most `max_norm`.

  Args:
    max_norm: the largest norm of a group.
    groups: prefixes of paths; the gradients whose paths start with a prefix are a group.
  """

  def update(updates: Mapping[str, jax.Array], state, params=None):
    del params
    clipped = dict(updates)
    for prefix in groups:
      members = {path: g for path, g in updates.items() if path.startswith(prefix)}
      norm = optax.global_norm(members)
      # 1e-6 as in torch.nn.utils.clip_grad_norm_, which the published code calls.
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
  clip_norm: float,
  decay_all: bool = False,
  clip_groups: tuple[str, ...] = ('',),
  slowed: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
  """Makes an optimizer of a flat mapping from paths to arrays, which clips gradients first.

  Args:
    name: 'adamw' (eps 1e-8), as in the paper; or 'muon' (Jordan et al. 2024), which orthogonalises the update of each
      matrix, uses AdamW with Nesterov's momentum for everything else, and needs several times fewer steps from random
      weights.
    learning_rate: rate, or schedule of the step. Muon's updates are scaled to this root mean square, like AdamW's.
    betas: decay of AdamW's first and second moment (Muon's momentum is 0.95).
    weight_decay: decoupled decay.
    clip_norm: largest gradient norm of each of `clip_groups`.
    decay_all: decay every parameter (phase 3), or all except biases and normalisation weights.
    clip_groups: path prefixes; each group is clipped by its own norm.
    slowed: path prefix -> factor of the learning rate of these parameters, and so of their decay.
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
  steps = [clip_by_group_norm(clip_norm, clip_groups), update]
  return optax.chain(*steps, *(_scale(prefix, factor) for prefix, factor in (slowed or {}).items() if factor != 1))


def _scale(prefix: str, factor: float) -> optax.GradientTransformation:
  """Multiplies the updates of the paths with a prefix."""
  return optax.stateless(
    lambda updates, params: {path: x * factor if path.startswith(prefix) else x for path, x in updates.items()}
  )


def _matrices(params: Mapping[str, jax.Array]) -> dict[str, optax.contrib.MuonDimensionNumbers | None]:
  """Says how Muon reads each array: a kernel as a matrix, outputs by everything else, one for each stacked layer."""

  def matrix(path: str, x: jax.Array | optax.MaskedNode):
    if not path.endswith('kernel') or isinstance(x, optax.MaskedNode):  # optax gives a masked node to AdamW
      return None
    first = 1 if '/blocks/' in path else 0
    return optax.contrib.MuonDimensionNumbers(tuple(range(first, x.ndim - 1)), (x.ndim - 1,))

  return {path: matrix(path, x) for path, x in params.items()}
