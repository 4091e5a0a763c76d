"""diffusion.npz: schedule, losses, samplers and fine-tuning steps of the latent diffusion model."""

import contextlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from brainjax import trees
from brainjax.errors import UserError
from brainjax.models.autoencoder import VQModel
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.latent_diffusion import LatentDiffusion, predict_noise
from brainjax.models.unet import UNet
from brainjax.ops import diffusion, samplers
from brainjax.parity import published, replay
from brainjax.parity.golden import FORWARD, TRAJECTORY, Golden, relative_error
from brainjax.stages import common, diffuse, transfer
from brainjax.torch_convert import sizes
from brainjax.torch_convert.tables import latent_diffusion
from brainjax.trees import split, unflatten

SAMPLERS = {'plms': samplers.plms, 'ddim': samplers.ddim}
AS_IS = 'its optimizer has some tensors of the conditioner twice (B11). We do not reproduce this bug; train_dedup is compared.'


class Loaded(NamedTuple):
  """The models of the file, and its schedule."""

  parts: LatentDiffusion
  flat: replay.Flat
  schedule: diffusion.Schedule


def check(golden: Golden) -> None:
  """Replays the file.

  Raises:
    UserError: the file lacks an array.
  """
  config = published.config()
  replay.check_hyperparameters(golden, config, {'clip': 'diffuse.clip_norm'})
  schedule = _check_schedule(golden, config)
  loaded = _load(golden, schedule)
  _check_single(golden, loaded)
  _check_sampling(golden, loaded)
  _check_training(golden, config, loaded)
  _check_averages(golden)


def _check_schedule(golden: Golden, config: ConfigDict) -> diffusion.Schedule:
  schedule = diffusion.make_schedule(**config.noise_schedule)
  ours = schedule._asdict() | {'lvlb_weights': _vlb_weights(schedule)}
  for name in golden.names_in('schedule'):
    if name in ours:
      golden.close(f'schedule/{name}', ours[name])
  for folder, rule in (('ddim_timesteps', diffusion.sample_steps), ('ddim_timesteps_quad', published.quadratic_steps)):
    for name in golden.names_in(folder):
      _check_steps(golden, f'{folder}/{name}', rule, schedule.num_steps, int(name[1:]))
  return schedule


def _check_steps(golden: Golden, name: str, rule, num_train_steps: int, number: int) -> None:
  """Compares sampling steps. Where the published ones are outside the schedule, ours must be refused."""
  expected = golden.peek(name)
  try:
    steps = rule(num_train_steps, number)
  except UserError:
    steps = None
  if expected.max() >= num_train_steps or np.any(np.diff(expected) < 1):
    refused = expected if steps is None else np.zeros(0)
    golden.equal(name, refused, quantity=f'{name} (outside the schedule, or repeated: refused here)')
  else:
    golden.equal(name, np.zeros(0) if steps is None else steps)


def _vlb_weights(schedule: diffusion.Schedule) -> np.ndarray:
  """Computes the weights of the variational bound, which the published code logs but does not train on."""
  s = diffusion.Schedule(*(np.asarray(table, np.float64) for table in schedule))
  variance = s.posterior_variance.copy()
  variance[0] = np.inf
  weights = np.square(s.betas) / (2 * variance * (1 - s.betas) * (1 - s.alphas_cumprod))
  weights[0] = weights[1]
  return weights


