"""Sizes come from the weights that a config names, once, for every stage."""

import numpy as np
import pytest

from brainjax import pipeline, workdirs
from brainjax.checkpoints import save_weights
from brainjax.datasets.data_set import DataSet
from brainjax.errors import UserError
from brainjax.files import write_json
from brainjax.resolve import resolve
from brainjax.stages import common, diffuse
from configs import demo, tiny

METHOD = ('contrast', 'attend', 'diffuse', 'reconstruct', 'evaluate')


def _save(folder, **kwargs):
  save_weights(folder, {'a': np.zeros(2, np.float32)}, {'kind': 'phase1', 'settings': kwargs})
  return str(folder)


def test_every_stage_gets_the_sizes_of_the_weights(tmp_path, capsys):
  config = tiny.get_config()
  config.contrast.init_from = _save(tmp_path / 'w', patch_size=4, width=24, decoder_depth=3, num_voxels=84)
  assert config.fmri_mae.patch_size == 16
  resolved = resolve(config, tmp_path / 'run', METHOD)
  assert (resolved.fmri_mae.patch_size, resolved.contrast.decoder_depth) == (4, 3)
  assert resolved.fmri_mae.decoder_width == config.fmri_mae.decoder_width  # the weights do not say
  assert 'config.fmri_mae.patch_size is 4, as in the weights' in capsys.readouterr().out
  assert config.fmri_mae.patch_size == 16  # the user's config is left alone
  # Sampling and scoring alone see the same sizes, also when the start weights are gone.
  folder = tmp_path / 'run' / 'contrast'
  _save(folder / 'weights', patch_size=4, width=24, decoder_depth=3)
  write_json(folder / 'complete.json', {})
  (tmp_path / 'w').rename(tmp_path / 'gone')
  assert resolve(config, tmp_path / 'run', ('reconstruct', 'evaluate')).fmri_mae.patch_size == 4


def test_the_demo_takes_its_sizes_from_its_prior(tmp_path):
  config = demo.get_config()
  resolved = resolve(config, tmp_path / 'run', METHOD)
  assert resolved.unet.transformer_depth == 1 and resolved.unet.num_head_channels is None
  assert resolved.first_stage.attn_resolutions == () and resolved.first_stage.resolution == 64
  assert resolve(resolved, tmp_path / 'run', METHOD).to_dict() == resolved.to_dict()


def test_a_finished_stage_that_started_from_a_prior_is_not_taken_for_another(tmp_path):
  config = demo.get_config()
  given, resolved = workdirs.fill_in_paths(config, tmp_path), resolve(config, tmp_path, METHOD)
  models = diffuse.models(resolved, num_voxels=9)._asdict()
  kwargs = {name: common.kwargs_of(part) for name, part in models.items()}
  save_weights(tmp_path / 'diffuse' / 'weights', {'a': np.zeros(2)}, {'settings': kwargs})
  write_json(tmp_path / 'diffuse' / 'config.json', workdirs.relevant(resolved, tmp_path, 'diffuse'))
  write_json(tmp_path / 'diffuse' / 'complete.json', {})
  again = resolve(config, tmp_path, METHOD)
  assert again.to_dict() == resolved.to_dict()
  workdirs.refuse_other_config(given, again, tmp_path, 'diffuse', False, ())


def test_a_later_stage_starts_from_the_weights_of_the_one_before(tmp_path):
  config = tiny.get_config()
  config.attend.init_from = _save(tmp_path / 'w', patch_size=4)
  resolved = resolve(config, tmp_path / 'run', METHOD)
  assert resolved.contrast.init_from == ''  # none before it
  assert resolved.attend.init_from == str(tmp_path / 'w')  # the user's
  assert resolved.diffuse.init_from == f'{tmp_path}/run/attend/weights'  # not there yet: sizes are the config's
  assert workdirs.relevant(resolved, tmp_path / 'run', 'diffuse')['diffuse']['init_from'] == '{workdir}/attend/weights'
  # Once they exist, they are still those of this run, and not weights that a user names: the config decides their sizes.
  _save(tmp_path / 'run' / 'attend' / 'weights', patch_size=8)
  assert resolve(resolved, tmp_path / 'run', ('diffuse',)).to_dict()['fmri_mae'] == resolved.to_dict()['fmri_mae']
  config.diffuse.init_from = 'random'
  assert resolve(config, tmp_path / 'run', METHOD).diffuse.init_from == 'random'


