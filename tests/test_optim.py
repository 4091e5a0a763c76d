"""Optimizer and schedule against PyTorch and by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brainjax import optim


def test_schedule_is_the_published_one_by_hand():
  schedule = optim.warmup_cosine(peak=2.0, warmup_epochs=4, num_epochs=10, steps_per_epoch=5)
  np.testing.assert_allclose(schedule(0), 0)
  np.testing.assert_allclose(schedule(7), 2.0 * 1.4 / 4, rtol=1e-6)
  np.testing.assert_allclose(schedule(20), 2.0, rtol=1e-6)  # end of warm-up
  np.testing.assert_allclose(schedule(35), 2.0 * 0.5, rtol=1e-6)  # half-way down
  np.testing.assert_allclose(schedule(50), 0, atol=1e-6)


def test_constant_rate_after_a_warm_up_of_any_length():
  schedule = optim.warmup_constant(peak=2.0, warmup_epochs=0.8, steps_per_epoch=5)
  np.testing.assert_allclose([schedule(step) for step in (0, 1, 3, 4, 99)], [0, 0.5, 1.5, 2, 2], rtol=1e-6)
  for epochs in (0.0, 0.09):  # no step
    assert [float(optim.warmup_constant(2.0, epochs, 5)(step)) for step in (0, 1, 99)] == [2, 2, 2]


def test_groups_are_clipped_each_to_its_own_norm():
  gradients = {'a/x': jnp.array([3.0, 4.0]), 'a/y': jnp.array([12.0]), 'b/x': jnp.array([0.3, 0.4])}
  clip = optim.clip_by_group_norm(1.0, ('a/', 'b/'))
  clipped, _ = clip.update(gradients, clip.init(gradients))
  np.testing.assert_allclose(clipped['a/x'], np.array([3, 4]) / 13, rtol=1e-6)
  np.testing.assert_allclose(clipped['a/y'], [12 / 13], rtol=1e-6)
  np.testing.assert_array_equal(clipped['b/x'], gradients['b/x'])  # its norm is 0.5


@pytest.mark.parametrize('decay_all', [False, True])
def test_steps_equal_torch_adamw(decay_all):
  torch = pytest.importorskip('torch')
  rng = np.random.default_rng(3)
  shapes = {'blocks/attn/kernel': (3, 7, 8), 'blocks/attn/bias': (3, 8), 'norm/scale': (7,), 'cls_token': (1, 1, 9)}
  start = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
  gradients = [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(4)]
  rate, betas, decay = 0.02, (0.9, 0.95), 0.3

  optimizer = optim.make('adamw', rate, betas=betas, weight_decay=decay, decay_all=decay_all, clip_norm=1.5)
  params = {name: jnp.asarray(x) for name, x in start.items()}
  state = optimizer.init(params)
  theirs = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in start.items()}
  decayed = [n for n in shapes if decay_all or n in ('blocks/attn/kernel', 'cls_token')]
  groups = [
    {'params': [theirs[n] for n in decayed], 'weight_decay': decay},
    {'params': [theirs[n] for n in shapes if n not in decayed], 'weight_decay': 0.0},
  ]
  reference = torch.optim.AdamW([group for group in groups if group['params']], lr=rate, betas=betas, eps=1e-8)
  for step in gradients:
    updates, state = optimizer.update({n: jnp.asarray(g) for n, g in step.items()}, state, params)
    params = optax.apply_updates(params, updates)
    for name, g in step.items():
      theirs[name].grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_(theirs.values(), 1.5)
    reference.step()
  for name in shapes:
    np.testing.assert_allclose(params[name], theirs[name].detach().numpy(), atol=2e-6, err_msg=name)


def test_muon_evens_out_the_singular_values_of_each_layer():
  rng = np.random.default_rng(5)
  shapes = {'a/kernel': (3, 3, 7, 8), 'b/blocks/fc/kernel': (2, 9, 7), 'a/bias': (8,), 'b/pos_embed': (1, 9, 7)}
  params = {path: jnp.asarray(rng.standard_normal(shape), jnp.float32) for path, shape in shapes.items()}
  gradients = {path: jnp.asarray(rng.standard_normal(shape) ** 3, jnp.float32) for path, shape in shapes.items()}
  optimizer = optim.make('muon', 0.01, betas=(0.9, 0.99), weight_decay=0.0, decay_all=False, clip_norm=1e9)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  layers = [('a/kernel', updates['a/kernel'].reshape(63, 8), gradients['a/kernel'].reshape(63, 8))]
  layers += [('b', updates['b/blocks/fc/kernel'][i], gradients['b/blocks/fc/kernel'][i]) for i in range(2)]
  for name, update, gradient in layers:
    u, _, v = np.linalg.svd(np.asarray(gradient), full_matrices=False)
    rotated = u.T @ np.asarray(update) @ v.T  # in the gradient's own singular vectors: about minus the identity
    size = np.abs(np.diag(rotated)).mean()
    np.testing.assert_allclose(rotated / size, -np.eye(len(rotated)), atol=0.45, err_msg=name)
    assert np.sqrt(np.square(update).mean()) == pytest.approx(0.01, rel=0.35), name
  for path in ('a/bias', 'b/pos_embed'):  # not matrices: the first step of Adam with Nesterov's momentum (Dozat 2016)
    np.testing.assert_allclose(updates[path], -0.01 * (1 + 0.09 / 0.19) * np.sign(gradients[path]), rtol=1e-3)


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_a_part_can_learn_more_slowly(name):
  rng = np.random.default_rng(4)
  params = {path: jnp.array(rng.normal(size=(7, 8))) for path in ('a/x/kernel', 'b/kernel')}
  gradients = {path: jnp.array(rng.normal(size=x.shape)) for path, x in params.items()}
  options = dict(betas=(0.9, 0.99), weight_decay=0.1, decay_all=True, clip_norm=1.0)
  whole, slow = (optim.make(name, 1e-2, **options, **more) for more in ({}, {'slowed': {'a/': 0.25}}))
  updates, slowed = (optimizer.update(gradients, optimizer.init(params), params)[0] for optimizer in (whole, slow))
  np.testing.assert_allclose(slowed['a/x/kernel'], 0.25 * updates['a/x/kernel'], rtol=1e-6)
  np.testing.assert_array_equal(slowed['b/kernel'], updates['b/kernel'])