def _load(golden: Golden, schedule: diffusion.Schedule) -> Loaded:
  state, config = golden.inputs('state'), golden.config
  fmri, cond = golden.input('fmri')[:, 0], golden.peek('cond')
  x_T, image = replay.nhwc(golden.input('x_T')), golden.input('image_hwc')
  heads = {'unet_num_heads': config.get('unet_num_heads', 1), 'unet_num_head_channels': config.get('num_head_channels')}
  unet = UNet(**replay.kwargs(sizes.unet(1), state, heads, golden, 'model.diffusion_model.'))
  first_stage = VQModel(**replay.kwargs(sizes.autoencoder, state, {}, golden, 'first_stage_model.'))
  one_head = replay.kwargs(sizes.conditioner, state, {'num_heads': 1}, golden, 'cond_stage_model.')
  conditioner = FmriConditioner(**one_head)
  parts = LatentDiffusion(conditioner, unet, first_stage)

  def init(key):
    keys = jax.random.split(key, 3)
    return {
      'conditioner': conditioner.init(keys[0], fmri)['params'],
      'unet': unet.init(keys[1], x_T, golden.peek('t'), cond)['params'],
      'first_stage': first_stage.init(keys[2], image)['params'],
    }

  expected = transfer.init_shapes(init)
  flat = replay.engine.to_jax(latent_diffusion.TABLE, state, expected, f'{golden.path}: its PyTorch state')
  conditioner = _with_heads(conditioner, trees.subtree(flat, 'conditioner'), fmri, cond, config.get('num_heads'))
  return Loaded(parts._replace(conditioner=conditioner), flat, schedule)


def _predict(parts: LatentDiffusion, params, schedule, latent, fmri, t, eps) -> jax.Array:
  """The predicted noise of `latent: B h w C` at the steps `t: B` with the noise `eps`, given `fmri: B V`."""
  context = parts.conditioner.apply({'params': params['conditioner']}, fmri)
  return predict_noise(parts.unet, params['unet'], schedule, latent, context, t, eps)


def _with_heads(model: FmriConditioner, flat: replay.Flat, fmri, cond, num_heads: int | None) -> FmriConditioner:
  """Returns the conditioner with the recorded number of heads, or else with the number that reproduces `cond`.

  Shapes do not show the number of heads.
  """
  candidates = [n for n in range(1, model.width + 1) if model.width % n == 0]
  candidates.sort(key=lambda n: abs(n - 4))
  best, least = model, np.inf
  for heads in [num_heads] if num_heads else candidates:
    model = model.clone(num_heads=heads)
    out = replay.jit(model.apply)(replay.variables(flat), fmri)
    error = relative_error(np.asarray(out, np.float64), np.asarray(cond, np.float64))
    if error < least:
      best, least = model, error
    if error < FORWARD:
      break
  return best


def _check_single(golden: Golden, loaded: Loaded) -> None:
  parts, flat, schedule = loaded
  fmri, t = golden.peek('fmri')[:, 0], jnp.asarray(golden.input('t'))
  x0, noise = (jnp.asarray(replay.nhwc(golden.input(name))) for name in ('x0', 'noise'))
  params = unflatten(flat)
  context = replay.jit(parts.conditioner.apply)({'params': params['conditioner']}, fmri)
  golden.close('cond', context)
  x_t = diffusion.q_sample(schedule, x0, t, noise)
  golden.close('q_sample/x_t', replay.nchw(x_t))
  golden.close('predict_start_from_noise', replay.nchw(published.predict_x0(schedule, x0, t, noise)))
  posterior = published.posterior(schedule, x0, noise, t)
  golden.close('q_posterior/mean', replay.nchw(posterior.mean))
  golden.close('q_posterior/variance', posterior.variance)
  golden.close('q_posterior/log_variance', posterior.log_variance)

  predicted = replay.jit(lambda params: _predict(parts, params, schedule, x0, fmri, t, noise))(params)
  loss = diffusion.eps_loss(predicted, noise)
  golden.close('p_losses/loss', loss.mean())
  golden.close('p_losses/loss_simple', loss.mean())
  golden.close('p_losses/loss_vlb', (_vlb_weights(schedule)[np.asarray(t)] * loss).mean())

  image, first_stage = golden.peek('image_hwc'), {'params': params['first_stage']}
  latent = replay.jit(lambda v, x: parts.first_stage.apply(v, x, method='encode'))(first_stage, image)
  golden.close('get_input/latent', replay.nchw(latent))


