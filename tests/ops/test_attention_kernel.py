"""The TPU kernel of attention, interpreted on the CPU, against float64 NumPy; and that it compiles for TPUs."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.errors import UserError
from brainjax.ops import attention, attention_kernel, placement

# Queries, keys, heads, width of a head.
QUICK = [(7, 7, 4, 32), (66, 66, 2, 64), (9, 197, 4, 32)]
SLOW = [
  *((length, length, heads, width) for length in (66, 197, 263, 1025) for heads, width in ((16, 32), (4, 64))),
  *((66, 197, 12, 64), (99, 263, 16, 32), (1025, 77, 4, 64), (520, 7, 4, 32)),
]
# Largest error over the largest value: float32 sums of up to 1,025 terms; bfloat16 has 8 bits.
TOLERANCE = {'float32': 3e-6, 'bfloat16': 1e-2}


def split(x, heads):
  return x.reshape(*x.shape[:2], heads, -1)


def expected(query, key, value, heads, out_bar):
  """Attention and the gradients of query, key and value, B L ND each, in float64."""
  q, k, v, g = (split(np.asarray(x.astype(jnp.float32), np.float64), heads) for x in (query, key, value, out_bar))
  scores = np.einsum('blnd,bmnd->bnlm', q, k) / np.sqrt(q.shape[-1])
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  weights_bar = np.einsum('blnd,bmnd->bnlm', g, v)
  scores_bar = weights * (weights_bar - (weights * weights_bar).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
  found = (
    np.einsum('bnlm,bmnd->blnd', weights, v),
    np.einsum('bnlm,bmnd->blnd', scores_bar, k),
    np.einsum('bnlm,blnd->bmnd', scores_bar, q),
    np.einsum('bnlm,blnd->bmnd', weights, g),
  )
  return [x.reshape(*x.shape[:2], -1) for x in found]


def draw(lengths, width, dtype):
  rng = np.random.default_rng(len(lengths) + width)
  return [jnp.asarray(rng.standard_normal((3, length, width)), dtype) for length in lengths]


def check(found, wanted, dtype):
  for ours, theirs in zip(found, wanted, strict=True):
    assert ours.dtype == dtype
    ours = np.asarray(ours.astype(jnp.float32))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[dtype] * np.abs(theirs).max())


def check_kernel(queries, keys, heads, width, dtype):
  query, out_bar, key, value = draw((queries, queries, keys, keys), heads * width, dtype)
  wanted = expected(query, key, value, heads, out_bar)
  out, gradients = jax.vjp(lambda q, k, v: attention_kernel.attention(q, k, v, heads, None, True), query, key, value)
  check((out, *gradients(out_bar)), wanted, dtype)
  if queries == keys:
    fused = jnp.concatenate([query, key, value], axis=-1)
    out, gradients = jax.vjp(lambda qkv: attention_kernel.self_attention(qkv, heads, None, True), fused)
    check((out, *gradients(out_bar)), (wanted[0], np.concatenate(wanted[1:], axis=-1)), dtype)


@pytest.mark.parametrize('queries, keys, heads, width', QUICK)
def test_kernel_equals_numpy(queries, keys, heads, width):
  check_kernel(queries, keys, heads, width, 'bfloat16' if queries == 66 else 'float32')


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('queries, keys, heads, width', SLOW)
def test_kernel_equals_numpy_at_all_sizes(queries, keys, heads, width, dtype):
  check_kernel(queries, keys, heads, width, dtype)


@pytest.mark.parametrize('queries, keys, length', [(16, 16, 11), (9, 24, 17)])
def test_padded_keys_have_no_effect_and_no_gradient(queries, keys, length):
  query, out_bar, key, value = draw((queries, queries, keys, keys), 128, 'float32')
  key, value = (x.at[:, length:].set(1e4) for x in (key, value))
  out, query_bar, *key_bars = expected(query, key[:, :length], value[:, :length], 4, out_bar)
  wanted = [out, query_bar, *(np.pad(x, ((0, 0), (0, keys - length), (0, 0))) for x in key_bars)]
  found, gradients = jax.vjp(lambda q, k, v: attention_kernel.attention(q, k, v, 4, length, True), query, key, value)
  check((found, *gradients(out_bar)), wanted, 'float32')
  if queries == keys:
    fused = jnp.concatenate([query, key, value], axis=-1)
    found, gradients = jax.vjp(lambda qkv: attention_kernel.self_attention(qkv, 4, length, True), fused)
    check((found, *gradients(out_bar)), (out, np.concatenate(wanted[1:], axis=-1)), 'float32')


def test_large_scores_do_not_overflow():
  query, out_bar = draw((9, 9), 128, 'float32')
  wanted = expected(100 * query, query, query, 2, out_bar)
  out, gradients = jax.vjp(lambda q: attention_kernel.attention(q, query, query, 2, None, True), 100 * query)
  check([out], wanted[:1], 'float32')
  assert jnp.isfinite(gradients(out_bar)[0]).all()


@pytest.mark.parametrize(
  'heads, width, keys, supported',
  [(16, 32, 263, True), (12, 64, 197, True), (16, 64, 66, True), (1, 128, 9, True)]
  + [(2, 32, 9, False), (1, 192, 9, False), (4, 24, 9, False), (16, 64, 4096, False)],
)
def test_shapes_that_the_kernel_supports(heads, width, keys, supported):
  assert attention_kernel.supports(heads, width, keys) == supported


def select(platform, monkeypatch, **shape):
  for module in (attention, placement):
    monkeypatch.setattr(module, 'platform', lambda: platform)
  return attention._select(**{'batch': 8, 'dtype': jnp.bfloat16, 'heads': 16, 'width': 64, 'keys': 66} | shape)


def test_the_platform_and_the_shape_select_the_program(monkeypatch):
  assert [select(name, monkeypatch) for name in ('cpu', 'gpu', 'tpu')] == ['xla', 'cudnn', 'pallas']
  assert select('gpu', monkeypatch, dtype=jnp.float32) == 'xla'
  assert select('gpu', monkeypatch, width=192) == 'xla'
  assert select('tpu', monkeypatch, heads=1, width=192) == 'xla'
  with attention.policy('xla'):
    assert {select(name, monkeypatch) for name in ('cpu', 'gpu', 'tpu')} == {'xla'}
  assert select('tpu', monkeypatch) == 'pallas'


@pytest.mark.parametrize('choice', ['pallas', 'cudnn'])
def test_a_program_of_another_platform_is_refused(choice):
  with (
    pytest.raises(UserError, match=rf"config.attention is '{choice}', which runs on a [TG]PU only.*'auto' or 'xla'"),
    attention.policy(choice),
  ):
    pass


MESH_SCRIPT = """
import os
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
import functools
import jax, jax.numpy as jnp, numpy as np
from brainjax import sharding
from brainjax.ops import attention, attention_kernel
qkv = jax.random.normal(jax.random.key(0), (16, 9, 3 * 128))
alone = attention.self_attention(qkv, 4)
attention._select = lambda *_: 'pallas'
attention_kernel.self_attention = functools.partial(attention_kernel.self_attention, interpret=True)
mesh = sharding.make_mesh(4, 2)
rows = jax.device_put(qkv, sharding.batch_sharding(mesh))
shared = jax.jit(sharding.on_mesh(mesh, lambda x: attention.self_attention(x, 4)))
np.testing.assert_allclose(shared(rows), alone, atol=1e-6)
text = shared.lower(rows).compile().as_text()
assert 'all-gather' not in text and 'all-to-all' not in text and 'collective-permute' not in text
assert '[2,9,384]' in text and '[16,9,384]' not in text
"""


def test_each_device_has_its_part_of_the_batch():
  done = subprocess.run([sys.executable, '-c', MESH_SCRIPT], capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr


COMPILE_SCRIPT = """
import sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from brainjax import sharding
from brainjax.ops import attention
topology, dtype, sizes = sys.argv[1], sys.argv[2], [tuple(map(int, s.split('x'))) for s in sys.argv[3:]]
devices = topologies.get_topology_desc(topology, platform='tpu').devices
for count, (queries, keys, heads, width) in ((count, size) for size in sizes for count in (1, 4)):
  mesh = sharding.make_mesh(-1, 1, list(devices)[:count])
  shaped = lambda *shape: jax.ShapeDtypeStruct((8, *shape), jnp.dtype(dtype), sharding=sharding.batch_sharding(mesh))
  squares = lambda x: jnp.sum(jnp.square(x.astype(jnp.float32)))
  if queries == keys:
    loss, inputs = lambda x: squares(attention.self_attention(x, heads)), [shaped(queries, 3 * heads * width)]
  else:
    loss = lambda *x: squares(attention.attention(*x))
    inputs = [shaped(length, heads, width) for length in (queries, keys, keys)]
  gradient = jax.jit(sharding.on_mesh(mesh, jax.grad(loss, range(len(inputs)))))
  text = gradient.trace(*inputs).lower().compile().as_text()
  assert text.count('tpu_custom_call') == 2 and 'all-gather' not in text and 'all-to-all' not in text, sys.argv
"""


@pytest.mark.slow
@pytest.mark.skipif(
  not importlib.util.find_spec('libtpu'),
  reason="libtpu is missing; pip install -e '.[compiled]' brings the TPU compiler",
)
@pytest.mark.parametrize('topology', ['v5e:2x2', 'v5p:2x2x1', 'v6e:2x2'])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_compiles_for_tpus(topology, dtype):
  sizes = ['66x66x16x64', '263x263x16x32', '197x197x12x64', '66x197x12x64']
  sizes += ['1025x1025x4x64', '7x7x4x32'] if dtype == 'bfloat16' else []
  settings = {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'}
  settings['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'
  done = subprocess.run(
    [sys.executable, '-c', COMPILE_SCRIPT, topology, dtype, *sizes],
    env=os.environ | settings,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
