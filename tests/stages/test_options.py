"""Each option that the release published and that changes results does here what docs/options.md says."""

import itertools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from brainjax.datasets import god, hcp, transforms
from brainjax.stages import contrast, diffuse, transfer
from brainjax.stages import data as stage_data
from brainjax.trees import unflatten
from configs import base, tiny
from tests.datasets import raw_files
from tests.stages.making import make

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  god.prepare(raw_files.write_god(folder / 'god'), folder / 'prepared', ['sbj_1'])
  hcp.prepare(raw_files.write_hcp(folder / 'hcp'), folder / 'prepared')
  return folder / 'prepared'


@pytest.fixture
def config(prepared):
  config = tiny.get_config()
  config.data.update({'prepared': str(prepared), 'hcp': '', 'num_val_stimuli': 0})
  config.fmri_mae.update({'patch_size': 4, 'depth': 1})
  config.image_mae.depth = 1
  return config


def _terms(stage):
  """(total, metrics) of a stage's loss on its first batch, with random parameters."""
  rng = np.random.default_rng(0)
  shapes = transfer.init_shapes(stage.problem.init)
  params = {path: (0.2 * rng.standard_normal(shape)).astype(np.float32) for path, shape in shapes.items()}
  total, metrics = jax.jit(stage.problem.loss)(unflatten(params), next(stage.batches), jax.random.key(0))
  return float(total), {name: float(value) for name, value in metrics.items()}


FULL = {'mask_loss': 1.0, 'self_contrast': 1.0, 'cross_contrast': 0.5}


@pytest.mark.parametrize(
  ('changes', 'weights'),
  [
    ({}, FULL),
    ({'mask_loss': False}, {'self_contrast': 1.0, 'cross_contrast': 0.5}),
    ({'self_contrast': False}, {'mask_loss': 1.0, 'cross_contrast': 0.5}),
    ({'cross_contrast': False}, {'mask_loss': 1.0, 'self_contrast': 1.0}),
    ({'separate_loss': True}, FULL | {'self_contrast_view2': 1.0}),
    ({'self_weight': 0.3, 'cross_weight': 2.0}, {'mask_loss': 1.0, 'self_contrast': 0.3, 'cross_contrast': 2.0}),
  ],
)
def test_terms_of_contrast(config, changes, weights):
  config.contrast.update(changes)
  total, metrics = _terms(make('contrast', config))
  assert {name for name in metrics if 'loss' in name or 'contrast' in name} == set(weights)
  assert total == pytest.approx(sum(weight * metrics[name] for name, weight in weights.items()), rel=1e-5)
  assert all(metrics[name] > 0.01 for name in weights)


@pytest.mark.parametrize('weights', [(0.25, 1.5), (2.0, 0.5)])
def test_weights_of_attend(config, weights):
  config.attend.fmri_weight, config.attend.image_weight = weights
  total, metrics = _terms(make('attend', config))
  assert total == pytest.approx(weights[0] * metrics['fmri_loss'] + weights[1] * metrics['image_loss'], rel=1e-5)


def test_the_context_enters_the_time_embedding_where_it_shall(config):
  paths = {}
  for config.conditioner.time_condition in (True, False):
    paths[config.conditioner.time_condition] = transfer.init_shapes(make('diffuse', config).problem.init)
  more = paths[True].keys() - paths[False].keys()
  assert more and all('time_embed_condition' in path for path in more) and paths[False].keys() <= paths[True].keys()


def test_crops(config):
  whole, cropped = {}, {}
  for probability, share in ((0.0, 0.5), (1.0, 0.0), (0.5, 0.5), (1.0, 0.5)):
    config.diffuse.update({'crop_probability': probability, 'crop_share': share})
    batch = next(make('diffuse', config).batches)
    whole = whole or batch
    np.testing.assert_array_equal(batch['row'], whole['row'])
    other = [not np.allclose(x, y, atol=1e-6) for x, y in zip(batch['image'], whole['image'], strict=True)]
    cropped[probability, share] = np.mean(other)
  assert cropped[0.0, 0.5] == cropped[1.0, 0.0] == 0 and cropped[1.0, 0.5] == 1 and 0 < cropped[0.5, 0.5] < 1


