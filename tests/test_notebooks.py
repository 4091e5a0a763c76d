"""Notebooks: committed with their outputs and pictures, without errors; the one on NIfTI files runs."""

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / 'notebooks').glob('*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_and_pictures_are_there(path):
  nbformat = pytest.importorskip('nbformat')
  cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell.outputs]
  assert not [output for output in outputs if output.output_type == 'error' or output.get('name') == 'stderr']
  assert sum('image/png' in output.get('data', {}) for output in outputs) >= 2
  assert path.stat().st_size < 2e6


@pytest.mark.slow
def test_the_notebook_from_nifti_to_pictures_runs(tmp_path, monkeypatch):
  nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
  pytest.importorskip('ipykernel')
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setenv('PYTHONPATH', str(NOTEBOOKS[0].parent.parent))
  notebook = nbformat.read(next(path for path in NOTEBOOKS if path.stem == 'nifti_to_pictures'), as_version=4)
  done = nbclient.NotebookClient(notebook, timeout=3000, resources={'metadata': {'path': str(tmp_path)}}).execute()
  told = ''.join(output.get('text', '') for cell in done.cells for output in cell.get('outputs', ()))
  assert 'the z-score of each voxel removes them' in told and told.count('root mean square of') >= 1
  assert 'class_50way_top1' in told
