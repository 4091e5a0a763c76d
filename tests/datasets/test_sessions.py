"""`data.zscore = 'voxel_session'`: each voxel z-scored within each session, with its training rows there; by NumPy."""

import json

import numpy as np
import pytest

from brainjax import prepare
from brainjax.datasets import own, paired_rows, registry
from brainjax.datasets.input_transform import InputTransform, session_statistics, standardise_sessions
from brainjax.datasets.responses import Responses
from brainjax.errors import UserError
from tests.datasets import own_files


def prepared(tmp_path, column='session'):
  """19 trials in two sessions of other baselines and scales; prepared data, responses and the sessions."""
  study = own_files.write(tmp_path / 'raw')
  sessions = np.array(['b' if i % 3 else 'a' for i in range(len(study.fmri))])
  rng = np.random.default_rng(0)
  offset, scale = ({name: draw(12) for name in 'ab'} for draw in (lambda n: 500 + 50 * rng.normal(size=n), rng.random))
  fmri = np.stack([offset[s] + (5 + scale[s]) * x for s, x in zip(sessions, study.fmri, strict=True)])
  np.save(study.betas, fmri.astype(np.float32))
  lines = study.events.read_text().splitlines()
  table = [f'{lines[0]}\t{column}', *(f'{line}\t{s}' for line, s in zip(lines[1:], sessions, strict=True))]
  study.events.write_text('\n'.join(table) + '\n')
  command = [f'--betas={study.betas}', f'--events={study.events}', f'--images={study.images}']
  assert prepare.main(['own', *command, f'--out={tmp_path / "out"}']) == 0
  return tmp_path / 'out', fmri, sessions, study.table


def expected(fmri, sessions, is_train):
  z = np.empty(fmri.shape)
  for name in np.unique(sessions):
    rows = fmri[is_train & (sessions == name)]
    z[sessions == name] = (fmri[sessions == name] - rows.mean(0)) / rows.std(0)
  return z


def load(out, split, **options):
  return own.load(out, ['sub-01'], split=split, image_size=0, patch_size=2, zscore='voxel_session', **options)


@pytest.mark.parametrize('column', ['session', 'run'])
def test_rows_are_standardised_within_their_session(tmp_path, column):
  out, fmri, sessions, table = prepared(tmp_path, column)
  is_train = table['split'] == 'train'
  z = expected(fmri, sessions, is_train)
  train = load(out, 'train')
  np.testing.assert_allclose(train.columns['fmri'], z[is_train], rtol=1e-3, atol=2e-3)
  trials = load(out, 'test_trials')
  np.testing.assert_allclose(trials.columns['fmri'], z[~is_train], rtol=1e-3, atol=2e-3)
  # The mean of a picture is that of its standardised trials, with the transform that weights carry, too.
  pictures = np.unique(table['image'][~is_train])
  means = [z[table['image'] == name].mean(0) for name in pictures]
  transform = InputTransform.from_json(train.info['transforms']['sub-01'].to_json())
  assert transform.by_session
  for options in ({}, {'fitted': {'sub-01': transform}}):
    test = load(out, 'test', **options)
    np.testing.assert_allclose(test.columns['fmri'], means, rtol=1e-3, atol=2e-3)
    assert len(set(test.columns['stimulus'].tolist())) == len(pictures)


def test_no_split_is_read_again_for_its_statistics(tmp_path, monkeypatch, capsys):
  out, fmri, sessions, table = prepared(tmp_path)
  is_train = table['split'] == 'train'
  saved = load(out, 'train').info['transforms']['sub-01'].to_json()
  z = expected(fmri, sessions, is_train)
  old = {name: value for name, value in saved.items() if name != 'sessions'}
  read, original = [], paired_rows._read
  monkeypatch.setattr(paired_rows, '_read', lambda *args: (read.append(args[1]), original(*args))[1])
  for info, splits in ((saved, ['test_trials']), (old, ['train', 'test_trials'])):  # earlier versions did not save them
    read.clear()
    fitted = {'sub-01': InputTransform.from_json(json.loads(json.dumps(info)))}
    trials = load(out, 'test_trials', fitted=fitted)
    np.testing.assert_allclose(trials.columns['fmri'], z[~is_train], rtol=1e-3, atol=2e-3)
    assert read == splits
  # A lab's own call: a session of the training data by its saved statistics, also a single trial; others by themselves.
  reader = Responses({'input': [saved]}, 12)
  of_b = fmri[sessions == 'b']
  alone = (of_b - of_b.mean(0)) / of_b.std(0)
  names = ['b'] * len(of_b) + ['c'] * len(of_b)
  rows = reader.model_input(np.concatenate([of_b, of_b]), session=names)
  assert f'its {len(of_b)} trials are z-scored by themselves' in capsys.readouterr().out
  np.testing.assert_allclose(rows, np.concatenate([z[sessions == 'b'], alone]), rtol=1e-3, atol=2e-3)
  np.testing.assert_allclose(reader.model_input(of_b[1], session='b'), z[sessions == 'b'][1:2], rtol=1e-3, atol=2e-3)
  np.testing.assert_allclose(reader.model_input(of_b), alone, rtol=1e-3, atol=2e-3)
  with pytest.raises(
    UserError, match='found 1 trials of session c, .*at least 10, or a session of the training data .a, b'
  ):
    reader.model_input(of_b[1], session='c')
  with pytest.raises(UserError, match='session has 2 names; expected one, or one for each of 19 rows'):
    reader.model_input(fmri, session=['a', 'b'])


def test_a_test_row_in_a_session_without_training_rows_is_refused(tmp_path):
  out, *_ = prepared(tmp_path)
  saved = load(out, 'train').info['transforms']['sub-01'].to_json()
  del saved['sessions']['b']  # as if no training row had been in it
  with pytest.raises(UserError, match='session b has fewer than 2 training rows'):
    load(out, 'test', fitted={'sub-01': InputTransform.from_json(saved)})


def test_unknown_sessions_are_refused(tmp_path):
  study = own_files.write(tmp_path / 'raw')
  own.prepare(study.source(), tmp_path / 'out')
  with pytest.raises(UserError, match='session of each trial is not known.*choose voxel'):
    load(tmp_path / 'out', 'train')
  sessions = np.array(['a', 'a', 'b'])
  statistics = session_statistics(np.ones((3, 2)), sessions)
  with pytest.raises(UserError, match='here: session b has fewer than 2 training rows, too few'):
    standardise_sessions(np.ones((3, 2)), sessions, statistics, 'here')


def test_the_default_is_that_of_the_data_set():
  ways = {name: registry.zscore_of(name, 'auto') for name in ('god', 'bold5000', 'own')}
  assert ways == {'god': 'subject', 'bold5000': 'subject', 'own': 'voxel'}
  assert registry.zscore_of('own', 'subject') == 'subject'