def _check_sampling(golden: Golden, loaded: Loaded) -> None:
  parts, flat, schedule = loaded
  params = unflatten(flat)
  x_T, cond, first_stage = replay.nhwc(golden.peek('x_T')), golden.peek('cond'), {'params': params['first_stage']}
  unet = _compiled(lambda x, t, c: parts.unet.apply({'params': params['unet']}, x, t, c), x_T, golden.peek('t'), cond)
  decode = replay.jit(lambda z: parts.first_stage.apply(first_stage, z, method='decode'))
  quantize = _compiled(lambda z: parts.first_stage.apply(first_stage, z, method='quantize').z_q, x_T)
  golden.close('apply_model/eps', replay.nchw(unet(replay.nhwc(golden.peek('q_sample/x_t')), golden.peek('t'), cond)))
  golden.close('decode_first_stage/out', replay.nchw(decode(replay.nhwc(golden.peek('get_input/latent')))))

  def eps(x, t):
    return unet(x, t, cond)

  def uncond(x, t):
    return unet(x, t, np.zeros_like(cond))

  for name in golden.groups():
    if match := re.fullmatch(r'ddim_eta([\d.]+)', name):
      noise, eta = replay.nhwc(golden.input(f'{name}/noise')), float(match[1])
      steps = _stochastic_steps(golden, name, eta, schedule)
      with jax.disable_jit():
        final = samplers.ddim(eps, x_T, schedule, steps, eta=eta, noise=noise)
      golden.close(f'{name}/final', replay.nchw(final), TRAJECTORY)
      golden.close(f'{name}/sigmas', samplers.step_table(schedule, steps, eta).sigma[::-1])
    elif match := re.fullmatch(r'plms_guidance([\d.]+)', name):
      golden.close(
        f'{name}/final', _guided(golden, name, schedule, samplers.guided(eps, uncond, float(match[1])), x_T), TRAJECTORY
      )
    elif match := re.fullmatch(r'ddpm_tail(\d+)', name):
      noise = replay.nhwc(golden.input(f'{name}/noise'))
      with jax.disable_jit():
        final = published.ddpm(eps, x_T, schedule, noise)
      golden.close(f'{name}/final', replay.nchw(final), TRAJECTORY)
    elif name in SAMPLERS:
      for run in golden.groups(name):
        match = re.fullmatch(r'S(\d+)(_quantx0)?', run)
        if match:
          quantized = quantize if match[2] else None
          _check_run(golden, name, run, schedule, int(match[1]), eps, x_T, quantized, decode)


