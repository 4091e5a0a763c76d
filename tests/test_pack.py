"""`brainjax pack` and `brainjax info`: everything is in the one file, and goes to PyTorch and back; the model card."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from brainjax import info, locate, pack
from brainjax.checkpoints import load_weights, read_info, save_weights
from brainjax.convert import main as convert
from brainjax.datasets.input_transform import InputTransform
from brainjax.encode import FmriEncoder
from brainjax.errors import UserError, command_line
from brainjax.evaluation.score import FORMAT
from brainjax.models.fmri_mae import FmriMAE
from brainjax.stages import common
from brainjax.trees import flatten


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A workdir as a run leaves it, as far as packing reads it: an fMRI autoencoder of contrast, and scores of the run."""
  folder = tmp_path_factory.mktemp('runs') / 'mine'
  mae = FmriMAE(
    num_voxels=32, patch_size=16, width=16, depth=1, num_heads=2, decoder_width=16, decoder_depth=1, decoder_num_heads=2
  )
  params = flatten(jax.jit(mae.init)(jax.random.key(0), *mae.example_inputs())['params'])
  raw = np.random.default_rng(3).normal(500, 10, (9, 31)).astype('f')
  transform = InputTransform.fit(
    raw, data_set='own', subject='s1', roi='VC', mask=np.ones(31, bool), patch_size=16, zscore='voxel'
  )
  facts = {'kind': 'contrast', 'settings': common.kwargs_of(mae), 'num_voxels': 32, 'input': [transform.to_json()]}
  save_weights(folder / 'contrast' / 'weights', params, facts)
  start = folder.parent / 'start'
  save_weights(start, {'a': np.ones(3)}, {'licence': 'CC BY-NC 4.0', 'origin': 'https://example.org/w.pth'})
  config = {
    'seed': 7,
    'data': {'hcp': str(Path.home() / 'HCP')},
    'simulate': {'enabled': True, 'folder': '{workdir}/simulated'},
    'attend': {'image_init_from': str(start), 'init_from': 'random'},
  }
  (folder / 'contrast' / 'config.json').write_text(json.dumps(config))
  (folder / 'contrast' / 'complete.json').write_text('{"seconds": 5400.0}')
  entry = {'value': 0.4, 'interval': [0.3, 0.5], 'null': {'mean': 0.1, 'interval': [0.0, 0.2], 'p_value': 0.0099}}
  scores = {
    'format': FORMAT,
    'num_items': 50,
    'num_samples': 5,
    'protocol': {'null': 'fMRI shuffled', 'num_shuffles': 100},
  }
  scores['scores'] = {'class_50_way_top_1': {'chance': 0.02, 'mean_of_samples': entry}}
  (folder / 'scores.json').write_text(json.dumps(scores))
  return folder, raw


def _same(source, other):
  (a, facts_a), (b, facts_b) = load_weights(source), load_weights(other)
  assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
  assert facts_a['input'] == facts_b['input']


def test_a_packed_run_is_its_weights_and_its_facts(run, tmp_path):
  folder, raw = run
  out = tmp_path / 'model'
  assert pack.main([str(folder), f'--out={out}', '--stage=contrast', '--licence=CC-BY-4.0']) == 0
  assert {path.name for path in out.iterdir()} == {'model.safetensors', 'README.md', 'run.json', 'SHA256SUMS'}
  _same(folder / 'contrast' / 'weights', out)
  facts = read_info(out / locate.PACKED)
  assert facts['run']['data'] == {'hcp': '~/HCP'}
  assert (facts['licence'], facts['run']['seed'], facts['hours']) == ('CC-BY-4.0', 7, {'contrast': 1.5})
  assert 'CC BY-NC 4.0, from https://example.org/w.pth' in facts['origins']['attend.image_init_from']
  assert facts['origins']['attend.init_from'] == 'random weights'
  tokens = FmriEncoder.from_pretrained(folder / 'contrast' / 'weights')(raw).tokens
  np.testing.assert_array_equal(FmriEncoder.from_pretrained(out)(raw).tokens, tokens)
  # The one file alone, elsewhere.
  (tmp_path / 'alone.safetensors').write_bytes((out / locate.PACKED).read_bytes())
  _same(out, tmp_path / 'alone.safetensors')
  with pytest.raises(UserError, match='exists already; nothing is overwritten'):
    pack.pack(folder, out)
  # The card may be edited; the rest is compared with its checksums.
  (out / 'README.md').write_text('mine')
  load_weights(out)
  (out / 'run.json').write_text('{}')
  with pytest.raises(UserError, match='run.json is not as it was written'):
    load_weights(out)


