"""The console command: it finds commands, configs and the demo's weights from any folder."""

import subprocess
import sys

import pytest

from brainjax import __main__ as console
from brainjax import hosts, launch, locate, pipeline
from brainjax.checkpoints import load_weights, read_info
from brainjax.errors import UserError


@pytest.fixture
def runs(monkeypatch, tmp_path):
  """What `pipeline.run` is called with, in an empty folder."""
  calls = []
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(pipeline, 'run', lambda *args: calls.append(args))
  monkeypatch.setattr(hosts, 'join', lambda *args: None)  # only a fresh process can
  monkeypatch.setattr(sys, 'path', list(sys.path))
  return calls


@pytest.mark.parametrize(
  'argv, name, steps',
  [
    (['demo'], 'demo', 850),
    (['demo', '--quick', '--config.diffuse.num_steps=3'], 'demo_quick', 3),
    (['train', '--config=demo'], 'demo', 850),
    (['train', '--config', 'configs/demo.py'], 'demo', 850),
  ],
)
def test_a_name_selects_a_config_of_the_package(runs, argv, name, steps):
  assert console.main(argv) == 0
  ((config, workdir, stages, asked, accepted),) = runs
  assert config.diffuse.num_steps == steps and str(workdir) == f'runs/{name}'
  assert (stages, asked, accepted) == (
    ('contrast', 'attend', 'diffuse', 'reconstruct', 'evaluate', 'interpret'),
    False,
    [],
  )


def test_a_config_of_the_user_starts_from_one_of_the_package(runs, tmp_path):
  (tmp_path / 'mine.py').write_text(
    'from configs import demo\n\ndef get_config():\n  config = demo.get_config()\n  config.seed = 41\n  return config\n'
  )
  assert console.main(['train', '--config=mine.py', '--workdir=here', '--stages=attend']) == 0
  ((config, workdir, stages, asked, _),) = runs
  assert (config.seed, config.fmri_mae.width, str(workdir)) == (41, 256, 'here')
  assert (stages, asked) == (('attend',), True)


def test_a_file_of_the_user_comes_before_one_of_the_package(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'demo.py').write_text('')
  assert locate.config('configs/demo.py') == 'configs/demo.py'
  assert locate.config('demo') == str(locate.CONFIGS / 'demo.py')


@pytest.mark.parametrize('argv', [['train', '--config=dem'], ['frobnicate']])
def test_an_unknown_name_lists_those_that_exist(runs, capsys, argv):
  assert console.main(argv) == 2
  told = capsys.readouterr().err
  assert told.startswith('error: ') and 'demo' in told and told.count('\n') == 1 and not runs


def test_the_module_of_the_training_loop_names_the_command():
  done = subprocess.run([sys.executable, '-m', 'brainjax.train', '--config=nonsense'], capture_output=True, text=True)
  assert (done.returncode, done.stdout) == (2, '') and done.stderr.endswith('the command is: brainjax train.\n')


def test_help_and_version(capsys):
  assert console.main([]) == 0
  told = capsys.readouterr().out
  assert all(name in told for name in console.COMMANDS)
  assert console.main(['--version']) == 0 and capsys.readouterr().out.strip()[0].isdigit()
  assert launch.main(['--help']) == 0 and '--accept_changes' in capsys.readouterr().out


def test_the_demo_reads_its_weights_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert read_info('configs/demo_prior.safetensors')['kind'] == 'demo_prior'
  flat, _ = load_weights('configs/demo_classifier.safetensors')
  assert len(flat) > 10
  with pytest.raises(UserError, match='configs/nothing.safetensors do not exist'):
    load_weights('configs/nothing.safetensors')
