"""What a lab does first: own NIfTI betas with baselines of 500 +- 50 to pictures of a new session, from a wheel, in an empty folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.nightly

CONFIG = """
from configs import demo_quick

def get_config():
  config = demo_quick.get_config()
  config.simulate.enabled = False
  config.data.update({'hcp': '', 'dataset': 'own', 'prepared': 'prepared', 'subjects': ('sub-01',), 'num_val_stimuli': 0})
  config.data.target_train_proportion = 1.0
  config.fmri_mae.patch_size = 8
  config.attend.update({'init_from': 'random', 'num_steps': 4, 'batch_size': 16})
  config.diffuse.update({'num_steps': 4, 'batch_size': 16})
  config.reconstruct.num_samples = 1
  config.evaluate.ridge = True
  config.stages = ('attend', 'diffuse', 'reconstruct', 'evaluate')
  return config
"""
NEW = ['reconstruct', '--weights=runs/mine/diffuse/weights', '--num_samples=1', '--num_steps=4']
ONE_LINE = """
from brainjax.reconstruct import Reconstructor
print(Reconstructor.from_pretrained('model').from_betas('new.nii.gz', mask='V1.nii.gz,V2.nii.gz', num_samples=2, num_steps=4).shape)
"""


def test_from_a_wheel_to_pictures_of_a_new_session(user):
  shutil.copy(Path(__file__).parent / 'study.py', user.folder)
  user.run('python', 'study.py')
  assert 'NIfTI, shape (7, 8, 9, 84), float32' in user.brainjax('info', 'betas.nii.gz')
  files = ['--betas=betas.nii.gz', '--mask=V1.nii.gz,V2.nii.gz', '--events=events.tsv', '--images=pictures']
  user.brainjax('prepare', 'own', *files, '--out=prepared')

  said = user.brainjax('prepare', 'check', 'prepared')
  assert 'the model gets one z-score for each voxel' in said and '2 sessions are known' in said
  share = int(said.split('constant offsets of voxels are ')[1].split('%')[0])
  assert share > 90 and 'the z-score of each voxel removes them' in said

  (user.folder / 'mine.py').write_text(CONFIG)
  user.brainjax('train', '--config=mine.py')
  scores = json.loads((user.folder / 'runs/mine/scores.json').read_text())
  assert scores['num_items'] == 8
  # The colours are there to be read once the baselines are gone: ridge regression finds them.
  assert scores['baselines']['ridge']['pcc']['first_sample']['value'] > 0.3

  new = [*NEW, '--betas=new.nii.gz']
  user.brainjax(*new, '--mask=V1.nii.gz,V2.nii.gz', '--out=pictures_new')
  with np.load(user.folder / 'pictures_new' / 'images.npz') as archive:
    assert archive['samples'].shape == (5, 1, 64, 64, 3)
  assert 'name the masks of' in user.brainjax(*new, '--out=no', '--mask=shifted.nii.gz,V2.nii.gz', status=2)
  assert '60 of them are among the 88' in user.brainjax(*new, '--out=no', '--mask=V1.nii.gz', status=2)
  percent = [*NEW, '--betas=percent.nii.gz', '--mask=V1.nii.gz,V2.nii.gz', '--out=no']
  assert 'a picture made from them would mean nothing' in user.brainjax(*percent, status=2)
  assert not (user.folder / 'no').exists()

  user.brainjax('pack', 'runs/mine', '--out=model')
  assert 'responses of own/sub-01: 88 voxels of VC' in user.brainjax('info', 'model')
  assert '(5, 2, 64, 64, 3)' in user.run('python', '-c', ONE_LINE)


def test_the_order_of_test_trials_is_checked_and_never_guessed(user):
  user.brainjax('simulate', '--out=sim', '--voxels=80', '--subjects=1', '--hcp_subjects=0', '--image_size=64')
  file = user.folder / 'sim/Kamitani/npz/sbj_1.npz'
  with np.load(file) as archive:
    arrays = dict(archive)
  orders = {
    'by_picture': np.arange(1750),
    'by_run': np.arange(1750).reshape(50, 35).T.reshape(-1),
    'permuted': np.random.default_rng(0).permutation(1750),
  }
  trials = {}
  for name, order in orders.items():
    np.savez(file, **arrays | {'arr_1': arrays['arr_1'][order]})
    said = user.brainjax('prepare', 'god', '--raw=sim/Kamitani', f'--out={name}')
    assert ('do not average to arr_2' in said) == (name == 'permuted')
    code = (
      'import sys; from brainjax.datasets import god; '
      f"t = god.load('{name}', ['sbj_1'], split='test_trials', image_size=0); c = t.columns; "
      "o = c['stimulus'].argsort(kind='stable'); print(c['fmri'][o].mean(), c['fmri'][o][:35].mean(), c['stimulus'][o][:36])"
    )
    if name != 'permuted':
      trials[name] = user.run('python', '-c', code)
  assert trials['by_run'] == trials['by_picture']
