"""cond.npz: the fMRI encoder as conditioner, at three widths, with and without pooling."""

import jax
import numpy as np

from brainjax.models.conditioner import FmriConditioner
from brainjax.models.fmri_mae import FmriMAE
from brainjax.parity import published, replay
from brainjax.parity.golden import Golden
from brainjax.stages import transfer
from brainjax.torch_convert import sizes
from brainjax.torch_convert.tables import conditioner, fmri_mae
from brainjax.trees import unflatten


def check(golden: Golden) -> None:
  """Replays the file.

  Raises:
    UserError: the file lacks an array.
  """
  config, checkpoint = golden.config, golden.inputs('ckpt')
  # The decoder of the checkpoint never runs. The file does not record its number of heads.
  mae = FmriMAE(**replay.kwargs(sizes.fmri_mae, checkpoint, {**config, 'decoder_num_heads': 1}, golden))
  phase1 = replay.load(mae, fmri_mae.TABLE, checkpoint, golden, np.zeros((1, mae.num_voxels), np.float32))
  for target in golden.groups():
    if f'{target}/fmri' not in golden:
      continue
    fmri = golden.input(f'{target}/fmri')[:, 0]
    for kind in golden.groups(target):
      _check_target(golden, f'{target}/{kind}', fmri, phase1)


def _check_target(golden: Golden, prefix: str, fmri: np.ndarray, phase1: replay.Flat) -> None:
  state = golden.inputs(f'{prefix}/state')
  model = FmriConditioner(**replay.kwargs(sizes.conditioner, state, golden.config, golden))
  flat = replay.load(model, conditioner.TABLE, state, golden, fmri)
  _check_transfer(golden, prefix, flat, model, phase1)
  probe = golden.input(f'{prefix}/probe')

  def probed(params):
    context = model.apply({'params': params}, fmri)
    return (context * probe).sum(), (context, model.apply({'params': params}, fmri, method='encode'))

  gradients, (context, tokens) = replay.jit(jax.grad(probed, has_aux=True))(unflatten(flat))
  golden.close(f'{prefix}/encoder_out', tokens)
  golden.close(f'{prefix}/cond', context)
  ours = replay.norms(replay.to_torch(conditioner.TABLE, gradients))
  ours.pop('mae.pos_embed')  # a constant
  replay.check_gradients(golden, f'{prefix}/grad_norm', ours)


def _check_transfer(
  golden: Golden, prefix: str, flat: replay.Flat, model: FmriConditioner, phase1: replay.Flat
) -> None:
  """Compares the weights that `diffuse` loads from the checkpoint with those that the published code loads."""
  shapes = {path: np.shape(x) for path, x in flat.items()}
  drop_norms = published.config().released.pool_drops_norms and model.global_pool  # quirk B12
  ours = replay.to_torch(conditioner.TABLE, transfer.mae_to_conditioner(phase1, shapes, drop_norms))
  for name, value in ours.items():
    golden.equal(
      f'{prefix}/state/{name}', value, quantity=f'{prefix}/state/*, from the checkpoint ({len(ours)} arrays)'
    )
  loaded = {f'mae.{name}' for name in golden.config['loaded_unchanged'][prefix]}
  golden.fact(f'config_json loaded_unchanged {prefix}', len((loaded | {'mae.pos_embed'}) ^ set(ours)))
