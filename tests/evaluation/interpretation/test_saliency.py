"""Saliency on small random weights: against finite differences, completeness, batches, directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from brainjax.evaluation.interpretation import attention, saliency, truth
from brainjax.ops import diffusion, samplers
from brainjax.reconstruct import Reconstructor
from tests.small_weights import NUM_VOXELS, write_weights

OPTIONS = {'num_steps': 5, 'sampler': 'ddim', 'at': (0.0, 0.6)}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return Reconstructor(write_weights(tmp_path_factory.mktemp('weights') / 'weights'))


def rows(count=3, seed=0):
  return np.random.default_rng(seed).normal(size=(count, NUM_VOXELS)).astype(np.float32)


def logits(params, pictures):
  return pictures.mean(axis=(1, 2)) * params


DIRECTION = np.random.default_rng(1).normal(size=(8, 8, 3))


def compute(model, batch_size=3):
  options = OPTIONS | {'directions': {'left': DIRECTION}, 'logits': logits, 'logits_params': jnp.array(2.0)}
  options |= {'classes': np.array([0, 2, 1]), 'num_points': 32, 'noise': 1e-3, 'batch_size': batch_size}
  return saliency.compute(model, rows(), np.zeros((3, NUM_VOXELS), np.float32), **options)


@pytest.fixture(scope='module')
def found(model):
  return compute(model)


def predictor(model, item, level):
  """fMRI -> x0 expected at a step of DDIM, whose state is made here step by step."""
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), item), 0)
  table = samplers.step_table(model.schedule, diffusion.sample_steps(1000, 5))

  @jax.jit
  def predict(x, t, fmri):
    context = model.models.conditioner.apply({'params': model.params['conditioner']}, fmri[None])
    return model.models.unet.apply({'params': model.params['unet']}, x, t[None], context)

  x = jax.random.normal(key, model.models.first_stage.latent_shape)[None]

  def x0_of(x, i, fmri):
    eps = predict(x, table.t[i], fmri)
    return (x - np.sqrt(1 - table.alpha[i]) * eps) / np.sqrt(table.alpha[i]), eps

  for i in range(level):
    x0, eps = x0_of(x, i, rows()[item])
    x = np.sqrt(table.alpha_prev[i]) * x0 + np.sqrt(1 - table.alpha_prev[i]) * eps
  return lambda fmri: x0_of(x, level, fmri)[0]


@pytest.mark.parametrize('place, level', [(0, 0), (1, 3)])
def test_gradients_are_finite_differences(model, found, place, level):
  assert found.targets == ('latent', 'class', 'left') and found.steps.tolist() == [0, 3]
  assert found.maps['gradient'].shape == (2, 3, 3, NUM_VOXELS)
  step, item = 0.02, 1
  to_x0 = predictor(model, item, level)
  predict = lambda fmri: np.asarray(to_x0(fmri), np.float64)[0]
  start, end = predict(0 * rows()[item]), predict(rows()[item])
  way = (end - start) / np.linalg.norm(end - start)
  assert found.change[place, 0, item] == pytest.approx(np.linalg.norm(end - start), rel=1e-3)
  for voxel in (0, 9, 31):
    moved = [predict(rows()[item] + sign * step * np.eye(NUM_VOXELS, dtype=np.float32)[voxel]) for sign in (1, -1)]
    slope = (moved[0] - moved[1]) / (2 * step)
    for k, axis in ((0, way), (2, DIRECTION / np.linalg.norm(DIRECTION))):
      expected = np.sum(slope * axis)
      assert found.maps['gradient'][place, k, item, voxel] == pytest.approx(expected, rel=0.05, abs=2e-3)

  # The codebook has jumps, so the logit has no finite differences.
  def logit(fmri):
    params = {'params': model.params['first_stage']}
    picture = model.models.first_stage.apply(params, to_x0(fmri), method='to_image')
    return logits(2.0, jnp.clip(picture, -1, 1))[0, 2]

  np.testing.assert_allclose(
    found.maps['gradient'][place, 1, item], jax.grad(logit)(rows()[item]), rtol=1e-3, atol=1e-5
  )


def test_integrated_gradients_sum_to_the_change(found):
  smooth = [0, 2]  # the class sees the latent through the codebook, whose jumps no gradient sees
  total = found.maps['integrated'].sum(axis=-1)[:, smooth]
  np.testing.assert_allclose(total, found.change[:, smooth], rtol=0.02, atol=0.02)
  largest = np.abs(found.maps['gradient']).max()
  np.testing.assert_allclose(found.maps['smooth'], found.maps['gradient'], atol=0.05 * largest)
  assert np.abs(found.maps['gradient'][:, 1]).max() > 0


@pytest.mark.slow
def test_batches_do_not_change_the_result(model, found):
  parts = compute(model, batch_size=2)
  for method in saliency.METHODS:
    np.testing.assert_allclose(parts.maps[method], found.maps[method], rtol=1e-3, atol=1e-4)
  with pytest.raises(ValueError, match='less than 1'):
    saliency.compute(model, rows(), rows(), at=(1.0,))


@pytest.mark.slow
def test_a_shuffled_model_has_other_maps_from_the_same_numbers(model, found):
  params = truth.shuffled(model.params, 0)
  for before, after in zip(*(jax.tree.leaves(x['conditioner']) for x in (model.params, params)), strict=True):
    np.testing.assert_array_equal(np.sort(np.ravel(before)), np.sort(np.ravel(after)))
  assert params['unet'] is model.params['unet']
  other = compute(model.with_params(params))
  maps = [np.abs(x.maps['gradient'][1, 0]).mean(axis=0) for x in (found, other)]
  assert abs(stats.spearmanr(*maps).statistic) < 0.5


def test_attention_is_that_of_the_layers(model):
  found = attention.compute(model, rows(), batch_size=2, **OPTIONS)
  assert found.layers and found.weights.shape == (2, len(found.layers), 3, 3)
  np.testing.assert_allclose(found.weights.sum(axis=-1), 1, rtol=1e-5)
  assert [layer.split('/')[0] for layer in found.layers] == sorted(
    [layer.split('/')[0] for layer in found.layers], key=lambda x: ('imo'.index(x[0]), x)
  )
  assert set(found.resolutions.tolist()) == {4}  # latents of 8 x 8, attention at half that side
  np.testing.assert_allclose(found.patches.sum(axis=1), 1)
  assert ((found.entropy() > 0) & (found.entropy() <= 1 + 1e-6)).all()
  # Equal keys: attention is uniform whatever the queries are.
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: 0 * x if 'to_k' in jax.tree_util.keystr(path) else x, model.params
  )
  uniform = attention.compute(model.with_params(params), rows(), **OPTIONS)
  np.testing.assert_allclose(uniform.weights, 1 / 3, rtol=1e-5)
  np.testing.assert_allclose(uniform.entropy(), 1, rtol=1e-5)
