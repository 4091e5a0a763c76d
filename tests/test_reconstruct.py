"""`Reconstructor` and its command on small random weights: samples, seeds, denoising; mistakes in one sentence each."""

import numpy as np
import pytest
from PIL import Image

from brainjax import reconstruct
from brainjax.checkpoints import load_weights, save_weights
from brainjax.datasets.input_transform import InputTransform
from brainjax.errors import UserError
from brainjax.reconstruct import Reconstructor
from tests.small_weights import NUM_VOXELS, write_weights


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  return write_weights(tmp_path_factory.mktemp('weights') / 'weights')


@pytest.fixture(scope='module')
def model(weights):
  return Reconstructor(weights)


def fmri(trials=3, seed=0):
  return np.random.default_rng(seed).normal(size=(trials, NUM_VOXELS))


def test_pictures_depend_on_trial_sample_and_seed_alone(model):
  pictures = model(fmri(), num_samples=2, num_steps=4, normalised=True)
  assert pictures.shape == (3, 2, 16, 16, 3) and pictures.dtype == np.uint8
  np.testing.assert_array_equal(model(fmri(), num_samples=2, num_steps=4, normalised=True, batch_size=4), pictures)
  np.testing.assert_array_equal(model(fmri()[:1], num_samples=1, num_steps=4, normalised=True)[0, 0], pictures[0, 0])
  np.testing.assert_array_equal(
    model(fmri()[0], num_samples=1, num_steps=4, normalised=True)[0, 0], pictures[0, 0]
  )  # one trial, V
  for other in (
    model(fmri(), num_samples=2, num_steps=4, normalised=True, seed=1),
    model(fmri(seed=1), num_samples=2, num_steps=4, normalised=True),
    model(fmri(), num_samples=2, num_steps=4, normalised=True, sampler='ddim', eta=1.0),
    model(fmri(), num_samples=2, num_steps=4, normalised=True, guidance=3.0),
    pictures[:, ::-1],
  ):
    assert (other != pictures).any(axis=(2, 3, 4)).all()


@pytest.mark.parametrize(
  'options', [{}, {'sampler': 'dpm'}, {'sampler': 'ddim', 'eta': 0.5}], ids=['plms', 'dpm', 'ddim']
)
def test_denoising_ends_with_the_sample(model, options):
  steps, noisy, expected = model.denoising(fmri()[0], num_steps=5, normalised=True, num_pictures=4, **options)
  assert steps.tolist() == [0, 2, 3, 5] and noisy.shape == expected.shape == (4, 16, 16, 3)
  sample = model(fmri()[:1], num_samples=1, num_steps=5, normalised=True, **options)[0, 0]
  np.testing.assert_allclose(noisy[-1].astype(int), sample.astype(int), atol=1)
  np.testing.assert_array_equal(noisy[0], expected[0])
  assert (
    len(model.denoising(fmri()[0], num_steps=2, normalised=True, num_pictures=9, **options)[0]) == 3
  )  # no more than there are


def test_the_noise_schedule_is_that_of_the_weights(weights, model, tmp_path):
  params, info = load_weights(weights)
  schedule = {'num_steps': 100, 'start': 0.001, 'end': 0.05}
  info['settings']['schedule'] = schedule
  save_weights(
    tmp_path / 'weights', params, {'kind': 'diffuse', 'num_voxels': NUM_VOXELS, 'settings': info['settings']}
  )
  other = Reconstructor(tmp_path / 'weights')
  assert (
    other(fmri(), num_samples=1, num_steps=4, normalised=True)
    != model(fmri(), num_samples=1, num_steps=4, normalised=True)
  ).any()
  with pytest.raises(UserError, match='number of sampling steps is 101, expected 1 to 100'):
    other(fmri(), num_steps=101, normalised=True)


def wrong():
  """(fMRI, words of the sentence)."""
  yield 'too wide', np.zeros((3, 33)), r'float64 \(3, 33\); these weights expect numbers of shape \(trials, 32\)'
  yield '1-D of another width', np.zeros(31), r'\(1, 31\)'
  yield '3-D', np.zeros((2, 3, 32)), r'\(2, 3, 32\)'
  yield 'no trials', np.zeros((0, 32)), r'\(0, 32\)'
  yield 'text', np.full((3, 32), '1.0'), r'<U3 \(3, 32\)'
  yield 'bool', np.zeros((3, 32), bool), 'bool'
  yield 'complex', np.zeros((3, 32), complex), 'complex128'
  yield 'scalar', np.float32(3), r'float32 \(\)'
  nan = np.zeros((3, 32))
  nan[1, 7] = nan[2, 3] = np.nan
  yield 'NaN', nan, '2 values that are not finite, the first in trial 1, voxel 7'
  yield 'infinite', nan + np.inf, '96 values that are not finite'
  yield 'beyond float32', np.full((3, 32), 1e300), '96 values that are not finite'


