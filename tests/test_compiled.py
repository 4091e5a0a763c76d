"""What the bench of compiled programs reads in a text, beside numbers computed by hand."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import compiled, compiled_text

# Compiled for one v5e: a loop of five products with slices of w (5 384 384), attention as our kernel, a transposition.
SAMPLE = (Path(__file__).parent / 'compiled_sample.txt').read_text()
MEMORY = {'argument': 4_030_464, 'output': 4_194_304, 'alias': 0, 'temp': 1_000_000}


def test_every_instruction_counts_as_often_as_its_loop_runs():
  times = {one.name: times for one, times in compiled_text.executed(compiled_text.parse(SAMPLE))}
  assert times['convolution_tanh_fusion.2'] == times['copy.12'] == 5
  assert times['attention_forward.1'] == times['copy'] == 1
  assert 'convolution.3' not in times  # inside a fusion


def test_the_row_of_a_program(monkeypatch):
  monkeypatch.setattr(compiled, 'work_flops', lambda *_: 1e9)
  row = compiled.read('contrast', 'v5e', SAMPLE, MEMORY)
  cycles = 5 * (15_377 + 23_655) + 400
  kernel = 4_325_376 / 819e9 / 0.6  # its bytes take longer than 805,306,368 operations or 2,097,152 exponentials
  seconds = cycles / 1.5e9 + kernel
  picture, slice_of_w = 4096 * 384 * 2, 384 * 384 * 2
  assert row == {
    'program': 'contrast',
    'target': 'v5e',
    'predicted_ms': pytest.approx(1e3 * seconds),
    'own_kernels_ms': pytest.approx(1e3 * kernel),
    'work_flops': 1e9,
    'mfu': pytest.approx(1e9 / 197e12 / seconds),
    'bytes': picture + 5 * slice_of_w + 4_325_376 + picture,  # x, slices, the kernel, the reversed result
    'peak_gb': pytest.approx(9_224_768e-9),
    'copies': 5 + 2,  # in the loop; x and the transposition. Those of counters are none.
    'fused_attentions': 1,
  }
  assert compiled.format_program(row, SAMPLE, count=2).splitlines()[1:] == [
    '      0.08 ms  convolution_tanh_fusion.2 x 5: bf16[4096,384]{1,0:T(8,128)(2,1)S(1)} jit(f)/while/body/closed_call/dot_general',
    '      0.05 ms  copy.12 x 5: bf16[4096,384]{1,0:T(8,128)(2,1)S(1)} ',
  ]


def test_gpus_have_no_predicted_time(monkeypatch):
  monkeypatch.setattr(compiled, 'work_flops', lambda *_: 1e9)
  row = compiled.read('contrast', 'h200', SAMPLE, MEMORY)
  assert (row['predicted_ms'], row['mfu'], row['copies']) == (None, None, 7)


def test_a_loop_without_a_known_end_is_refused():
  text = SAMPLE.replace('constant(5)', 'parameter(5)')
  with pytest.raises(ValueError, match='loop while compares with no constant'):
    list(compiled_text.executed(compiled_text.parse(text)))


def test_ridge_compiles_nothing_and_unknown_programs_are_refused(capsys, tmp_path):
  compiled.main(['--programs=ridge'])
  assert capsys.readouterr().out == f'ridge: {compiled.RIDGE}\n'
  with pytest.raises(SystemExit, match='--programs has contrats; there are contrast, attend'):
    compiled.main(['--programs=contrats'])


def test_the_table_shows_the_version_before(monkeypatch):
  monkeypatch.setattr(compiled, 'work_flops', lambda *_: 1e9)
  row = compiled.read('contrast', 'v5e', SAMPLE, MEMORY) | {'predicted_ms': 700.4, 'mfu': 0.306}
  table = compiled.format_table([row], [row | {'predicted_ms': 2244.3, 'peak_gb': 11.19}])
  assert table.splitlines()[2] == '| contrast | v5e | 2,244 ms | 700 ms | 0 ms | 31% | 0 | 0.0 (11.2) | 7 | 1 |'


def test_collectives_are_counted():
  line = '  %all-reduce.1 = f32[10,100]{1,0} all-reduce(%copy.12), replica_groups={{0,1}}, to_apply=%sum\n'
  text = SAMPLE.replace('  ROOT %tuple.12', line + '  ROOT %tuple.12')
  assert compiled.format_collectives(text) == '  all-reduce: 5 times, 0.0 MB'
  assert compiled.format_collectives(text.replace('f32[10,100]', 'bf16[1000,1000]')) == '  all-reduce: 5 times, 10.0 MB'


@pytest.mark.slow
@pytest.mark.skipif(
  not importlib.util.find_spec('libtpu'),
  reason="libtpu is missing; pip install -e '.[compiled]' brings the TPU compiler",
)
def test_contrast_for_one_v5e(tmp_path, capsys):
  file = tmp_path / 'rows.json'
  compiled.main(['--programs=contrast', f'--json={file}', f'--cache={tmp_path}'])
  (row,) = json.loads(file.read_text())['rows']
  assert row['fused_attentions'] >= 3 * (24 + 8) - 32  # forward and backward of every block
  assert 216 < row['predicted_ms'] < 2244 and row['peak_gb'] < 16
  compiled.main(['--programs=contrast', f'--cache={tmp_path}'])  # from the cache
