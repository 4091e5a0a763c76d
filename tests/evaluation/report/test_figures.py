"""Figures with their numbers, the files for a paper, and the section on the brain."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as xml

import numpy as np
import pytest

from brainjax import report as command
from brainjax.errors import UserError
from brainjax.evaluation import report
from brainjax.evaluation.interpretation import results
from brainjax.evaluation.report import brain_section, figures, paper
from tests.evaluation.report.pages import explained, make_page


def test_every_figure_of_an_interpretation_has_its_numbers():
  found = {figure.name: figure for figure in figures.of_interpretation(explained()[0])}
  assert list(found) == [
    'lesion_pairwise_pcc', 'alone_pairwise_pcc', 'saliency_sbj_1_gradient', 'attention', 'encoding_sbj_1',
  ]  # fmt: skip
  rows = list(csv.DictReader(io.StringIO(figures.to_csv(found['lesion_pairwise_pcc'].table))))
  assert [(row['kind'], row['area'], float(row['difference'])) for row in rows] == [
    ('mean', 'V1', -0.3), ('mean', 'V<2>', 0.02), ('swap', 'V1', -0.3), ('swap', 'V<2>', 0.02),
  ]  # fmt: skip
  assert found['saliency_sbj_1_gradient'].table[1] == ['V1', 1.5, 0.5]


def test_files_for_a_paper_are_vectors_with_embedded_fonts(tmp_path):
  bars, _, colours, *_ = figures.of_interpretation(explained()[0])
  for figure in (bars, colours):
    _check_files(figure, tmp_path / figure.name)


def _check_files(figure, folder):
  folder.mkdir()
  paper.write(figure, folder)
  assert sorted(path.name for path in folder.iterdir()) == sorted(
    [f'{figure.name}.csv', *(f'{figure.name}_{kind}.{end}' for kind in paper.WIDTHS for end in ('pdf', 'svg'))]
  )
  for kind, millimetres in paper.WIDTHS.items():
    document = (folder / f'{figure.name}_{kind}.pdf').read_bytes()
    assert b'/FontFile2' in document and b'/Subtype /Image' not in document  # TrueType inside; no pixels
    root = xml.parse(folder / f'{figure.name}_{kind}.svg').getroot()
    assert float(root.get('width').removesuffix('pt')) * 25.4 / 72 == pytest.approx(millimetres, abs=0.1)
    assert not list(root.iter('{http://www.w3.org/2000/svg}text'))  # outlines


def test_the_command_writes_figures_and_the_table(tmp_path, capsys):
  page = make_page(tmp_path)
  (tmp_path / results.FOLDER).mkdir()
  plain, arrays = explained()
  results.write(tmp_path, {'stimulus': [0]}, {k: v for k, v in plain.items() if k in ('lesion', 'alone')}, arrays)
  command.main(['figures', str(tmp_path), f'--out={tmp_path / "paper"}'])
  written = {path.name for path in (tmp_path / 'paper').iterdir()}
  assert {'scores_single.pdf', 'by_category.csv', 'lesion_pairwise_pcc_double.svg', 'scores.tex'} <= written
  table = (tmp_path / 'paper' / 'scores.tex').read_text()
  rows = [line.removesuffix(' \\\\').split(' & ') for line in table.splitlines() if ' & ' in line]
  assert len(rows) == 1 + len(page.scores['scores']) and len({len(row) for row in rows}) == 1
  value = page.scores['scores']['pcc']['mean_of_samples']['value']
  assert next(row for row in rows if row[0] == 'PCC')[1] == f'{value:.4g}'
  assert not re.search(r'(?<!\\)[_%#]', '\n'.join(line for line in table.splitlines()[1:]))
  with pytest.raises(UserError, match='exists already'):
    command.main.__wrapped__(['figures', str(tmp_path), f'--out={tmp_path / "paper"}'])
  with pytest.raises(UserError, match='give the workdir of an evaluated run'):
    command.collect(tmp_path / 'paper')


def test_the_section_is_put_into_the_report_once(tmp_path):
  page, (plain, arrays) = make_page(tmp_path), explained()
  report.write_page(page, tmp_path / 'report.html')
  for _ in range(2):
    report.put_brain_section(tmp_path / 'report.html', plain, arrays)
  text = (tmp_path / 'report.html').read_text()
  assert text.count('id="brain"') == 1 and text.count('href="#brain"') == 1
  assert 'thing <0>' not in text and 'thing &lt;0&gt;' in text and 'V<2>' not in text
  assert text.index('id="brain"') < text.index('id="provenance"')
  assert len(text.encode()) < 15_000_000
  first = re.search(r'alt="thing &lt;0&gt;, without V1[^>]*>', text)
  assert first


def test_items_that_do_not_fit_are_left_out():
  plain, arrays = explained(7, 64)
  text = brain_section.format_section(plain, arrays, 8_000)
  assert len(re.findall('<article class="lesion"', text)) < 7 and 'of 7 items' in text
  pictures = re.findall(r'src="data:image/(?:png|webp);base64,([^"]*)"', text)
  assert 0 < sum(map(len, pictures)) <= 8_000
  assert base64.b64decode(pictures[0])


def test_results_of_other_methods_stay_only_where_nothing_else_changed(tmp_path):
  about = {'stimulus': [1], 'weights': 'a'}
  results.write(tmp_path, about, {'lesion': {'x': 1}}, {'lesion/a': np.zeros(2), 'items/stimuli': np.ones(1)})
  plain, arrays = results.write(tmp_path, about, {'alone': 2}, {'alone/a': np.ones(3), 'items/stimuli': np.ones(1)})
  assert plain['lesion'] == {'x': 1} and plain['alone'] == 2
  assert set(arrays) == {'lesion/a', 'alone/a', 'items/stimuli'}
  again = results.read(tmp_path)
  assert again[0] == plain and set(again[1]) == set(arrays)
  plain, arrays = results.write(tmp_path, about | {'weights': 'b'}, {'alone': 3}, {'alone/a': np.ones(3)})
  assert 'lesion' not in plain and set(arrays) == {'alone/a'}
  (tmp_path / results.FOLDER / results.JSON_FILE).write_text(json.dumps({'format': 'other'}))
  with pytest.raises(UserError, match='is not of the format'):
    results.read(tmp_path)


def test_the_console_command_knows_it():
  done = subprocess.run([sys.executable, '-m', 'brainjax', 'report', '--help'], capture_output=True, text=True)
  assert done.returncode == 0 and 'figures' in done.stdout
