"""The order of stages, one of the user's between those of the package."""

import dataclasses

import jax
import pytest

from brainjax import config_check, launch, pipeline
from brainjax.datasets import registry as data_sets
from brainjax.errors import UserError
from brainjax.stages import common, contrast, reconstruct, registry
from brainjax.stages import data as stage_data
from brainjax.stages.registry import STAGES, StageSpec, check_names
from configs import base, tiny

assert pipeline  # registers the stages


@pytest.fixture
def mine(monkeypatch):
  """A stage between attend and diffuse, as docs/architecture.md inserts it."""
  monkeypatch.setitem(STAGES, 'mine', StageSpec('mine', after='attend'))
  monkeypatch.setitem(STAGES, 'diffuse', STAGES['diffuse']._replace(after='mine'))


def test_a_stage_is_inserted(mine):
  check_names(('contrast', 'attend', 'mine', 'diffuse', 'reconstruct', 'evaluate'))
  check_names(('contrast', 'diffuse'))  # those between may be of an earlier run
  check_names(('scene_classifier', 'contrast'))  # neither starts from the other
  assert registry.ancestors('reconstruct') == ['contrast', 'attend', 'mine', 'diffuse', 'reconstruct']
  for wrong, told in (
    (('contrast', 'attend', 'diffuse', 'mine'), 'expected mine before diffuse, which starts from its result'),
    (('diffuse', 'contrast'), 'expected contrast before diffuse'),
    (('attend', 'attend'), 'expected each once'),
  ):
    with pytest.raises(UserError, match=told):
      check_names(wrong)


def test_another_stage_before_reconstruct_is_sampled(monkeypatch, tmp_path):
  assert reconstruct.weights_of(tmp_path) == tmp_path / 'diffuse' / 'weights'
  monkeypatch.setitem(STAGES, 'reconstruct', STAGES['reconstruct']._replace(after='mine'))
  assert reconstruct.weights_of(tmp_path) == tmp_path / 'mine' / 'weights'


def test_a_section_of_training_fields_is_complete():
  stage = base.training(1, 4, 0.01, warmup_epochs=0.0, clip_norm=1.0)
  params = {'w': jax.numpy.ones(3)}
  assert common.optimizer_of(stage, 0.1).init(params)
  assert set(config_check.TRAINING) <= set(stage)
  config = base.get_config()
  assert (config.diffuse.betas, config.diffuse.weight_decay) == ((0.9, 0.999), 0.01)


def test_a_field_of_a_locked_config_is_one_sentence(tmp_path, capsys):
  (tmp_path / 'mine.py').write_text(
    'from configs import base\n\n\ndef get_config():\n  config = base.get_config()\n'
    '  config.linear = base.training(1, 4, 0.1, 0.0, 1.0)\n  return config\n'
  )
  assert launch.main([f'--config={tmp_path / "mine.py"}', f'--workdir={tmp_path / "run"}']) == 2
  told = capsys.readouterr().err
  assert 'mine.py: linear is no field of the config; the fields are in configs/base.py' in told
  assert len(told) < 300 and told.count('\n') == 1


def test_a_raw_field_that_the_config_lacks(monkeypatch):
  config = tiny.get_config()
  god = data_sets.get('god')
  monkeypatch.setitem(data_sets.DATA_SETS, 'beans', dataclasses.replace(god, name='beans', raw_field='beans'))
  config.data.dataset = 'beans'
  with pytest.raises(UserError, match=r'the data set beans reads config.data.beans, .*; add it'):
    config_check.check(config, ('attend',))
  with config.unlocked():
    config.data.beans = 'beans'
  config_check.check(config, ('attend',))


def test_the_stage_says_whether_devices_matter():
  config = tiny.get_config()
  assert not contrast.STAGE.uses_devices(config)
  config.contrast.negatives = 'per_device'
  assert contrast.STAGE.uses_devices(config) and not STAGES['attend'].uses_devices(config)


def test_the_released_batch_of_two_is_a_fact_of_diffuse():
  config = tiny.get_config()
  config.diffuse.batch_size = config.attend.batch_size = 7
  assert stage_data.batch_size(config, 'diffuse') == 7
  config.released.batch_of_two = True
  assert (stage_data.batch_size(config, 'diffuse'), stage_data.batch_size(config, 'attend')) == (2, 7)