def test_cached_crops(config, monkeypatch):
  # An encoder that changes nothing: the latents are the crops themselves.
  encode = lambda model, weights, rows, prepare=transforms.to_signed_unit: prepare(rows)
  monkeypatch.setattr(diffuse.first_stage_module, 'encode_pictures', encode)
  config.data.num_val_stimuli = 3
  whole = {int(row['stimulus']): row['image'] for row in _rows_of_epochs(make('diffuse', config).validation(), 1)}
  config.diffuse.update({'crop_probability': 0.0, 'cached_crops': 0})
  whole |= {int(row['stimulus']): row['image'] for row in _rows_of_epochs(make('diffuse', config).batches, 1)}
  config.diffuse.update({'crop_probability': 0.5, 'crop_share': 0.5, 'cached_crops': 3})
  config.diffuse.prior_init_from = '/no/prior'  # random weights instead, which the encoder above does not need
  stage, again = (make('diffuse', config) for _ in range(2))
  seen, cropped = {}, []
  for row, same in zip(_rows_of_epochs(stage.batches, 12), _rows_of_epochs(again.batches, 12), strict=True):
    np.testing.assert_array_equal(row['latent'], same['latent'])
    seen.setdefault(int(row['stimulus']), set()).add(row['latent'].tobytes())
    cropped.append(not np.array_equal(row['latent'], whole[int(row['stimulus'])]))
  assert {len(crops) for crops in seen.values()} == {1, 2, 3}  # of three, none to all are whole pictures
  assert 0.3 < np.mean(cropped) < 0.7
  for row in _rows_of_epochs(stage.validation(), 1):
    np.testing.assert_array_equal(row['latent'], whole[int(row['stimulus'])])


def _rows_of_epochs(batches, epochs):
  rows = []
  for batch in itertools.islice(batches, epochs * batches.steps_per_epoch):
    rows += [{name: x[i] for name, x in batch.items()} for i in np.flatnonzero(batch['weight'])]
  return rows


def test_voxels_are_set_to_zero(config):
  zeros = {}
  for config.data.sparse_augmentation in (0.0, 0.25):
    zeros[config.data.sparse_augmentation] = (next(stage_data.paired(config, 'attend', 8).train)['fmri'] == 0).mean()
  assert zeros[0.0] == 0 and 0.15 < zeros[0.25] < 0.35


def test_the_first_subjects_of_hcp(config, prepared):
  config.data.update({'hcp': 'data/HCP', 'contrast_god_subjects': ()})
  lengths = {}
  for config.data.hcp_subject_limit in (0, 1, 2, 3):
    config.contrast.batch_size = 1
    lengths[config.data.hcp_subject_limit] = contrast._data(config).steps_per_epoch
  each = len(hcp.load(prepared, max_subjects=1))
  assert lengths == {0: 3 * each, 1: each, 2: 2 * each, 3: 3 * each}


def test_the_cosine_schedule_of_diffuse(config):
  rates = {}
  config.diffuse.num_steps = 20
  for config.diffuse.cosine_schedule in (False, True):
    stage = make('diffuse', config)
    rates[config.diffuse.cosine_schedule] = [float(stage.problem.learning_rate(step)) for step in (0, 10, 19)]
  peak = config.diffuse.learning_rate
  np.testing.assert_allclose(rates[False], peak, rtol=1e-6)
  assert rates[True][0] == pytest.approx(peak) and 0.4 * peak < rates[True][1] < 0.6 * peak
  assert rates[True][2] < 0.05 * peak


def test_every_field_that_the_table_names_exists():
  config, named = base.get_config(), []
  for line in (ROOT / 'docs' / 'options.md').read_text().splitlines():
    cells = line.split('|')
    if len(cells) != 5 or not cells[1].strip().startswith('`--'):
      continue
    section = ''
    for field in re.findall(r'`([a-z_.]+)`', cells[2]) + re.findall(r'`(released\.[a-z_]+)`', cells[3]):
      field = section + field if field.startswith('.') else field  # as in `contrast.num_epochs`, `.batch_size`
      section = field.rpartition('.')[0]
      named.append(field)
  assert len(named) > 30
  for field in named:
    place = config
    for part in field.split('.'):
      assert part in place, field
      place = place[part]
