"""Configs: every one resolves and passes the checks, impossible values are told by name, flags that are wrong too."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from brainjax import config_check, launch
from brainjax import pipeline as _  # noqa: F401 - registers the stages
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
  config_check.refuse_unknown_fields(config)
  config_check.check(config, config.stages)


def test_the_papers_numbers():
  config = _config('god_sbj3')
  assert config.data.subjects == ('sbj_3',)
  stages = config.contrast, config.attend, config.diffuse
  assert [stage.num_epochs for stage in stages] == [140, 60, 700]
  assert [stage.batch_size for stage in stages] == [250, 16, 8]
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
    ('seed', 2**32),
    ('attention', 'flash'),
    ('mesh.fsdp', 0),
    ('contrast.mask_ratio', 1.0),
    ('contrast.mask_ratio', 0.0),  # nothing would be predicted
    ('reconstruct.seed', 2**32),
    ('attend.mask_ratio', 1.5),
    ('attend.image_mask_ratio', 0.999),  # none of the 196 patches would be left
    ('attend.fmri_weight', -1.0),
    ('fmri_mae.num_heads', 7),
    ('fmri_mae.patch_size', 0),
    ('fmri_mae.mlp_ratio', 0.0),
    ('image_mae.patch_size', 15),
    ('image_mae.mlp_dim', 0),
    ('first_stage.ch_mult', ()),
    ('first_stage.num_groups', 48),
    ('unet.num_groups', 7),
    ('unet.num_heads', 7),
    ('unet.attention_resolutions', (3,)),
    ('conditioner.context_tokens', 1),
    ('attend.batch_size', 0),
    ('contrast.num_steps', -1),
    ('diffuse.learning_rate', -1.0),
    ('diffuse.learning_rate', float('inf')),
    ('contrast.betas', ('a', 'b')),
    ('contrast.temperature', 0.0),
    ('diffuse.train_unet', '('),
    ('diffuse.train_unet', 'attn3'),  # fits no path
    ('reconstruct.sampler', 'euler'),
    ('reconstruct.num_steps', 0),
    ('reconstruct.num_steps', 999),
    ('reconstruct.num_steps', 1001),
    ('reconstruct.eta', 0.5),  # PLMS has none
    ('reconstruct.guidance', float('nan')),
    ('reconstruct.num_samples', 0),
    ('evaluate.num_bootstrap', 10),
    ('evaluate.num_shuffles', 19),
    ('data.image_size', 250),
    ('data.image_size', 260),  # its latent of 65 cannot be halved three times
    ('data.subjects', ()),
    ('data.subjects', ('sbj_3', 'sbj_3')),
    ('data.subjects', (3,)),
    ('data.subjects', ('../sbj_3',)),
    ('data.other_subjects', ('sbj_3',)),  # is the one that is tested
    ('data.contrast_god_subjects', ('sbj_1', 'sbj_1')),
    ('data.roi', 'V1+'),
    ('data.hcp_rois', ('V1', 'V9')),
    ('data.hcp_augmentation', float('inf')),
    ('data.num_val_stimuli', -1),
    ('data.target_train_proportion', 0.0),
    ('contrast.select', 'worst'),
    ('diffuse.select', 'best'),  # nothing is held out to select by
  ],
)
def test_the_message_about_an_impossible_value_names_its_field(field, value):
  config = _config('god_sbj3')
  *section, name = field.split('.')
  (config[section[0]] if section else config)[name] = value
  with pytest.raises(UserError, match=f'config.{field} is') as caught:
    config_check.check(config, KNOWN)
  assert '\n' not in str(caught.value)


def test_a_mistyped_field_in_a_config_file_is_refused():
  with pytest.raises(AttributeError, match='rio'):
    _config('tiny').data.rio = 'V1'


def test_values_that_exclude_each_other():
  def fails(match, **changes):
    config = _config('god_sbj3')
    for field, value in changes.items():
      section, name = field.split('__')
      config[section][name] = value
    with pytest.raises(UserError, match=match):
      config_check.check(config, KNOWN)

  fails('contrast.mask_loss is False', contrast__mask_loss=False, contrast__self_weight=0.0, contrast__cross_weight=0.0)
  # Without a second view there is no second self-contrast.
  fails('contrast.separate_loss is True', contrast__separate_loss=True, contrast__cross_contrast=False)
  fails('contrast.separate_loss is True', contrast__separate_loss=True, contrast__cross_weight=0.0)
  # Sampling steps are judged by the schedule of the prior.
  fails('reconstruct.num_steps is 250: .*expected 1 to 100', noise_schedule__num_steps=100)
  fails('attend.fmri_weight is 0.0', attend__fmri_weight=0.0, attend__image_weight=0.0)
  fails('diffuse.cached_crops is 2', diffuse__cached_crops=2, diffuse__prior_init_from='')
  fails('diffuse.cached_crops is 2', diffuse__cached_crops=2, diffuse__crop_probability=0.0)
  fails('diffuse.cached_crops is -1', diffuse__cached_crops=-1)
  fails(
    'contrast.select is best, but no data are held out to select by: set config.data.hcp_val_subjects',
    contrast__select='best',
    data__num_val_stimuli=9,
    data__contrast_god_subjects=(),
  )
  config = _config('god_sbj3').unlock()
  del config.data.roi
  with pytest.raises(UserError, match="lacks a field of configs/base.py: 'roi'"):
    config_check.check(config, KNOWN)


def test_the_message_names_the_nearest_possible_numbers_of_sampling_steps():
  config = _config('god_sbj3')
  config.reconstruct.num_steps = 300
  with pytest.raises(
    UserError, match='config.reconstruct.num_steps is 300: .* The nearest valid numbers are 250 and 334'
  ):
    config_check.check(config, KNOWN)


@pytest.mark.parametrize(
  'flags, told',
  [
    (['--config=configs/nothing.py'], 'nothing.py'),
    (['--config=configs/tiny.py', '--config.attend.learning_rat=1'], 'learning_rat'),
    (['--config=configs/tiny.py', '--config.attend.batch_size=four'], 'four'),
    (['--config=configs/tiny.py', '--stages='], 'stages: no stage is named'),
    (['--config=configs/tiny.py', '--confg.seed=1'], 'confg'),
    (['--config=configs/tiny.py', '--stages=contrast,atend'], 'atend'),
    (
      ['--config=configs/tiny.py', '--stages=attend,contrast'],
      'expected contrast before attend, which starts from its result',
    ),
    (['--config=configs/tiny.py', '--config.contrast.lr=1'], "contrast.lr=1: no such field: 'lr'"),
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


@pytest.mark.parametrize(
  'line, told',
  [
    ('config.diffuse.num_stepz = 20', 'diffuse.num_stepz is no field of the config; did you mean num_steps?'),
    ("config.diffuse.update({'num_stepz': 2})", 'diffuse.num_stepz is no field of the config; did you mean num_steps?'),
    ('config.diffuze.num_steps = 20', 'diffuze is no field of the config; did you mean diffuse?'),
    ("config.diffuse.num_steps = 'many'", "diffuse.num_steps: expected a whole number, found 'many'."),
    ('import nothing_at_all', "cannot be loaded: line 5: ModuleNotFoundError: No module named 'nothing_at_all'."),
    ('return 3', "cannot be loaded: AttributeError: 'int' object has no attribute 'seed'."),
  ],
)
def test_a_fault_in_a_config_file_names_file_and_field(line, told, tmp_path, capsys):
  file = tmp_path / 'mine.py'
  file.write_text(
    f'from configs import tiny\n\ndef get_config():\n  config = tiny.get_config().lock()\n  {line}\n  return config\n'
  )
  assert launch.main([f'--config={file}']) == 2
  error = capsys.readouterr().err
  assert error.startswith(f'error: {file}: ') and told in error and error.count('\n') == 1


def test_an_unknown_field_is_refused_after_unlocking_too():
  config = _config('tiny').unlock()
  config.data.contrast_own_subjects = ('s1',)
  config.mine = {'gain': 1.0}  # a section of a plugin
  config_check.refuse_unknown_fields(config)
  config.diffuse.num_stepz = 20
  with pytest.raises(UserError, match='config.diffuse.num_stepz is no field of the config; did you mean num_steps'):
    config_check.refuse_unknown_fields(config)
  del config.diffuse.num_stepz
  config.sead = 3
  with pytest.raises(UserError, match='config.sead is no field of the config; did you mean seed'):
    config_check.refuse_unknown_fields(config)


def test_help():
  done = subprocess.run([sys.executable, 'launch.py', '--help'], cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0 and '--stages' in done.stdout and 'configs/base.py' in done.stdout and not done.stderr


def test_the_decoder_of_attend_goes_on_from_that_of_contrast():
  config = _config('tiny')
  config.attend.decoder_depth = config.contrast.decoder_depth + 1
  config_check.check(config, ('contrast',))
  with pytest.raises(
    UserError, match='config.attend.decoder_depth is 3; expected at most config.contrast.decoder_depth, 2'
  ):
    config_check.check(config, KNOWN)
  config.attend.init_from = 'weights/phase1'  # whose depth counts then
  config_check.check(config, KNOWN)
