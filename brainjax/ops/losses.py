"""Losses of the autoencoders (masked error, InfoNCE), and Pearson correlation; all in float32."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from brainjax.ops.types import Array


class MaskedError(NamedTuple):
  """The error of each sample's removed tokens.

  Attributes:
    total: B, summed over the removed tokens.
    count: B, the number of removed tokens.
  """

  total: Array
  count: Array

  def mean(self) -> Float[Array, '']:
    """Returns the error per removed token of the whole batch; 0 if nothing was removed."""
    return self.total.sum() / jnp.maximum(self.count.sum(), 1)


def masked_mse(pred: Float[Array, 'B L p'], target: Float[Array, 'B L p'], mask: Float[Array, 'B L']) -> MaskedError:
  """Computes the mean squared error of each patch, summed over the removed patches: mask 1 (He et al. 2022, section 3)."""
  error = jnp.square(pred.astype(jnp.float32) - target.astype(jnp.float32)).mean(axis=-1)  # B L
  return MaskedError((error * mask).sum(axis=-1), mask.sum(axis=-1))


def normalise_patches(patches: Float[Array, 'B L p']) -> Float[Array, 'B L p']:
  """Shifts and scales each patch to mean 0 and unbiased variance 1 (He et al. 2022, `norm_pix_loss`)."""
  patches = patches.astype(jnp.float32)
  mean = patches.mean(axis=-1, keepdims=True)
  variance = patches.var(axis=-1, keepdims=True, ddof=1)
  return (patches - mean) / jnp.sqrt(variance + 1e-6)


def _unit(x: Shaped[Array, '... V']) -> Float[Array, '... V']:
  """Scales rows to length 1. A row of zeros stays zero, with a zero gradient."""
  x = x.astype(jnp.float32)
  for floor in (1e-12, 1e-8):  # the published loss normalises once, and its cosine similarity once more
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), floor**2))
  return x


def weighted_mean(values: Float[Array, ' B'], weight: Float[Array, ' B'] | None = None) -> Float[Array, '']:
  """Averages over the rows of weight 1; padding has weight 0. Without a weight every row counts."""
  return values.mean() if weight is None else (values * weight).sum() / jnp.maximum(weight.sum(), 1)


def info_nce(
  queries: Float[Array, 'B V'],
  keys: Float[Array, 'B V'],
  weight: Float[Array, ' B'] | None = None,
  temperature: float = 0.1,
) -> Float[Array, ' B']:
  """Contrasts in one direction: query i should be closer to key i than to every other key (paper, section 3.1).

  Padding has weight 0 and is not a negative of any row. The temperature divides the cosine similarities. The result is the
  cross-entropy of each query.
  """
  return _contrast(queries, keys, keys, weight, temperature)


def info_nce_paired(
  queries: Float[Array, 'B V'],
  keys: Float[Array, 'B V'],
  weight: Float[Array, ' B'] | None = None,
  temperature: float = 0.1,
) -> Float[Array, ' B']:
  """`info_nce` whose negatives are the other queries: query i should be closer to key i than to queries j != i."""
  return _contrast(queries, keys, queries, weight, temperature)


def _contrast(
  queries: Float[Array, 'B V'],
  keys: Float[Array, 'B V'],
  others: Float[Array, 'B V'],
  weight: Float[Array, ' B'] | None,
  temperature: float,
) -> Float[Array, ' B']:
  """Cross-entropy of each query between its key and the rows j != i of `others` whose weight is not 0."""
  queries, keys, others = _unit(queries), _unit(keys), _unit(others)
  # The positives are computed apart: reading the diagonal of the product is a collective if rows are on several devices.
  positive = (queries * keys).sum(axis=-1) / temperature
  logits = jnp.matmul(queries, others.T, precision='highest') / temperature  # B B
  if weight is not None:
    logits = jnp.where(weight[None, :] > 0, logits, -jnp.inf)
  diagonal = jnp.eye(len(logits), dtype=bool)
  return jax.nn.logsumexp(jnp.where(diagonal, positive[:, None], logits), axis=-1) - positive


def correlation(a: Shaped[Array, 'B V'], b: Shaped[Array, 'B V']) -> Float[Array, ' B']:
  """Computes the Pearson correlation of each pair of rows; 0 if a row is constant."""
  return (_unit(_centre(a)) * _unit(_centre(b))).sum(axis=-1)


def all_correlations(a: Shaped[Array, '... V'], b: Shaped[Array, 'U V']) -> Float[Array, '... U']:
  """Computes the Pearson correlation of every row of `a` with every row of `b`; 0 if a row is constant."""
  return jnp.matmul(_unit(_centre(a)), _unit(_centre(b)).T, precision='highest')


def _centre(x: Shaped[Array, 'B V']) -> Float[Array, 'B V']:
  """Subtracts the mean of each row. A row that is constant up to rounding becomes zero."""
  x = x.astype(jnp.float32)
  centred = x - x.mean(axis=-1, keepdims=True)
  varies = jnp.square(centred).sum(axis=-1, keepdims=True) > 1e-12 * jnp.square(x).sum(axis=-1, keepdims=True)
  return jnp.where(varies, centred, 0)
