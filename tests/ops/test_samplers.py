"""The samplers against the golden numbers, diffusers' schedulers and a case with a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from brainjax.models.autoencoder import VQModel
from brainjax.models.conditioner import FmriConditioner
from brainjax.models.unet import UNet
from brainjax.ops import diffusion, samplers
from brainjax.parity import published
from brainjax.torch_convert import engine
from brainjax.torch_convert.tables import latent_diffusion
from tests import golden_files
from tests.models.test_unet import jit

SCHEDULE = diffusion.make_schedule()
SAMPLERS = {'plms': samplers.plms, 'ddim': samplers.ddim}


def nhwc(array):
  return np.moveaxis(array, -3, -1)


def assert_close(actual, expected, tolerance):
  expected = nhwc(expected)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


class Golden:
  """The models of diffusion.npz, each compiled once."""

  def __init__(self):
    self.arrays, config = golden_files.load('diffusion')
    self.x_T = nhwc(self.arrays['x_T'])
    self.fmri = self.arrays['fmri'][:, 0]
    t, cond, image = self.arrays['t'], self.arrays['cond'], self.arrays['image_hwc']
    unet = UNet(
      model_channels=config['model_channels'], channel_mult=tuple(config['channel_mult']), num_res_blocks=1,
      attention_resolutions=tuple(config['attention_resolutions']), context_dim=config['context_dim'],
    )  # fmt: skip
    first_stage = VQModel(32, (1, 1), 1, n_embed=config['n_embed'], resolution=image.shape[1])
    conditioner = FmriConditioner(
      self.fmri.shape[1], width=config['embed_dim'], depth=2, num_heads=4, context_dim=config['context_dim']
    )
    self.parts = {
      'unet': (unet, (self.x_T, t, cond)),
      'first_stage': (first_stage, (image,)),
      'conditioner': (conditioner, (self.fmri,)),
    }
    tree = {
      name: jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
      for name, (model, inputs) in self.parts.items()
    }
    expected = {path: leaf.shape for path, leaf in flatten_dict(tree, sep='/').items()}
    self.flat = engine.to_jax(latent_diffusion.TABLE, golden_files.group(self.arrays, 'state'), expected)
    params = unflatten_dict(self.flat, sep='/')

    def compiled(model, name, *inputs, **method):
      run = jit(lambda *inputs: model.apply({'params': params[name]}, *inputs, **method)).lower(*inputs).compile()

      def call(*inputs):
        with jax.disable_jit(False):  # compiled, wherever it is called
          return run(*inputs)

      return call

    self.unet = compiled(unet, 'unet', self.x_T, t, cond)
    self.conditioner = compiled(conditioner, 'conditioner', self.fmri)
    self.encode = compiled(first_stage, 'first_stage', image, method='encode')
    self.decode = compiled(first_stage, 'first_stage', self.x_T, method='decode')
    self.quantize = lambda z: first_stage.apply({'params': params['first_stage']}, z, method='quantize').z_q
    self.apply_unet = lambda x, t: unet.apply({'params': params['unet']}, x, t, cond)

  def eps(self, x, t):
    return self.unet(x, t, self.arrays['cond'])


@pytest.fixture(scope='module')
def golden():
  return Golden()


@pytest.fixture
def step_by_step():
  """Runs scans as loops, so that the compiled model of the fixture serves every sampler."""
  with jax.disable_jit():
    yield


def test_table_of_whole_model(golden):
  """The models of the published checkpoint's parts, through the table that joins them."""
  arrays = golden.arrays
  back = engine.to_torch(latent_diffusion.TABLE, golden.flat)
  state = golden_files.group(arrays, 'state')
  assert set(back) == set(state)
  for name, value in state.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)
  np.testing.assert_allclose(golden.conditioner(golden.fmri), arrays['cond'], atol=1e-5)
  x_t = nhwc(arrays['q_sample/x_t'])
  assert_close(golden.eps(x_t, arrays['t']), arrays['apply_model/eps'], 1e-5)
  assert_close(golden.encode(arrays['image_hwc']), arrays['get_input/latent'], 1e-5)
  assert_close(golden.decode(golden.encode(arrays['image_hwc'])), arrays['decode_first_stage/out'], 1e-5)


@pytest.mark.parametrize('name', SAMPLERS)
def test_samples(golden, step_by_step, name):
  arrays = golden_files.group(golden.arrays, f'{name}/S10')
  steps = diffusion.sample_steps(1000, 10)
  x0, trajectory = SAMPLERS[name](golden.eps, golden.x_T, SCHEDULE, steps, return_trajectory=True)
  assert_close(x0, arrays['final'], 1e-4)
  assert_close(golden.decode(x0), arrays['decoded'], 1e-3)
  assert_close(trajectory.x, arrays['x_inter'], 1e-4)
  assert_close(trajectory.pred_x0, arrays['pred_x0'], 1e-4)


