"""The command on a whole workdir: what it writes, what it refuses."""

import json

import numpy as np
import pytest

from brainjax import interpret
from brainjax.datasets import god
from brainjax.errors import UserError
from brainjax.evaluation.interpretation import methods, results, saliency
from brainjax.evaluation.interpretation.run import Run
from brainjax.simulator import cortex
from tests.evaluation.interpretation import study

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  study.make(workdir)
  changes = ['--areas=V1,V2+V3', '--num_steps=4', '--num_points=2', '--attribute=left']
  interpret.main([f'--run={workdir}', '--items=0-6', *changes])
  return workdir, *results.read(workdir)


def test_every_method_leaves_its_result(done):
  workdir, plain, arrays = done
  assert len(plain['stimulus']) == 7 and plain['areas']['sbj_1'].keys() == {'V1', 'V2+V3'}
  for kind in methods.REPLACEMENTS:
    entry = plain['lesion'][kind]['V1']['attribute_shape']
    assert entry['difference'] == pytest.approx(entry['value'] - entry['intact'], abs=1e-9)
    assert arrays[f'lesion/{kind}/V2+V3'].shape == (7, 1, 16, 16, 3)
  assert set(plain['alone']) == {'none', 'V1', 'V2+V3'}
  # Without any response all items look alike but for the noise, whatever was seen.
  assert (workdir / 'interpret' / 'lesion_swap.png').is_file() and (workdir / 'interpret' / 'alone.png').is_file()
  assert plain['saliency']['targets'] == ['latent', 'class', 'left']
  assert arrays['saliency/sbj_1/left/smooth'].shape == (3, 7, study.VOXELS)
  known = plain['truth']['sbj_1']
  assert set(known['maps']) == {f'{t}/{m}' for t in ('latent', 'class', 'left') for m in saliency.METHODS}
  assert set(known['shuffled']) == {f'latent/{m}' for m in saliency.METHODS}
  assert set(known['moved']) == {*saliency.METHODS, *(f'shuffled/{m}' for m in saliency.METHODS)}
  entry = known['maps']['latent/gradient'][1]['noise_auc']
  assert entry['interval'][0] <= entry['value'] <= entry['interval'][1]
  assert arrays['attention/weights'].shape[2:] == (7, 3)


def test_the_uninformative_response_is_the_training_mean(done):
  workdir, *_ = done
  config = interpret.read_run(workdir, {'areas': ('V1',)})
  run = Run.open(config, workdir, (3, 1))
  np.testing.assert_allclose(run.uninformative, np.tile(study.mean_training_response(config), (2, 1)), atol=1e-6)
  masks = god.DATA_SET.open(config.data.prepared, 'sbj_1').info.metadata.masks
  sizes = cortex.CortexConfig(num_voxels=study.VOXELS).roi_sizes()
  assert run.areas[0].masks['V1'].sum() == masks['V1'].sum() == sizes['V1']


@pytest.mark.parametrize(
  'options, told',
  [
    (['--items=99'], 'expected different numbers from 0 to 49'),
    (['--items=a'], 'expected numbers of test items from 0'),
    (['--items=3'], 'all show one stimulus'),
    (['--method=magic'], "config.interpret.methods is ('magic',); expected some of lesion"),
    (['--areas=V9'], 'no ROI named V9'),
    (['--attribute=unicorn', '--method=saliency', '--items=0,1'], 'no names of training pictures have'),
    (['--num_steps=0'], 'config.interpret.num_steps is 0'),
    (['--map=nothing', '--out=map.png'], 'there is no such map of sbj_1; those that exist: noise_ceiling'),
    (['--map=noise_ceiling', '--out=map.nii.gz'], 'do not say where their voxels are in space'),
    (['--map=noise_ceiling'], '--map and --out go together'),
    (['--items=1,1'], 'items: 1 cannot be used'),
    (['--areas=V1,'], 'expected ROIs or unions of them'),
    (['--subject=sbj_1'], '--subject is whose --map is written'),
  ],
)
def test_mistakes_are_told_in_one_sentence(done, options, told, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError) as error:
    interpret.main.__wrapped__([f'--run={done[0]}', *options])
  assert told in str(error.value)


def test_a_map_is_drawn(done, tmp_path):
  for name in ('noise_ceiling', 'saliency/latent/gradient/1', 'lesion/mean/pairwise_pcc'):
    file = tmp_path / f'{name.replace("/", "_")}.png'
    interpret.main([f'--run={done[0]}', f'--map={name}', f'--out={file}'])
    assert file.stat().st_size > 5000


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(UserError, match='has no finished stage evaluate or reconstruct'):
    interpret.read_run(tmp_path, {})
  (tmp_path / 'x.json').write_text(json.dumps({}))
  with pytest.raises(UserError, match='is no folder'):
    interpret.read_run(tmp_path / 'x.json', {})
