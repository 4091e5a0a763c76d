"""Attention in parts equals attention at once, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.ops import attention


# Bytes of scores: of two samples, one sample, one of its two heads, a third of its queries, two queries (nine are padded).
@pytest.mark.parametrize('limit', [4 * 2 * 2 * 9 * 7, 4 * 2 * 9 * 7, 4 * 9 * 7, 4 * 3 * 7, 4 * 2 * 7])
def test_parts_give_what_the_whole_gives(monkeypatch, limit):
  keys = jax.random.split(jax.random.key(0), 3)
  query = jax.random.normal(keys[0], (6, 9, 2, 4))
  key, value = (jax.random.normal(k, (6, 7, 2, 4)) for k in keys[1:])

  def run(q, k, v):
    out = attention.attention(q, k, v)
    return jnp.sum(jnp.sin(out)), out

  whole, gradients = jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)(query, key, value)
  monkeypatch.setattr(attention, 'MAX_SCORES', limit)
  parts, gradients_of_parts = jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)(query, key, value)
  np.testing.assert_allclose(parts[1], whole[1], atol=1e-6)
  for ours, expected in zip(gradients_of_parts, gradients, strict=True):
    np.testing.assert_allclose(ours, expected, atol=1e-6)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')  # the way of other devices
  np.testing.assert_allclose(attention.attention(query, key, value), whole[1], atol=1e-6)
  # By hand: softmax of the scaled products, in float64.
  q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
  scores = np.einsum('blnd,bmnd->bnlm', q, k) / 2
  weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  np.testing.assert_allclose(parts[1], np.einsum('bnlm,bmnd->blnd', weights, v), atol=1e-5)


def test_no_more_scores_exist_at_once_than_the_limit(monkeypatch):
  monkeypatch.setattr(attention, 'MAX_SCORES', 4 * 3 * 7)
  query, key = jnp.zeros((2, 9, 2, 4)), jnp.zeros((2, 7, 2, 4))
  program = str(jax.make_jaxpr(attention.attention)(query, key, key))
  assert 'f32[1,1,3,7]' in program and ',9,7]' not in program