@pytest.mark.parametrize('name', SAMPLERS)
@pytest.mark.parametrize('number', [10, 50])
def test_step_table(golden, name, number):
  arrays = golden_files.group(golden.arrays, f'{name}/S{number}')
  table = samplers.step_table(SCHEDULE, diffusion.sample_steps(1000, number))
  np.testing.assert_array_equal(table.t[::-1], arrays['timesteps'])
  np.testing.assert_allclose(table.alpha[::-1], arrays['alphas'], rtol=1e-6)
  np.testing.assert_allclose(table.alpha_prev[::-1], arrays['alphas_prev'], rtol=1e-6)
  np.testing.assert_allclose(np.sqrt(1 - table.alpha[::-1]), arrays['sqrt_one_minus_alphas'], rtol=2e-5)


@pytest.mark.parametrize('name', ['plms', pytest.param('ddim', marks=pytest.mark.slow)])
def test_samples_as_one_scan(golden, name):
  arrays = golden_files.group(golden.arrays, f'{name}/S50')
  steps = diffusion.sample_steps(1000, 50)
  x0 = jit(lambda x: SAMPLERS[name](golden.apply_unet, x, SCHEDULE, steps))(golden.x_T)
  assert_close(x0, arrays['final'], 1e-4)
  assert_close(golden.decode(x0), arrays['decoded'], 1e-3)


@pytest.mark.parametrize('name', SAMPLERS)
def test_samples_with_quantised_x0(golden, step_by_step, name):
  arrays = golden_files.group(golden.arrays, f'{name}/S10_quantx0')
  steps = diffusion.sample_steps(1000, 10)
  x0 = SAMPLERS[name](golden.eps, golden.x_T, SCHEDULE, steps, quantize_x0=golden.quantize)
  assert_close(x0, arrays['final'], 1e-4)
  assert_close(golden.decode(x0), arrays['decoded'], 1e-3)


def test_guidance(golden, step_by_step):
  def uncond(x, t):
    return golden.unet(x, t, np.zeros_like(golden.arrays['cond']))

  eps_fn = samplers.guided(golden.eps, uncond, 2.0)
  x0 = samplers.plms(eps_fn, golden.x_T, SCHEDULE, diffusion.sample_steps(1000, 10))
  assert_close(x0, golden.arrays['plms_guidance2/final'], 1e-4)


def test_stochastic_ddim(golden, step_by_step):
  arrays = golden_files.group(golden.arrays, 'ddim_eta0.5')
  steps = diffusion.sample_steps(1000, 10)
  x0 = samplers.ddim(golden.eps, golden.x_T, SCHEDULE, steps, eta=0.5, noise=nhwc(arrays['noise']))
  assert_close(x0, arrays['final'], 1e-4)
  np.testing.assert_allclose(samplers.step_table(SCHEDULE, steps, 0.5).sigma[::-1], arrays['sigmas'], rtol=2e-5)


def test_ddpm(golden, step_by_step):
  arrays = golden_files.group(golden.arrays, 'ddpm_tail6')
  x0 = published.ddpm(golden.eps, golden.x_T, SCHEDULE, nhwc(arrays['noise']))
  assert_close(x0, arrays['final'], 1e-4)


# Other sizes and schedules, with a noise prediction that is a formula.


def formula(np_like):
  def eps_fn(x, t):
    return np_like.tanh(0.7 * x + 0.3) * np_like.cos(0.002 * t)

  return eps_fn


def jax_formula(x, t):
  assert t.shape == x.shape[:1] and t.dtype == jnp.int32
  return formula(jnp)(x, t[:, None, None, None])


def oracle_options():
  return dict(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear',
    set_alpha_to_one=False, steps_offset=1,
  )  # fmt: skip


OTHER = diffusion.make_schedule(1000, 0.00085, 0.012)
START = np.random.default_rng(7).standard_normal((3, 7, 8, 9), np.float32)


@pytest.mark.parametrize('number', [1, 2, 4, 8, 25])
def test_plms_equals_diffusers(number):
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, **oracle_options())
  scheduler.set_timesteps(number)
  x = torch.from_numpy(START)
  for t in scheduler.timesteps:
    x = scheduler.step(formula(torch)(x, t), t, x).prev_sample
  plms = jax.jit(lambda x: samplers.plms(jax_formula, x, OTHER, diffusion.sample_steps(1000, number)))
  if number > 1:  # with one step, diffusers calls the model at the step once only
    np.testing.assert_allclose(plms(START), x.numpy(), rtol=0, atol=2e-5 * np.abs(x.numpy()).max())
  assert np.all(np.isfinite(plms(START)))


