"""Losses of the autoencoders (masked error, InfoNCE) and the correlation that is logged beside them, in float32."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class MaskedError(NamedTuple):
  """Per sample: the error summed over its removed tokens (B) and the number of them (B)."""

  total: jax.Array
  count: jax.Array

  def mean(self) -> jax.Array:
    """The error per removed token of the whole batch; 0 if nothing was removed."""
    return self.total.sum() / jnp.maximum(self.count.sum(), 1)


def masked_mse(pred: jax.Array, target: jax.Array, mask: jax.Array) -> MaskedError:
  """Mean squared error of each patch, summed over the removed ones (He et al. 2022, section 3).

  Args:
    pred: B L p, predicted patches.
    target: B L p, true patches.
    mask: B L, 1 = removed.
  """
  error = jnp.square(pred.astype(jnp.float32) - target.astype(jnp.float32)).mean(axis=-1)  # B L
  return MaskedError((error * mask).sum(axis=-1), mask.sum(axis=-1))


def normalise_patches(patches: jax.Array) -> jax.Array:
  """Targets of the `norm_pix_loss` variant: each patch (last axis) with mean 0 and unbiased variance 1."""
  patches = patches.astype(jnp.float32)
  mean = patches.mean(axis=-1, keepdims=True)
  variance = patches.var(axis=-1, keepdims=True, ddof=1)
  return (patches - mean) / jnp.sqrt(variance + 1e-6)


def _unit(x: jax.Array) -> jax.Array:
  """Rows of length 1. A row of zeros stays zero, with a zero gradient."""
  x = x.astype(jnp.float32)
  for floor in (1e-12, 1e-8):  # normalised once by the loss and once more by its cosine similarity
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), floor**2))
  return x


def weighted_mean(values: jax.Array, weight: jax.Array | None = None) -> jax.Array:
  """Mean of B values, over the rows whose weight is 1 and not 0 (all rows without a weight)."""
  return values.mean() if weight is None else (values * weight).sum() / jnp.maximum(weight.sum(), 1)


def info_nce(
  queries: jax.Array, keys: jax.Array, weight: jax.Array | None = None, temperature: float = 0.1
) -> jax.Array:
  """Contrastive loss in one direction: query i should be closer to key i than to every other key (paper, section 3.1).

  Args:
    queries: B V.
    keys: B V; row i belongs to query i.
    weight: B, 0 for rows that only fill the batch: they are nobody's negatives.
    temperature: divides the cosine similarities.

  Returns:
    B, the cross-entropy of each query.
  """
  queries, keys = _unit(queries), _unit(keys)
  positive = (queries * keys).sum(axis=-1) / temperature
  logits = jnp.matmul(queries, keys.T, precision='highest') / temperature  # B B
  return _cross_entropy(logits, positive, weight)


def _cross_entropy(logits: jax.Array, positive: jax.Array, weight: jax.Array | None) -> jax.Array:
  """Of each row of B B, with `positive` B on the diagonal and nothing in the columns of weight 0: B."""
  own = jnp.eye(len(logits), dtype=bool)
  if weight is not None:
    logits = jnp.where(weight[None, :] > 0, logits, -jnp.inf)
  # The diagonal is not read off the product, which would be a collective where rows lie on several devices.
  return jax.nn.logsumexp(jnp.where(own, positive[:, None], logits), axis=-1) - positive


def info_nce_paired(
  queries: jax.Array, keys: jax.Array, weight: jax.Array | None = None, temperature: float = 0.1
) -> jax.Array:
  """InfoNCE whose negatives are the other queries: i's key against queries j != i. B V, B V, B -> B."""
  queries, keys = _unit(queries), _unit(keys)
  positive = (queries * keys).sum(axis=-1) / temperature
  logits = jnp.matmul(queries, queries.T, precision='highest') / temperature  # B B
  return _cross_entropy(logits, positive, weight)


def correlation(a: jax.Array, b: jax.Array) -> jax.Array:
  """Pearson correlation of each pair of rows: B V, B V -> B. A constant row gives 0."""
  a, b = (x.astype(jnp.float32) - x.astype(jnp.float32).mean(axis=-1, keepdims=True) for x in (a, b))
  return (_unit(a) * _unit(b)).sum(axis=-1)