@pytest.mark.parametrize(('value', 'words'), [case[1:] for case in wrong()], ids=[case[0] for case in wrong()])
def test_wrong_fmri_is_one_sentence(weights, model, tmp_path, capsys, value, words):
  with pytest.raises(UserError, match=words):
    model(value, num_steps=2, normalised=True)
  np.save(tmp_path / 'fmri.npy', value)
  command = [f'--weights={weights}', f'--fmri={tmp_path / "fmri.npy"}', f'--out={tmp_path / "out"}', '--num_steps=2']
  assert reconstruct.main(command) == 2
  told = capsys.readouterr().err
  assert (
    told.startswith(('error: fMRI ', f'error: {tmp_path / "fmri.npy"} is '))
    and told.count('\n') == 1
    and not (tmp_path / 'out').exists()
  )


def test_wrong_options_are_one_sentence(model):
  for options, words in (
    ({'sampler': 'euler'}, 'expected one of plms, dpm, ddim'),
    ({'eta': 1.0}, 'plms is deterministic'),
    ({'sampler': 'dpm', 'eta': 1.0}, 'dpm is deterministic'),
    ({'sampler': 'ddim', 'eta': -1.0}, 'eta 0 or more'),
    ({'guidance': float('nan')}, 'finite'),
    ({'num_samples': 0}, 'num_samples is 0'),
    ({'num_samples': 2.5}, 'num_samples is 2.5; expected a whole number'),
    ({'num_samples': True}, 'num_samples is True; expected a whole number'),
    ({'seed': 2**32}, 'seed is 4294967296; expected a whole number, 0 to'),
    ({'seed': 1.5}, 'seed is 1.5; expected a whole number'),
    ({'seed': False}, 'seed is False; expected a whole number'),
    ({'batch_size': 0}, 'batch_size is 0'),
    ({'num_steps': 1001}, '1001'),
  ):
    with pytest.raises(UserError, match=words):
      model(fmri(), normalised=True, **options)
  with pytest.raises(UserError, match='num_pictures is 2.5; expected a whole number'):
    model.denoising(fmri()[0], normalised=True, num_pictures=2.5)


def test_command_writes_pictures_and_never_over_others(weights, model, tmp_path, capsys):
  np.save(tmp_path / 'fmri.npy', fmri(2))
  command = [f'--weights={weights}', f'--fmri={tmp_path / "fmri.npy"}', f'--out={tmp_path / "out"}']
  command += ['--num_steps=4', '--num_samples=2', '--seed=3']
  assert reconstruct.main(command) == 0
  expected = model(fmri(2), num_samples=2, num_steps=4, normalised=True, seed=3)
  with np.load(tmp_path / 'out' / 'images.npz', allow_pickle=False) as archive:
    np.testing.assert_array_equal(archive['samples'], expected)
  with Image.open(tmp_path / 'out' / 'trial0001_sample0.png') as picture:
    np.testing.assert_array_equal(np.asarray(picture), expected[1, 0])
  assert len(list((tmp_path / 'out').iterdir())) == 5
  assert reconstruct.main(command) == 2 and 'nothing is overwritten' in capsys.readouterr().err


def test_command_tells_files_that_are_none(weights, tmp_path, capsys):
  np.savez(tmp_path / 'many.npz', a=fmri(), b=fmri())
  np.save(tmp_path / 'pickled.npy', np.array([{}], object), allow_pickle=True)
  (tmp_path / 'text.npy').write_text('1 2 3')
  with open(tmp_path / 'huge.npy', 'wb') as file:
    header = {'descr': '<f4', 'fortran_order': False, 'shape': (10**12, 32)}
    np.lib.format.write_array_header_1_0(file, header)
  (tmp_path / 'cut.npz').write_bytes((tmp_path / 'many.npz').read_bytes()[:100])
  for name, words in (
    ('many.npz', 'is an .npz archive of a, b'),
    ('pickled.npy', 'holds pickled Python objects'),
    ('text.npy', 'damaged or not a .npy file'),
    ('cut.npz', 'an .npz archive under the name of an .npy file'),
    ('huge.npy', r'claims shape (1000000000000, 32)'),
    ('none.npy', 'no such file'),
  ):
    assert reconstruct.main([f'--weights={weights}', f'--fmri={tmp_path / name}', f'--out={tmp_path / "out"}']) == 2
    assert words in capsys.readouterr().err
  np.save(tmp_path / 'fmri.npy', fmri())
  wrong_seed = [f'--fmri={tmp_path / "fmri.npy"}', f'--out={tmp_path / "out"}', f'--seed={10**20}']
  assert reconstruct.main([f'--weights={weights}', *wrong_seed]) == 2
  assert 'seed is 1' in capsys.readouterr().err
  assert (
    reconstruct.main([f'--weights={tmp_path}', f'--fmri={tmp_path / "fmri.npy"}', f'--out={tmp_path / "out"}']) == 2
  )
  assert 'error: ' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_weights_of_another_stage_are_refused(tmp_path):
  save_weights(tmp_path / 'weights', {'a': np.zeros(3)}, {'settings': {'width': 3}})
  with pytest.raises(UserError, match='expected the weights of the diffuse stage'):
    Reconstructor(tmp_path / 'weights')