def test_to_torch_and_back_keeps_everything(run, tmp_path):
  folder, _ = run
  pack.pack(folder, tmp_path / 'model', 'contrast', 'CC-BY-4.0')
  for name in ('w.pth', 'w.safetensors'):
    command_line(convert)([str(tmp_path / 'model'), '--to_torch', f'--out={tmp_path / name}'])
    command_line(convert)([str(tmp_path / name), f'--out={tmp_path / name}_back'])
    _same(tmp_path / 'model', f'{tmp_path / name}_back')
    assert read_info(f'{tmp_path / name}_back')['licence'] == 'CC-BY-4.0'


def test_the_card_states_scores_limits_and_licences(run, tmp_path):
  scores = json.loads((run[0] / 'scores.json').read_text())
  transform = read_info(run[0] / 'contrast' / 'weights')['input']
  transform += [transform[0] | {'data_set': 'god'}]
  facts = {'kind': 'diffuse', 'licence': 'CC-BY-4.0', 'scores': scores, 'input': transform, 'hours': {'diffuse': 0.5}}
  facts |= {
    'run': {'simulate': {'enabled': True, 'folder': 's'}, 'data': {'dataset': 'god', 'god': 's/Kamitani'}},
    'settings': dict.fromkeys(('conditioner', 'unet', 'first_stage'), {}),
  }
  card = pack.card('m', facts, 12_345, tmp_path)
  _, top, body = card.split('---\n', 2)
  assert yaml.safe_load(top) == yaml.safe_load(top) | {'license': 'cc-by-4.0'} and 'license_name' not in top
  for text in (
    '12,345 parameters',
    '| class_50_way_top_1 | 0.400 | 0.300 to 0.500 | 0.02 | 0.000 to 0.200 | < 0.01 |',
    '| own | s1 | VC | 31 | each voxel |',
    '**The data were simulated.**',
    'Hours of each stage: diffuse 0.5. Energy and carbon were not measured.',
    "Reconstructor.from_pretrained('m')",
  ):
    assert text in body
  # Measured data in a run whose config also simulates.
  for measured in (
    facts | {'input': transform[:1]},
    facts | {'run': {'simulate': {'enabled': True, 'folder': 's'}, 'data': {'dataset': 'god', 'god': 'data/Kamitani'}}},
  ):
    assert 'simulated' not in pack.card('m', measured, 1, tmp_path)
  card = pack.card('m', {'licence': 'of my lab'}, 1, tmp_path)
  assert yaml.safe_load(card.split('---\n')[1])['license_name'] == 'of my lab'
  assert 'None were computed' in pack.card('m', {'licence': ''}, 1, tmp_path)


def test_info_describes_what_a_user_has(run, tmp_path, capsys):
  folder, raw = run
  np.save(tmp_path / 'betas.npy', raw)
  np.savez(tmp_path / 'two.npz', a=raw, b=raw[0])
  (tmp_path / 'events.tsv').write_text('image\tsplit\na.png\ttrain\nb.png\ttest\nb.png\ttest\n')
  convert([str(folder / 'contrast' / 'weights'), '--to_torch', f'--out={tmp_path / "w.safetensors"}'])
  capsys.readouterr()
  for source, told in (
    (folder, 'stage     contrast: complete, 5400 s\nscore     class_50_way_top_1: 0.400 (0.300 to 0.500), p 0.0099'),
    (
      folder / 'contrast' / 'weights',
      'responses of own/s1: 31 voxels of VC among 31 stored ones, z-scored voxel by voxel',
    ),
    (tmp_path / 'betas.npy', 'shape (9, 31), float32'),
    (tmp_path / 'two.npz', 'b: shape (31,), float32'),
    (tmp_path / 'events.tsv', 'test: 2 trials, 1 pictures'),
    (tmp_path / 'w.safetensors', 'PyTorch weights of kind phase1'),
  ):
    assert info.main([str(source)]) == 0
    assert told in capsys.readouterr().out
  (tmp_path / 'x.bin').write_bytes(b'nothing that is known')
  for source, told in (
    (tmp_path / 'none', 'does not exist'),
    (tmp_path / 'x.bin', "begins with b'nothing '\n"),
    (tmp_path, 'neither weights, nor a workdir'),
  ):
    assert info.main([str(source)]) == 2
    assert told in capsys.readouterr().err
