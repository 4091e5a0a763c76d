"""The stages that make the demo's prior: they run from end to end, and never see a composition of a test category."""

import numpy as np
import pytest

from brainjax import pack_prior
from brainjax.checkpoints import load_weights, read_info, save_weights, weights_digest
from brainjax.simulator import stimuli
from brainjax.simulator.batches import RenderedBatches
from brainjax.stages import diffuse, first_stage, image_mae, label2img, scene_classifier
from configs import demo_prior
from tests.test_pipeline import launch

STAGES = ('first_stage_training', 'image_mae_training', 'label2img', 'scene_classifier')
# Two steps each, at small sizes.
SMALL = [
  f'--config.{stage}.{field}={value}' for stage in STAGES for field, value in (('num_steps', 2), ('batch_size', 4))
]
SMALL += [
  '--config.label2img.num_scenes=64', '--config.first_stage.ch=8', '--config.first_stage.n_embed=32',
  '--config.unet.channel_mult=(1,2)', '--config.unet.attention_resolutions=(2,)', '--config.image_mae.depth=1',
]  # fmt: skip


def _numbers(attributes):
  return set(np.ravel_multi_index(np.asarray(attributes).T, stimuli.NUM_VALUES).tolist())


def test_no_test_category_is_among_the_scenes_of_the_prior():
  forbidden = _numbers(stimuli.categories().test_attributes)
  assert len(forbidden) == 50
  batches = RenderedBatches(64, 16, seed=0)
  seen = set().union(*(_numbers(next(batches)['attributes']) for _ in range(50)))
  seen |= _numbers(label2img._scenes(2000, 16, seed=2)['attributes'])
  assert len(seen) > 1000 and not seen & forbidden
  # The classifier, which scores and trains nothing, sees them all.
  judged = RenderedBatches(64, 16, seed=0, classes='categories')
  assert forbidden <= set().union(*(_numbers(next(judged)['attributes']) for _ in range(50)))


@pytest.mark.parametrize('stage', [first_stage, image_mae, scene_classifier], ids=lambda stage: stage.STAGE.name)
def test_a_stage_of_the_prior_starts_from_its_init_from(stage, tmp_path):
  config, weights = demo_prior.get_config(), {'a/kernel': np.arange(3, dtype=np.float32)}
  save_weights(tmp_path / 'weights', weights, {})
  config[stage.STAGE.name].init_from = str(tmp_path / 'weights')
  training = stage.make(config, None)
  np.testing.assert_array_equal(training.problem.pretrained['a/kernel'], weights['a/kernel'])
  assert training.info['inputs'] == {f'weights of {stage.STAGE.name}.init_from': weights_digest(weights)}


def test_label2img_goes_on_from_its_own_weights(tmp_path, monkeypatch):
  config = demo_prior.get_config()
  config.label2img.update({'num_scenes': 9, 'batch_size': 2, 'init_from': str(tmp_path / 'weights')})
  weights = {path: np.arange(3, dtype=np.float32) for path in ('unet/a', 'class_embedder/b', 'first_stage/c')}
  save_weights(tmp_path / 'weights', weights | {'image_mae/d': np.arange(3, dtype=np.float32)}, {})  # a packed prior
  monkeypatch.setattr(first_stage, 'encode_pictures', lambda model, params, pictures: np.zeros((len(pictures), 4)))
  training = label2img.make(config, None)
  assert training.problem.pretrained.keys() == weights.keys()
  for path, x in weights.items():
    np.testing.assert_array_equal(training.problem.pretrained[path], x)
  assert training.info['inputs'] == {'weights of label2img.init_from': weights_digest(weights)}


def test_a_prior_that_trained_on_keeps_the_image_autoencoder_of_its_start(tmp_path):
  start = {'unet/a': np.zeros(3, np.float32), 'image_mae/d': np.arange(3, dtype=np.float32)}
  save_weights(tmp_path / 'start', start, {'settings': {'unet': {}, 'image_mae': {'width': 8}}})
  save_weights(
    tmp_path / 'run' / 'label2img' / 'weights', {'unet/a': np.ones(3, np.float32)}, {'settings': {'unet': {'b': 1}}}
  )
  pack_prior.main([f'--workdir={tmp_path / "run"}', f'--start={tmp_path / "start"}', f'--out={tmp_path}'])
  prior, info = load_weights(tmp_path / 'demo_prior.safetensors')
  assert {path: x.tolist() for path, x in prior.items()} == {'unet/a': [1, 1, 1], 'image_mae/d': [0, 1, 2]}
  assert info['settings'] == {'unet': {'b': 1}, 'image_mae': {'width': 8}}
  assert not (tmp_path / 'demo_classifier.safetensors').exists()


@pytest.mark.slow
def test_the_prior_trains_and_is_packed(tmp_path):
  done = launch(tmp_path / 'run', *SMALL, config='demo_prior')
  assert done.returncode == 0, done.stdout + done.stderr
  for stage in STAGES:
    flat, _ = load_weights(tmp_path / 'run' / stage / 'weights')
    assert all(np.isfinite(x).all() for x in flat.values()), stage
  assert pack_prior.main([f'--workdir={tmp_path / "run"}', f'--out={tmp_path}']) == 0
  prior, info = load_weights(tmp_path / 'demo_prior.safetensors')
  assert {path.split('/')[0] for path in prior} == {'first_stage', 'unet', 'class_embedder', 'image_mae'}
  diffuse.check_prior('demo_prior', info['settings'])
  assert read_info(tmp_path / 'demo_classifier.safetensors')['settings']['num_classes'] == 200
