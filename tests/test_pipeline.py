"""All stages through launch.py with the tiny config, as a user runs them."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from packaging.requirements import Requirement

from brainjax import pipeline, workdirs
from brainjax.checkpoints import load_weights, save_weights
from brainjax.convert import main as convert
from brainjax.errors import UserError
from brainjax.evaluation.report.provenance import weights_digest
from brainjax.files import write_json
from brainjax.metric_writer import read_metrics
from brainjax.models.clip import ClipVision
from brainjax.trees import flatten
from configs import hcp_contrast, tiny
from tests.datasets import raw_files
from tests.models.converted import random_variables

ROOT = Path(__file__).parent.parent
STAGES = ('contrast', 'attend', 'diffuse', 'reconstruct', 'evaluate')


def launch(workdir, *flags, config='tiny', **environment):
  command = [sys.executable, 'launch.py', f'--config=configs/{config}.py', f'--workdir={workdir}', *flags]
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'} | environment
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment)


# As sitecustomize.py: what is named in the variable cannot be imported.
HIDING = """
import os, sys
hidden = set(os.environ['HIDDEN'].split())
class Hide:
  def find_spec(name, path=None, target=None):
    if name.split('.')[0] in hidden:
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Hide)
"""


def _normal(name):
  return re.sub('[-_.]+', '-', name).lower()


def _add_what_comes_with(requirement, found):
  """Adds the names of the distributions that a requirement installs."""
  name, extras = _normal(requirement.name), ('', *requirement.extras)
  if not {(name, extra) for extra in extras} <= found:
    found |= {(name, extra) for extra in extras}
    for needed in map(Requirement, importlib.metadata.requires(name) or ()):
      if not needed.marker or any(needed.marker.evaluate({'extra': extra}) for extra in extras):
        _add_what_comes_with(needed, found)


def _what_only_tests_have():
  """Modules that are here and that requirements.txt does not install."""
  found = {('setuptools', ''), ('pip', '')}
  for line in (ROOT / 'requirements.txt').read_text().splitlines():
    if line.split('#')[0].strip():
      _add_what_comes_with(Requirement(line.split('#')[0]), found)
  installed = {name for name, _ in found} | {'brainjax'}
  owners = importlib.metadata.packages_distributions()
  return {module for module, names in owners.items() if not {_normal(name) for name in names} & installed}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  # Users of the demo have requirements.txt alone: a package of the tests must not stand in for one that it forgets.
  hidden = _what_only_tests_have()
  assert {'torch', 'pytest'} <= hidden and 'jax' not in hidden
  (folder / 'sitecustomize.py').write_text(HIDING)
  done = launch(folder / 'tiny', HIDDEN=' '.join(hidden), PYTHONPATH=str(folder))
  assert done.returncode == 0, done.stdout + done.stderr
  return folder / 'tiny'


def test_every_stage_leaves_its_result(finished):
  for name in STAGES:
    assert (finished / name / 'complete.json').is_file()
    assert json.loads((finished / name / 'config.json').read_text())['seed'] == 7
  with np.load(finished / 'reconstruct' / 'images.npz', allow_pickle=False) as archive:
    assert archive['samples'].shape == (9, 2, 32, 32, 3) and archive['samples'].dtype == np.uint8
    assert archive['stimuli'].shape == (9, 32, 32, 3)
  scores = json.loads((finished / 'scores.json').read_text())
  assert (scores['num_items'], scores['num_samples']) == (9, 2)
  assert 'ridge' in scores['baselines']
  for picture in ('pictures.png', 'training_curves.png'):
    assert (finished / picture).read_bytes()[:4] == b'\x89PNG'


def test_a_second_run_skips_what_is_complete_wherever_the_workdir_is_now(finished, tmp_path):
  moved = tmp_path / 'moved'
  shutil.copytree(finished, moved)
  before = (moved / 'reconstruct' / 'images.npz').stat().st_mtime_ns
  assert str(finished) not in ''.join((moved / name / 'config.json').read_text() for name in STAGES)
  done = launch(moved)
  assert done.returncode == 0, done.stderr
  assert [line.split(':')[0] for line in done.stdout.splitlines() if 'skipped' in line] == list(STAGES)
  assert (moved / 'reconstruct' / 'images.npz').stat().st_mtime_ns == before


def _flipped(folder):
  save_weights(folder / 'w', {'a': np.ones(7, np.float32)}, {'kind': 'phase1', 'settings': {}})
  file = folder / 'w' / 'weights.json'
  file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
  return str(folder / 'w')


@pytest.mark.parametrize(
  'field,value,told',
  [
    ('attend.image_init_from', '/nowhere/vit', 'do not exist'),
    ('diffuse.prior_init_from', '', 'no weights are named'),
    ('diffuse.init_from', _flipped, 'damaged: weights.json'),
    ('evaluate.classifier', '/nowhere/classifier', 'does not exist'),
    ('evaluate.features', ('/nowhere/features',), 'does not exist'),
    ('evaluate.published', ('pixels', '/nowhere/clip'), 'does not exist'),
  ],
)
def test_weights_of_later_stages_are_asked_for_before_the_first_stage_begins(tmp_path, field, value, told):
  config = tiny.get_config()
  section, name = field.split('.')
  config[section][name] = value(tmp_path) if callable(value) else value
  if name in ('image_init_from', 'prior_init_from'):
    config[section].random_init = False
  with pytest.raises(UserError, match=rf'config\.{field} = .*{told}'):
    pipeline.run(config, tmp_path / 'run', STAGES, asked=False)
  assert not (tmp_path / 'run').exists()


def test_all_missing_weights_are_named_at_once(tmp_path):
  config = tiny.get_config()
  config.attend.random_init = config.diffuse.random_init = False
  config.attend.image_init_from, config.diffuse.prior_init_from = '/nowhere/vit', '/nowhere/prior'
  config.evaluate.classifier = '/nowhere/classifier'
  with pytest.raises(UserError) as caught:
    pipeline.run(config, tmp_path / 'run', STAGES, asked=False)
  first, *lines = str(caught.value).splitlines()
  assert first == '3 weights are missing:'
  for line, name, place in zip(
    lines, ('vit_mae', 'label2img', 'vit_h_14'), ('vit', 'prior', 'classifier'), strict=True
  ):
    assert f'brainjax fetch {name}' in line and f'/nowhere/{place}' in line


def test_a_stage_needs_the_result_of_the_one_before_it(tmp_path):
  with pytest.raises(
    UserError, match='stage reconstruct starts from the result of stage diffuse: .* train that stage first'
  ):
    pipeline.run(tiny.get_config(), tmp_path, ('reconstruct', 'evaluate'), asked=True)


def test_another_config_in_the_same_workdir_is_refused(finished):
  done = launch(finished, '--config.attend.learning_rate=0.5')
  assert done.returncode == 2 and 'attend.learning_rate (there 5.3e-05, here 0.5)' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('change', ['contrast.batch_size=4', 'seed=8'])
def test_another_batch_or_order_of_the_data_is_refused(finished, change):
  field, value = change.split('=')
  done = launch(finished, f'--config.{change}')
  assert done.returncode == 2 and f'{field} (there ' in done.stderr and f'here {value})' in done.stderr
  assert f'--accept_changes={field}' in done.stderr


def test_accept_changes_resumes_with_another_batch_size(finished, tmp_path):
  workdir = tmp_path / 'run'
  for name in ('simulated', 'prepared', 'contrast'):
    shutil.copytree(finished / name, workdir / name)
  (workdir / 'contrast' / 'complete.json').unlink()
  changes = {'contrast.batch_size': 4, 'contrast.num_steps': 4, 'seed': 8}
  flags = [f'--config.{field}={value}' for field, value in changes.items()]
  done = launch(workdir, '--stages=contrast', *flags, f'--accept_changes={",".join(changes)}', '--config.log_every=1')
  assert done.returncode == 0, done.stderr
  assert 'contrast: resumes with another contrast.batch_size, contrast.num_steps, seed' in done.stdout
  assert json.loads((workdir / 'contrast' / 'config.json').read_text())['seed'] == 8
  # What steps 1 and 2 told stays; the run goes on behind them.
  told = [line for line in read_metrics(workdir / 'contrast' / 'metrics.jsonl') if line['split'] == 'train']
  before = [line for line in read_metrics(finished / 'contrast' / 'metrics.jsonl') if line['split'] == 'train']
  assert told[: len(before)] == before and [line['step'] for line in told[len(before) :]] == [3, 4]


def test_sampling_again_keeps_the_old_pictures_and_scores_by_a_network_of_the_users(finished, tmp_path):
  sizes = {
    'image_size': 14,
    'patch_size': 7,
    'width': 24,
    'depth': 1,
    'num_heads': 2,
    'mlp_dim': 9,
    'projection_dim': 5,
  }
  clip = random_variables(ClipVision(**sizes), np.zeros((1, 14, 14, 3), np.float32))
  save_weights(tmp_path / 'clip', flatten(clip['params']), {'kind': 'clip', 'settings': sizes})
  features = f'--config.evaluate.features=("{tmp_path / "clip"}",)'
  published = '--config.evaluate.published=("alexnet",)'
  done = launch(finished, '--stages=reconstruct,evaluate', '--config.reconstruct.num_samples=1', features, published)
  assert done.returncode == 0, done.stderr
  scores = json.loads((finished / 'scores.json').read_text())
  assert scores['scores']['pairwise_clip24']['chance'] == 0.5 and scores['fid']['clip24']['baselines']['ridge'] > 0
  assert scores['scores']['alexnet5']['chance'] == 0.5 and 'SHA-256' in scores['published_networks']['alexnet2']
  report = (finished / 'report.html').read_text()
  assert 'Frechet distance (FID) of features' in report and weights_digest(flatten(clip['params'])) in report
  with np.load(finished / 'reconstruct' / 'images.npz') as archive:
    new = archive['samples']
  with np.load(finished / 'reconstruct.1' / 'images.npz') as archive:
    old = archive['samples']
  assert new.shape[1] == 1 and old.shape[1] == 2
  np.testing.assert_array_equal(new[:, 0], old[:, 0])  # a sample depends on its own number alone


def test_training_never_sees_test_data(finished, tmp_path):
  # Other test responses and other test pictures: the trained weights are the same bits.
  shutil.copytree(finished / 'simulated', tmp_path / 'run' / 'simulated')
  folder = tmp_path / 'run' / 'simulated' / 'Kamitani' / 'npz'
  rng = np.random.default_rng(0)
  for name, fields in (('sbj_1.npz', ('arr_1', 'arr_2')), ('images_256.npz', ('test_images',))):
    with np.load(folder / name) as archive:
      arrays = dict(archive)
    for field in fields:
      arrays[field] = rng.permutation(arrays[field].reshape(-1)).reshape(arrays[field].shape)
    np.savez(folder / name, **arrays)
  stages = STAGES[:3]
  done = launch(tmp_path / 'run', f'--stages={",".join(stages)}')
  assert done.returncode == 0, done.stderr
  for stage in stages:
    ours, _ = load_weights(tmp_path / 'run' / stage / 'weights')
    before, _ = load_weights(finished / stage / 'weights')
    assert all(np.array_equal(ours[path], before[path]) for path in before)


def test_the_message_about_missing_weights_says_where_to_get_them(tmp_path):
  done = launch(tmp_path / 'run', '--stages=diffuse', '--config.diffuse.random_init=False')
  assert done.returncode == 2 and 'diffuse.prior_init_from' in done.stderr and 'brainjax convert' in done.stderr
  assert 'Traceback' not in done.stderr


def test_a_stage_does_not_start_from_one_of_another_config(finished):
  done = launch(finished, '--stages=attend', '--config.fmri_mae.width=48')
  assert (
    done.returncode == 2 and 'contrast was made with another config: fmri_mae.width (there 24, here 48)' in done.stderr
  )


def test_trained_weights_go_to_pytorch_and_back_and_start_a_stage(finished, tmp_path):
  pytest.importorskip('torch')
  convert([f'{finished}/attend/weights', '--to_torch', f'--out={tmp_path}/phase2.pth'])
  convert([f'{tmp_path}/phase2.pth', f'--out={tmp_path}/phase2'])
  back, info = load_weights(tmp_path / 'phase2')
  trained, _ = load_weights(finished / 'attend' / 'weights')
  assert info['kind'] == 'phase2'
  assert all(np.array_equal(x, trained[f'fmri/{path}']) for path, x in back.items())
  done = launch(tmp_path / 'run', '--stages=diffuse', f'--config.diffuse.init_from={tmp_path}/phase2')
  assert done.returncode == 0, done.stderr
  ours, _ = load_weights(tmp_path / 'run' / 'diffuse' / 'weights')
  before, _ = load_weights(finished / 'diffuse' / 'weights')
  assert all(np.array_equal(ours[path], before[path]) for path in before)


def test_the_report_shows_the_run(finished):
  text = (finished / 'report.html').read_text()
  for section in ('scores', 'gallery', 'denoising', 'training', 'fmri', 'provenance'):
    assert f'<section id="{section}"' in text
  for stage in ('contrast', 'attend', 'diffuse'):
    assert f'alt="{stage} loss: train ends at' in text  # its training curve
  assert text.count('masked voxels: r = ') == 6  # three responses of contrast, three of attend
  flat, _ = load_weights(finished / 'diffuse' / 'weights')
  assert weights_digest(flat) in text and '0 of 9 test categories have pictures in the training set' in text
  scores = json.loads((finished / 'scores.json').read_text())
  assert scores['subsets']['category not seen in training']['num_items'] == 9
  assert scores['noise_ceiling']['sbj_1']['repetitions'] == [35, 35]
  assert all(len(picture) > 100 for picture in text.split('src="data:image/')[1:])
  assert 'http' not in text.replace('http-equiv', '')


def test_the_replay_of_a_step_as_the_docs_have_it(finished):
  text = (ROOT / 'docs' / 'robustness.md').read_text()
  code = text.split('```python\n')[1].split('```')[0]
  code = (
    code.replace("Path('runs/god_sbj3')", f'Path({str(finished)!r})').replace('god_sbj3', 'tiny').replace('1234', '2')
  )
  rng = np.random.default_rng(0)
  batch = {'fmri': rng.standard_normal((8, 80)).astype(np.float32), 'weight': np.ones(8, np.float32)}
  for broken in (False, True):
    batch['fmri'][3, 5] = np.nan if broken else 0
    np.savez(finished / 'contrast' / 'nonfinite_step2.npz', **batch)
    script = f'{code}\nprint(float(metrics["loss"]), int(state.step))'
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.returncode == 0) != broken, done.stderr
    if broken:
      assert 'FloatingPointError' in done.stderr
    else:
      assert done.stdout.split()[-1] == '2' and np.isfinite(float(done.stdout.split()[-2]))
  (finished / 'contrast' / 'nonfinite_step2.npz').unlink()


def test_the_notebook_runs(finished, monkeypatch):
  nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
  pytest.importorskip('ipykernel')
  notebook = nbformat.read(ROOT / 'notebooks' / 'reconstruct.ipynb', as_version=4)
  monkeypatch.setenv('BRAINJAX_RUN', str(finished))
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  # The kernel finds the package where this test runs, installed or not.
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  done = nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': str(ROOT / 'notebooks')}}
  ).execute()
  outputs = [output for cell in done.cells if cell.cell_type == 'code' for output in cell.outputs]
  told = ''.join(output.get('text', '') for output in outputs if output.get('name') == 'stdout')
  assert told.count('these weights expect numbers') == 2 and 'first in trial 1, voxel 5' in told
  assert sum('image/png' in output.get('data', {}) for output in outputs) == 3
  shapes = [output.data['text/plain'] for output in outputs if 'text/plain' in output.get('data', {})]
  assert "((4, 4, 32, 32, 3), dtype('uint8'))" in shapes


def test_a_network_of_another_kind_does_not_judge(tmp_path):
  save_weights(tmp_path / 'w', {'a': np.ones(7, np.float32)}, {'kind': 'clip', 'settings': {}})
  config = tiny.get_config()
  config.evaluate.classifier = str(tmp_path / 'w')
  with pytest.raises(UserError, match=r'config\.evaluate\.classifier = .* is CLIP, which has no classes'):
    pipeline.run(config, tmp_path / 'run', STAGES, asked=False)
  config.evaluate.classifier, config.evaluate.features = '', ('{workdir}/w',)
  shutil.copytree(tmp_path / 'w', tmp_path / 'run' / 'w')
  with pytest.raises(UserError, match='images.npz'):  # the features are in order, and asked for first
    pipeline.run(config, tmp_path / 'run', ('evaluate',), asked=False)


def test_the_message_about_too_little_memory_says_what_to_change(tmp_path, monkeypatch):
  def train(config, workdir):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.')

  monkeypatch.setattr(pipeline, '_prepare_run', lambda *_: None)
  monkeypatch.setitem(pipeline.STAGES, 'attend', pipeline.STAGES['attend']._replace(make=train))
  with pytest.raises(
    UserError, match='stage attend .*Out of memory.* batch_size .*config.mesh.fsdp.*config.remat to everything'
  ):
    pipeline.run(tiny.get_config(), tmp_path, ('attend',), asked=True)


def test_each_stage_needs_its_own_raw_files_alone(tmp_path):
  config = hcp_contrast.get_config()
  config.data.update({'hcp': str(tmp_path / 'HCP'), 'god': '/nowhere', 'prepared': str(tmp_path / 'out')})
  raw_files.write_hcp(tmp_path / 'HCP')
  pipeline.prepare_data(config, tmp_path / 'run', ('contrast',))
  assert [path.name for path in (tmp_path / 'out').iterdir() if path.is_dir()] == ['hcp']
  # Stages after a contrast that is complete: without HCP.
  config.data.update({'hcp': '/nowhere', 'god': str(tmp_path / 'god')})
  raw_files.write_god(tmp_path / 'god')
  pipeline.prepare_data(config, tmp_path / 'run', ('attend', 'reconstruct'))
  assert [path.name for path in (tmp_path / 'out' / 'god').iterdir()] == ['sbj_3']
  pipeline.prepare_data(config, tmp_path / 'run', ())


def test_stages_that_saw_other_raw_files_do_not_go_together(tmp_path):
  (tmp_path / 'attend' / 'weights').mkdir(parents=True)
  (tmp_path / 'attend' / 'complete.json').write_text('{}')
  (tmp_path / 'attend' / 'weights' / 'weights.json').write_text('{"inputs": {"raw files of god/sbj_1": "80"}}')
  workdirs.refuse_other_raw_files(
    tmp_path, ('diffuse',), {'raw files of god/sbj_1': '80', 'raw files of god/sbj_2': '64'}
  )
  with pytest.raises(UserError, match='changed since .*attend was made: raw files of god/sbj_1. Put the old'):
    workdirs.refuse_other_raw_files(tmp_path, ('diffuse',), {'raw files of god/sbj_1': '64'})


def test_other_raw_files_of_the_same_shape_are_refused_by_later_stages(finished, tmp_path):
  workdir = tmp_path / 'run'
  for name in ('simulated', 'prepared', 'contrast', 'attend', 'diffuse'):
    shutil.copytree(finished / name, workdir / name)
  file = workdir / 'simulated' / 'Kamitani' / 'npz' / 'sbj_1.npz'
  with np.load(file) as archive:
    arrays = dict(archive)
  np.savez(file, **arrays | {'arr_0': arrays['arr_0'][::-1]})
  config = workdirs.fill_in_paths(tiny.get_config(), workdir)
  with pytest.raises(UserError, match='changed since .*contrast was made: raw files of god/sbj_1'):
    pipeline.run(config, workdir, ('reconstruct',), asked=True)


def test_what_selects_a_checkpoint_or_changes_the_loss_is_compared(tmp_path, monkeypatch):
  config = tiny.get_config()

  def kept(name='contrast'):
    return workdirs.relevant(config, tmp_path, name)

  assert 'eval_every' not in kept()['contrast'] and 'mesh' not in kept()
  config.contrast.select = 'best'
  assert kept()['contrast']['eval_every'] == 2 and 'checkpoint_every' not in kept()['contrast']
  config.contrast.negatives = 'per_device'
  (tmp_path / 'contrast' / 'checkpoints' / '1').mkdir(parents=True)
  write_json(tmp_path / 'contrast' / 'config.json', kept())
  workdirs.refuse_other_config(config, config, tmp_path, 'contrast', False, ())
  (tmp_path / 'contrast' / 'config.json').rename(tmp_path / 'lost')
  with pytest.raises(UserError, match='contrast holds results, but no config.json'):
    workdirs.refuse_other_config(config, config, tmp_path, 'contrast', False, ())
  (tmp_path / 'lost').rename(tmp_path / 'contrast' / 'config.json')
  monkeypatch.setattr(jax, 'device_count', lambda: 9)
  with pytest.raises(UserError, match=r'mesh.devices \(there 1, here 9\)'):
    workdirs.refuse_other_config(config, config, tmp_path, 'contrast', False, ())
  workdirs.refuse_unknown_fields(config, ('mesh.devices',))
  workdirs.refuse_other_config(config, config, tmp_path, 'contrast', False, ('mesh.devices',))
  write_json(tmp_path / 'contrast' / 'complete.json', {})
  workdirs.refuse_other_config(config, config, tmp_path, 'contrast', False, ())


def test_the_time_left_over_all_stages():
  config = tiny.get_config()
  assert pipeline._time_left(config, {'contrast': 10.0}, STAGES) == ''
  config.stage_minutes = (1.0, 2.0, 4.0, 1.0, 2.0)
  # This machine took 30 s where that one takes a minute; 9 minutes there are 4.5 here.
  assert pipeline._time_left(config, {'contrast': 30.0}, STAGES) == ', about 4 min left'
  assert pipeline._time_left(config, {'contrast': 30.0, 'attend': 60.0}, ('contrast', 'attend', 'evaluate')) == (
    ', about 60 s left'
  )
  assert pipeline._time_left(config, {'evaluate': 5.0}, ('evaluate',)) == ''
  config.stages = ('contrast', 'mine')
  assert pipeline._time_left(config, {'contrast': 5.0}, ('contrast', 'mine')) == ''
