"""Finished weights and checkpoints: whole or absent, never overwritten; damage is reported, and the checkpoint before is used."""

import json
import os
import resource
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from brainjax import checkpoints as checkpoints_module
from brainjax import files
from brainjax.checkpoints import UNSUMMED, RunCheckpoints, check_weights, load_weights, read_info, save_weights
from brainjax.errors import UserError
from brainjax.files import find_damage

PARAMS = {'a/kernel': np.arange(56, dtype=np.float32).reshape(7, 8), 'b': np.ones((1, 9), np.float32)}


def test_round_trip_and_no_overwriting(tmp_path):
  save_weights(tmp_path / 'w', PARAMS, {'kind': 'test', 'sizes': [7, 8]})
  params, info = load_weights(tmp_path / 'w')
  assert info == {'kind': 'test', 'sizes': [7, 8]}
  assert params.keys() == PARAMS.keys()
  for name, x in PARAMS.items():
    np.testing.assert_array_equal(params[name], x)
  with pytest.raises(UserError, match='exists already'):
    save_weights(tmp_path / 'w', PARAMS, {})
  assert [path.name for path in tmp_path.iterdir()] == ['w']


def test_what_a_killed_process_of_the_same_number_left_is_removed(tmp_path):
  # As process 1 of a container that was started again.
  left = tmp_path / f'.w.tmp{os.getpid()}'
  left.mkdir()
  (left / 'params').write_text('half')
  save_weights(tmp_path / 'w', PARAMS, {})
  assert [path.name for path in tmp_path.iterdir()] == ['w']


def test_half_precision_safetensors_come_back_as_float32(tmp_path):
  half = {name: x.astype(np.float16) for name, x in PARAMS.items()}
  safetensors.numpy.save_file(half, tmp_path / 'w.safetensors', metadata={'info': json.dumps({'kind': 'demo'})})
  params, info = load_weights(tmp_path / 'w.safetensors')
  assert info == {'kind': 'demo'}
  assert {x.dtype for x in params.values()} == {np.dtype(np.float32)}


def test_info_that_is_no_json_is_reported(tmp_path):
  (tmp_path / 'weights.json').write_text('{"kind": ')
  with pytest.raises(UserError, match='are damaged .weights.json: Expecting value'):
    read_info(tmp_path)


def _no_folder(folder):
  return folder / 'nothing', 'do not exist'


def _other_folder(folder):
  (folder / 'w').mkdir()
  return folder / 'w', 'no weights.json'


def _truncated(folder):
  save_weights(folder / 'w', PARAMS, {})
  for path in (folder / 'w' / 'params').rglob('*'):
    if path.is_file() and path.name != 'weights.json':
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  return folder / 'w', 'damaged'


def _not_safetensors(folder):
  (folder / 'w.safetensors').write_bytes(b'<html>not found</html>')
  return folder / 'w.safetensors', 'damaged'


def _without_info(folder):
  safetensors.numpy.save_file(PARAMS, folder / 'w.safetensors')
  return folder / 'w.safetensors', 'brainjax convert'


@pytest.mark.parametrize('make', [_no_folder, _other_folder, _truncated, _not_safetensors, _without_info])
def test_bad_weights_are_one_sentence(tmp_path, make):
  path, message = make(tmp_path)
  with pytest.raises(UserError, match=message) as error:
    load_weights(path)
  assert path.name in str(error.value)


