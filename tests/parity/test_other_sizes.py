"""The parity command on files of other sizes, seeds and hyperparameters, with numbers of PyTorch models."""

import json
import re

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from brainjax.parity.__main__ import main  # noqa: E402
from configs import god_sbj3_released  # noqa: E402
from tests.parity import write_autoencoders, write_data, write_diffusion  # noqa: E402

torch.set_num_threads(1)  # tiny models: more threads only wait for each other

FILES = {
  'data': write_data.data,
  'cond': write_autoencoders.cond,
  'vqvae': write_diffusion.vqvae,
  'phase1': write_autoencoders.phase1,
  'phase2': write_autoencoders.phase2,
  'unet': write_diffusion.unet,
  'diffusion': write_diffusion.diffusion,
}
QUICK = ('data', 'cond')
# Where the hyperparameters of a file differ from those of the published run.
HYPERPARAMETERS = {
  'phase1': {
    'contrast.mask_ratio': 0.6,
    'contrast.cross_weight': 0.3,
    'contrast.clip_norm': 0.7,
    'contrast.weight_decay': 0.07,
  },
  'phase2': {
    'attend.mask_ratio': 0.5,
    'attend.image_mask_ratio': 0.3,
    'attend.fmri_weight': 0.4,
    'attend.image_weight': 1.1,
    'attend.clip_norm': 0.7,
    'attend.weight_decay': 0.07,
  },
  'diffusion': {'diffuse.clip_norm': 0.3, 'noise_schedule.start': 0.001, 'noise_schedule.end': 0.015},
}


@pytest.fixture
def use_config(monkeypatch):
  """Gives the published config the hyperparameters of a kind of file."""

  def use(kind):
    config = god_sbj3_released.get_config()
    config.update_from_flattened_dict(HYPERPARAMETERS.get(kind, {}))
    monkeypatch.setattr(god_sbj3_released, 'get_config', lambda: config)

  return use


@pytest.mark.parametrize('kind', [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in FILES])
def test_file_of_other_sizes(capsys, tmp_path, use_config, kind):
  use_config(kind)
  path = FILES[kind](tmp_path / f'{kind}.npz', seed=7)
  status = main([str(path), '--json', str(tmp_path / 'out.json')])
  output = capsys.readouterr()
  assert status == 0, output.err + '\n'.join(line for line in output.out.split('\n') if 'NO' in line)
  report = json.loads((tmp_path / 'out.json').read_text())
  assert report['files'][0]['kind'] == kind and not report['files'][0]['unknown']
  assert report['checked'] + report['skipped'] == report['arrays']


@pytest.mark.slow
def test_a_batch_of_one_whose_contrastive_losses_are_zero(tmp_path, use_config):
  use_config('phase1')
  assert main([str(write_autoencoders.phase1(tmp_path / 'one.npz', seed=3, batch=1))]) == 0


def damaged(path, change):
  """A conditioner's file with other arrays or another config."""
  with np.load(write_autoencoders.cond(path)) as archive:
    arrays = dict(archive)
  config = json.loads(str(arrays.pop('config_json')))
  change(arrays, config)
  np.savez(path, config_json=json.dumps(config), **arrays)
  return path


def wrong_heads(arrays, config):
  config['num_heads'] = 4


def test_a_wrong_number_of_heads_shows(capsys, tmp_path):
  assert main([str(damaged(tmp_path / 'a.npz', wrong_heads))]) == 1
  output = capsys.readouterr().out
  assert 'NO: same/nopool/cond' in output and output.strip().split('\n')[-1].startswith('parity: ')


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (
      lambda arrays, config: config.pop('num_heads'),
      'the number of heads assumed, since its config does not say it, is 16',
    ),
    (lambda arrays, config: config.pop('loaded_unchanged'), "config_json has no field 'loaded_unchanged'"),
    (lambda arrays, config: config.update(num_heads=5), 'does not divide the width 28'),
    (lambda arrays, config: arrays.pop('ckpt/norm.bias'), 'missing for: encoder/norm/bias'),
    (lambda arrays, config: arrays.pop('same/nopool/grad_norm/mae.norm.bias'), 'grad_norm/mae.norm.bias.* is missing'),
  ],
)
def test_what_does_not_fit_is_one_sentence(capsys, tmp_path, change, sentence):
  path = damaged(tmp_path / 'a.npz', change)
  assert main([str(path)]) == 2
  output = capsys.readouterr().err.strip()
  assert output.startswith(f'error: {path}') and '\n' not in output and re.search(sentence, output), output
