"""Handing weights from stage to stage, against what the published loader did and by hand."""

import numpy as np
import pytest

from brainjax.errors import UserError
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.fmri_mae import FmriMAE
from brainjax.models.image_mae import ImageMAE
from brainjax.stages import transfer
from brainjax.torch_convert import engine
from brainjax.torch_convert.tables import conditioner, fmri_mae
from tests import golden_files
from tests.models.converted import shapes

SIZES = dict(width=12, depth=3, num_heads=3, decoder_width=8, decoder_num_heads=2)


def _random(model, seed, *inputs):
  rng = np.random.default_rng(seed)
  return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes(model, *inputs).items()}


def _shapes(flat):
  return {path: value.shape for path, value in flat.items()}


@pytest.mark.parametrize('pool', [False, True], ids=['tokens', 'pooled'])
@pytest.mark.parametrize('target', ['same', 'more', 'fewer'])
def test_conditioner_gets_what_the_published_loader_gave_it(target, pool):
  golden, config = golden_files.load('cond')
  case = f'{target}/{"pool" if pool else "nopool"}'
  fmri = golden[f'{target}/fmri'][:, 0]
  source = FmriMAE(320, width=32, depth=2, num_heads=4, decoder_width=16, decoder_depth=1, decoder_num_heads=4)
  checkpoint = golden_files.group(golden, 'ckpt')
  weights = engine.to_jax(fmri_mae.TABLE, checkpoint, shapes(source, np.zeros((1, 320))))
  model = FmriConditioner(fmri.shape[1], width=32, depth=2, num_heads=4, context_dim=24, global_pool=pool)
  fresh = _random(model, 1, fmri)
  ours = fresh | transfer.mae_to_conditioner(weights, _shapes(fresh), drop_norms=pool)
  ours, fresh = (engine.to_torch(conditioner.TABLE, flat) for flat in (ours, fresh))
  for name in config['loaded_unchanged'][case]:
    np.testing.assert_array_equal(ours[f'mae.{name}'], checkpoint[name], err_msg=name)
  for name in config['not_loaded'][case]:
    if name == 'pos_embed':  # resized
      np.testing.assert_array_equal(ours['mae.pos_embed'], golden[f'{case}/state/mae.pos_embed'])
    else:
      np.testing.assert_array_equal(ours[f'mae.{name}'], fresh[f'mae.{name}'], err_msg=name)
  np.testing.assert_array_equal(ours['dim_mapper.weight'], fresh['dim_mapper.weight'])


def test_phase_2_takes_the_first_decoder_layers_and_new_cross_attention():
  fmri = np.zeros((1, 56), np.float32)
  old = FmriMAE(56, 7, decoder_depth=4, **SIZES)
  new = FmriMAE(56, 7, decoder_depth=2, cross_depth=2, cross_width=16, cross_heads=2, cross_mlp_dim=9, **SIZES)
  weights, fresh = _random(old, 0, fmri), _random(new, 1, fmri)
  result = fresh | transfer.mae_to_mae(weights, _shapes(fresh))
  assert {path: value.shape for path, value in result.items()} == shapes(new, fmri)
  for path, value in result.items():
    if path.startswith('encoder/cross/'):
      expected = fresh[path]
    else:
      expected = weights[path][:2] if path.startswith('decoder/blocks/') else weights[path]
    np.testing.assert_array_equal(value, expected, err_msg=path)


def test_phase_2_goes_on_from_phase_2():
  fmri = np.zeros((1, 56), np.float32)
  model = FmriMAE(56, 7, decoder_depth=2, cross_depth=2, cross_width=16, cross_heads=2, cross_mlp_dim=9, **SIZES)
  weights = _random(model, 0, fmri)
  result = transfer.mae_to_mae(weights, shapes(model, fmri))
  assert all(np.array_equal(result[path], weights[path]) for path in weights)
  target = FmriConditioner(63, 7, width=12, depth=3, num_heads=3)
  result = transfer.mae_to_conditioner(weights, shapes(target, np.zeros((1, 63), np.float32)))
  assert result['mae/pos_embed'].shape == (1, 10, 12)
  np.testing.assert_array_equal(result['mae/blocks/norm1/scale'], weights['encoder/blocks/norm1/scale'])


def test_another_voxel_count_resizes_both_position_tables():
  old, new = (FmriMAE(voxels, 7, decoder_depth=1, **SIZES) for voxels in (56, 63))
  weights = _random(old, 0, np.zeros((1, 56), np.float32))
  result = transfer.mae_to_mae(weights, shapes(new, np.zeros((1, 63), np.float32)))
  rows = [0, *(1 + i * 8 // 9 for i in range(9))]  # the class row, then floor(i * old / new)
  for path in ('encoder/pos_embed', 'decoder/pos_embed'):
    np.testing.assert_array_equal(result[path], weights[path][:, rows])


def test_image_model_takes_the_first_decoder_layers():
  images = np.zeros((1, 14, 14, 3), np.float32)
  sizes = dict(image_size=14, patch_size=7, width=12, depth=2, num_heads=3, mlp_dim=9, decoder_width=8,
               decoder_num_heads=2, decoder_mlp_dim=7)  # fmt: skip
  weights = _random(ImageMAE(decoder_depth=3, **sizes), 0, images)
  fresh = _random(ImageMAE(decoder_depth=2, cross_depth=1, fmri_width=11, **sizes), 1, images)
  result = fresh | transfer.mae_to_mae(weights, _shapes(fresh))
  np.testing.assert_array_equal(result['decoder/blocks/mlp/fc1/kernel'], weights['decoder/blocks/mlp/fc1/kernel'][:2])
  np.testing.assert_array_equal(result['encoder/cross/map_in/kernel'], fresh['encoder/cross/map_in/kernel'])
  np.testing.assert_array_equal(result['encoder/blocks/attn/key/kernel'], weights['encoder/blocks/attn/key/kernel'])


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(width=18), 'has shape .*12.*, expected .*18'),
    (dict(depth=2), 'encoder/blocks/.* has shape'),  # half an encoder is not the encoder
    (dict(decoder_depth=5), 'decoder/blocks/.* has shape'),
  ],
)
def test_weights_that_do_not_fit_are_refused(change, message):
  sizes = dict(num_voxels=56, patch_size=7, decoder_depth=3) | SIZES
  weights = _random(FmriMAE(**sizes), 0, np.zeros((1, 56), np.float32))
  sizes |= change
  fresh = _random(FmriMAE(**sizes), 1, np.zeros((1, sizes['num_voxels']), np.float32))
  with pytest.raises(UserError, match=message):
    transfer.mae_to_mae(weights, _shapes(fresh), source='phase1.pth')


def test_missing_parameters_are_refused():
  fmri = np.zeros((1, 56), np.float32)
  weights = _random(FmriMAE(56, 7, decoder_depth=2, **SIZES), 0, fmri)
  fresh = dict(weights)
  del weights['encoder/norm/scale']
  with pytest.raises(UserError, match='lacks encoder/norm/scale'):
    transfer.mae_to_mae(weights, _shapes(fresh))
  target = _random(FmriConditioner(56, 7, width=12, depth=3, num_heads=3), 1, fmri)
  with pytest.raises(UserError, match='lacks encoder/norm/scale'):
    transfer.mae_to_conditioner(weights, _shapes(target))
  shallow = _random(FmriConditioner(56, 7, width=12, depth=2, num_heads=3), 1, fmri)
  with pytest.raises(UserError, match='has shape'):
    transfer.mae_to_conditioner(fresh, _shapes(shallow))