def _stochastic_steps(golden: Golden, name: str, eta: float, schedule: diffusion.Schedule) -> np.ndarray:
  """Finds the steps of a stochastic run by its sigmas, since its name does not give their number."""
  sigmas, total = golden.peek(f'{name}/sigmas'), schedule.num_steps
  fitting = []
  for number in range(1, total + 1):
    if len(range(0, total, total // number)) == len(sigmas):
      with contextlib.suppress(UserError):  # a number whose last step is outside the schedule
        steps = diffusion.sample_steps(total, number)
        fitting.append((relative_error(samplers.step_table(schedule, steps, eta).sigma[::-1], sigmas), number, steps))
  if not fitting:
    raise UserError(
      f'{golden.path}: {name}/sigmas has {len(sigmas)} entries; no way of sampling a schedule of {total} steps has as many'
    )
  return min(fitting, key=lambda entry: entry[:2])[2]


def _guided(golden: Golden, name: str, schedule: diffusion.Schedule, eps, x_T) -> np.ndarray:
  """Returns the result of a guided run. Its name does not give its steps: those of the other runs are tried."""
  candidates = [
    _stochastic_steps(golden, group, float(group.removeprefix('ddim_eta')), schedule)
    for group in golden.groups()
    if re.fullmatch(r'ddim_eta[\d.]+', group)
  ]
  runs = (re.fullmatch(r'S(\d+)', run) for run in golden.groups('plms'))
  candidates += [diffusion.sample_steps(schedule.num_steps, int(run[1])) for run in runs if run]
  results = []
  for steps in {len(steps): steps for steps in reversed(candidates)}.values():
    with jax.disable_jit():
      final = replay.nchw(samplers.plms(eps, x_T, schedule, steps))
    results.append((relative_error(final, golden.peek(f'{name}/final')), len(results), final))
    if results[-1][0] <= TRAJECTORY:
      break
  return min(results, key=lambda entry: entry[:2])[2]


def _compiled(function, *inputs):
  """Compiles a function. The result runs compiled even where jit is disabled."""
  run = replay.jit(function).lower(*inputs).compile()

  def call(*inputs):
    with jax.disable_jit(False):
      return run(*inputs)

  return call


def _check_run(golden: Golden, sampler: str, run: str, schedule, number: int, eps, x_T, quantize_x0, decode) -> None:
  prefix, steps = f'{sampler}/{run}', diffusion.sample_steps(schedule.num_steps, number)
  # Without jit the sampler's scan is a loop that calls the compiled model. Compiling each run would take longer.
  with jax.disable_jit():
    final, trajectory = SAMPLERS[sampler](eps, x_T, schedule, steps, quantize_x0=quantize_x0, return_trajectory=True)
  golden.close(f'{prefix}/final', replay.nchw(final), TRAJECTORY)
  for theirs, ours in (('x_inter', trajectory.x), ('pred_x0', trajectory.pred_x0)):
    if f'{prefix}/{theirs}' in golden:
      golden.close(f'{prefix}/{theirs}', replay.nchw(ours), TRAJECTORY, steps=True)
  if f'{prefix}/decoded' in golden:
    # From the recorded sample: with ours, rounding could select another code.
    golden.close(f'{prefix}/decoded', replay.nchw(decode(replay.nhwc(golden.peek(f'{prefix}/final')))))
  table = samplers.step_table(schedule, steps)
  golden.equal(f'{prefix}/timesteps', table.t[::-1])
  golden.close(f'{prefix}/alphas', table.alpha[::-1])
  golden.close(f'{prefix}/alphas_prev', table.alpha_prev[::-1])
  golden.close(f'{prefix}/sqrt_one_minus_alphas', np.sqrt(1 - table.alpha[::-1]))


def _check_training(golden: Golden, config: ConfigDict, loaded: Loaded) -> None:
  for name in golden.names_in('train_as_is'):
    golden.exclude(f'train_as_is/{name}', AS_IS)
  parts, flat, schedule = loaded
  recorded, trainable = golden.config, diffuse.trainable(config)
  names = set(recorded['optimizer_param_names']) - set(recorded['no_grad_in_optimizer'])
  trained = replay.to_torch(latent_diffusion.TABLE, split(flat, trainable)[0])
  golden.fact(f'config_json optimizer_param_names ({len(names)} names)', len(names ^ set(trained)))

  def loss(params, batch, key):
    del key
    latent = parts.first_stage.apply({'params': params['first_stage']}, batch['image'], method='encode')
    predicted = _predict(parts, params, schedule, latent, batch['fmri'], batch['t'], batch['eps'])
    return diffusion.eps_loss(predicted, batch['eps']).mean(), {}

  arrays = {
    'image': golden.input('train/image_hwc'),
    'fmri': golden.input('train/fmri')[:, :, 0],
    't': golden.input('train/t'),
    'eps': replay.nhwc(golden.input('train/noise')),
  }
  batches = [{name: array[i] for name, array in arrays.items()} for i in range(len(arrays['t']))]
  stage = config.diffuse.copy_and_resolve_references()
  stage.learning_rate = recorded['lr']
  rate = common.schedule(stage, len(batches), stage.cosine_schedule)
  tables = {'train_dedup/params': ('', latent_diffusion.TABLE)}
  _, metrics = replay.check_training(golden, tables, stage, diffuse.OPTIMIZER, flat, trainable, loss, rate, batches)
  golden.close('train_dedup/loss', metrics['loss'])
  golden.close('train_dedup/grad_norm_preclip', metrics['gradient_norm'])


def _check_averages(golden: Golden) -> None:
  average, decay = jnp.asarray(golden.input('ema/w0')), float(golden.input('ema/decay'))
  count = sum(name.startswith('shadow_after') for name in golden.names_in('ema'))
  for n in range(1, count + 1):
    average = published.ema_update(average, jnp.asarray(golden.input(f'ema/w{n}')), n, decay)
    golden.close(f'ema/shadow_after{n}', average)
