"""unet.npz: every variant of the denoising UNet, forward and backward."""

import jax
import jax.numpy as jnp

from brainjax.models.unet import UNet
from brainjax.ops.positions import timestep_embedding
from brainjax.parity import replay
from brainjax.parity.golden import Golden
from brainjax.torch_convert import sizes
from brainjax.torch_convert.tables.unet import TABLE
from brainjax.trees import unflatten

TIME_CONDITION = 'time_embed_condtion'


def check(golden: Golden) -> None:
  """Replays the file.

  Raises:
    UserError: the file lacks an array.
  """
  state = golden.inputs('state')
  for variant in golden.groups():
    if f'{variant}/out' in golden:
      _check_variant(golden, variant, state)
  t = jnp.asarray(golden.input('timestep_embedding/t'))
  for name in golden.names_in('timestep_embedding'):
    if name.startswith('emb'):
      width = golden.peek(f'timestep_embedding/{name}').shape[1]
      golden.close(f'timestep_embedding/{name}', timestep_embedding(t, width))


def _check_variant(golden: Golden, variant: str, state: replay.Flat) -> None:
  pooled = 'globalpool' in variant
  if pooled or 'notimecond' in variant:
    state = {name: x for name, x in state.items() if not name.startswith(TIME_CONDITION)}
  if pooled:
    pool = golden.inputs(f'state_globalpool/{TIME_CONDITION}')
    state |= {f'{TIME_CONDITION}.{name}': x for name, x in pool.items()}
  heads = {'unet_num_heads': golden.config.get('num_heads', 1)}  # label2img has 1; the file does not record it
  if variant.startswith('headch'):
    heads['unet_num_head_channels'] = golden.config['num_head_channels']
  model = UNet(**replay.kwargs(sizes.unet(1), state, heads, golden))
  x, t, probe = replay.nhwc(golden.input('x')), golden.input('t'), replay.nhwc(golden.input('probe'))
  context = golden.input('context_pooled' if pooled else 'context')
  flat = replay.load(model, TABLE, state, golden, x, t, context)

  def probed(params, x, context):
    out, taps = model.apply({'params': params}, x, t, context, mutable='intermediates')
    return jnp.sum(out * probe), (out, taps['intermediates'])

  run = replay.jit(jax.grad(probed, argnums=(0, 1, 2), has_aux=True))
  (gradients, grad_x, grad_context), (out, taps) = run(unflatten(flat), x, context)
  golden.close(f'{variant}/out', replay.nchw(out))
  golden.close(f'{variant}/grad_x', replay.nchw(grad_x))
  golden.close(f'{variant}/grad_context', grad_context)
  for name in golden.names_in(f'{variant}/tap'):
    if f'tap_{name}' in taps:
      golden.close(f'{variant}/tap/{name}', replay.nchw(taps[f'tap_{name}'][0]))
  replay.check_gradients(golden, f'{variant}/grad_norm', replay.norms(replay.to_torch(TABLE, gradients)))