def test_a_workdir_that_does_not_name_the_stage_before_goes_on(tmp_path):
  config = tiny.get_config()
  given, resolved = workdirs.fill_in_paths(config, tmp_path), resolve(config, tmp_path, METHOD)
  (tmp_path / 'attend' / 'weights').mkdir(parents=True)
  saved = workdirs.relevant(resolved, tmp_path, 'attend')
  for start in ('', '{workdir}/contrast/weights'):
    saved['attend']['init_from'] = start
    write_json(tmp_path / 'attend' / 'config.json', saved)
    workdirs.refuse_other_config(given, resolved, tmp_path, 'attend', False, ())
  saved['attend']['init_from'] = 'weights/other'
  write_json(tmp_path / 'attend' / 'config.json', saved)
  with pytest.raises(UserError, match='attend.init_from .there weights/other, here {workdir}/contrast/weights'):
    workdirs.refuse_other_config(given, resolved, tmp_path, 'attend', False, ())


def test_finished_weights_do_not_replace_what_the_user_changes(tmp_path):
  config = tiny.get_config()
  _save(tmp_path / 'run' / 'contrast' / 'weights', width=24)
  write_json(tmp_path / 'run' / 'contrast' / 'complete.json', {})
  config.fmri_mae.width = 48
  assert resolve(config, tmp_path / 'run', ('contrast', 'attend')).fmri_mae.width == 48


def test_weights_whose_sizes_exclude_each_other_are_refused(tmp_path):
  config = tiny.get_config()
  config.contrast.init_from = _save(tmp_path / 'a', patch_size=4)
  config.diffuse.init_from = _save(tmp_path / 'b', patch_size=8)
  with pytest.raises(
    UserError, match='and diffuse start from weights of different sizes: fmri_mae.patch_size is 4 in .* and 8 in '
  ):
    resolve(config, tmp_path / 'run', METHOD)
  assert resolve(config, tmp_path / 'run', ('diffuse',)).fmri_mae.patch_size == 8  # contrast does not run


def test_a_workdir_of_an_earlier_version_is_accepted(tmp_path):
  config = tiny.get_config()
  config.contrast.init_from = _save(tmp_path / 'w', patch_size=4)
  given = workdirs.fill_in_paths(config, tmp_path)
  resolved = resolve(config, tmp_path, ('contrast',))
  saved = workdirs.relevant(
    given, tmp_path, 'contrast'
  )  # that version saved the config without the sizes of the weights
  for new in ('plugins', 'noise_schedule'):
    del saved[new]
  del saved['data']['zscore']
  (tmp_path / 'contrast' / 'weights').mkdir(parents=True)
  write_json(tmp_path / 'contrast' / 'config.json', saved)
  workdirs.refuse_other_config(given, resolved, tmp_path, 'contrast', False, ())
  saved['fmri_mae']['patch_size'] = 5
  write_json(tmp_path / 'contrast' / 'config.json', saved)
  with pytest.raises(UserError, match=r'fmri_mae.patch_size \(there 5, here 4\)'):
    workdirs.refuse_other_config(given, resolved, tmp_path, 'contrast', False, ())


def test_accepted_changes_are_described_as_what_they_do(tmp_path, capsys):
  config = tiny.get_config()
  (tmp_path / 'contrast' / 'weights').mkdir(parents=True)
  write_json(tmp_path / 'contrast' / 'config.json', workdirs.relevant(config, tmp_path, 'contrast'))
  config.contrast.learning_rate = 0.5
  for complete, advice in ((False, 'resumes with the new values'), (True, 'keeps the finished stage unchanged')):
    if complete:
      write_json(tmp_path / 'contrast' / 'complete.json', {})
    with pytest.raises(UserError, match=f'--accept_changes=contrast.learning_rate {advice}'):
      workdirs.refuse_other_config(config, config, tmp_path, 'contrast', False, ())


def test_a_refused_run_leaves_no_folder(tmp_path):
  config = tiny.get_config()
  config.simulate.enabled = False
  config.data.god = config.data.hcp = str(tmp_path / 'nothing')
  with pytest.raises(UserError, match='nothing'):
    pipeline.run(config, tmp_path / 'run', METHOD, asked=False)
  assert not (tmp_path / 'run').exists()


def test_own_data_are_looked_for_first_and_nothing_is_simulated_that_no_stage_reads(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(pipeline, 'simulate', lambda folder, **options: calls.append(folder))
  config = tiny.get_config()
  config.data.update({'dataset': 'own', 'subjects': ('sub-1',), 'prepared': str(tmp_path / 'prepared')})
  with pytest.raises(UserError, match='sub-1.* not prepared yet'):
    pipeline.prepare_data(config, tmp_path, ('contrast', 'attend'))  # contrast reads simulated data
  monkeypatch.setattr(DataSet, 'open', lambda *args: None)
  pipeline.prepare_data(config, tmp_path, ('attend',))
  assert not calls
  monkeypatch.setattr(pipeline.prepare, 'for_run', lambda *args: None)
  pipeline.prepare_data(config, tmp_path, ('contrast', 'attend'))
  assert calls == [f'{tmp_path}/simulated']
