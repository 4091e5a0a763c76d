"""The speed table: its rows, its counts of operations, and that both sides have the same models."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks import first_losses, limits, rows, run

torch = pytest.importorskip('torch')
pytest.importorskip('diffusers')

from benchmarks import training_parity  # noqa: E402

COUNTED = [row for row in rows.rows('cpu', False) if row.name in ('contrast', 'unet', 'encode', 'decode')]


@pytest.mark.parametrize('row', COUNTED, ids=lambda row: row.key)
def test_xla_counts_as_a_hand_does(row):
  """At the published sizes; nothing is allocated. XLA counts element-wise work too."""
  assert 1 <= limits.xla(row, False) / limits.by_hand(row, False) < 1.03


@pytest.mark.slow
@pytest.mark.parametrize('name', ['attend-4', 'diffuse-1', 'sample-5'])
def test_xla_counts_larger_rows_as_a_hand_does(name):
  test_xla_counts_as_a_hand_does(next(row for row in rows.rows('cpu', False) if row.key == name))


def sizes(parameters) -> tuple[int, int]:
  parameters = list(parameters)
  return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


@pytest.mark.parametrize('name', ['contrast', 'attend', 'diffuse'])
def test_both_sides_have_the_same_parameters(name):
  """At the published sizes: all, and those that train."""
  import torch

  from benchmarks import rows_jax, rows_torch

  row = rows.Row(name, 2, (), {})
  settings = rows.config(False)
  _, (state, frozen, _, _) = rows_jax.abstract_step(row, settings, rows.VOXELS)
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  with torch.device('meta'):
    if name == 'contrast':
      modules = [rows_torch.fmri_mae(settings, rows.VOXELS, settings.contrast.decoder_depth)]
    elif name == 'attend':
      modules = [
        rows_torch.fmri_mae(settings, rows.VOXELS, settings.attend.decoder_depth, settings.attend.cross_depth),
        rows_torch.image_mae(settings, True),
      ]
    else:
      unet = rows_torch.unet(settings)
      for path, parameter in unet.named_parameters():
        parameter.requires_grad_(rows_torch.trained_in_unet(path))
      modules = [
        unet,
        rows_torch.conditioner(settings, rows.VOXELS),
        rows_torch.first_stage(settings).requires_grad_(False),
      ]
  whole, trained = sizes(parameter for module in modules for parameter in module.parameters())
  assert (count(state.params) + count(frozen), count(state.params)) == (whole, trained)


def test_extrapolated_seconds():
  from benchmarks.work import extrapolated

  assert extrapolated(lambda steps: 3 + 0.5 * steps, (2, 5)) == pytest.approx(3 + 0.5 * 250)


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
  run.main(['--quick', '--repetitions=1', f'--out={tmp_path}'])
  output = capsys.readouterr().out
  results = json.loads((tmp_path / 'cpu_quick.json').read_text())
  expected = rows.rows('cpu', True)
  assert list(results['rows']) == [row.key for row in expected]
  for row in expected:
    result = results['rows'][row.key]
    assert result['title'] in output
    for part in (result['ours'], *result['peers'].values()):
      assert part.get('failed') is None
      assert 0 < part['least'] <= part['seconds'] <= part['most']
      assert part['bytes'] > 2**20
    assert list(result['peers']) == list(row.peers)
    if row.name not in ('copy', 'loader', 'start'):
      assert 0 < result['ours']['share_of_peak'] <= 1.5
  assert len(re.findall(r'^\|', output, re.M)) == 2 + sum(1 + len(row.peers) for row in expected)
  assert (tmp_path / 'cpu_quick.png').stat().st_size > 10_000
  # A row measured again replaces itself, the others stay.
  run.main(['--quick', '--repetitions=1', '--rows=matmul', f'--out={tmp_path}'])
  again = json.loads((tmp_path / 'cpu_quick.json').read_text())['rows']
  assert again['unet-2']['ours']['values'] == results['rows']['unet-2']['ours']['values']
  assert again['matmul-256']['ours']['values'] != results['rows']['matmul-256']['ours']['values']


def test_without_a_gpu_every_row_says_so(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(run, 'gpu_name', lambda: None)
  run.main(['--device=gpu', f'--out={tmp_path}'])
  results = json.loads((tmp_path / 'gpu.json').read_text())['rows']
  assert {result['not_measured'] for result in results.values()} == {run.NO_GPU}
  assert capsys.readouterr().out.count(run.NO_GPU) == len(rows.rows('gpu', False))


@pytest.mark.slow
def test_the_script_for_a_gpu_at_tiny_size_on_the_cpu(tmp_path):
  script = Path(__file__).parent.parent / 'benchmarks/gpu.sh'
  environment = os.environ | {'DRY': '1', 'SECONDS_LEFT': '3000', 'LIMIT_FACTOR': '10', 'PATH': _path_of_this_python()}
  done = subprocess.run([script, tmp_path], env=environment, capture_output=True, text=True)
  steps = (tmp_path / 'steps.txt').read_text().splitlines()
  assert done.returncode == 0 and len(steps) == 12, done.stderr
  assert [step for step in steps if ': status 0 after' not in step] == []
  assert 'contrast: losses of 20 steps differ by' in (tmp_path / 'losses.txt').read_text()
  differences = [float(line.split(' differ by ')[1].split()[0]) for line in (tmp_path / 'losses_bfloat16.txt').open()]
  assert len(differences) == 3 and min(differences) > 0, 'a loss that rounding cannot move depends on no network'
  assert {'contrast-2', 'sample-2'} <= set(json.loads((tmp_path / 'cpu_quick.json').read_text())['rows'])


def _path_of_this_python() -> str:
  return f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'


def test_other_losses_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(first_losses, 'run', lambda stage, dtype: [1.0, 2.0 if stage == 'attend' else 1.0])
  first_losses.main([f'--out={tmp_path / "one.json"}'])
  monkeypatch.setattr(first_losses, 'run', lambda stage, dtype: [1.0, 1.0])
  with pytest.raises(SystemExit, match='error: the losses of attend in .*two.json are not those in .*one.json'):
    first_losses.main([f'--out={tmp_path / "two.json"}', f'--against={tmp_path / "one.json"}'])


def test_unknown_rows_are_refused(tmp_path):
  with pytest.raises(SystemExit, match='--rows has contrats; there are'):
    run.main(['--rows=contrats', f'--out={tmp_path}'])


@pytest.mark.slow
@pytest.mark.parametrize('stage', training_parity.STAGES)
def test_losses_lie_on_those_of_pytorch(stage):
  torch.manual_seed(0)
  with jax.default_matmul_precision('highest'):
    ours, theirs = training_parity.STAGES[stage][1](training_parity.FIRST)
  assert len(ours) == len(theirs) == training_parity.FIRST and ours[-1] < ours[0]
  assert training_parity.difference(ours, theirs).max() < training_parity.BOUND