def _files(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def test_a_flipped_bit_in_weights_is_reported_with_the_name_of_the_file(tmp_path):
  save_weights(tmp_path / 'w', PARAMS, {'kind': 'test'})
  for file in _files(tmp_path / 'w'):
    shutil.copytree(tmp_path / 'w', tmp_path / 'copy')
    if file.stat().st_size:
      _flip(tmp_path / 'copy' / file.relative_to(tmp_path / 'w'))
      with pytest.raises(UserError, match='damaged') as error:
        load_weights(tmp_path / 'copy')
      assert file.name in str(error.value) and '\n' not in str(error.value)
    shutil.rmtree(tmp_path / 'copy')


def test_the_sums_are_those_of_the_command_sha256sum(tmp_path):
  save_weights(tmp_path / 'w', PARAMS, {})
  done = subprocess.run(
    ['sha256sum', '--check', '--strict', 'SHA256SUMS'], cwd=tmp_path / 'w', capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout
  assert done.stdout.count(': OK\n') == len(_files(tmp_path / 'w')) - 1


def _state(step):
  return {'w': jnp.full((7, 9), float(step)), 'step': jnp.int32(step)}


def _abstract():
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _state(0))


def _three_checkpoints(folder, best=None):
  checkpoints = RunCheckpoints(folder, best)
  for step, loss in ((2, 0.5), (4, 0.1), (6, 0.3), (8, 0.2)):
    checkpoints.save(step, _state(step), {'data': {'position': step}}, {'loss': loss} if best else None)
  checkpoints.close()


def _truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_two_newest_and_the_best_are_kept_and_read_again(tmp_path):
  _three_checkpoints(tmp_path, 'loss')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['4', '6', '8']
  checkpoints = RunCheckpoints(tmp_path, 'loss')
  step, state, notes = checkpoints.latest(_abstract())
  assert (step, int(state['step']), notes) == (8, 8, {'data': {'position': 8}})
  np.testing.assert_array_equal(state['w'], 8.0)
  assert checkpoints.best(_abstract())[0] == 4
  checkpoints.close()


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path):
  checkpoints = RunCheckpoints(tmp_path, 'loss')
  for step, loss in ((2, 0.5), (4, np.nan), (6, np.inf), (8, 0.7)):
    checkpoints.save(step, _state(step), {}, {'loss': loss})
  checkpoints.wait()
  assert checkpoints.best(_abstract())[0] == 2 and checkpoints.latest(_abstract())[0] == 8
  checkpoints.close()


def test_weights_are_read_for_their_sums_once(tmp_path, monkeypatch):
  save_weights(tmp_path / 'w', {'a/b': np.ones((7, 8), np.float32)}, {'kind': 'x'})
  hashed = []
  monkeypatch.setattr(files, 'sha256', lambda path, whole=files.sha256: hashed.append(path) or whole(path))
  for _ in range(3):
    check_weights(tmp_path / 'w')
    load_weights(tmp_path / 'w')
  names = [path.relative_to(tmp_path / 'w') for path in hashed]
  assert len(names) == len(set(names)) > 1
  info = tmp_path / 'w' / 'weights.json'
  info.write_text(info.read_text().replace('x', 'y'))  # as long as before
  with pytest.raises(UserError, match='damaged: weights.json is not as it was written'):
    load_weights(tmp_path / 'w')


@pytest.mark.parametrize(
  'harm', [_truncate, _flip, lambda path: path.unlink()], ids=['truncated', 'flipped', 'deleted']
)
def test_damage_in_the_newest_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, harm, capsys):
  _three_checkpoints(tmp_path / 'whole')
  names = [str(file.relative_to(tmp_path / 'whole' / '8')) for file in _files(tmp_path / 'whole' / '8')]
  harmed = [name for name in names if name not in UNSUMMED]
  assert len(harmed) > 6
  for number, name in enumerate(harmed):
    folder = tmp_path / str(number)
    shutil.copytree(tmp_path / 'whole', folder)
    harm(folder / '8' / name)
    checkpoints = RunCheckpoints(folder, None)
    step, state, notes = checkpoints.latest(_abstract())
    assert (step, int(state['step']), notes['data']) == (6, 6, {'position': 6})
    said = capsys.readouterr().out
    assert said.count('\n') == 1 and 'checkpoint 8' in said and '6 is used' in said
    assert name in said
    assert sorted(path.name for path in folder.iterdir()) == ['6', '8.1']
    # The run goes on over that step.
    checkpoints.save(8, _state(8), {'data': {}}, None)
    checkpoints.close()
    assert find_damage(folder / '8') == '' and find_damage(folder / '6') == ''


@pytest.mark.parametrize(
  'harm', [_truncate, _flip, lambda path: path.unlink()], ids=['truncated', 'flipped', 'deleted']
)
def test_the_one_file_without_a_sum_decides_nothing(tmp_path, harm):
  _three_checkpoints(tmp_path)
  for name in UNSUMMED:
    harm(tmp_path / '8' / name)
  checkpoints = RunCheckpoints(tmp_path, None)
  step, state, notes = checkpoints.latest(_abstract())
  assert (step, notes['data']) == (8, {'position': 8})
  np.testing.assert_array_equal(state['w'], 8.0)
  checkpoints.close()


