"""Configs: every one resolves and passes the checks, impossible values are told by name, flags that are wrong too."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from brainjax import config_check
from brainjax.errors import UserError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in ('__init__', 'base'))
KNOWN = ('contrast', 'attend', 'diffuse', 'reconstruct', 'evaluate')
PRIOR = ('first_stage_training', 'image_mae_training', 'label2img', 'scene_classifier')


def _config(name):
  return importlib.import_module(f'configs.{name}').get_config()


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_passes_the_checks(name):
  config = _config(name)
  config_check.check(config, config.stages, KNOWN + PRIOR)


def test_the_papers_numbers():
  config = _config('god_sbj3')
  assert config.data.subjects == ('sbj_3',)
  stages = config.contrast, config.attend, config.diffuse
  assert [stage.num_epochs for stage in stages] == [140, 60, 700]
  assert [stage.batch_size for stage in stages] == [250, 4, 8]
  assert [stage.learning_rate for stage in stages] == [2.5e-4, 5.3e-5, 5.3e-5]
  assert (config.attend.mask_ratio, config.attend.image_mask_ratio) == (0.75, 0.5)
  assert (config.attend.fmri_weight, config.attend.image_weight) == (0.25, 1.5)
  assert (config.attend.decoder_depth, config.attend.image_decoder_depth) == (6, 6)
  assert (config.reconstruct.num_steps, config.reconstruct.num_samples) == (250, 5)
  assert (config.contrast.mask_loss, config.contrast.self_weight, config.contrast.cross_weight) == (True, 1.0, 0.5)
  assert not any(config.released.values())
  assert all(_config('god_sbj3_released').released.values())


@pytest.mark.parametrize(
  'field, value',
  [
    ('contrast.mask_ratio', 1.0),
    ('fmri_mae.num_heads', 7),
    ('attend.batch_size', 0),
    ('diffuse.learning_rate', -1.0),
    ('reconstruct.sampler', 'euler'),
    ('data.image_size', 250),
    ('data.subjects', ()),
    ('contrast.select', 'worst'),
    ('diffuse.select', 'best'),  # nothing is held out to select by
  ],
)
def test_impossible_values_are_told_by_name(field, value):
  config = _config('god_sbj3')
  section, name = field.split('.')
  config[section][name] = value
  with pytest.raises(UserError, match=f'config.{field} is'):
    config_check.check(config, KNOWN, KNOWN)


@pytest.mark.parametrize(
  'flags, told',
  [
    (['--config=configs/nothing.py'], 'nothing.py'),
    (['--config=configs/tiny.py', '--config.attend.learning_rat=1'], 'learning_rat'),
    (['--config=configs/tiny.py', '--config.attend.batch_size=four'], 'four'),
    (['--config=configs/tiny.py', '--confg.seed=1'], 'confg'),
    (['--config=configs/tiny.py', '--stages=contrast,atend'], 'atend'),
    (['--config=configs/tiny.py', 'now'], 'now'),
    ([], '--config'),
  ],
)
def test_wrong_flags_are_one_sentence(flags, told, tmp_path):
  command = [sys.executable, 'launch.py', *flags, *([f'--workdir={tmp_path}/run'] if flags else [])]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('error: ') and told in done.stderr and 'Traceback' not in done.stderr
  assert not (tmp_path / 'run').exists()