def test_raw_responses_go_through_the_input_transform_of_the_weights(weights, tmp_path, capsys):
  params, info = load_weights(weights)
  raw = np.random.default_rng(5).normal(500, 20, (9, NUM_VOXELS + 3)).astype(np.float32)
  mask = np.arange(NUM_VOXELS + 3) < NUM_VOXELS - 2  # two voxels are repeated to fill the last patch
  options = dict(data_set='own', roi='VC', mask=mask, patch_size=16)
  fitted = [InputTransform.fit(raw[:, mask], subject=name, **options) for name in ('a', 'b')]
  for folder, known in (('one', fitted[:1]), ('two', fitted)):
    save_weights(tmp_path / folder, params, info | {'input': [t.to_json() for t in known]})
  one, two = Reconstructor(tmp_path / 'one'), Reconstructor(tmp_path / 'two')
  padded = np.concatenate([raw[:2, mask], raw[:2, :2]], axis=1).astype(np.float64)
  statistics = np.concatenate([raw[:, mask], raw[:, :2]], axis=1).astype(np.float64)
  z = (padded - statistics.mean()) / statistics.std()
  options = dict(num_samples=1, num_steps=2)
  expected = one(z, normalised=True, **options)
  for pictures in (one(raw[:2], **options), one(raw[:2, mask], **options), two(raw[:2], subject='b', **options)):
    np.testing.assert_allclose(pictures.astype(int), expected.astype(int), atol=1)
  assert 'root mean square' not in capsys.readouterr().out
  for draw in (one, one.from_betas):
    with pytest.raises(UserError, match='root mean square of .*; expected about 1, as in own/a'):
      draw(500 + raw[:2] / 1e3, **options)  # another unit
  np.testing.assert_allclose(one.from_betas(raw[:2], **options).astype(int), expected.astype(int), atol=1)
  np.save(tmp_path / 'betas.npy', raw[:2])
  command = [f'--weights={tmp_path / "two"}', f'--betas={tmp_path / "betas.npy"}', '--num_samples=1', '--num_steps=2']
  assert reconstruct.main([*command, '--subject=a', f'--out={tmp_path / "pictures"}']) == 0
  with np.load(tmp_path / 'pictures' / 'images.npz', allow_pickle=False) as archive:
    np.testing.assert_allclose(archive['samples'].astype(int), expected.astype(int), atol=1)
  assert reconstruct.main([*command, f'--out={tmp_path / "none"}']) == 2 and not (tmp_path / 'none').exists()
  assert 'name the one whose responses these are' in capsys.readouterr().err
  with pytest.raises(UserError, match='know the subjects a, b; name the one'):
    two(raw[:2], **options)
  with pytest.raises(UserError, match="subject is 'c'; these weights know a, b"):
    two(raw[:2], subject='c', **options)
  with pytest.raises(UserError, match='do not say how responses become model input'):
    Reconstructor(weights)(raw[:2], **options)


def test_denoising_of_a_mean_over_repetitions(weights, tmp_path):
  params, info = load_weights(weights)
  raw = np.random.default_rng(5).normal(500, 20, (9, NUM_VOXELS)).astype(np.float32)
  options = dict(data_set='own', subject='a', roi='VC', mask=np.ones(NUM_VOXELS, bool), patch_size=8)
  transform = InputTransform.fit(raw, test_scale='repetitions', explained=np.full(NUM_VOXELS, 0.01), **options)
  save_weights(tmp_path / 'weights', params, info | {'input': [transform.to_json()]})
  model = Reconstructor(tmp_path / 'weights')
  z = (raw[0] - raw.mean(dtype=np.float64)) / raw.std(dtype=np.float64)
  options = dict(num_steps=4, num_pictures=2)
  last = []
  for repetitions in (1, 36):  # the variance of such a mean: 0.01 from the stimulus and 0.99 of noise over their number
    steps, noisy, expected = model.denoising(raw[0], repetitions=repetitions, **options)
    scaled = model.denoising(z / np.sqrt(0.01 + 0.99 / repetitions), normalised=True, **options)
    assert steps.tolist() == [0, 4]
    np.testing.assert_allclose(noisy.astype(int), scaled[1].astype(int), atol=1)
    np.testing.assert_allclose(expected.astype(int), scaled[2].astype(int), atol=1)
    last.append(noisy[-1].astype(int))
  assert np.abs(last[0] - last[1]).max() > 1