def test_when_no_checkpoint_is_whole_nothing_is_moved_and_the_run_does_not_begin_anew(tmp_path):
  _three_checkpoints(tmp_path)
  for step in ('6', '8'):
    (tmp_path / step / 'notes' / 'metadata').unlink()
  checkpoints = RunCheckpoints(tmp_path, None)
  with pytest.raises(UserError, match='every checkpoint .* is damaged .*8: notes/metadata is missing .*; 6: '):
    checkpoints.latest(_abstract())
  checkpoints.close()
  assert sorted(path.name for path in tmp_path.iterdir()) == ['6', '8']


def test_what_a_killed_save_left_is_no_checkpoint_and_is_removed(tmp_path):
  _three_checkpoints(tmp_path)
  shutil.copytree(tmp_path / '8', tmp_path / '10.orbax-checkpoint-tmp')
  checkpoints = RunCheckpoints(tmp_path, None)
  assert checkpoints.latest(_abstract())[0] == 8
  checkpoints.save(10, _state(10), {}, None)
  checkpoints.close()
  assert sorted(path.name for path in tmp_path.iterdir()) == ['10', '8']


def test_a_folder_of_a_stage_is_refused_as_weights(tmp_path):
  save_weights(tmp_path / 'diffuse' / 'weights', {'a': np.ones(3, np.float32)}, {})
  for folder in (tmp_path, tmp_path / 'diffuse'):
    with pytest.raises(UserError, match='holds no weights.json.*name .*diffuse/weights'):
      load_weights(folder)


def test_what_a_killed_deletion_left_is_no_checkpoint_and_is_removed(tmp_path, monkeypatch):
  with monkeypatch.context() as killed:  # its files are still there, or some of them
    killed.setattr('brainjax.checkpoints.RunCheckpoints._delete_no_longer_kept', lambda self: None)
    _three_checkpoints(tmp_path)
  left = tmp_path / checkpoints_module.NO_LONGER_KEPT
  assert sorted(path.name for path in left.iterdir()) == ['2', '4']
  shutil.rmtree(left / '4' / 'state')
  checkpoints = RunCheckpoints(tmp_path, None)
  assert checkpoints.latest(_abstract())[0] == 8
  assert sorted(path.name for path in tmp_path.iterdir()) == ['6', '8']
  checkpoints.close()


@pytest.mark.parametrize('best', (None, 'loss'))
def test_what_a_kill_between_the_last_save_and_the_deletion_left_is_removed_at_the_end(tmp_path, best):
  _three_checkpoints(tmp_path, best)
  kept = sorted(path.name for path in tmp_path.iterdir())
  shutil.copytree(tmp_path / '6', tmp_path / '3')  # its score is not the best, its step not among the newest
  checkpoints = RunCheckpoints(tmp_path, best)
  assert checkpoints.latest(_abstract())[0] == 8
  checkpoints.wait()
  assert sorted(path.name for path in tmp_path.iterdir()) == kept
  assert checkpoints.best(_abstract())[0] == (4 if best else 8)
  checkpoints.close()


def test_weights_on_a_full_disk_are_one_sentence_though_every_array_fails(tmp_path):
  script = """
import resource, sys
import numpy as np
from brainjax.checkpoints import save_weights
from brainjax.errors import command_line
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))  # a file of more than 1 MiB does not fit
arrays = {f'a{i}': np.random.default_rng(i).standard_normal(2**19) for i in range(40)}
sys.exit(command_line(save_weights)(sys.argv[1], arrays, {}))
"""
  ended = subprocess.run(
    [sys.executable, '-c', script, str(tmp_path / 'weights')], capture_output=True, text=True, check=False
  )
  assert ended.returncode == 2, ended.stderr
  assert ended.stderr.count('\n') == 1 and 'weights cannot be written (File too large)' in ended.stderr, ended.stderr
  assert not (tmp_path / 'weights').exists()


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_is_intact(tmp_path):
  _three_checkpoints(tmp_path)
  checkpoints = RunCheckpoints(tmp_path, None)
  large = {'w': jnp.asarray(np.random.default_rng(0).standard_normal(2**20), jnp.float32)}
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))  # a file of more than 1 MiB does not fit
  try:
    with pytest.raises(
      UserError, match=r'step 10 .* cannot be written \(File too large\); earlier saves are intact'
    ) as error:
      checkpoints.save(10, large, {}, None)
      checkpoints.wait()
    assert '\n' not in str(error.value)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  again = RunCheckpoints(tmp_path, None)
  assert again.latest(_abstract())[0] == 8
  assert find_damage(tmp_path / '8') == '' and find_damage(tmp_path / '6') == ''
  again.close()
