"""Each field of config.released does what docs/fidelity.md says of it, in the stage that it belongs to."""

import jax
import numpy as np
import pytest

from brainjax.checkpoints import save_weights
from brainjax.datasets import god
from brainjax.models.fmri_mae import FmriMAE
from brainjax.stages import attend, common, contrast, diffuse, transfer
from brainjax.stages import data as stage_data
from brainjax.trees import unflatten
from configs import base, tiny
from tests.datasets import raw_files
from tests.stages.making import make

# The rest of these: test_data.py.
ELSEWHERE = {'batch_of_two', 'wrap_to_pretrained_width'}
HERE = {
  'contrast_outer_half', 'self_weight_half', 'no_mask_loss', 'god_test_raw_scale', 'double_rescale', 'pool_drops_norms',
  'full_extra_patch', 'train_decoder_positions', 'train_conditioner_positions',
}  # fmt: skip


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  god.prepare(raw_files.write_god(folder / 'raw'), folder / 'prepared', ['sbj_1'])
  return folder / 'prepared'


@pytest.fixture
def config(prepared):
  config = tiny.get_config()
  config.data.update({'prepared': str(prepared), 'hcp': '', 'num_val_stimuli': 0})
  config.fmri_mae.patch_size = 4
  return config


def test_every_field_is_tested():
  assert set(base.get_config().released) == HERE | ELSEWHERE


@pytest.mark.parametrize(
  ('field', 'changed'),
  [
    ('contrast_outer_half', {'outer': 0.5}),
    ('self_weight_half', {'self_contrast': 0.5}),
    ('no_mask_loss', {'mask': 0.0}),
  ],
)
def test_weights_of_contrast(config, field, changed):
  clean = contrast.loss_weights(config)
  assert clean == contrast.Weights(mask=1.0, self_contrast=1.0, cross_contrast=0.5, outer=1.0)
  config.released[field] = True
  assert contrast.loss_weights(config) == clean._replace(**changed)


def test_test_rows_keep_their_raw_scale(config):
  clean = stage_data.test(config).columns['fmri']
  config.released.god_test_raw_scale = True
  raw = stage_data.test(config).columns['fmri']
  transform = stage_data.rows(config, 'train', image_size=8).info['transforms']['sbj_1']
  mean, std = transform.mean, transform.std
  np.testing.assert_allclose(raw, clean * std + mean, rtol=1e-4, atol=1e-5)
  assert abs(std - 1) > 0.01


def test_a_divisible_width_gains_a_patch(config):
  widths = {}
  for patch_size in (3, 4):
    config.fmri_mae.patch_size = patch_size
    for quirk in (False, True):
      config.released.full_extra_patch = quirk
      widths[patch_size, quirk] = stage_data.paired(config, 'attend', 8).num_voxels
  assert widths == {(3, False): 69, (3, True): 72, (4, False): 72, (4, True): 72}  # 69 voxels


def test_attend(config):
  config.attend.update({'image_init_from': '', 'cross_attention': False})
  config.fmri_mae.depth = config.image_mae.depth = 1
  config.released.update({'double_rescale': False, 'train_decoder_positions': False})
  stages = {}
  for field in ('', 'double_rescale', 'train_decoder_positions'):
    if field:
      config.released[field] = True
    stages[field] = make('attend', config)
    config.released.update({'double_rescale': False, 'train_decoder_positions': False})
  assert (
    stages['train_decoder_positions'].problem.trainable
    == attend.TRAINABLE_B15
    != attend.TRAINABLE
    == stages[''].problem.trainable
  )
  batch = next(stages[''].batches)
  params = unflatten(
    {path: np.full(shape, 0.02, np.float32) for path, shape in transfer.init_shapes(stages[''].problem.init).items()}
  )
  clean, quirk = (jax.jit(stages[name].problem.loss) for name in ('', 'double_rescale'))

  def image_loss(loss, image):
    return float(loss(params, batch | {'image': image}, jax.random.key(0))[1]['image_loss'])

  divided = image_loss(clean, (batch['image'] + 1) / 255 - 1)
  assert image_loss(quirk, batch['image']) == pytest.approx(divided, rel=1e-4)
  assert image_loss(clean, batch['image']) != pytest.approx(divided, rel=1e-2)


def test_pooling_drops_the_norms(config, tmp_path):
  mae = FmriMAE(num_voxels=72, decoder_depth=2, **config.fmri_mae.to_dict())
  shapes = transfer.init_shapes(lambda key: mae.init(key, np.zeros((1, 72), np.float32))['params'])
  weights = {path: np.full(shape, 3, np.float32) for path, shape in shapes.items()}
  save_weights(tmp_path / 'phase1', weights, {'kind': 'contrast', 'settings': common.kwargs_of(mae)})

  def norms():
    return {path for path in make('diffuse', config, str(tmp_path / 'phase1')).problem.pretrained if 'norm' in path}

  every = {
    f'conditioner/mae/{path.removeprefix("encoder/")}'
    for path in weights
    if path.startswith('encoder/') and 'norm' in path
  }
  config.released.pool_drops_norms = True
  assert norms() == every  # without pooling it does nothing
  config.conditioner.global_pool = True
  assert norms() == set()
  config.released.pool_drops_norms = False
  assert norms() == every


def test_positions_of_the_conditioner_train(config):
  assert 'pos_embed' in diffuse.trainable(config)
  config.released.train_conditioner_positions = True
  assert 'pos_embed' not in diffuse.trainable(config)  # the expression names what is left out
