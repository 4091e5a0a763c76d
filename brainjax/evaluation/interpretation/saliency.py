"""Saliency: how what the model predicts changes with each voxel.

A target is one number that the model computes from fMRI at a step of the sampler. Its state there is that of the sampler
for the unchanged response, and is held fixed. With x0 the latent that the model predicts at this step:

* 'latent': how far x0 moves from the x0 of an uninformative response (the training mean), along the line between them;
* 'class': the classifier's logit of the class of the stimulus, of the decoded x0;
* any direction in the space of latents, such as from pictures without an attribute to those with it: the product with x0.

Methods: 'gradient'; 'integrated' gradients from the training mean to the response (Sundararajan et al. 2017), whose sum over
voxels is the change of the target; 'smooth', the mean gradient over noisy copies of the response (SmoothGrad; Smilkov et
al. 2017).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainjax.evaluation.interpretation import looks
from brainjax.ops import samplers
from brainjax.reconstruct import Reconstructor

METHODS = ('gradient', 'integrated', 'smooth')
LATENT, CLASS = 'latent', 'class'


class Saliency(NamedTuple):
  """Derivatives of targets with respect to the model input.

  Attributes:
    targets: K names.
    steps: L, sampler steps done before each noise level.
    noise: L, share of noise in the variance of the sampler's state there.
    maps: method -> L K N W float32. 'integrated' is already times the difference to the training mean.
    change: L K N, target at the response minus target at the training mean: what 'integrated' sums to.
  """

  targets: tuple[str, ...]
  steps: np.ndarray
  noise: np.ndarray
  maps: dict[str, np.ndarray]
  change: np.ndarray


def compute(
  reconstructor: Reconstructor,
  fmri: np.ndarray,
  baseline: np.ndarray,
  *,
  directions: Mapping[str, np.ndarray] | None = None,
  logits: Callable[[Any, jax.Array], jax.Array] | None = None,
  logits_params: Any = None,
  classes: np.ndarray | None = None,
  at: tuple[float, ...] = (0.1, 0.5, 0.9),
  num_points: int = 8,
  noise: float = 0.2,
  num_steps: int = 20,
  sampler: str = 'dpm',
  seed: int = 0,
  guidance: float = 1.0,
  batch_size: int = 8,
) -> Saliency:
  """Saliency of sample 0 of each row, as one compiled program over batches.

  Args:
    reconstructor: the model.
    fmri: model input N W.
    baseline: the uninformative response, N W.
    directions: name -> h w C, in the space of latents; each is brought to length 1.
    logits: (params, pictures B H W 3 in [-1, 1]) -> B C, differentiable; None: no target 'class'.
    logits_params: of `logits`.
    classes: N, whose logit; with `logits`.
    num_points: points of the integral, and noisy copies of SmoothGrad.
    noise: deviation of these copies over the root mean square of the row.
    at, num_steps, sampler, seed, guidance, batch_size: see `looks.over_batches`. The gradients are those of the conditional
      prediction.

  Raises:
    UserError: the number of steps is impossible.
    ValueError: a level of `at` is not in [0, 1).
  """
  directions = {name: np.asarray(x, np.float32) / np.linalg.norm(x) for name, x in (directions or {}).items()}
  shape = reconstructor.models.first_stage.latent_shape
  stacked = np.stack(list(directions.values())) if directions else np.zeros((0, *shape), np.float32)
  classes = np.zeros(len(fmri), np.int32) if classes is None else np.asarray(classes, np.int32)
  steps, share, (maps, change) = looks.over_batches(
    reconstructor,
    partial(_program, logits, num_points),
    ('saliency', logits, num_points),
    {'fmri': fmri, 'baseline': baseline, 'class': classes},
    logits_params,
    jnp.array(stacked),
    jnp.float32(noise),
    axis=2,
    name='saliency',
    at=at,
    num_steps=num_steps,
    sampler=sampler,
    seed=seed,
    guidance=guidance,
    batch_size=batch_size,
  )
  return Saliency((LATENT, *([CLASS] if logits else []), *directions), steps, share, maps, change)


def _program(
  logits: Callable[[Any, jax.Array], jax.Array] | None,
  num_points: int,
  models: Any,
  params: Any,
  batch: dict[str, jax.Array],
  root: jax.Array,
  levels: looks.Levels,
  logits_params: Any,
  directions: jax.Array,
  noise: jax.Array,
) -> tuple[dict[str, jax.Array], jax.Array]:
  """The maps of one batch: method -> L K B W, and the change of the targets L K B."""
  fmri, baseline = batch['fmri'], batch['baseline']
  # Points: the response itself, those between it and the baseline, noisy copies.
  between = (jnp.arange(num_points) + 0.5) / num_points
  rms = jnp.sqrt(jnp.mean(jnp.square(fmri), axis=-1, keepdims=True))
  # Of each row its own noise, whatever batch it is in.
  keys = jax.vmap(lambda item: jax.random.fold_in(jax.random.fold_in(root, item), 2))(batch['item'])
  drawn = jax.vmap(lambda key: jax.random.normal(key, (num_points, fmri.shape[1])), out_axes=1)(keys)
  points = jnp.concatenate(
    [fmri[None], baseline + between[:, None, None] * (fmri - baseline), fmri + noise * rms * drawn]
  )  # 1 + 2M B W

  def at_level(level):
    x, t, alpha = level

    def predict(fmri):
      context = models.conditioner.apply({'params': params['conditioner']}, fmri)
      eps = models.unet.apply({'params': params['unet']}, x, jnp.full(len(x), t), context)
      return samplers.predict_x0(x, eps, alpha)

    start, end = jax.lax.map(predict, jnp.stack([baseline, fmri]))
    way = end - start
    length = jnp.sqrt(jnp.sum(jnp.square(way), axis=(1, 2, 3), keepdims=True))
    way = way / jnp.where(length > 0, length, 1)

    def logit(x0):  # B
      pictures = models.first_stage.apply({'params': params['first_stage']}, x0, method='to_image')
      every = logits(logits_params, jnp.clip(pictures, -1, 1))
      return jnp.take_along_axis(every, batch['class'][:, None], axis=1)[:, 0]

    def read(x0):
      values = [jnp.sum((x0 - start) * way, axis=(1, 2, 3))] + ([logit(x0)] if logits else [])
      return jnp.stack([*values, *jnp.einsum('bhwc,dhwc->db', x0, directions)])  # K B

    def gradients(point):
      x0, pull = jax.vjp(predict, point)
      # A row depends on its own fMRI alone, so one pull-back gives the gradients of all rows. Of the targets only the logit
      # is not linear in x0.
      of_logit = [jax.grad(lambda x0: logit(x0).sum())(x0)] if logits else []
      of_x0 = [way, *of_logit, *jnp.broadcast_to(directions[:, None], (len(directions), *x0.shape))]
      return jax.vmap(lambda cotangent: pull(cotangent)[0])(jnp.stack(of_x0))  # K B W

    each = jax.lax.map(gradients, points)  # 1 + 2M K B W
    maps = {
      'gradient': each[0],
      'integrated': each[1 : 1 + num_points].mean(axis=0) * (fmri - baseline),
      'smooth': each[1 + num_points :].mean(axis=0),
    }
    return maps, read(end) - read(start)

  return jax.lax.map(at_level, levels)
