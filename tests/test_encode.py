"""`FmriEncoder`: the tokens of each stage's encoder, as the model itself computes them."""

import jax
import numpy as np
import pytest

from brainjax.checkpoints import save_weights
from brainjax.datasets.input_transform import InputTransform
from brainjax.encode import FmriEncoder
from brainjax.errors import UserError
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.fmri_mae import FmriMAE
from brainjax.stages import common
from brainjax.trees import add_prefix, flatten, unflatten

SIZES = dict(num_voxels=24, patch_size=8, width=12, depth=1, num_heads=2)
MAE = FmriMAE(**SIZES, decoder_width=8, decoder_depth=1, decoder_num_heads=2)
CONDITIONER = FmriConditioner(**SIZES, context_tokens=3, context_dim=8)


def _params(model):
  params = jax.jit(model.init)(jax.random.key(0), *model.example_inputs())['params']
  rng = np.random.default_rng(1)
  return {path: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype('f') for path, x in flatten(params).items()}


def _weights(folder, stage, **scale):
  model = CONDITIONER if stage == 'diffuse' else MAE
  params, kwargs = _params(model), common.kwargs_of(model)
  part = {'attend': 'fmri', 'diffuse': 'conditioner'}.get(stage)
  raw = np.random.default_rng(2).normal(500, 50, 22) + np.random.default_rng(3).normal(0, 10, (9, 22))
  fit = InputTransform.fit(
    raw.astype('f'), data_set='own', subject='s', roi='VC', mask=np.ones(22, bool), patch_size=8, zscore='voxel'
  )
  info = {'kind': stage, 'settings': {part: kwargs} if part else kwargs, 'input': [fit.to_json() | scale]}
  save_weights(folder, add_prefix(part, params) if part else params, info)
  return model, params, raw.astype('f')


@pytest.mark.parametrize('stage', ['contrast', 'attend', 'diffuse'])
def test_tokens_are_those_of_the_stage(tmp_path, stage):
  model, params, raw = _weights(tmp_path / 'w', stage)
  encoder = FmriEncoder.from_pretrained(tmp_path / 'w', batch_size=4)
  z = (raw - raw.mean(0)) / raw.std(0)
  z = np.concatenate([z, z[:, :2]], axis=1).astype('f')
  expected = jax.jit(lambda params: model.apply({'params': params}, z, method='encode'))(unflatten(params))
  expected = expected if stage == 'diffuse' else expected[:, 1:]
  for features in (encoder(raw), encoder.from_betas(raw), encoder(z, normalised=True)):
    assert features.tokens.shape == (9, 3, 12) and features.pooled.shape == (9, 12)
    np.testing.assert_allclose(features.tokens, expected, atol=1e-4)
    np.testing.assert_allclose(features.pooled, expected.mean(axis=1), atol=1e-4)
  with pytest.raises(UserError, match=r'these weights expect numbers of shape \(trials, 22\)'):
    encoder(raw[:, :9])


def test_means_over_trials_are_encoded_at_the_scale_of_training(tmp_path):
  _, _, raw = _weights(tmp_path / 'w', 'contrast', test_scale='repetitions', explainable_variance=0.2)
  encoder = FmriEncoder.from_pretrained(tmp_path / 'w')
  z = (raw - raw.mean(0)) / raw.std(0) / np.sqrt(0.2 + 0.8 / 5)  # of a mean over 5 trials
  expected = encoder(np.concatenate([z, z[:, :2]], axis=1), normalised=True).tokens
  for features in (encoder(raw, repetitions=5), encoder.from_betas(raw, repetitions=5)):
    np.testing.assert_allclose(features.tokens, expected, atol=1e-4)
  assert np.abs(encoder(raw).tokens - expected).max() > 1e-3
  with pytest.raises(UserError, match='repetitions is 0; expected 1 or more'):
    encoder(raw, repetitions=0)


def test_weights_without_an_encoder(tmp_path):
  save_weights(tmp_path / 'w', {'a': np.ones(3)}, {'kind': 'vq_f4', 'settings': {'ch': 8}})
  with pytest.raises(UserError, match='holds vq_f4, which has no fMRI encoder'):
    FmriEncoder.from_pretrained(tmp_path / 'w')
