"""All stages on a simulated NSD, as a user runs them: the run prepares the data itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CONFIG = """
from configs import nsd_subj01, tiny

def get_config():
  config = tiny.get_config()
  config.simulate.enabled = False
  full = nsd_subj01.get_config()
  config.data.update({'dataset': full.data.dataset, 'subjects': full.data.subjects, 'zscore': full.data.zscore})
  config.data.update({'nsd': RAW, 'hcp': '', 'contrast_god_subjects': (), 'train_sessions': 1})
  config.data.contrast_nsd_subjects = ('subj01', 'subj02')
  config.data.num_val_stimuli = 20
  config.reconstruct.num_items = 4
  return config
"""


@pytest.mark.slow
def test_all_stages(nsd_folder, tmp_path):
  (tmp_path / 'small.py').write_text(CONFIG.replace('RAW', repr(str(nsd_folder / 'NSD'))))
  command = [sys.executable, 'launch.py', f'--config={tmp_path / "small.py"}', f'--workdir={tmp_path / "run"}']
  root = Path(__file__).parents[2]
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1800, env=environment)
  assert done.returncode == 0, done.stdout + done.stderr
  run = tmp_path / 'run'
  transform, *others = json.loads((run / 'diffuse' / 'weights' / 'weights.json').read_text())['input']
  assert (transform['data_set'], transform['subject'], transform['num_stored_voxels']) == ('nsd', 'subj01', 80)
  assert transform['by_session'] and set(transform['sessions']) == {'session01', 'session02'} and not others
  scores = json.loads((run / 'scores.json').read_text())
  assert (scores['num_items'], scores['num_samples']) == (4, 2) and 'ridge' in scores['baselines']
  with np.load(run / 'reconstruct' / 'images.npz', allow_pickle=False) as archive:
    assert archive['samples'].shape == (4, 2, 32, 32, 3)
  assert (run / 'prepared' / 'nsd' / 'subj02').is_dir()  # contrast learned from it