@pytest.mark.parametrize('number', [1, 2, 4, 25, 50])
def test_dpm_equals_diffusers(number):
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  options = {name: value for name, value in oracle_options().items() if name != 'set_alpha_to_one'}
  scheduler = diffusers.DPMSolverMultistepScheduler(**options)  # second order, DPM-Solver++, to zero noise
  steps = diffusion.sample_steps(1000, number)
  scheduler.set_timesteps(timesteps=steps[::-1].tolist())
  x = torch.from_numpy(START)
  for t in scheduler.timesteps:
    x = scheduler.step(formula(torch)(x, t), t, x).prev_sample
  x0, trajectory = jax.jit(lambda x: samplers.dpm(jax_formula, x, OTHER, steps, return_trajectory=True))(START)
  np.testing.assert_allclose(x0, x.numpy(), rtol=0, atol=2e-5 * np.abs(x.numpy()).max())
  np.testing.assert_array_equal(trajectory.x[0], START)
  np.testing.assert_array_equal(trajectory.x[-1], trajectory.pred_x0[-1])


@pytest.mark.parametrize('eta', [0.0, 0.3, 1.0])
def test_ddim_equals_diffusers(eta):
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  scheduler = diffusers.DDIMScheduler(clip_sample=False, **oracle_options())
  scheduler.set_timesteps(8)
  noise = np.random.default_rng(8).standard_normal((8, *START.shape), np.float32)
  x = torch.from_numpy(START)
  for t, draw in zip(scheduler.timesteps, noise, strict=True):
    draw = torch.from_numpy(draw)
    x = scheduler.step(formula(torch)(x, t), t, x, eta=eta, variance_noise=draw if eta else None).prev_sample
  draws = noise if eta else None
  steps = diffusion.sample_steps(1000, 8)
  ours = jax.jit(lambda x: samplers.ddim(jax_formula, x, OTHER, steps, eta=eta, noise=draws))(START)
  np.testing.assert_allclose(ours, x.numpy(), rtol=0, atol=2e-5 * np.abs(x.numpy()).max())


def test_single_plms_step_by_hand():
  """One step: both calls are at t = 1, the second at the tentative result."""
  a, before = float(SCHEDULE.alphas_cumprod[1]), float(SCHEDULE.alphas_cumprod[0])

  def move(eps):
    return np.sqrt(before) * (START - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - before) * eps

  first = formula(np)(START, 1)
  expected = move((first + formula(np)(move(first), 1)) / 2)
  ours = samplers.plms(jax_formula, START, SCHEDULE, diffusion.sample_steps(1000, 1))
  np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_partial_ddim_continues_the_whole():
  steps = diffusion.sample_steps(1000, 8)
  whole, trajectory = samplers.ddim(jax_formula, START, SCHEDULE, steps, return_trajectory=True)
  rest = samplers.ddim(jax_formula, trajectory.x[5], SCHEDULE, steps[:3])
  np.testing.assert_allclose(rest, whole, rtol=1e-5, atol=1e-5)


MEAN, DEVIATION = 2.0, 0.5


def gaussian_eps(x, t):
  """The exact noise prediction if the data are N(MEAN, DEVIATION^2)."""
  alpha = jnp.asarray(SCHEDULE.alphas_cumprod)[t][:, None, None, None]
  return jnp.sqrt(1 - alpha) * (x - jnp.sqrt(alpha) * MEAN) / (alpha * DEVIATION**2 + 1 - alpha)


@pytest.mark.parametrize('name', ['plms', 'dpm', 'ddim', 'ddim stochastic', 'ddpm'])
def test_gaussian_data_are_recovered(name):
  key = jax.random.key(5)
  start = jax.random.normal(jax.random.key(4), (2000, 2, 1, 1))
  steps, many = diffusion.sample_steps(1000, 100), diffusion.sample_steps(1000, 500)
  run = {
    'plms': lambda x: samplers.plms(gaussian_eps, x, SCHEDULE, steps),
    'dpm': lambda x: samplers.dpm(gaussian_eps, x, SCHEDULE, diffusion.sample_steps(1000, 50)),
    'ddim': lambda x: samplers.ddim(gaussian_eps, x, SCHEDULE, steps),
    'ddim stochastic': lambda x: samplers.ddim(gaussian_eps, x, SCHEDULE, many, eta=1.0, key=key),
    'ddpm': lambda x: published.ddpm(gaussian_eps, x, SCHEDULE, jax.random.normal(key, (1000, *x.shape))),
  }[name]
  x0 = jax.jit(run)(start)
  assert np.mean(x0) == pytest.approx(MEAN, abs=0.04)  # the standard error is 0.008
  assert np.std(x0) == pytest.approx(DEVIATION, rel=0.06)


def test_wrong_arguments_are_refused():
  steps = diffusion.sample_steps(1000, 4)
  with pytest.raises(ValueError, match='either noise or a key'):
    samplers.ddim(jax_formula, START, SCHEDULE, steps, eta=0.5)
  with pytest.raises(ValueError, match='steps must ascend'):
    samplers.plms(jax_formula, START, SCHEDULE, np.array([1, 1000]))
